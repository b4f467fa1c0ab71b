"""One driver for a sweep, and what a killed one leaves behind."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.ledger_storage import POSTGRESQL, ledger_errors
from orchestrator.storage import storage_errors
from trainables.errors import StorageError

log = logging.getLogger(__name__)

SERVER_NOTICES = (
    "SET tcp_keepalives_idle = 20",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)
"""Else a server takes hours to see that the machine of a driver has vanished, and holds its sweep as long."""
LOOK_SECONDS = 20.0
"""How often a driver looks whether the ledger's server still holds the sweep for it."""
PEEK_SECONDS = 1.0
"""`is_driven` holds the lock for a moment: a driver that starts just then waits for it."""
LOCK = text("SELECT pg_try_advisory_lock(hashtextextended(:sweep, 0))")


class SweepIsDrivenError(StorageError):
    """Another process has what only one may have."""


@contextmanager
def only_one(lock_file: Path, patience: float = PEEK_SECONDS) -> Iterator[None]:
    """Let one process of this machine (or shared file system) in, after at most ``patience`` seconds.

    Raises:
        SweepIsDrivenError: another one is in.
        StorageError: the lock cannot be written.
    """
    with storage_errors(lock_file):
        lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise SweepIsDrivenError(
            f"another process is running this sweep, or one with this ledger (it holds {lock_file}); wait for it or "
            "end it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_driven(lock_file: Path) -> bool:
    """Whether a process of this machine (or shared file system) runs the sweep."""
    if not lock_file.exists():
        return False
    try:
        with only_one(lock_file, patience=0):
            return False
    except SweepIsDrivenError:
        return True


@contextmanager
def sole_driver(lock_file: Path, ledger: str, sweep_id: str) -> Iterator[None]:
    """Let one process drive the sweep, and mend what a killed one left.

    One of this machine or shared file system; where the ledger is on PostgreSQL, one of all machines. A ledger in a
    file of its own place has a lock of its own: the sweep's may be another one in another working directory, where the
    storage is remote, and two sweeps may name one file.

    Raises:
        SweepIsDrivenError: another process drives this sweep, or writes to its ledger's file.
        StorageError: a lock cannot be had.
    """
    file = _file_of(ledger)
    beside = nullcontext() if file is None or file.parent == lock_file.parent else only_one(Path(f"{file}.driver"))
    with only_one(lock_file), beside:
        if "://" not in ledger:
            mend_journal(Path(ledger))
        with _ServerLock(ledger, sweep_id) if ledger.startswith("postgresql") else nullcontext():
            yield


def _file_of(ledger: str) -> Path | None:
    """The file of a ledger that is one."""
    path = ledger.removeprefix("sqlite:///")
    return None if "://" in path else Path(path).absolute()


class _ServerLock:
    """A lock of the database's. It goes with its connection, so a dead driver leaves none behind.

    It also goes when the server restarts: then it is taken again, and if another driver was faster, this one ends as by
    SIGTERM. Until then both may run, for `LOOK_SECONDS` at most.
    """

    def __init__(self, ledger: str, sweep_id: str) -> None:
        self._ledger = ledger
        self._sweep = {"sweep": f"cortex-sweep/{sweep_id}"}
        self._engine = create_engine(
            ledger, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=POSTGRESQL["connect_args"]
        )
        self._left = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> None:
        with ledger_errors(self._ledger):
            free = self._take()
        if not free:
            self._connection.close()
            raise SweepIsDrivenError(
                "another process is running this sweep, here or on another machine (the ledger's database knows it); "
                "wait for it or end it; of a machine that has vanished the database knows after a minute"
            )
        self._watch.start()

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._watch.join(LOOK_SECONDS)
        self._connection.invalidate()  # a server that is away cannot be told good-bye
        self._connection.close()

    def _take(self) -> bool:
        self._connection = self._engine.connect()
        for notice in SERVER_NOTICES:
            self._connection.execute(text(notice))
        return bool(self._connection.scalar(LOCK, self._sweep))

    def _look(self) -> None:
        while not self._left.wait(LOOK_SECONDS):
            try:
                self._connection.scalar(text("SELECT 1"))
                continue
            except SQLAlchemyError:
                self._connection.invalidate()
            try:
                free = self._take()
            except SQLAlchemyError:
                continue  # it is still away
            if not free:
                log.error("another machine took up this sweep while the ledger's database was away; this one ends")
                os.kill(os.getpid(), signal.SIGTERM)
                return


def mend_journal(journal: Path) -> None:
    """Cut an unfinished last line (a write cut short by a crash or a full disk) and drop a dead writer's lock.

    Optuna refuses every later line once a damaged one is followed by others, so this has to happen before appending.
    """
    lock = Path(f"{journal}.lock")
    if lock.is_symlink():
        lock.unlink()
    if not journal.exists():
        return
    with storage_errors(journal), journal.open("rb+") as file:
        content_end = file.seek(0, os.SEEK_END)
        position = content_end
        while position > 0:
            step = min(4096, position)
            file.seek(position - step)
            block = file.read(step)
            newline = block.rfind(b"\n")
            if newline >= 0:
                position = position - step + newline + 1
                break
            position -= step
        if position < content_end:
            file.truncate(position)
