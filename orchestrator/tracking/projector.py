"""Keeps MLflow up to date from a thread, so that a slow or absent server never holds up a trial."""

from __future__ import annotations

import threading
import time

from orchestrator.tracking.client import TRACKING_ERRORS
from orchestrator.tracking.projection import Projection
from trainables.errors import StorageError

PAUSE_SECONDS = 2.0
PATIENCE_AT_END_SECONDS = 60.0


class Projector:
    """Calls `Projection.sync` again and again until it is closed."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.last_error: Exception | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-projection", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._closing.wait(PAUSE_SECONDS):
            self._attempt(ended=False)

    def _attempt(self, ended: bool) -> bool:
        try:
            self.projection.sync(ended=ended)
        except (*TRACKING_ERRORS, StorageError) as error:  # the ledger keeps everything; the next round tries again
            self.last_error = error
            return False
        self.last_error = None
        return True

    def close(self) -> bool:
        """Write the last state; False if MLflow stayed away, in which case a resume writes it."""
        self._closing.set()
        self._thread.join()
        deadline = time.monotonic() + PATIENCE_AT_END_SECONDS
        while not self._attempt(ended=True):
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE_SECONDS)
        return True
