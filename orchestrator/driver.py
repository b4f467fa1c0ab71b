"""One driver for a sweep, and what a killed one leaves behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.storage import storage_errors
from trainables.errors import StorageError


@contextmanager
def sole_driver(lock_file: Path, ledger: str) -> Iterator[None]:
    """Let one process of this machine (or shared file system) drive the sweep, and mend what a killed one left.

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
        yield
    finally:
        lock.release()


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
