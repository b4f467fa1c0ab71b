"""The steps of a rehearsal: how long each took, and what was not as promised."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

GOOD = {TrialState.COMPLETE, TrialState.PRUNED}


class Steps:
    """What was done, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.wrong: list[str] = []
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def note(self, title: str, started: float | None, outcome: str) -> None:
        """Keep a step for the table; ``started`` by `time.monotonic`."""
        seconds = "" if started is None else f"{time.monotonic() - started:.0f}"
        self.lines.append((title, seconds, outcome))
        print(f"{title}: {seconds and seconds + ' s, '}{outcome}", flush=True)

    def check(self, holds: bool, otherwise: str) -> None:
        """Keep what is not as it should be."""
        if not holds:
            self.wrong.append(otherwise)
            print(f"WRONG: {otherwise}", flush=True)

    def until(self, title: str, holds: Callable[[], bool], seconds: float) -> None:
        """Wait, as a step."""
        started = time.monotonic()
        while not (held := holds()) and time.monotonic() - started < seconds:
            time.sleep(1)
        self.note(title, started, "seen" if held else "NOT SEEN")
        self.check(held, f"{title}: not within {seconds:.0f} s")

    def conclude(self, title: str) -> int:
        """Print the table; 1 if something was wrong, else 0."""
        table = Table("step", "seconds", "", title=title)
        for line in self.lines:
            table.add_row(*line)
        Console(width=None if sys.stdout.isatty() else 120).print(table)
        print("\n".join(self.wrong) or "all as it should be")
        return 1 if self.wrong else 0


def ended_trials(journal: Path) -> dict[int, TrialState]:
    """State of every trial of a ledger with one study that has ended, by number."""
    if not journal.exists():
        return {}
    storage = JournalStorage(JournalFileBackend(str(journal)))
    trials = [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
    return {trial.number: trial.state for trial in trials if trial.state.is_finished()}


def check_ledger(steps: Steps, before: dict[int, TrialState], after: dict[int, TrialState], trials: int) -> None:
    """Every trial ended well, once, and what had ended ``before`` the interruption is as it was."""
    steps.check(sorted(after) == list(range(trials)), f"the ledger holds {sorted(after)}")
    steps.check(set(after.values()) <= GOOD, f"trials ended as {after}")
    steps.check(before.items() <= after.items(), f"what had ended changed: {before} became {after}")
    steps.note("ledger", None, f"{len(after)} of {trials} trials, each once; {len(before)} before the interruption")
