"""A driver whose own Ray node dies under it.

Ray ends a worker whose raylet has died, but leaves the driver waiting for an answer that nobody will give: for ever,
and deaf to signals. What was finished is in the ledger, so the driver may end at any moment.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray._private.ray_constants import PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET

LOOK_SECONDS = 2.0
GRACE_SECONDS = 20.0
"""How long the driver may take to notice by itself."""
VITAL = (PROCESS_TYPE_RAYLET, PROCESS_TYPE_GCS_SERVER)
INTERRUPTED = 130
"""Exit code of a command that was asked to end, whatever asked it."""

asked_to_end = threading.Event()
"""Set by what handles SIGTERM: `timeout` and many batch systems send it to Ray's processes as well."""


@contextmanager
def node_watched() -> Iterator[None]:
    """End this process with one sentence if the Ray that it started dies and it does not notice: with exit code 1, or
    `INTERRUPTED` if it was asked to end.
    """
    node: Any = ray._private.worker._global_node
    left = threading.Event()
    watch = threading.Thread(target=_look, args=(node, left), daemon=True)
    watch.start()
    try:
        yield
    finally:
        left.set()
        watch.join()  # Ray is about to end its processes: they are not dead then


def _look(node: Any, left: threading.Event) -> None:
    dead: list[str] = []
    while not dead:
        if left.wait(LOOK_SECONDS):
            return
        dead = [kind for kind, _ in node.dead_processes() if kind in VITAL]
    if left.wait(GRACE_SECONDS):
        return
    why = (
        "Interrupted, and Ray with it"
        if asked_to_end.is_set()
        else f"error: Ray's {dead[0]} on this machine has died (killed, or for want of memory)"
    )
    goes_on = "what ended is in the ledger, `sweep.py resume` with the sweep's name goes on"
    print(f"{why}; {goes_on}", file=sys.stderr, flush=True)
    with suppress(Exception):  # the rest of Ray must not stay behind; this process ends whatever happens
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(INTERRUPTED if asked_to_end.is_set() else 1)
