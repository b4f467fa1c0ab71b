from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from orchestrator.driver import SweepIsDrivenError, is_driven, mend_journal, only_one, sole_driver
from orchestrator.ledger import Ledger
from orchestrator.plan import SweepPlan
from tests.orchestrator.plans import V1_CONTRASTIVE, complete, open_ledger, small_plan
from trainables.errors import StorageError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    return small_plan(tmp_path)


def values(plan: SweepPlan) -> list[float | None]:
    return [record.value for record in Ledger(plan).study_records(V1_CONTRASTIVE)]


def run_one(plan: SweepPlan, score: float) -> None:
    ledger = open_ledger(plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: score})


@pytest.mark.parametrize("kept", [1, 20, -1], ids=["one byte", "some bytes", "all but the newline"])
def test_unfinished_last_line_is_cut_and_nothing_else_lost(plan: SweepPlan, tmp_path: Path, kept: int) -> None:
    run_one(plan, 0.5)
    journal = Path(plan.ledger)
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines(keepends=True)[-1][:kept])
    with sole_driver(tmp_path / "driver.lock", plan.ledger, "an-id"):
        assert journal.read_bytes() == whole
        run_one(plan, 0.7)
    assert values(plan) == [0.5, 0.7]


def test_without_mending_the_ledger_would_be_lost(plan: SweepPlan) -> None:
    """Why the journal is mended: if Optuna learns to skip such a line, the mending can go."""
    run_one(plan, 0.5)
    lines = Path(plan.ledger).read_bytes().splitlines(keepends=True)
    with Path(plan.ledger).open("ab") as journal:
        journal.writelines([lines[-1][:20], *lines[-2:]])
    with pytest.raises(StorageError, match="damaged"):
        Ledger(plan)


def test_last_line_longer_than_a_block_is_cut(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_bytes(b"one\ntwo\n" + b"x" * 10_000)
    mend_journal(journal)
    assert journal.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("content", [b"", b"one\n", b"one\ntwo\n", b"x" * 5000 + b"\n"])
def test_whole_journal_is_left_alone(tmp_path: Path, content: bytes) -> None:
    journal = tmp_path / "journal"
    journal.write_bytes(content)
    mend_journal(journal)
    assert journal.read_bytes() == content


def test_journal_of_half_a_line_becomes_empty(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_bytes(b"x" * 4096)
    mend_journal(journal)
    assert journal.read_bytes() == b""


def test_no_journal_yet_is_fine(tmp_path: Path) -> None:
    mend_journal(tmp_path / "journal")
    assert not (tmp_path / "journal").exists()


def test_lock_of_a_dead_writer_is_dropped(plan: SweepPlan, tmp_path: Path) -> None:
    run_one(plan, 0.5)
    stale = Path(f"{plan.ledger}.lock")
    stale.symlink_to(plan.ledger)
    began = time.monotonic()
    with sole_driver(tmp_path / "driver.lock", plan.ledger, "an-id"):
        assert not stale.is_symlink()
        run_one(plan, 0.7)
    assert time.monotonic() - began < 15  # Optuna itself waits for 30 s
    assert values(plan) == [0.5, 0.7]


def test_database_is_not_taken_for_a_journal(tmp_path: Path) -> None:
    with sole_driver(tmp_path / "driver.lock", f"sqlite:///{tmp_path / 'ledger.db'}", "an-id"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["driver.lock"]


@contextmanager
def other_driver(lock: Path, ledger: str) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys; from pathlib import Path; from orchestrator.driver import sole_driver\n"
        f"with sole_driver(Path({str(lock)!r}), {ledger!r}, 'an-id'):\n"
        "    print('drives', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "drives\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def test_second_driver_is_refused_until_the_first_has_died(plan: SweepPlan, tmp_path: Path) -> None:
    lock = tmp_path / "sweep" / "driver.lock"
    half = b'{"half'
    with other_driver(lock, plan.ledger) as process:
        Path(plan.ledger).write_bytes(half)  # a line that the first one is writing
        with pytest.raises(StorageError, match="another process is running this sweep") as refused:
            sole_driver(lock, plan.ledger, "an-id").__enter__()
        assert str(lock) in str(refused.value)
        assert Path(plan.ledger).read_bytes() == half
        os.kill(process.pid, signal.SIGKILL)
        process.wait(20)
        with sole_driver(lock, plan.ledger, "an-id"):
            assert Path(plan.ledger).read_bytes() == b""


def test_lock_is_released_after_an_error(tmp_path: Path) -> None:
    lock, ledger = tmp_path / "driver.lock", str(tmp_path / "journal")
    with pytest.raises(RuntimeError, match="inside"), sole_driver(lock, ledger, "an-id"):
        raise RuntimeError("inside")
    with sole_driver(lock, ledger, "an-id"):
        pass


def test_whether_somebody_drives_a_sweep_can_be_asked(plan: SweepPlan, tmp_path: Path) -> None:
    lock = tmp_path / "driver.lock"
    assert not is_driven(lock)
    assert not lock.exists()
    run_one(plan, 0.5)
    with sole_driver(lock, plan.ledger, "an-id"):
        assert is_driven(lock)
    assert not is_driven(lock)


@pytest.mark.parametrize("scheme", ["", "sqlite:///"])
def test_ledger_file_elsewhere_has_one_driver_whatever_the_sweeps_lock(tmp_path: Path, scheme: str) -> None:
    """With remote storage the sweep's lock lies in the working directory; and two sweeps may name one file."""
    ledger = f"{scheme}{tmp_path / 'ledgers/one'}"
    (tmp_path / "ledgers").mkdir()
    with sole_driver(tmp_path / "here/driver.lock", ledger, "an-id"):
        with pytest.raises(SweepIsDrivenError, match="with this ledger"):
            sole_driver(tmp_path / "there/driver.lock", ledger, "an-id").__enter__()
        with sole_driver(tmp_path / "there/driver.lock", ledger + "-other", "an-id"):
            pass
    with sole_driver(tmp_path / "there/driver.lock", ledger, "an-id"):
        pass


def test_driver_waits_for_one_who_only_looks_and_not_for_one_who_drives(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "driver.lock", thread_local=False)
    lock.acquire()
    peek = threading.Timer(0.3, lock.release)  # as `is_driven` holds it, if longer
    peek.start()
    with only_one(tmp_path / "driver.lock"):
        pass
    peek.join()
    started = time.monotonic()
    with only_one(tmp_path / "driver.lock"), pytest.raises(SweepIsDrivenError):
        only_one(tmp_path / "driver.lock").__enter__()
    assert time.monotonic() - started < 20
