"""The best model of every target and method, and how it was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.hints import count
from orchestrator.ledger import Ledger
from orchestrator.plan import StudyKey
from orchestrator.records import TrialRecord
from orchestrator.storage import SweepStorage, read_json
from trainables.data.splits import NESTED


@dataclass(frozen=True)
class Row:
    """One line: a study and its best trial, if it has one."""

    target: str
    label: str
    """The target as tables show it."""
    method: str
    trials: int
    """Trials that have ended."""
    planned: int
    pruned: int
    failed: int
    best_trial: str | None
    """As `TrialRecord.uid`."""
    val_r: float | None
    """Mean Pearson r over voxels on validation stimuli."""
    readout_layer: str | None
    layer_cutoff: str | None
    objective: str | None
    """What a contrastive method minimises: ``info_nce``, or ``info_nce+mse`` with a squared error beside it."""
    temperature: float | None
    learning_rate: float | None
    epoch: int | None
    """The epoch whose weights are kept."""
    untuned_r: float | None
    """The untuned network's validation r at the same readout layer: what tuning alone changed."""
    best_of_target: bool
    test_r: float | None
    """Mean Pearson r over voxels on test stimuli, once evaluated."""


def leaderboard(ledger: Ledger, storage: SweepStorage) -> list[Row]:
    """Rows by target, in it by validation score, best first; studies without a complete trial come last."""
    tests = _test_scores(storage)
    rows: list[Row] = []
    for target in ledger.plan.targets:
        keys = [key for key in ledger.plan.studies if key.target == target]
        best = {key: next(iter(ledger.best(key)), None) for key in keys}
        keys.sort(key=lambda key: -_value(best[key]))
        untuned = next((best[key] for key in keys if key.method == "untuned"), None)
        by_layer = untuned.details["r_by_layer"] if untuned else {}
        rows += [_row(ledger, key, best[key], by_layer, tests, place == 0) for place, key in enumerate(keys)]
    return rows


def _value(record: TrialRecord | None) -> float:
    return record.value if record is not None and record.value is not None else -2.0


def _row(
    ledger: Ledger,
    key: StudyKey,
    best: TrialRecord | None,
    untuned: dict[str, float],
    tests: dict[str, float],
    first: bool,
) -> Row:
    records = ledger.study_records(key)
    states = [record.state for record in records]
    config = best.config if best else {}
    tuned = best is not None and key.method != "untuned"
    return Row(
        target=key.target.name,
        label=key.target.label,
        method=key.method,
        trials=len(records) - states.count("running"),
        planned=ledger.plan.studies[key],
        pruned=states.count("pruned"),
        failed=states.count("failed"),
        best_trial=best.uid if best else None,
        val_r=best.value if best else None,
        readout_layer=best.details.get("readout_layer") if best else None,
        layer_cutoff=config["layer_cutoff"] if tuned else None,
        objective=_objective(config) if tuned and key.method != "regression" else None,
        temperature=config["temperature"] if tuned and key.method != "regression" else None,
        learning_rate=config["learning_rate"] if tuned else None,
        epoch=best.details.get("best_epoch") if best else None,
        untuned_r=untuned.get(best.details.get("readout_layer", "")) if tuned and best else None,
        best_of_target=first and best is not None and ledger.plan.protocol == NESTED,
        test_r=tests.get(best.uid) if best else None,
    )


def _objective(config: dict[str, Any]) -> str:
    return str(config["objective"]) + ("+mse" if config["mse_weight"] else "")


def _test_scores(storage: SweepStorage) -> dict[str, float]:
    if not storage.encoding_scores_file.exists():
        return {}
    by_trial: dict[str, list[float]] = {}
    for row in read_json(storage.encoding_scores_file)["rows"]:
        by_trial.setdefault(row["trial"], []).append(row["test_r"])
    return {trial: sum(scores) / len(scores) for trial, scores in by_trial.items()}  # pooled: mean over its subjects


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows as plain values."""
    return [asdict(row) for row in rows]


def leaderboard_table(rows: list[Row], width: int) -> Table:
    """The table for a terminal of ``width`` columns; a narrow one leaves out what can be looked up elsewhere."""
    wide = width >= 110
    tested = any(row.test_r is not None for row in rows)
    narrow = width < 96
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0) if narrow else (0, 1))
    table.add_column("target", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for heading in ("val r", "gain", *(("test r",) if tested else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("readout", no_wrap=True)
    table.add_column("cutoff", no_wrap=True)
    searched = len({row.objective for row in rows if row.objective}) > 1
    if searched:
        table.add_column("objective", no_wrap=True)
    table.add_column("temp.", justify="right", no_wrap=True)
    show_rate = not (narrow and tested)
    if show_rate:
        table.add_column("lr", justify="right", no_wrap=True)
    if wide:
        table.add_column("epoch", justify="right")
        table.add_column("trials", justify="right")
        table.add_column("pruned", justify="right")
        table.add_column("failed", justify="right")
    for row in rows:
        style = "bold" if row.best_of_target else ""
        gain = None if row.val_r is None or row.untuned_r is None else row.val_r - row.untuned_r
        # Bold alone is lost in a file.
        cells = [
            row.label,
            f"{row.method}{'*' if row.best_of_target else ''}",
            _number(row.val_r, ".3f"),
            _number(gain, "+.3f"),
        ]
        cells += [_number(row.test_r, ".3f")] if tested else []
        cells += [row.readout_layer or "–", row.layer_cutoff or "–"]
        cells += [row.objective or "–"] if searched else []
        cells += [_number(row.temperature, ".2g")]
        cells += [_number(row.learning_rate, ".1e")] if show_rate else []
        if wide:
            cells += [
                _number(row.epoch, "d"),
                f"{row.trials}/{row.planned}",
                str(row.pruned),
                str(row.failed),
            ]
        table.add_row(*(Text(cell, style=style) for cell in cells))
    table.caption = (
        "* best of its target; val r: mean Pearson r over voxels; gain: over the untuned network at the same readout "
        "layer"
    )
    table.caption_justify = "left"
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def improvement_lines(rows: list[Row]) -> list[str]:
    """How far each tuned method ends above untuned, as one sentence a method."""
    untuned = {row.target: row.val_r for row in rows if row.method == "untuned" and row.val_r is not None}
    lines = []
    for method in ("contrastive", "regression"):
        won = [row for row in rows if row.method == method and row.val_r is not None and row.target in untuned]
        if not won:
            continue
        best = [row.val_r - untuned[row.target] for row in won if row.val_r is not None]
        same = [row.val_r - row.untuned_r for row in won if row.val_r is not None and row.untuned_r is not None]
        at_same = ""  # an untuned trial may know no other layer than its best
        if same:
            at_same = f"{sum(same) / len(same):+.4f} at the same readout layer ({sum(d > 0 for d in same)} above), "
        lines.append(
            f"{method} less untuned, mean validation r over {count(len(won), 'target')}: {at_same}"
            f"{sum(best) / len(best):+.4f} best layer against best layer ({sum(d > 0 for d in best)} above)"
        )
    return lines


def unfinished_line(rows: list[Row]) -> str:
    """That a sweep has trials left, in one sentence; empty if it has none."""
    ended, planned = sum(row.trials for row in rows), sum(row.planned for row in rows)
    return "" if ended >= planned else f"As of now: {ended} of {count(planned, 'trial')} have ended."


def studies_without_score(rows: list[Row]) -> list[str]:
    """Studies in which no trial came to a score."""
    return [f"{row.target}/{row.method}" for row in rows if row.val_r is None and row.trials >= row.planned]
