"""What a study takes over from studies of targets like its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger import Ledger
from orchestrator.neighbours import Find, borrowed
from orchestrator.plan import StudyKey, SweepPlan
from tests.orchestrator.plans import CUTOFFS, complete, open_ledger, small_plan
from trainables.target import Target


def target(subjects: str, hemisphere: str = "lh", roi: str = "V1v") -> Target:
    return Target("demo", tuple(f"subj0{digit}" for digit in subjects), hemisphere, roi)


def key(subjects: str, hemisphere: str = "lh", roi: str = "V1v", method: str = "contrastive") -> StudyKey:
    return StudyKey(target(subjects, hemisphere, roi), method)


GROUPS = {"V1v": "early", "V2v": "early", "EBA": "bodies"}


def find(gain: float, name: str = "a") -> Find:
    return Find(gain, {"temperature": name})


def test_the_largest_gain_of_the_same_roi_comes_first() -> None:
    finds = {
        key("2"): find(0.01, "subject"),
        key("1", "rh"): find(0.02, "hemisphere"),
        key("1", roi="V2v"): find(0.5, "next"),
        key("2", roi="EBA"): find(0.9, "far"),
        key("2", method="regression"): find(0.9, "method"),
        key("1"): find(0.9, "itself"),
    }
    tried: list[dict[str, Any]] = []
    order = []
    while found := borrowed(key("1"), finds, GROUPS, tried):
        order.append(found[1]["temperature"])
        tried.append(dict(found[1]))
    assert order == ["hemisphere", "subject", "next"]


def test_who_found_nothing_better_than_the_recipe_lends_nothing() -> None:
    assert borrowed(key("1"), {key("2"): find(0.0), key("3"): find(-0.1)}, GROUPS, []) is None


def test_a_pool_learns_nothing_from_who_was_left_out() -> None:
    finds = {
        key("123", method="pooled-avg"): find(0.3, "with"),
        key("12", "rh", method="pooled-avg"): find(0.1, "without"),
    }
    found = borrowed(key("12", method="pooled-avg"), finds, GROUPS, [])
    assert found is not None
    assert found[1] == {"temperature": "without"}
    found = borrowed(key("123", "rh", method="pooled-avg"), finds, GROUPS, [])
    assert found is not None
    assert found[1] == {"temperature": "with"}, "all are in it"


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    pair = (target("1"), target("2"))
    return small_plan(tmp_path, targets=pair, roi_groups=GROUPS, trials=8)


def run_one(ledger: Ledger, study: StudyKey, score: float) -> dict[str, Any]:
    trial = ledger.ask(study)
    complete(ledger, trial, {trial.config.epochs: score})
    return {name: trial.config.to_dict()[name] for name in ("temperature", "learning_rate", "layer_cutoff")}


def test_every_other_trial_is_what_a_neighbour_found(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    recipe = run_one(ledger, key("2"), 0.1)
    lucky = run_one(ledger, key("2"), 0.2)
    assert run_one(ledger, key("1"), 0.1) == recipe
    assert run_one(ledger, key("1"), 0.1) == lucky
    own = run_one(ledger, key("1"), 0.1)
    assert own not in (recipe, lucky)
    after = run_one(ledger, key("1"), 0.1)
    assert after not in (recipe, lucky), "what was tried is not tried again"
    lender = ledger.study(key("1")).get_trials()[1].user_attrs["borrowed_from"]
    assert lender == "subj02/lh/V1v/contrastive"


def test_a_resumed_sweep_knows_what_was_found(plan: SweepPlan) -> None:
    ledger = open_ledger(plan)
    run_one(ledger, key("2"), 0.1)
    lucky = run_one(ledger, key("2"), 0.2)
    run_one(ledger, key("1"), 0.1)
    assert run_one(open_ledger(plan), key("1"), 0.1) == lucky


def test_without_neighbours_a_study_is_alone(plan: SweepPlan) -> None:
    ledgers = [open_ledger(replace(plan, neighbours=False, sweep_id=name)) for name in ("aaaaaaaa", "bbbbbbbb")]
    run_one(ledgers[0], key("2"), 0.1)
    run_one(ledgers[0], key("2"), 0.2)
    drawn = [[run_one(ledger, key("1"), 0.1) for _ in range(4)] for ledger in ledgers]
    assert drawn[0] == drawn[1], "whatever the others have found"


def test_a_pareto_search_asks_nobody(plan: SweepPlan) -> None:
    both = ("encoding", "classification")
    plan = replace(plan, scores=both, optimise=both, labelled="/data/labelled")
    ledger = open_ledger(plan)
    for score in (0.1, 0.2):
        trial = ledger.ask(key("2"))
        ledger.finish(trial, "complete", score, {"scores": {"classification": score}})
    ledger.ask(key("1"))
    ledger.ask(key("1"))
    assert "borrowed_from" not in ledger.study(key("1")).get_trials()[1].user_attrs


def test_a_plan_from_before_there_were_neighbours_goes_on_without(plan: SweepPlan) -> None:
    values = plan.to_dict()
    del values["neighbours"]
    assert not SweepPlan.from_dict(values).neighbours
    assert SweepPlan.from_dict(plan.to_dict()).neighbours
    assert plan.differences(SweepPlan.from_dict(values)) == ["neighbours"]
    assert plan.cutoffs == CUTOFFS
