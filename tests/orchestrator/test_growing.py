"""A sweep that exists takes on more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from orchestrator.growing import filled, grown, what_is_new
from orchestrator.launch import completed, make_sweep, planned
from orchestrator.ledger import Ledger
from orchestrator.opening import load_plan
from orchestrator.plan import SweepPlan
from orchestrator.planning import SweepOptions
from orchestrator.search import StudySearch
from tests.orchestrator.plans import EBA, V1, V1_CONTRASTIVE, complete, open_ledger, small_plan
from tests.orchestrator.test_launch import CONSTANT, made
from tests.sweeps import at_once
from trainables.errors import ConfigError
from trainables.target import Target

OTHER = Target("demo", ("subj02",), "lh", "V1v")
OPTIONS = SweepOptions("/data/demo", "small", "results")


def grow(existing: SweepPlan, trials: int | None = None, **changes: Any) -> SweepPlan:
    asked = replace(existing, sweep_id="another", trials=trials or existing.trials, **changes)
    return grown(existing, asked, replace(OPTIONS, trials=trials))


def test_new_targets_and_methods_join_those_that_are_there(tmp_path: Path) -> None:
    existing = small_plan(tmp_path)
    larger = grow(existing, targets=(OTHER,), methods=("untuned", "contrastive"), roi_groups={"V1v": "prf-visualrois"})
    assert larger.targets == (V1, EBA, OTHER)
    assert larger.methods == ("contrastive", "untuned")
    assert larger.roi_groups == existing.roi_groups
    assert larger.sweep_id == existing.sweep_id
    told = what_is_new(existing, larger)
    assert told == "Sweep small grows: 1 target more, 1 method more; 9 more trials, what it has stays."


def test_more_trials_are_for_every_study_and_those_that_ended_count(tmp_path: Path) -> None:
    existing = small_plan(tmp_path, trials=3)
    ledger = open_ledger(existing)
    for _ in range(3):
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.3})
    larger = Ledger(grow(existing, trials=5))
    larger.open_studies()
    search = StudySearch(larger, lambda *_: {}, lambda _: None)
    assert search.due == 2 + 5
    assert larger.ask(V1_CONTRASTIVE).trial.number == 3
    assert "5 trials instead of 3 for each; 4 more trials" in what_is_new(existing, larger.plan)


def test_another_space_is_told_before_its_methods_are_hidden(tmp_path: Path) -> None:
    existing = small_plan(tmp_path)
    asked = replace(OPTIONS, space="pooled.py", leave_one_out=True)
    with pytest.raises(ConfigError, match="exists with another space .pooled.py instead of smoke."):
        filled(asked, existing)


def test_the_same_again_and_a_default_number_of_trials_change_nothing(tmp_path: Path) -> None:
    existing = small_plan(tmp_path)
    assert grow(existing) == existing
    assert grown(existing, replace(existing, trials=2), OPTIONS) == existing


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 4}, "--trials is 4, but sweep 'small' was made with 6"),
        ({"targets": (V1,)}, "another targets"),
        ({"epochs": 12, "targets": (V1, EBA, OTHER)}, "another epochs"),
        ({"seed": 3, "trials": 9}, "another seed"),
    ],
)
def test_what_is_no_growth_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        grow(small_plan(tmp_path), **changes)


def test_targets_that_would_change_old_scores_are_refused(tmp_path: Path) -> None:
    both = Target("demo", ("subj01", "subj02"), "lh", "V1v")
    pooled = small_plan(tmp_path, targets=(V1, OTHER, both), methods=("pooled-avg",), roi_groups={"V1v": "early"})
    with pytest.raises(ConfigError, match="its pooled networks are of the subjects that it has"):
        grow(pooled, targets=(Target("demo", ("subj03",), "lh", "V1v"),))
    transfer = replace(small_plan(tmp_path, targets=(V1, OTHER)), scores=("encoding", "transfer"))
    with pytest.raises(ConfigError, match="transfer are means over the subjects"):
        grow(transfer, targets=(V1, OTHER, Target("demo", ("subj03",), "lh", "V1v")))


def test_growth_that_fails_before_its_first_trial_is_taken_back(demo_copy: Path, tmp_path: Path) -> None:
    storage = tmp_path / "results"
    places, plan = made(demo_copy, storage)
    responses = demo_copy / "subj02/training_split/training_fmri/lh_training_fmri.npy"
    np.save(responses, np.full_like(np.load(responses), 0.5))
    words: list[str | Path] = ["run", "--data", demo_copy, "--name=x", "--subjects=1,2", "--rois=V1v", "--trials=9"]
    before = load_plan(places)
    assert {target.subjects for target in before.targets} >= {("subj02",)}  # `made` takes all subjects
    done = at_once(*words, "--hemispheres=lh", "--space=smoke", "--weights=random", "--storage", storage)
    assert (CONSTANT in done.stderr, done.stderr.count("Error"), "Traceback" in done.stderr) == (True, 1, False)
    assert load_plan(places).trials == plan.trials


def test_growth_is_told_and_written(demo_copy: Path, tmp_path: Path) -> None:
    from orchestrator.launch import _grow

    places, plan = made(demo_copy, tmp_path / "results")
    options = SweepOptions(str(demo_copy), "x", str(places.base), trials=plan.trials + 4)
    console = Console(record=True, width=200, quiet=False, file=(tmp_path / "out").open("w"))
    larger = _grow(places, load_plan(places), replace(plan, trials=plan.trials + 4), options, True, console, False)
    assert load_plan(places).trials == larger.trials == plan.trials + 4
    assert "Sweep x grows" in console.export_text()


def test_what_nobody_typed_is_what_the_sweep_has(tmp_path: Path) -> None:
    existing = small_plan(tmp_path, methods=("contrastive",), targets=(V1, EBA))
    options = filled(replace(OPTIONS, subjects="2"), existing)
    assert (options.subjects, options.hemispheres, options.rois) == ("2", "lh,rh", "V1v,EBA")
    assert (options.methods, options.epochs, options.grace_epochs, options.space) == ("contrastive", 9, 1, "smoke")
    assert options.cutoffs == ",".join(existing.cutoffs)
    assert filled(replace(OPTIONS, epochs=12), existing).epochs == 12
    assert filled(OPTIONS, existing).subjects == "subj01,subj02"


def test_own_space_is_the_sweeps_own_where_none_is_named(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file may have gone, or another one of its name lie where the command is typed now."""
    first, other = tmp_path / "first", tmp_path / "other"
    for folder, trials in ((first, 2), (other, 9)):
        folder.mkdir()
        text = f"from search_spaces import Space\nSPACE = Space('own', rois=('V1v',), trials={trials})\n"
        (folder / "own.py").write_text(text)
    options = SweepOptions(str(demo_root), "x", str(tmp_path / "results"), weights="random", space="own.py")
    monkeypatch.chdir(first)
    places, plan, _, weights = planned(options, Console(quiet=True))
    assert make_sweep(places, plan, weights)
    monkeypatch.chdir(other)
    again = completed(replace(options, space=None))
    _, found, _, _ = planned(again, Console(quiet=True))
    assert (found.space, found.trials, found.space_text) == ("own.py", 2, plan.space_text)
    with pytest.raises(ConfigError, match="exists with another space_text"):
        grown(plan, planned(replace(again, space_text=""), Console(quiet=True))[1], again)


def test_old_subject_gets_an_old_roi_only_where_both_were_named(tmp_path: Path) -> None:
    existing = small_plan(tmp_path, targets=(V1, EBA, OTHER))
    missing = Target("demo", ("subj01",), "rh", "EBA")
    asked = replace(existing, targets=(V1, EBA, OTHER, missing))
    assert grown(existing, asked, OPTIONS, whole_grid=False) == existing
    assert grown(existing, asked, OPTIONS, whole_grid=True).targets == (V1, EBA, OTHER, missing)
