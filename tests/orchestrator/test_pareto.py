"""The Pareto set of a sweep, against a double loop."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from orchestrator.ledger import Ledger
from orchestrator.pareto import Point, mark_pareto, pareto_points, pareto_table
from orchestrator.plan import SweepPlan
from orchestrator.storage import SweepStorage
from orchestrator.tracking.projection import Projection
from tests.orchestrator.plans import EBA_CONTRASTIVE, V1_CONTRASTIVE, V1_UNTUNED, complete, open_ledger, small_plan
from trainables.errors import ConfigError

BOTH = ("encoding", "classification")


def measured(tmp_path: Path) -> tuple[Ledger, dict[str, tuple[float, float]]]:
    plan = small_plan(tmp_path, methods=("contrastive", "untuned"), trials=12, scores=BOTH, labelled="/data/caltech")
    ledger, random, scores = open_ledger(plan), np.random.default_rng(0), {}
    for key, count in ((V1_UNTUNED, 1), (V1_CONTRASTIVE, 12), (EBA_CONTRASTIVE, 3)):
        for _ in range(count):
            trial = ledger.ask(key)
            encoding, classification = random.uniform(0.2, 0.6), random.uniform(0.5, 0.9)
            ledger.report(trial, trial.config.epochs, encoding)
            details = {"readout_layer": "features.2", "scores": {"classification": classification}}
            ledger.finish(trial, "complete", encoding, details)
            scores[trial.uid] = (encoding, classification)
    return ledger, scores


def test_points_are_those_that_nothing_of_their_target_beats(tmp_path: Path) -> None:
    ledger, scores = measured(tmp_path)
    of_v1 = {uid: both for uid, both in scores.items() if "/V1v/" in uid}
    expected = set()
    for uid, (x, y) in of_v1.items():
        beaten = False
        for other_x, other_y in of_v1.values():
            beaten = beaten or (other_x >= x and other_y >= y and (other_x, other_y) != (x, y))
        if not beaten:
            expected.add(uid)
    points = [
        point for point in pareto_points(ledger, BOTH, SweepStorage(str(tmp_path), "small")) if "/V1v" in point.target
    ]
    assert {point.trial for point in points} == expected
    assert 1 < len(expected) < len(of_v1)
    assert [p.scores["encoding"] for p in points] == sorted((p.scores["encoding"] for p in points), reverse=True)
    untuned = scores["subj01/lh/V1v/untuned/00000"]
    for point in points:
        above = [scores[point.trial][i] - untuned[i] for i in range(2)]
        assert [point.above_untuned[name] for name in BOTH] == pytest.approx(above)


def test_scores_that_were_not_measured_are_told(tmp_path: Path) -> None:
    ledger, _ = measured(tmp_path)
    with pytest.raises(ConfigError, match="--by is encoding,transfer; expected two or more of encoding, c"):
        pareto_points(ledger, ["encoding", "transfer"], SweepStorage(str(tmp_path), "small"))
    with pytest.raises(ConfigError, match="--by is encoding;"):
        pareto_points(ledger, ["encoding"], SweepStorage(str(tmp_path), "small"))


def test_mlflow_marks_the_set_and_no_former_one(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    trials = [ledger.ask(V1_CONTRASTIVE) for _ in range(3)]
    for trial in trials:
        complete(ledger, trial, {9: 0.3})
    projection = Projection(ledger, "file:///nowhere")
    projection.sync()
    for chosen in (trials[:2], trials[1:]):
        mark_pareto(projection, [trial.uid for trial in chosen])
        found = projection.client.search_runs([projection.experiment_id], "tags.pareto = 'true'")
        assert {run.data.tags["sweep.trial"] for run in found} == {trial.uid for trial in chosen}


@pytest.mark.parametrize("roi", ["V1v", "FFA-2"])
def test_gains_are_whole_on_eighty_columns(roi: str) -> None:
    trial = f"subj01/lh/{roi}/pooled-const/00012"
    gains: dict[str, float | None] = dict(zip(BOTH, (0.045, -0.067), strict=True))
    point = Point(f"subj01/lh/{roi}", "pooled-const", trial, dict.fromkeys(BOTH, 0.123), gains, True)
    console = Console(file=(file := io.StringIO()), width=80)
    console.print(pareto_table([point], BOTH))
    shown = file.getvalue()
    assert "…" not in shown
    assert {"0.123", "+0.045", "-0.067", "yes"} <= set(shown.split())
