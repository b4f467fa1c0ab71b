"""Optuna's storage behind the ledger: a journal file, or a database server that may go away for minutes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.passwords import without_password
from orchestrator.storage import storage_errors
from trainables.errors import StorageError

PATIENCE_SECONDS = 900.0
"""How long a sweep waits for a ledger's server that it has reached before: a machine's restart, with some to spare."""
PAUSE_SECONDS = 2.0
POSTGRESQL: dict[str, Any] = {
    "pool_pre_ping": True,
    # A server whose machine has vanished says nothing: without these a transaction would wait for hours.
    "connect_args": {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    },
}


class Journal(JournalFileBackend):
    """Optuna's journal file, which does not wait for the disk at every line of the ten that a trial has.

    It waits where others may come to know what is written: when a trial is configured, has a score, and ends. All that
    stands before is on the disk with it. Lines that no disk has survive the death of this process, not that of the
    machine.
    """

    def __init__(self, path: str) -> None:
        self._path, self._exclusive = path, JournalFileSymlinkLock(path)
        super().__init__(path, self._exclusive)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines of Optuna's format; on a full disk a beginning of them."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._exclusive.acquire()
        try:
            with Path(self._path).open("ab") as file:
                file.write(lines.encode())
                file.flush()
                if any(_must_last(log) for log in logs):
                    os.fsync(file.fileno())
        finally:
            self._exclusive.release()


def _must_last(log: dict[str, Any]) -> bool:
    """Whether a line holds a trial's configuration or scores, or its end."""
    attributes = log.get("user_attr") or {}
    return "datetime_complete" in log or "intermediate_value" in log or bool({"config", "scores"} & set(attributes))


@contextmanager
def ledger_errors(ledger: str) -> Iterator[None]:
    """Turn the errors of a file or a database into one sentence."""
    try:
        with storage_errors(without_password(ledger)):
            yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise StorageError(
            f"ledger {without_password(ledger)} did not take or give what it should ({_reason(error)}); look at its "
            "server, `sweep.py resume` goes on"
        ) from error


def open_storage(ledger: str) -> BaseStorage:
    """Optuna's storage behind a journal file's path or a database URL.

    Raises:
        StorageError: it cannot be opened.
    """
    try:
        if "://" in ledger:
            return _open_database(ledger)
        with storage_errors(ledger):
            Path(ledger).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(Journal(ledger))
    except (ValueError, KeyError) as error:  # what Optuna raises on a line that is no JSON, or not its own
        raise StorageError(
            f"ledger {without_password(ledger)} is damaged ({error}); restore it from a backup"
        ) from error
    except Exception as error:
        if isinstance(error, StorageError):
            raise
        password = ", and the password in ~/.pgpass or PGPASSWORD" if ledger.startswith("postgresql") else ""
        raise StorageError(
            f"ledger {without_password(ledger)} cannot be opened ({_reason(error)}); check the address, the database"
            f"{password}"
        ) from error


def _open_database(url: str) -> RDBStorage:
    if not url.startswith("postgresql"):
        return RDBStorage(url)
    storage = RDBStorage(url, engine_kwargs=dict(POSTGRESQL))
    event.listen(storage.engine, "do_connect", _connect_patiently)  # after the first connection: a wrong one fails now
    return storage


def _connect_patiently(dialect: Any, _record: Any, arguments: list[Any], settings: dict[str, Any]) -> Any:
    """A new connection in place of one that broke, as soon as the server is back."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return dialect.connect(*arguments, **settings)
        except dialect.loaded_dbapi.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def _reason(error: BaseException) -> str:
    """The first line of what the driver said; what SQLAlchemy and Optuna put around it says less."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    lines = str(getattr(cause, "orig", None) or cause).strip().splitlines()
    return lines[0] if lines else type(error).__name__
