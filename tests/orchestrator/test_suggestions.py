"""Own spaces that start well and would fail with the first trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.plan import SweepPlan
from orchestrator.planning import SweepOptions, make_plan
from orchestrator.storage import SweepStorage
from tests.orchestrator.plans import open_ledger
from trainables.data.algonauts import AlgonautsDataset
from trainables.errors import ConfigError
from trainables.models.weights import PretrainedWeights, load_weights

HEAD = """
from search_spaces import Space
from search_spaces.methods import contrastive

def wide(trial, cutoffs):
    values = contrastive(trial, cutoffs)
    {body}

SPACE = Space("mine", methods=("contrastive",), rois=("V1v",), trials=2, epochs=4, {fields})
"""
SUGGEST = 'suggest={"contrastive": wide}'


@pytest.fixture(scope="module")
def weights() -> PretrainedWeights:
    return load_weights("random")


def plan_of(tmp_path: Path, demo: AlgonautsDataset, weights: PretrainedWeights, text: str) -> SweepPlan:
    path = tmp_path / "mine.py"
    path.write_text(text)
    options = SweepOptions(data=str(demo.root), name="x", storage=str(tmp_path), space=str(path))
    return make_plan(options, SweepStorage(str(tmp_path), "x"), demo, weights)


@pytest.mark.parametrize(
    ("body", "fields", "sentence"),
    [
        ("return {**values, 'colour': 1}", SUGGEST, "fails with TypeError: .*colour"),
        ("return {**values, 'temperature': -1.0}", SUGGEST, "makes no trial: .*temperature"),
        ("return None", SUGGEST, "fails with TypeError"),
        ("1 / 0", SUGGEST, "fails with ZeroDivisionError"),
        (
            "return values",
            'first={"contrastive": {"temprature": 0.1}}',
            "does not hold 'temprature'",
        ),
        ("return values", 'first={"contrastive": {"temperature": 99.0}}', "temperature from .*; `first` sets 99.0"),
        ("return values", 'first={"contrastive": {"layer_cutoff": "conv9"}}', "conv9"),
        ("return values", 'deepest_cutoff="features.99"', "deepest_cutoff 'features.99'; expected .*features.2"),
    ],
)
def test_fault_of_an_own_space_is_told_before_anything_is_made(
    tmp_path: Path, demo: AlgonautsDataset, weights: PretrainedWeights, body: str, fields: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        plan_of(tmp_path, demo, weights, HEAD.format(body=body, fields=fields))


def test_sound_own_space_makes_a_plan(tmp_path: Path, demo: AlgonautsDataset, weights: PretrainedWeights) -> None:
    fields = SUGGEST + ', first={"contrastive": {"temperature": 0.1}}, deepest_cutoff="features.5"'
    plan = plan_of(tmp_path, demo, weights, HEAD.format(body="return values", fields=fields))
    assert plan.cutoffs == ("features.2", "features.5")
    assert plan.search_space.starting_point("contrastive", plan.cutoffs)["temperature"] == 0.1
    warm = "return {'layer_cutoff': cutoffs[0], 'temperature': trial.suggest_float('temperature', 0.1, 0.2)}"
    fields = SUGGEST + ', first={"contrastive": {"temperature": 0.15}}'  # it explores less than the recipe names
    head = HEAD.replace("values = contrastive(trial, cutoffs)", "pass")
    plan = plan_of(tmp_path, demo, weights, head.format(body=warm, fields=fields))
    ledger = open_ledger(replace(plan, ledger=str(tmp_path / "ledger.journal")))
    first = ledger.ask(next(iter(plan.studies)))
    assert (first.config.temperature, first.config.layer_cutoff) == (0.15, "features.2")
