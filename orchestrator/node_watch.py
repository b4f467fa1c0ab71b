"""A driver whose own Ray node dies under it.

Ray ends a worker whose raylet has died, but leaves the driver waiting for an answer that nobody will give: for ever,
and deaf to signals. What was finished is in the ledger, so the driver may end at any moment.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
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
def node_watched(own: bool) -> Iterator[None]:
    """End this process with one sentence if the Ray beneath it dies and it does not notice: with exit code 1, or
    `INTERRUPTED` if it was asked to end.

    Args:
        own: whether this process started Ray here; else it joined one, of which it sees the raylet of its machine.
    """
    node: Any = ray._private.worker._global_node
    left = threading.Event()
    if node is None:  # Ray's client: nothing of Ray runs on this machine
        yield
        return
    with nullcontext() if own else closing(_joined(node)) as raylet:
        dead = partial(_dead_parts, node) if raylet is None else partial(_hung_up, raylet)
        watch = threading.Thread(target=_look, args=(dead, partial(_clean_up, node, own), left), daemon=True)
        watch.start()
        try:
            yield
        finally:
            left.set()
            watch.join()  # Ray is about to end its processes: they are not dead then


def _joined(node: Any) -> socket.socket:
    """A connection to the raylet of this machine that says nothing: it ends with the raylet."""
    raylet = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raylet.connect(node.raylet_socket_name)
    raylet.setblocking(False)
    return raylet


def _hung_up(raylet: socket.socket) -> list[str]:
    try:
        return [] if raylet.recv(1) else [PROCESS_TYPE_RAYLET]
    except BlockingIOError:
        return []
    except OSError:
        return [PROCESS_TYPE_RAYLET]


def _dead_parts(node: Any) -> list[str]:
    return [kind for kind, _ in node.dead_processes() if kind in VITAL]


def _clean_up(node: Any, own: bool) -> None:
    """The rest of an own Ray must not stay behind; one that was joined is not ours to end."""
    if own:
        with suppress(Exception):  # this process ends whatever happens
            node.kill_all_processes(check_alive=False, allow_graceful=False)


def _look(look: Callable[[], list[str]], clean_up: Callable[[], None], left: threading.Event) -> None:
    dead: list[str] = []
    while not dead:
        if left.wait(LOOK_SECONDS):
            return
        dead = look()
    if left.wait(GRACE_SECONDS):
        return
    why = (
        "Interrupted, and Ray with it"
        if asked_to_end.is_set()
        else f"error: Ray's {dead[0]} on this machine has died (killed, or for want of memory)"
    )
    goes_on = "what ended is in the ledger, `sweep.py resume` with the sweep's name goes on"
    print(f"{why}; {goes_on}", file=sys.stderr, flush=True)
    clean_up()
    os._exit(INTERRUPTED if asked_to_end.is_set() else 1)
