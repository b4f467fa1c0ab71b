"""What the tests run in other processes; apart from them, so that those processes start fast."""

from __future__ import annotations

import hashlib
import resource
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from upath import UPath

from trainables.data.demo import make_demo
from trainables.data.stimuli import decode_stimuli
from trainables.errors import StorageError


def decode_at_once(folder: Path, cache: Path, n: int, start: Barrier, answer: Connection) -> None:
    paths = [UPath(path) for path in sorted(folder.iterdir())]
    calls: list[int] = []
    start.wait(60)
    decoded = decode_stimuli(paths, cache, size=32, progress=lambda done, _: calls.append(done))
    answer.send((len(calls), hashlib.sha256(decoded.tobytes()).hexdigest()))


def hang_half_way(folder: Path, cache: Path, answer: Connection) -> None:
    def hang(done: int, total: int) -> None:
        answer.send((done, total))
        time.sleep(600)

    decode_stimuli([UPath(path) for path in sorted(folder.iterdir())], cache, size=32, progress=hang)


def hold(folder: Path, cache: Path, answer: Connection) -> None:
    decoded = decode_stimuli([UPath(path) for path in sorted(folder.iterdir())], cache, size=16)
    answer.send(decoded.shape)
    time.sleep(600)


def decode_with_little_room(folder: Path, cache: Path, answer: Connection) -> None:
    paths = [UPath(path) for path in sorted(folder.iterdir())]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        decode_stimuli(paths, cache, size=32)
    except StorageError as error:
        answer.send(str(error))
    else:
        answer.send("no error")


def make_demo_with_little_room(root: Path, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))  # enough for pictures, not for masks
    try:
        make_demo(root, subjects=1, stimuli=24)
    except StorageError as error:
        answer.send(str(error))
    else:
        answer.send("no error")
