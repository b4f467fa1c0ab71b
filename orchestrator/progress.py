"""What a person sees while a sweep runs: a line per target, and when it will be over."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.ledger import Ledger, OpenTrial
from orchestrator.plan import SweepPlan
from trainables.target import Target

FOOTER_LINES = 5
REFRESH_SECONDS = 1.0
"""The ledger is read at most this often, however many trials end."""
LINE_SECONDS = 30.0
"""A log gets a line at most this often."""

if TYPE_CHECKING:
    from orchestrator.search import StudySearch  # imports Ray, which `status` does not need


@dataclass
class TargetLine:
    """Counts of one target's trials over all methods."""

    planned: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    best: float | None = None
    best_method: str = ""

    @property
    def ended(self) -> int:
        """Trials that will not run again."""
        return self.complete + self.pruned + self.failed


def count_targets(ledger: Ledger) -> dict[Target, TargetLine]:
    """The state of every target, read from the ledger."""
    lines = {target: TargetLine() for target in ledger.plan.targets}
    for key, planned in ledger.plan.studies.items():
        line = lines[key.target]
        line.planned += planned
        for record in ledger.study_records(key):
            setattr(line, record.state, getattr(line, record.state) + 1)
            better = record.value is not None and (line.best is None or record.value > line.best)
            if record.state == "complete" and better:
                line.best, line.best_method = record.value, key.method
    return lines


def target_table(lines: dict[Target, TargetLine], rows: int | None = None) -> Table:
    """A line per target; with fewer ``rows`` than targets, those at work come first and the rest is counted."""
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "done", "running", "pruned", "failed"):
        table.add_column(heading, justify="left" if heading == "target" else "right", no_wrap=True)
    table.add_column("best validation r", no_wrap=True)
    shown = sorted(lines, key=lambda target: (lines[target].running == 0, lines[target].ended == lines[target].planned))
    if rows is None or rows >= len(lines):
        shown = list(lines)
    for target in shown[:rows]:
        line = lines[target]
        best = "–" if line.best is None else f"{line.best:.3f} {line.best_method}"
        counts = (
            f"{line.ended}/{line.planned}",
            str(line.running or ""),
            str(line.pruned or ""),
            str(line.failed or ""),
        )
        table.add_row(target.label, *counts, best)
    if rows is not None and len(lines) > rows:
        table.add_row(Text(f"… and {len(lines) - rows} more targets", style="dim"))
    return table


def duration(seconds: float) -> str:
    """``1 h 04 min``, ``3 min 20 s``, ``12 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def time_left(ended: int, total: int, at_once: int, started: float, first_end: float) -> str:
    """``ETA 3 min 20 s``, from what has ended since the first one did, which had waited for processes to start.

    Until more have ended than run at a time, only the time of that first round is known, its start included.

    Args:
        ended: pieces of work that have, at least one.
        total: all of them.
        at_once: how many run beside each other.
        started: `time.monotonic` at the beginning.
        first_end: likewise, when the first piece ended.
    """
    now, left = time.monotonic(), total - ended
    if ended > at_once:
        return f"ETA {duration((now - first_end) / (ended - 1) * left)}"
    return f"ETA roughly {duration((now - started) * left / at_once)}"


class LogLines:
    """Lines about long work for where nobody sees a live view: a file, a batch system, `ray job logs`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = -math.inf

    def say(self, text: str, last: bool = False) -> None:
        """Print with the time of day, unless there was a line a moment ago or there is a terminal."""
        if self._console.is_terminal or not (last or time.monotonic() - self._said >= LINE_SECONDS):
            return
        self._said = time.monotonic()
        now = datetime.now().astimezone()
        self._console.print(f"{now:%H:%M:%S} {text}", soft_wrap=True, highlight=False)


@dataclass
class SweepProgress:
    """Live table on a terminal; a line now and then in a log."""

    console: Console
    plan: SweepPlan
    quiet: bool = False
    ended: int = 0
    left: int = 0
    started: float = field(default_factory=time.monotonic)
    _search: StudySearch | None = None
    _at_once: int = 1
    """Most trials that were seen at work together."""
    _first_end: float = 0.0
    _live: Live | None = None
    _counted: float = 0.0
    _lines: dict[Target, TargetLine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._log = LogLines(self.console)

    def start(self, search: StudySearch) -> None:
        """Begin to show ``search``."""
        self._search = search
        self.left = search.left
        self.started = time.monotonic()
        if not self.quiet and self.console.is_terminal and self.left:
            self._live = Live(
                get_renderable=self.render,
                console=self.console,
                refresh_per_second=2,
                vertical_overflow="crop",
            )
            self._live.start()

    def trial_ended(self, trial: OpenTrial) -> None:
        """Count a trial that has ended."""
        self.ended += 1
        if self.ended == 1:
            self._first_end = time.monotonic()
        if self._search is not None:
            self._at_once = max(self._at_once, len(self._search.running) + 1)
        if not self.quiet:
            self._log.say(self.eta(), last=self.ended == self.left)

    def _counts(self) -> dict[Target, TargetLine]:
        if self._search is not None and time.monotonic() - self._counted > REFRESH_SECONDS:
            self._lines = count_targets(self._search.ledger)
            self._counted = time.monotonic()
        return self._lines

    def eta(self) -> str:
        """Trials that have ended, and the time left."""
        if not self.ended:
            return "starting slots, ETA after the first trial"
        eta = time_left(self.ended, self.left, self._at_once, self.started, self._first_end)
        return f"{self.ended}/{self.left} trials, {eta}"

    def render(self) -> Table:
        """The live view."""
        rows = max(3, self.console.size.height - FOOTER_LINES)
        view = Table.grid()
        view.add_row(target_table(self._counts(), rows))
        elapsed = duration(time.monotonic() - self.started)
        view.add_row(
            Text(f"sweep {self.plan.name}: {self.eta()}, {elapsed} so far. Ctrl-C ends it; nothing finished is lost.")
        )
        return view

    def stop(self) -> None:
        """Leave the last state on the screen."""
        self._counted = 0.0
        if self._live is not None:
            self._live.stop()
            self._live = None
