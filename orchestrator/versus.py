"""Two sweeps against each other: the same targets and methods, paired, with how sure one may be."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.comparisons import finite
from orchestrator.leaderboard import Row, leaderboard
from orchestrator.ledger import Ledger
from orchestrator.opening import open_sweep
from orchestrator.storage import SweepStorage
from trainables.errors import ConfigError

MEASURES = {"test_r": "test r", "val_r": "validation r"}


@dataclass(frozen=True)
class Versus:
    """One method in two sweeps, over the targets that both have."""

    method: str
    n_targets: int
    mean_a: float
    mean_b: float
    mean_difference: float
    """b - a."""
    interval: tuple[float, float]
    """95 %, Student's t over targets; NaN for a single one."""
    p: float
    """Sign-flip permutation test over targets, two-sided, corrected over methods (Benjamini-Hochberg)."""
    better: int
    """Targets at which b is above a."""


def compare_sweeps(a: str, b: str, storage: str) -> tuple[str, list[Versus]]:
    """What is compared (``test_r`` where both sweeps are evaluated, else ``val_r``), and a line for each method.

    Raises:
        ConfigError: the sweeps have other stimuli, or no target and method in common.
        StorageError: there is no such sweep.
    """
    from trainables.analyses.statistics import compare_over

    sweeps = [open_sweep(name, storage) for name in (a, b)]
    _require_same_stimuli(*(ledger for _, ledger in sweeps))
    first, second = (_by_study(places, ledger) for places, ledger in sweeps)
    common = [study for study in first if study in second]
    if not common:
        raise ConfigError(f"sweeps {a} and {b} have no target and method in common that both have a score of")
    both_tested = all(rows[study].test_r is not None for rows in (first, second) for study in common)
    measure = "test_r" if both_tested else "val_r"
    scores: dict[str, tuple[list[float], list[float]]] = {}
    for study in common:
        pair = scores.setdefault(study[1], ([], []))
        for side, rows in zip(pair, (first, second), strict=True):
            side.append(getattr(rows[study], measure))
    found = compare_over({method: (y, x) for method, (x, y) in scores.items()}, protocol=sweeps[0][1].plan.protocol)
    lines = [
        Versus(
            method,
            len(x),
            statistics.fmean(x),
            statistics.fmean(y),
            found[method].mean_difference,
            found[method].interval,
            found[method].p_sign_flip_corrected,
            sum(after > before for before, after in zip(x, y, strict=True)),
        )
        for method, (x, y) in scores.items()
    ]
    return measure, lines


def _by_study(places: SweepStorage, ledger: Ledger) -> dict[tuple[str, str], Row]:
    return {(row.target, row.method): row for row in leaderboard(ledger, places) if row.val_r is not None}


def _require_same_stimuli(a: Ledger, b: Ledger) -> None:
    for field, noun in (("dataset", "data set"), ("split_digest", "split"), ("protocol", "protocol")):
        of_a, of_b = getattr(a.plan, field), getattr(b.plan, field)
        if of_a != of_b:
            raise ConfigError(
                f"sweep {a.plan.name} has {noun} {of_a}, sweep {b.plan.name} has {of_b}; scores of other stimuli do "
                "not compare"
            )


def compare_and_print(a: str, b: str, storage: str, as_json: bool) -> None:
    """Compare two sweeps for a person or a script.

    Raises:
        CortexSweepError: see `compare_sweeps`.
    """
    measure, lines = compare_sweeps(a, b, storage)
    if as_json:
        rows: list[dict[str, Any]] = [
            {name: finite(list(v) if isinstance(v, tuple) else v) for name, v in asdict(line).items()} for line in lines
        ]
        print(json.dumps({"a": a, "b": b, "measure": measure, "rows": rows}))
        return
    console = Console()
    table = Table(box=None, pad_edge=False, title=f"{b} less {a}, {MEASURES[measure]}", title_justify="left")
    table.add_column("method", no_wrap=True)
    for heading in ("targets", "a", "b", "b - a", "95 %", "p", "b above a"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        low, high = line.interval
        cells = (f"{line.mean_a:.3f}", f"{line.mean_b:.3f}", f"{line.mean_difference:+.4f}")
        interval = f"{low:+.4f} to {high:+.4f}" if line.n_targets > 1 else "–"
        table.add_row(line.method, str(line.n_targets), *cells, interval, f"{line.p:.3f}", str(line.better))
    table.caption = (
        "means over the targets that both have; p of the sign-flip test over targets, corrected over methods; targets "
        "of one subject are not independent"
    )
    table.caption_justify = "left"
    console.print(table)
