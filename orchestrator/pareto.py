"""Trials that nothing beats in several scores at once: responses predicted better, objects named no worse."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.hints import command
from orchestrator.ledger import Ledger
from orchestrator.opening import open_sweep
from orchestrator.plan import SCORES, StudyKey
from orchestrator.records import TrialRecord
from orchestrator.storage import SweepStorage
from orchestrator.tracking.client import tracking_errors
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.views import PARETO_TRIALS
from trainables.errors import ConfigError
from trainables.target import Target


@dataclass(frozen=True)
class Point:
    """A trial that is not dominated among those of its target, all methods together."""

    target: str
    method: str
    trial: str
    scores: dict[str, float]
    """Validation scores, by name."""
    above_untuned: dict[str, float | None]
    """The same less those of the untuned network; None where the sweep has no untuned one."""
    weights_kept: bool


def pareto_points(ledger: Ledger, by: Sequence[str], places: SweepStorage) -> list[Point]:
    """The Pareto set of each target, by the first score, highest first.

    Raises:
        ConfigError: a score that the sweep did not measure, or a single one.
    """
    measured = ledger.plan.scores
    unknown = [name for name in by if name not in measured]
    if unknown or len(by) < 2 or len(set(by)) < len(by):
        hint = "" if set(by) <= set(measured) else f"; a sweep with --scores {','.join(dict.fromkeys(by))} has them"
        raise ConfigError(
            f"--by is {','.join(by)}; expected two or more of {', '.join(measured)}, which sweep {ledger.plan.name} "
            f"measured of every trial{hint if set(unknown) <= set(SCORES) else ''}"
        )
    points = []
    for target in ledger.plan.targets:
        trials = _complete(ledger, target, by)
        untuned = max(
            (scores for key, _, scores in trials if key.method == "untuned"), key=lambda s: s[by[0]], default=None
        )
        front = [
            (key, record, scores)
            for key, record, scores in trials
            if not any(_dominates(other, scores, by) for _, _, other in trials)
        ]
        for key, record, scores in sorted(front, key=lambda found: -found[2][by[0]]):
            above = {name: None if untuned is None else scores[name] - untuned[name] for name in by}
            kept = key.method == "untuned" or places.trial_dir(target, key.method, record.number).exists()
            points.append(Point(target.name, key.method, record.uid, scores, above, kept))
    return points


def _complete(
    ledger: Ledger, target: Target, by: Sequence[str]
) -> list[tuple[StudyKey, TrialRecord, dict[str, float]]]:
    found = []
    for key in ledger.plan.studies:
        for record in ledger.study_records(key) if key.target == target else ():
            scores = {"encoding": record.value, **record.details.get("scores", {})}
            if record.state == "complete" and all(_finite(scores.get(name)) for name in by):
                found.append((key, record, {name: float(scores[name]) for name in by}))
    return found


def _finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _dominates(one: dict[str, float], other: dict[str, float], by: Sequence[str]) -> bool:
    return all(one[name] >= other[name] for name in by) and any(one[name] > other[name] for name in by)


def pareto_and_print(name: str, storage: str, by: Sequence[str], as_json: bool) -> None:
    """Print the Pareto set and mark it in MLflow; registers nothing.

    Raises:
        CortexSweepError: see `pareto_points`; or there is no such sweep, or MLflow is away.
    """
    places, ledger = open_sweep(name, storage)
    places.require_not_archived()
    points = pareto_points(ledger, by, places)
    mark_pareto(Projection(ledger, places.artifacts_uri), [point.trial for point in points])
    if as_json:
        rows: list[dict[str, Any]] = [vars(point) for point in points]
        print(json.dumps({"sweep": name, "by": list(by), "points": rows}))
        return
    console = Console()
    console.print(pareto_table(points, by))
    console.print(f"\nNext:  {command('ui', name, '--storage', storage, '--view', 'pareto')}", soft_wrap=True)


def pareto_table(points: Sequence[Point], by: Sequence[str]) -> Table:
    """A line for each trial; scores are whole where a terminal is narrow."""
    table = Table(box=None, pad_edge=False)
    table.add_column("trial", overflow="fold")
    for score in by:
        table.add_column(score, justify="right", no_wrap=True)
        table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("kept", no_wrap=True)
    for point in points:
        cells = []
        for score in by:
            above = point.above_untuned[score]
            cells += [f"{point.scores[score]:.3f}", "–" if above is None else f"{above:+.3f}"]
        table.add_row(point.trial, *cells, "yes" if point.weights_kept else "no")
    table.caption = (
        "validation scores; no other trial of the target is as good in all of them and better in one. gain: over the "
        "untuned network; kept: whether its weights are. In MLflow these trials have the tag pareto = true."
    )
    table.caption_justify = "left"
    return table


def mark_pareto(projection: Projection, trials: Sequence[str]) -> None:
    """Mark these trials as the sweep's Pareto set, and no others.

    Raises:
        StorageError: MLflow cannot be written.
    """
    client = projection.client
    with tracking_errors(projection.plan.tracking_uri):
        for run in client.search_runs([projection.experiment_id], PARETO_TRIALS, max_results=1000):
            if run.data.tags["sweep.trial"] not in trials:
                client.set_tag(run.info.run_id, "pareto", "false")
        for trial in trials:
            if run_id := projection.run_id(trial):
                client.set_tag(run_id, "pareto", "true")
