"""One driver for a sweep, and what a killed one leaves behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import NullPool, create_engine, text

from orchestrator.ledger_storage import POSTGRESQL, ledger_errors
from orchestrator.storage import storage_errors
from trainables.errors import StorageError

SERVER_NOTICES = (
    "SET tcp_keepalives_idle = 20",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)
"""Else a server takes hours to see that the machine of a driver has vanished, and holds its sweep as long."""


@contextmanager
def sole_driver(lock_file: Path, ledger: str, sweep_id: str) -> Iterator[None]:
    """Let one process drive the sweep, and mend what a killed one left.

    One of this machine or shared file system; where the ledger is on PostgreSQL, one of all machines.

    Raises:
        StorageError: another process drives this sweep.
    """
    with storage_errors(lock_file):
        lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StorageError(
            f"another process is running this sweep (it holds {lock_file}); wait for it or end it"
        ) from None
    try:
        if "://" not in ledger:
            mend_journal(Path(ledger))
        with _sole_on_server(ledger, sweep_id) if ledger.startswith("postgresql") else nullcontext():
            yield
    finally:
        lock.release()


@contextmanager
def _sole_on_server(ledger: str, sweep_id: str) -> Iterator[None]:
    """Hold a lock of the database's, which goes with the connection: a dead driver leaves none behind."""
    engine = create_engine(
        ledger, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=POSTGRESQL["connect_args"]
    )
    with ledger_errors(ledger):
        connection = engine.connect()
    try:
        with ledger_errors(ledger):
            for notice in SERVER_NOTICES:
                connection.execute(text(notice))
            free = connection.scalar(
                text("SELECT pg_try_advisory_lock(hashtextextended(:sweep, 0))"), {"sweep": f"cortex-sweep/{sweep_id}"}
            )
        if not free:
            raise StorageError(
                "another process is running this sweep, here or on another machine (the ledger's database knows it); "
                "wait for it or end it; of a machine that has vanished the database knows after a minute"
            )
        yield
    finally:
        connection.invalidate()  # a server that is away cannot be told good-bye
        connection.close()


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
