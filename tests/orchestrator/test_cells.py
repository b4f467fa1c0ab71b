"""A cell is found again as long as its trial and its data are the same, and not a moment longer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.cell_scoring import cell_job, score_cell
from orchestrator.cells import CellKey, read_cell
from orchestrator.networks import UNTUNED, Network
from orchestrator.storage import SweepStorage
from orchestrator.transfer_evaluation import external_keys
from tests.orchestrator.plans import V1, small_plan
from trainables.errors import DataError
from trainables.models.weights import load_weights, save_weights

RESPONSES = "subj01/training_split/training_fmri/lh_training_fmri.npy"
NETWORKS = [Network(UNTUNED, UNTUNED, None, "", None), Network("a", "contrastive", V1, "a/1", "folder")]


def untuned_key(root: Path) -> CellKey:
    (key,) = [k for k in external_keys(NETWORKS, str(root)) if k.network.name == UNTUNED and k.subject == "subj01"]
    return key


def test_cell_of_an_external_set_is_scored_anew_when_the_set_changes(demo_copy: Path, tmp_path: Path) -> None:
    storage = SweepStorage(str(tmp_path / "results"), "small")
    storage.create()
    save_weights(load_weights("random"), storage.weights_file)
    plan = small_plan(tmp_path, cutoffs=("features.2",))
    key = untuned_key(demo_copy)
    assert read_cell(storage, key) is None
    job = cell_job(storage, plan, key, {})
    score_cell(job, device="cpu")
    cell = read_cell(storage, untuned_key(demo_copy))
    assert cell is not None
    assert cell.r("test", "features.2", ("lh", "V1v")) is not None
    assert read_cell(storage, replace(key, network=replace(key.network, trial="other"))) is None

    responses = np.load(demo_copy / RESPONSES)
    np.save(demo_copy / RESPONSES, responses * np.float32(1.5))
    changed = untuned_key(demo_copy)
    assert changed != key
    assert read_cell(storage, changed) is None
    with pytest.raises(DataError, match=f"{changed.content}.*began with {key.content}"):
        score_cell(job, device="cpu")  # the set changed while the task waited for its turn
    np.save(demo_copy / RESPONSES, responses)
    assert read_cell(storage, untuned_key(demo_copy)) is not None


def test_all_networks_ask_for_the_same_data(demo_root: Path) -> None:
    keys, subjects = external_keys(NETWORKS, str(demo_root)), ("subj01", "subj02")
    assert {(key.network.name, key.subject) for key in keys} == {(n.name, s) for n in NETWORKS for s in subjects}
    by_subject = {subject: {key.content for key in keys if key.subject == subject} for subject in subjects}
    assert [len(contents) for contents in by_subject.values()] == [1, 1]
    assert by_subject["subj01"] != by_subject["subj02"]
