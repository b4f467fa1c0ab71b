"""Was it the parameters or the seed? The best trials of a sweep run again on fresh seeds, as a sweep of its own.

All trials of a sweep have one seed, so the best of many is also the luckiest. A confirming sweep runs the parameters of
each study's best trials on several other seeds, unpruned, and `select` takes the candidate with the best mean, of it
the trial nearest to that mean.
"""

from __future__ import annotations

import json
import math
import statistics
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy import stats

from orchestrator.conclusion import STUDIES_WITHOUT_SCORE
from orchestrator.hints import command, joined
from orchestrator.launch import Outcome, execute, make_sweep
from orchestrator.ledger import Ledger
from orchestrator.node_watch import INTERRUPTED
from orchestrator.opening import load_plan, open_sweep
from orchestrator.passwords import without_password
from orchestrator.plan import StudyKey, SweepPlan, plain
from orchestrator.records import TrialRecord, by_candidate
from orchestrator.storage import SweepStorage
from trainables.data.splits import NESTED
from trainables.errors import ConfigError
from trainables.models.weights import load_weights

SUFFIX = "-confirm"
LEAST_SEEDS = 2
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Confirmed:
    """A candidate on fresh seeds."""

    target: str
    method: str
    trial: str
    """The trial whose parameters it has, of the sweep that is confirmed."""
    chosen_r: float
    """That trial's validation r, on its own seed."""
    scores: tuple[float, ...]
    """Validation r on each fresh seed."""
    untuned_r: float | None
    """Of the untuned network, best readout layer."""
    best: bool
    """It has the highest mean of its study."""

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.scores) if self.scores else math.nan

    @property
    def half_width(self) -> float:
        """Of the 95 % interval of the mean, from Student's t; NaN for fewer than two seeds."""
        n = len(self.scores)
        if n < LEAST_SEEDS:
            return math.nan
        return float(stats.t.ppf((1 + _CONFIDENCE) / 2, n - 1) * statistics.stdev(self.scores) / n**0.5)


def confirming_plan(ledger: Ledger, storage: SweepStorage, seeds: int, candidates: int) -> SweepPlan:
    """The plan of a sweep that confirms another one, kept at ``storage``.

    Args:
        ledger: of the sweep to confirm.
        storage: of the sweep to make.
        seeds: fresh seeds for each candidate.
        candidates: best trials of each study that run again.

    Raises:
        ConfigError: fewer than two seeds, no candidate, or a sweep in which nothing was searched or has ended.
    """
    plan = ledger.plan
    if seeds < LEAST_SEEDS or candidates < 1:
        raise ConfigError(f"--seeds is {seeds} and --candidates {candidates}; expected at least {LEAST_SEEDS} and 1")
    if "://" not in plan.ledger and not storage.is_local:
        raise ConfigError(
            f"the ledger of sweep {plan.name} is a file of this machine and its storage is remote; there is no place "
            "for another one that every machine reaches"
        )
    if plan.candidates or plan.protocol != NESTED or len(plan.optimise) > 1:
        raise ConfigError(
            f"sweep {plan.name} did not search for the best encoding by a validation part; there is nothing to confirm"
        )
    found = {
        key.name: [
            {"params": ledger.parameters(key, record.number), "trial": record.uid, "value": record.value}
            for record in ledger.best(key, candidates)
        ]
        for key in plan.studies
        if key.method != "untuned"
    }
    found = {name: trials for name, trials in found.items() if trials}
    if not found:
        raise ConfigError(f"sweep {plan.name} has no complete tuned trial yet; there is nothing to confirm")
    return replace(
        plan,
        name=storage.name,
        sweep_id=uuid.uuid4().hex[:8],
        candidates=found,
        seeds=seeds,
        neighbours=False,
        keep_weights=seeds * candidates,
        methods=tuple(method for method in plan.methods if method != "untuned"),
        ledger=plan.ledger if "://" in plan.ledger else str(storage.journal_file),
    )


def confirmed(ledger: Ledger, confirming: Ledger) -> list[Confirmed]:
    """What came out, by study and candidate."""
    rows = []
    for key in confirming.plan.studies:
        chosen = confirming.plan.candidates[key.name]
        untuned = next(iter(ledger.best(StudyKey(key.target, "untuned"))), None) if _has_untuned(ledger, key) else None
        grouped = scores_by_candidate(confirming, key)
        means = [statistics.fmean(r.value or 0.0 for r in group) if group else -math.inf for group in grouped]
        for place, (candidate, group) in enumerate(zip(chosen, grouped, strict=True)):
            rows.append(
                Confirmed(
                    key.target.name,
                    key.method,
                    candidate["trial"],
                    candidate["value"],
                    tuple(r.value for r in group if r.value is not None),
                    untuned.value if untuned else None,
                    bool(group) and place == means.index(max(means)),
                )
            )
    return rows


def _has_untuned(ledger: Ledger, key: StudyKey) -> bool:
    return StudyKey(key.target, "untuned") in ledger.plan.studies


def scores_by_candidate(confirming: Ledger, key: StudyKey) -> list[list[TrialRecord]]:
    """Complete trials of each candidate of a study."""
    complete = [record for record in confirming.study_records(key) if record.state == "complete"]
    grouped = by_candidate(complete, confirming.plan.seeds)
    return [grouped.get(place, []) for place in range(len(confirming.plan.candidates[key.name]))]


def confirmation_table(rows: Sequence[Confirmed]) -> Table:
    """Chosen score, mean ± interval over fresh seeds, and what is left above untuned."""
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "method"):
        table.add_column(heading, no_wrap=True)
    for heading in ("chosen", "fresh seeds", "n", "above untuned"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        gain = "–" if row.untuned_r is None or not row.scores else f"{row.mean - row.untuned_r:+.3f}"
        mean = f"{row.mean:.3f} ± {row.half_width:.3f}" if len(row.scores) >= LEAST_SEEDS else "–"
        table.add_row(
            row.target,
            row.method,
            f"{row.chosen_r:.3f}",
            mean,
            str(len(row.scores)),
            gain,
            style="bold" if row.best else "",
        )
    table.caption = "validation r; ± half the 95 % interval of the mean over seeds (Student's t); bold: best mean"
    table.caption_justify = "left"
    return table


def rows_as_json(rows: Sequence[Confirmed]) -> list[dict[str, Any]]:
    """Plain values, NaN as None."""
    return [{**asdict(row), "mean": _finite(row.mean), "half_width": _finite(row.half_width)} for row in rows]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def confirm(
    name: str,
    storage_uri: str,
    seeds: int,
    candidates: int,
    profile: str | None,
    address: str | None,
    console: Console,
    quiet: bool,
) -> tuple[SweepPlan, Outcome]:
    """Make the sweep that confirms ``name``, or go on with it.

    Raises:
        CortexSweepError: there is nothing to confirm, or a confirming sweep exists that is another one.
    """
    places, ledger = open_sweep(name, storage_uri)
    own = SweepStorage(storage_uri, name + SUFFIX)
    plan = confirming_plan(ledger, own, seeds, candidates)
    if not own.plan_file.exists():
        make_sweep(own, plan, load_weights(str(places.weights_file), plan.backbone))
    existing = load_plan(own)
    if (existing.seeds, existing.candidates) != (seeds, plain(plan.candidates)):
        delete, resume = (command(word, own.name, "--storage", storage_uri) for word in ("delete", "resume"))
        raise ConfigError(
            f"sweep {own.name} confirms other trials of {name}, or on {existing.seeds} seeds; `{delete}` makes room "
            f"for a new one, `{resume}` goes on with it as it is"
        )
    return existing, execute(replace(existing, profile=profile or existing.profile), own, address, console, quiet)


def confirm_and_print(
    name: str, storage: str, seeds: int, candidates: int, profile: str | None, address: str | None, as_json: bool
) -> int:
    """Run what is left of the confirming sweep and print what came out.

    Returns:
        The exit code: 0, `STUDIES_WITHOUT_SCORE` or `INTERRUPTED`.

    Raises:
        CortexSweepError: see `confirm`.
    """
    console = Console(stderr=as_json)
    where = ("--storage", storage, *(("--profile", profile) if profile else ()), *joined(address))
    again = command("confirm", name, "--seeds", str(seeds), "--candidates", str(candidates), *where)
    try:
        plan, outcome = confirm(name, storage, seeds, candidates, profile, address, console, as_json)
    except KeyboardInterrupt:
        outcome = None
    if outcome is None or not outcome.finished:
        console.print(f"\nInterrupted. Nothing finished is lost. Go on with:  {again}", soft_wrap=True)
        return INTERRUPTED
    if not outcome.tracked:
        tracking = without_password(plan.tracking_uri)
        console.print(f"MLflow at {tracking} stayed away; `{again}` writes what it lacks.", soft_wrap=True)
    rows = confirmed(open_sweep(name, storage)[1], open_sweep(plan.name, storage)[1])
    if as_json:
        print(json.dumps({"sweep": name, "confirmed_by": plan.name, "seeds": seeds, "rows": rows_as_json(rows)}))
    else:
        console.print(confirmation_table(rows))
        step = command("select", plan.name, "--storage", storage)
        console.print(f"\nNext:  {step}", soft_wrap=True, highlight=False)
    return STUDIES_WITHOUT_SCORE if any(not row.scores for row in rows) else 0
