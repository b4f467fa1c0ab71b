"""No test response has a say in which model is selected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.selection import choose
from tests.orchestrator.plans import open_ledger, small_plan
from trainables.data.algonauts import open_algonauts
from trainables.data.responses import load_target, load_test
from trainables.data.splits import nested_split
from trainables.encoding.validation import score_readout_layers
from trainables.models.backbone import build_backbone
from trainables.models.weights import load_weights
from trainables.target import Target
from trainables.tuning.loop import TrialRun

TARGET = Target("demo", ("subj01",), "lh", "V1v")


@pytest.fixture
def spoiled(demo_copy: Path) -> Path:
    """The demo set with other test responses."""
    subject = open_algonauts(demo_copy).subject("subj01")
    rows = nested_split(subject.stimulus_ids).test
    path = demo_copy / "subj01/training_split/training_fmri/lh_training_fmri.npy"
    responses = np.load(path)
    responses[rows] = np.random.default_rng(0).permutation(responses[rows]) * 3 + 1
    np.save(path, responses)
    return demo_copy


def selected(root: Path, folder: Path, cache_dir: Path) -> tuple[list[object], list[float]]:
    """What is selected of some trials on the data in ``root``, and all their scores."""
    plan = small_plan(folder, targets=(TARGET,), methods=("untuned", "regression"), epochs=1, cutoffs=("features.2",))
    folder.mkdir()
    ledger = open_ledger(plan)
    data, weights = load_target(open_algonauts(root), TARGET, 0, cache_dir), load_weights("random")
    scores = []
    for key, n_trials in plan.studies.items():
        for _ in range(min(n_trials, 2)):
            trial = ledger.ask(key)
            run = TrialRun(trial.config, data, weights)
            (result,) = list(run)
            assert result.score is not None
            scores.append(result.score.r)
            ledger.report(trial, result.epoch, result.score.r)
            ledger.finish(trial, "complete", result.score.r, {"readout_layer": result.score.best_layer})
    return list(choose(ledger)), scores


def test_other_test_responses_select_the_same_models(
    demo_root: Path, spoiled: Path, tmp_path: Path, cache_dir: Path
) -> None:
    before = load_test(open_algonauts(demo_root), TARGET, 0, cache_dir).responses
    after = load_test(open_algonauts(spoiled), TARGET, 0, cache_dir).responses
    assert not np.array_equal(before, after)
    assert selected(demo_root, tmp_path / "a", cache_dir) == selected(spoiled, tmp_path / "b", cache_dir)


def test_shuffled_responses_leave_nothing_to_predict(large_demo_root: Path, cache_dir: Path) -> None:
    network = build_backbone("alexnet", load_weights("random").state, "features.2")
    honest = load_target(open_algonauts(large_demo_root), TARGET, 0, cache_dir)
    order = np.random.default_rng(1).permutation(len(honest.train.rows))
    shuffled = replace(honest, train=replace(honest.train, responses=honest.train.responses[order]))
    r = score_readout_layers(network, shuffled).r_per_voxel
    # Voxels of an area share signal, so their mean r scatters like that of a single one: 3 standard errors.
    assert abs(r.mean()) < 3 / np.sqrt(len(honest.val.rows))
    assert score_readout_layers(network, honest).r > abs(r.mean()) + 0.1
