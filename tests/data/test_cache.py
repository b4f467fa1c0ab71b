from __future__ import annotations

import errno
import fcntl
import gc
import multiprocessing
import os
import signal
from collections import namedtuple
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from upath import UPath

from tests.data.processes import hang_half_way, hold
from trainables.data import cache as cache_module
from trainables.data.cache import cache_limit, entries
from trainables.data.decoding import BLOCK
from trainables.data.stimuli import decode_stimuli
from trainables.errors import ConfigError, StorageError

SPAWN = multiprocessing.get_context("spawn")
N, SIZE = 4, 16
SET_BYTES = N * SIZE * SIZE * 3 + 128
"""Of one decoded set in these tests."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def pictures(folder: Path, seed: int, n: int = N) -> list[UPath]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(n):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:04d}.png")
    return [UPath(path) for path in sorted(folder.iterdir())]


def decoded(cache: Path, seed: int) -> NDArray[np.uint8]:
    return decode_stimuli(pictures(cache.parent / f"set{seed}", seed), cache, size=SIZE)


def used(cache: Path, seed: int, second: int) -> str:
    """Decode a set and let go of it; its file's name, last used in that ``second`` of the epoch."""
    before = held(cache)
    decoded(cache, seed)
    gc.collect()
    (name,) = held(cache) - before or {""}
    if name:
        os.utime(cache / name, (second, second))
    return name


def held(cache: Path) -> set[str]:
    return {entry.path.name for entry in entries(cache)}


def started(process: BaseProcess, answer: Connection) -> BaseProcess:
    process.start()
    assert answer.poll(120)
    answer.recv()
    return process


def killed(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)


@pytest.mark.parametrize(
    "text, expected",
    [("", None), ("200GB", 200e9), ("1.5 kB", 1500), ("2GiB", 2**31), ("7", 7), ("3t", 3e12), ("10 mib", 10 * 2**20)],
)
def test_sizes(monkeypatch: pytest.MonkeyPatch, text: str, expected: float | None) -> None:
    monkeypatch.setenv("SWEEP_CACHE_SIZE", text)
    assert cache_limit() == expected


@pytest.mark.parametrize("text", ["much", "-1GB", "0", "1PB", "50%", "1e9"])
def test_what_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SWEEP_CACHE_SIZE", text)
    with pytest.raises(ConfigError, match="expected a size such as 200GB"):
        cache_limit()


def test_what_was_used_longest_ago_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_SIZE", str(2 * SET_BYTES))
    first, second = used(cache, 1, 1000), used(cache, 2, 2000)
    assert held(cache) == {first, second}
    decoded(cache, 1)  # read again: now the second is the one that waited longest
    gc.collect()
    third = used(cache, 3, 3000)
    assert held(cache) == {first, third}
    assert np.array_equal(decoded(cache, 2), decode_stimuli(pictures(cache.parent / "set2", 2), cache, size=SIZE))


def test_what_is_in_use_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_SIZE", str(2 * SET_BYTES))
    first = decoded(cache, 1)[1:]  # a view of it is enough
    (name,) = held(cache)
    os.utime(cache / name, (1, 1))
    used(cache, 2, 2000)
    third = decoded(cache, 3)
    assert name in held(cache)
    assert len(held(cache)) == 2
    with pytest.raises(StorageError, match="running processes use .* raise SWEEP_CACHE_SIZE"):
        decoded(cache, 4)
    assert not list(cache.glob("*.part"))
    del first, third
    gc.collect()
    decoded(cache, 4)
    assert name not in held(cache)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_entries_go_while_they_are_mapped_and_what_is_written_stays(
    cache: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_SIZE", str(2 * SET_BYTES))
    first = decoded(cache, 1)
    kept = np.array(first)
    (name,) = held(cache)
    os.utime(cache / name, (1, 1))
    part = cache / f".{'0' * 32}.npy.part"
    part.write_bytes(b"x" * 100)
    os.utime(part, (1, 1))

    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache_module, "fcntl", SimpleNamespace(**{**vars(fcntl), "flock": no_locks}))
    used(cache, 2, 2000)
    used(cache, 3, 3000)
    assert name not in held(cache)
    assert part.exists()
    assert np.array_equal(first, kept)


def test_what_another_process_uses_stays_until_it_ends(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_SIZE", str(SET_BYTES))
    pictures(cache.parent / "other", 9)
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = started(SPAWN.Process(target=hold, args=(cache.parent / "other", cache, sender)), receiver)
    (name,) = held(cache)
    with pytest.raises(StorageError, match="running processes use"):
        decoded(cache, 1)
    assert held(cache) == {name}
    killed(process)
    decoded(cache, 1)
    assert name not in held(cache)


def test_what_another_process_builds_is_counted_and_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = BLOCK + 4
    monkeypatch.setenv("SWEEP_CACHE_SIZE", str(n * 32 * 32 * 3 + 128 + SET_BYTES - 1))
    pictures(cache.parent / "other", 9, n)
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = started(SPAWN.Process(target=hang_half_way, args=(cache.parent / "other", cache, sender)), receiver)
    (partial,) = held(cache)
    assert partial.endswith(".part")
    with pytest.raises(StorageError, match="running processes use"):
        decoded(cache, 1)
    assert held(cache) == {partial}
    killed(process)
    decoded(cache, 1)
    assert partial not in held(cache), "what a dead builder left makes room"


def test_an_entry_that_never_fits_is_told_and_costs_no_other(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = used(cache, 1, 1000)
    monkeypatch.setenv("SWEEP_CACHE_SIZE", str(SET_BYTES - 1))
    with pytest.raises(StorageError, match=r"\.npy needs .*\(as SWEEP_CACHE_SIZE=\d+ says\); raise SWEEP"):
        decoded(cache, 2)
    assert held(cache) == {name}


def test_without_a_limit_a_full_disk_makes_old_entries_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    used(cache, 1, 1000)
    second = used(cache, 2, 2000)
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(100))
    third = used(cache, 3, 3000)
    assert held(cache) == {second, third}
    keep = [decoded(cache, 2), decoded(cache, 3)]
    with pytest.raises(StorageError, match="all that its disk has room for"):
        decoded(cache, 4)
    assert len(keep) == 2


def test_other_files_are_never_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    others = {"mine.npy", f"{'a' * 32}.txt", f"results-{'a' * 32}.npy", "stimuli-1.npy"}
    for name in others:
        (cache / name).write_bytes(bytes(10 * SET_BYTES))
    monkeypatch.setenv("SWEEP_CACHE_SIZE", str(SET_BYTES))
    used(cache, 1, 1000)
    used(cache, 2, 2000)
    assert others <= {path.name for path in cache.iterdir()}
    assert len(held(cache)) == 1


def test_an_entry_that_goes_while_it_is_opened_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = cache_module.mapped
    removed: list[Path] = []

    def beaten(path: Path) -> NDArray[np.uint8]:
        if len(removed) < 2 and path.exists():
            removed.append(path)
            path.unlink()
        return plain(path)

    monkeypatch.setattr("trainables.data.decoding.mapped", beaten)
    assert decoded(cache, 1).shape == (N, SIZE, SIZE, 3)
    assert len(removed) == 2
