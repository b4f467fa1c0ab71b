"""What a log shows of a sweep while it runs."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import progress
from orchestrator.progress import SweepProgress
from orchestrator.search import StudySearch
from tests.orchestrator.plans import open_ledger, small_plan


def lines_of(tmp_path: Path, ends: int, **options: Any) -> list[str]:
    """What is printed while so many trials of four end."""
    search = StudySearch(open_ledger(small_plan(tmp_path, trials=2)), lambda *_: {}, lambda _: None)
    file = io.StringIO()
    shown = SweepProgress(Console(file=file, width=40), search.ledger.plan, **options)
    shown.start(search)
    for number in range(ends):
        search.suggest(f"tune-{number}")
        shown.trial_ended(search.running[f"tune-{number}"])
    shown.stop()
    return file.getvalue().splitlines()


def test_log_says_how_far_it_is_and_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines = lines_of(tmp_path, 4)
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line).split(",")[0] for line in lines] == [
        f"{n}/4 trials" for n in (1, 2, 3, 4)
    ]
    assert all("ETA" in line for line in lines)


def test_log_is_not_filled_with_lines_but_the_last_one_is_there(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, 4)
    assert ["1/4 trials" in lines[0], "4/4 trials" in lines[1], len(lines)] == [True, True, 2]


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    assert lines_of(tmp_path, 4, quiet=True) == []


def test_eta_counts_the_start_of_slots_once_and_slots_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slots start in 30 s, then each ends a trial every 10 s: twenty trials take 130 s."""
    clock = 0.0
    monkeypatch.setattr("orchestrator.progress.time.monotonic", lambda: clock)
    search = StudySearch(open_ledger(small_plan(tmp_path, trials=10)), lambda *_: {}, lambda _: None)
    shown = SweepProgress(Console(file=io.StringIO()), search.ledger.plan)
    shown.start(search)
    assert (shown.left, "after the first trial" in shown.eta()) == (20, True)
    said = []
    for end in range(20):
        while len(search.running) < 2 and end + len(search.running) < 20:
            search.suggest(f"tune-{end}-{len(search.running)}")
        trial = search.running.pop(next(iter(search.running)))
        clock = 40.0 + 10 * (end // 2)
        shown.trial_ended(trial)
        said.append(shown.eta())
    assert said[0] == "1/20 trials, ETA roughly 6 min 20 s"
    for end, seconds in ((3, 80), (9, 50), (19, 0)):
        left = re.fullmatch(rf"{end + 1}/20 trials, ETA (?:(\d+) min )?(\d+) s", said[end])
        assert left is not None, said[end]
        assert 60 * int(left[1] or 0) + int(left[2]) == pytest.approx(seconds, rel=0.4)
