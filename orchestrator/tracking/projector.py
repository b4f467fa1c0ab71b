"""Keeps MLflow up to date from a process of its own: a slow or absent server never holds up a trial, and what writing
costs is not taken from the driver, which has Tune and the ledger to serve.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from orchestrator.ledger import Ledger
from orchestrator.ledger_storage import PATIENCE_SECONDS as LEDGER_PATIENCE_SECONDS
from orchestrator.passwords import known_passwords
from orchestrator.plan import SweepPlan
from orchestrator.tracking.client import TRACKING_ERRORS
from orchestrator.tracking.projection import Projection
from trainables.errors import StorageError

log = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0
PATIENCE_AT_END_SECONDS = 60.0
QUIET_SECONDS = 5.0
"""How long the last state may take before somebody who waits is told."""
ATTEMPTS = 5
"""How often in a row the process is started again; one that always ends at once has a reason that stays."""
LIVED_SECONDS = 60.0
"""A process that lived so long did not end at once."""
ENDS = (signal.SIGINT, signal.SIGTERM)
"""Sent to all processes of a terminal or a batch job; the driver tells this one when it is done."""


class Projector:
    """Calls `Projection.sync` again and again, in a process of its own, until it is closed.

    Start it before Ray: the process has to know the passwords, which Ray's are not to inherit.
    """

    def __init__(self, plan: SweepPlan, artifacts_uri: str) -> None:
        # As values: a space of one's own holds functions that no other process can import.
        self._given = (plan.to_dict(), artifacts_uri, known_passwords(), PATIENCE_AT_END_SECONDS)
        self._closing = threading.Event()
        self.process: BaseProcess | None = None
        self._begin()
        atexit.register(self._let_go)  # else this process, whatever ends it, would wait for one that waits for a server
        self._watch = threading.Thread(target=self._keep_alive, name="mlflow-projection", daemon=True)
        self._watch.start()

    def _begin(self) -> None:
        """Start the process; without memory for one there is none, and the next attempt may have it."""
        resource_tracker.ensure_running()  # its first start would end the blocking of signals
        context = multiprocessing.get_context("spawn")  # a fork would copy this process's connections and threads
        self._ours, theirs = context.Pipe()
        started = context.Process(target=_project, args=(theirs, *self._given), name="mlflow-projection")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # inherited, so that no moment is without it
        self._began = time.monotonic()
        try:
            started.start()
            self.process = started
        except OSError as error:
            self.process = None
            log.warning("no process for MLflow could be started (%s)", error)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()  # else this process would hold the end that tells the other of its death

    def _keep_alive(self) -> None:
        """Start the process again that somebody has ended, as a machine does that runs out of memory."""
        left = ATTEMPTS
        while not self._closing.wait(PAUSE_SECONDS):
            if self.process is not None and self.process.is_alive():
                continue
            left = ATTEMPTS if time.monotonic() - self._began > LIVED_SECONDS else left - 1
            if left < 0:
                log.warning("MLflow is written at the end: the process that does it ended %d times at once", ATTEMPTS)
                return
            self._ours.close()
            self._begin()

    def _let_go(self) -> None:
        self._closing.set()
        self._watch.join()
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def close(self, say: Callable[[str], None] = lambda _: None) -> bool:
        """Have the last state written; False if MLflow stayed away, in which case a resume writes it.

        Args:
            say: told what is waited for, if that takes a while.
        """
        self._closing.set()
        self._watch.join()
        try:
            tracked = self._conclude(say)
            if tracked is None:  # it was ended, perhaps in the middle
                self._ours.close()
                self._begin()
                tracked = self._conclude(say)
        finally:  # also if somebody interrupts the waiting: the sweep is about to be free for another driver
            self._let_go()
            self._ours.close()
            atexit.unregister(self._let_go)
        return bool(tracked)

    def _conclude(self, say: Callable[[str], None]) -> bool | None:
        """The process's last word, None if it has none; while it writes it says nothing, again and again."""
        try:
            self._ours.send(None)
            if not self._ours.poll(QUIET_SECONDS):
                say("MLflow is being brought up to date …")
            while self._ours.poll(LEDGER_PATIENCE_SECONDS + PATIENCE_AT_END_SECONDS):
                if (word := self._ours.recv()) is not None:
                    return bool(word)
        except (EOFError, OSError):
            return None
        return False  # hung


def _project(
    driver: Connection, plan: dict[str, Any], artifacts_uri: str, passwords: dict[str, str], patience: float
) -> None:
    """What the process does: write, until the driver asks for the last state or is no more."""
    for end in ENDS:
        signal.signal(end, signal.SIG_IGN)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings would run over the driver's table
    os.environ.update(passwords)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    with suppress(EOFError, OSError):  # the driver is dead; whoever resumes writes the rest
        _write_until_asked(driver, SweepPlan.from_dict(plan), artifacts_uri, patience)


def _write_until_asked(driver: Connection, plan: SweepPlan, artifacts_uri: str, patience: float) -> None:
    projection: Projection | None = None
    deadline: float | None = None

    def answer() -> None:
        """Tell a driver that waits that there is progress; before it asks it would not listen."""
        if deadline is not None or driver.poll():
            driver.send(None)

    while deadline is None or time.monotonic() < deadline:
        if deadline is None and driver.poll(PAUSE_SECONDS):
            driver.recv()
            deadline = time.monotonic() + patience
        try:
            projection = projection or Projection(Ledger(plan), artifacts_uri)
            projection.sync(ended=deadline is not None, between=answer)
        except (*TRACKING_ERRORS, StorageError):  # the ledger keeps everything; the next round tries again
            if deadline is not None:
                time.sleep(PAUSE_SECONDS)
            continue
        if deadline is not None:
            driver.send(True)
            return
    driver.send(False)


def _end_with(driver: BaseProcess | None) -> None:
    """End with the driver, also in the midst of waiting for a server."""
    if driver is not None:
        driver.join()
        os._exit(1)
