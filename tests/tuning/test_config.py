"""What a trial's configuration refuses, and what it says of itself."""

from dataclasses import replace

import pytest

from tests.synthetic import POOLED_TARGET, TARGET, tiny_config
from trainables.config import ENCODERS, PROTOCOLS, TrialConfig
from trainables.data import splits
from trainables.encoding import pls
from trainables.errors import ConfigError


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": "guess"}, "method is 'guess'; expected one of untuned, contrastive"),
        ({"encoder": "lasso"}, "encoder is 'lasso'; expected one of ridge, pls"),
        ({"protocol": "published"}, "protocol is 'published'; expected one of nested, published-a, published-b"),
        ({"mse_weight": -0.1}, "mse_weight is -0.1; expected a finite number of at least 0"),
        ({"mse_weight": float("nan")}, "mse_weight is nan"),
        ({"mse_weight": 1.0, "method": "regression"}, "mse_weight is 1.0 for method regression; expected 0"),
        ({"mse_weight": 1.0, "method": "untuned", "epochs": 0}, "mse_weight is 1.0 for method untuned; expected 0"),
        ({"target": POOLED_TARGET}, r"contrastive for subj01\+subj02/lh/V1v, 2 subjects; name a single one"),
        ({"target": POOLED_TARGET, "method": "regression"}, "2 subjects; name a single one"),
        ({"target": POOLED_TARGET, "method": "untuned", "epochs": 0}, "2 subjects; name a single one"),
        ({"method": "pooled-avg"}, "pooled-avg for subj01/lh/V1v, a single subject; name several"),
        ({"method": "pooled-const"}, "a single subject"),
        ({"target": POOLED_TARGET, "method": "pooled-avg", "epochs": 0}, "epochs is 0 for method pooled-avg"),
    ],
)
def test_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


def test_survives_the_way_through_plain_values() -> None:
    config = tiny_config(
        target=POOLED_TARGET,
        method="pooled-const",
        objective="decoupled",
        mse_weight=0.5,
        encoder="pls",
        protocol="published-b",
        score_epochs=(1,),
    )
    assert TrialConfig.from_dict(config.to_dict()) == config


def test_reads_what_was_written_before_there_were_encoders() -> None:
    values = tiny_config().to_dict()
    for field in ("mse_weight", "encoder", "protocol"):
        del values[field]
    assert TrialConfig.from_dict(values) == tiny_config()


def test_names_are_those_that_splits_and_encoders_have() -> None:
    """Written out in ``config.py``, which the command line reads before it needs PyTorch."""
    assert PROTOCOLS == (splits.NESTED, splits.PUBLISHED_A, splits.PUBLISHED_B)
    assert tuple(pls.ENCODERS) == ENCODERS


def test_names_its_objective() -> None:
    assert tiny_config().objective_name == "info_nce"
    assert tiny_config(objective="sigmoid", mse_weight=0.1).objective_name == "sigmoid+mse"


@pytest.mark.parametrize(
    "method, contrastive, pooled",
    [
        ("untuned", False, False),
        ("regression", False, False),
        ("contrastive", True, False),
        ("pooled-avg", True, True),
        ("pooled-const", True, True),
    ],
)
def test_says_what_its_method_is(method: str, contrastive: bool, pooled: bool) -> None:
    target = POOLED_TARGET if pooled else replace(TARGET)
    config = tiny_config(method=method, target=target, epochs=0 if method == "untuned" else 2)
    assert (config.is_contrastive, config.is_pooled) == (contrastive, pooled)
