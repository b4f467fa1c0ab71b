"""The validation score against the long way: features, encoder, prediction, r, layer by layer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from tests.synthetic import TINY, planted_data, tiny_weights, unused_rows
from trainables.encoding.encoder import RidgeEncoder
from trainables.encoding.features import extract_features
from trainables.encoding.validation import score_readout_layers
from trainables.errors import NonFiniteLossError
from trainables.models.backbone import Backbone, build_backbone


@pytest.fixture
def tiny() -> Backbone:
    return build_backbone("tiny", tiny_weights().state, "output")


@pytest.mark.parametrize("n_components", [1000, 7])
def test_is_the_long_way(tiny: Backbone, n_components: int) -> None:
    data = planted_data()
    score = score_readout_layers(tiny, data, n_components=n_components)
    expected = {}
    for layer in TINY.readout_layers:
        train, val = (
            extract_features(tiny, part.stimuli, part.rows, [layer])[layer].numpy() for part in (data.train, data.val)
        )
        predicted = RidgeEncoder(n_components).fit(train, data.train.responses).predict(val)
        expected[layer] = [
            stats.pearsonr(predicted[:, v], data.val.responses[:, v]).statistic for v in range(data.n_voxels)
        ]
    assert list(score.r_by_layer) == list(TINY.readout_layers)
    for layer, r in expected.items():
        assert score.r_by_layer[layer] == pytest.approx(np.mean(r), abs=1e-4)
    best = max(expected, key=lambda layer: np.mean(expected[layer]))
    assert score.best_layer == best
    assert score.r == score.r_by_layer[best]
    np.testing.assert_allclose(score.r_per_voxel, expected[best], atol=1e-3)


def test_finds_the_planted_model(tiny: Backbone) -> None:
    assert score_readout_layers(tiny, planted_data(n_train=200, noise=0.1)).r > 0.3


def test_unrelated_responses_score_nothing(tiny: Backbone) -> None:
    data = planted_data(n_train=200, n_val=100)
    shuffled = np.random.default_rng(0).permutation(data.train.responses)
    score = score_readout_layers(tiny, replace(data, train=replace(data.train, responses=shuffled)))
    assert abs(score.r) < 0.15


def test_stimuli_of_neither_part_do_not_matter(tiny: Backbone) -> None:
    data = planted_data()
    stimuli = data.train.stimuli.copy()
    stimuli[unused_rows(data)] = 0
    other = replace(data, train=replace(data.train, stimuli=stimuli), val=replace(data.val, stimuli=stimuli))
    assert score_readout_layers(tiny, other).r_by_layer == score_readout_layers(tiny, data).r_by_layer


def test_scores_only_the_layers_asked_for(tiny: Backbone) -> None:
    score = score_readout_layers(tiny, planted_data(), ["features.3"])
    assert list(score.r_by_layer) == ["features.3"]
    assert score.best_layer == "features.3"


def test_a_diverged_network_is_an_error_and_not_a_score(tiny: Backbone) -> None:
    with torch.no_grad():
        next(tiny.parameters()).fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match="learning rate"):
        score_readout_layers(tiny, planted_data())


@pytest.mark.parametrize("n_val", [20, 0])
def test_layers_that_are_held_one_by_one_score_as_all_together(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch, n_val: int
) -> None:
    data = planted_data(n_val=n_val)
    together = score_readout_layers(tiny, data)
    monkeypatch.setattr(
        "trainables.encoding.features.layers_together", lambda layers, *_: [(layer,) for layer in layers]
    )
    alone = score_readout_layers(tiny, data)
    assert alone.r_by_layer == together.r_by_layer
    np.testing.assert_array_equal(alone.r_per_voxel, together.r_per_voxel)
