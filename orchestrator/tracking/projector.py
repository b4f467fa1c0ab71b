"""Keeps MLflow up to date from a process of its own: a slow or absent server never holds up a trial, and what writing
costs is not taken from the driver, which has Tune and the ledger to serve.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from orchestrator.ledger import Ledger
from orchestrator.passwords import known_passwords
from orchestrator.plan import SweepPlan
from orchestrator.tracking.client import TRACKING_ERRORS
from orchestrator.tracking.projection import Projection
from trainables.errors import StorageError

PAUSE_SECONDS = 2.0
PATIENCE_AT_END_SECONDS = 60.0
QUIET_SECONDS = 5.0
"""How long the last state may take before somebody who waits is told."""
ATTEMPTS = 5
"""How often the process is started again; one that always ends has a reason that does not go away."""
ENDS = (signal.SIGINT, signal.SIGTERM)
"""Sent to all processes of a terminal or a batch job; the driver tells this one when it is done."""


class Projector:
    """Calls `Projection.sync` again and again, in a process of its own, until it is closed.

    Start it before Ray: the process has to know the passwords, which Ray's are not to inherit.
    """

    def __init__(self, plan: SweepPlan, artifacts_uri: str) -> None:
        self._given = (plan, artifacts_uri, known_passwords(), PATIENCE_AT_END_SECONDS)
        self._closing = threading.Event()
        self._begin()
        atexit.register(self._let_go)  # else this process, whatever ends it, would wait for one that waits for a server
        self._watch = threading.Thread(target=self._keep_alive, name="mlflow-projection", daemon=True)
        self._watch.start()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy this process's connections and threads
        self._ours, theirs = context.Pipe()
        self.process = context.Process(target=_project, args=(theirs, *self._given), name="mlflow-projection")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # inherited, so that no moment is without it
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # else this process would hold the end that tells the other of its death

    def _keep_alive(self) -> None:
        """Start the process again that somebody has ended, as a machine does that runs out of memory."""
        for _ in range(ATTEMPTS):
            while self.process.is_alive():
                if self._closing.wait(PAUSE_SECONDS):
                    return
            self._ours.close()
            self._begin()

    def _let_go(self) -> None:
        self._closing.set()
        self.process.kill()

    def close(self, say: Callable[[str], None] = lambda _: None) -> bool:
        """Have the last state written; False if MLflow stayed away, in which case a resume writes it.

        Args:
            say: told what is waited for, if that takes a while.
        """
        self._closing.set()
        self._watch.join()
        tracked = self._conclude(say)
        if tracked is None:  # it was ended, perhaps in the middle
            self._ours.close()
            self._begin()
            tracked = self._conclude(say)
        self.process.join()
        self._ours.close()
        atexit.unregister(self._let_go)
        return bool(tracked)

    def _conclude(self, say: Callable[[str], None]) -> bool | None:
        """The process's last word, None if it has none."""
        try:
            self._ours.send(None)
            if not self._ours.poll(QUIET_SECONDS):
                say("MLflow is being brought up to date …")
            return bool(self._ours.recv())
        except (EOFError, OSError):
            return None


def _project(
    driver: Connection, plan: SweepPlan, artifacts_uri: str, passwords: dict[str, str], patience: float
) -> None:
    """What the process does: write, until the driver asks for the last state or is no more."""
    os.environ.update(passwords)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    projection: Projection | None = None
    deadline: float | None = None
    try:
        while True:
            if deadline is None and driver.poll(PAUSE_SECONDS):
                driver.recv()
                deadline = time.monotonic() + patience
            try:
                projection = projection or Projection(Ledger(plan), artifacts_uri)
                projection.sync(ended=deadline is not None)
                written = True
            except (*TRACKING_ERRORS, StorageError):  # the ledger keeps everything; the next round tries again
                written = False
            if deadline is not None and (written or time.monotonic() > deadline):
                driver.send(written)
                return
            if deadline is not None:
                time.sleep(PAUSE_SECONDS)
    except (EOFError, OSError):
        return  # the driver is dead; whoever resumes writes the rest


def _end_with(driver: BaseProcess | None) -> None:
    """End with the driver, also in the midst of waiting for a server."""
    if driver is not None:
        driver.join()
        os._exit(1)
