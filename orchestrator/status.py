"""Progress of a sweep as the ledger has it, whoever runs it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from rich.table import Table

from orchestrator.hints import command, count
from orchestrator.ledger import Ledger
from orchestrator.progress import count_targets, duration, target_table


def seconds_left(ledger: Ledger) -> float | None:
    """Estimate from the pace of the last hour's endings; None before the first one, 0 when nothing is left."""
    left = ledger.trials_left()
    if not left:
        return 0.0
    now = time.time() * 1000
    records = [r for key in ledger.plan.studies for r in ledger.study_records(key)]
    ended = [r for r in records if r.ended_ms and now - r.ended_ms < 3_600_000]
    if not ended:
        return None
    span = now - min(r.started_ms for r in ended)
    return float(span / 1000 / len(ended) * left)


def status_json(ledger: Ledger) -> dict[str, Any]:
    """Counts by target."""
    lines = count_targets(ledger)
    return {
        "sweep": ledger.plan.name,
        "left": ledger.trials_left(),
        "seconds_left": seconds_left(ledger),
        "targets": {target.name: asdict(line) for target, line in lines.items()},
    }


def status_lines(ledger: Ledger, storage: str, driven: bool) -> list[Table | str]:
    """A table and a sentence.

    Args:
        ledger: of the sweep.
        storage: what the commands that it names have to be told.
        driven: whether this machine sees a process that runs the sweep.
    """
    left, seconds = ledger.trials_left(), seconds_left(ledger)
    plan = ledger.plan
    which = plan.name, "--storage", storage
    if not left:
        outlook = f"sweep {plan.name} is finished; `{command('leaderboard', *which)}` shows its best models"
    elif not driven:
        outlook = f"{count(left, 'trial')} left; nobody runs it on this machine, `{command('resume', *which)}` goes on"
    elif seconds is None:
        outlook = f"{count(left, 'trial')} left; none ended in the last hour"
    else:
        outlook = f"{count(left, 'trial')} left, about {duration(seconds)} at the pace of the last hour"
    skipped = [f"skipped {roi.name}: {roi.reason}" for roi in plan.skipped]
    return [target_table(count_targets(ledger)), *skipped, outlook]
