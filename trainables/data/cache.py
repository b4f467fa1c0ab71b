"""Keeps a node's cache within its size: what was used longest ago goes first, what is in use stays.

A process that maps an entry, or writes one, holds a shared lock on its file as long as it does; an entry that can be
locked for one alone is used by nobody. Where a file system knows no such locks, entries may go while they are mapped,
which costs a mapping nothing: its pages stay until it ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from trainables.errors import ConfigError, StorageError

FOLDERS = ("", "remote", "nod")
"""Of the cache, with what is large: decoded images, copies of remote arrays, assembled responses."""

NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""What file systems without locks answer: Lustre mounted without ``flock``, some network shares."""

# Nothing else is ever removed: SWEEP_CACHE_DIR may name a folder with other things in it.
_ENTRY = re.compile(r"\.?(?:(?:stimuli|labelled)-)?[0-9a-f]{32}\.npy(?:\.part)?")
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)
_POWERS = ("", "k", "m", "g", "t")


@dataclass(frozen=True)
class Entry:
    """A file of the cache, whole or still being written."""

    path: Path
    used_ns: int
    size: int
    """Bytes; of one that is being written, those that it will have."""
    on_disk: int
    """Bytes that the disk has given for it so far."""


def cache_limit() -> int | None:
    """Bytes that SWEEP_CACHE_SIZE allows a node's cache; None: as much as its disk has room for.

    Raises:
        ConfigError: it is no size.
    """
    text = os.environ.get("SWEEP_CACHE_SIZE", "").strip()
    if not text:
        return None
    match = _SIZE.fullmatch(text)
    limit = 0
    if match:
        number, unit, binary = match.groups()
        limit = int(float(number) * (1024 if binary else 1000) ** _POWERS.index(unit.lower()))
    if limit <= 0:
        raise ConfigError(f"SWEEP_CACHE_SIZE is {text!r}; expected a size such as 200GB or 500GiB, or nothing")
    return limit


def reserve(root: Path, partial: Path, size: int) -> BinaryIO:
    """Open ``partial`` for writing ``size`` bytes, after entries of the cache at ``root`` have made room for them.

    The file has its size at once, so that others count it; cut it off where writing ends.

    Raises:
        StorageError: it would not fit even if all that is unused went.
        OSError: the place cannot be written.
    """
    with FileLock(root / ".room.lock"):
        _make_room(root, partial, size)
        file = partial.open("wb")
        try:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH)
            file.truncate(size)
        except BaseException:
            file.close()
            raise
    return file


def mapped(path: Path) -> NDArray[Any]:
    """The array of an entry, memory-mapped and marked as used: now for the order, by a lock while the array lives.

    Raises:
        FileNotFoundError: there is none, or it is just being removed.
        ValueError: and the other errors that NumPy raises for a damaged file.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileNotFoundError(f"{path} is being removed") from error
        except OSError:  # a file system without such locks
            pass
        if not os.fstat(descriptor).st_nlink:
            raise FileNotFoundError(f"{path} was removed")
        with suppress(OSError):  # a cache that a colleague made
            os.utime(path)
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except BaseException:
        os.close(descriptor)
        raise
    weakref.finalize(array, os.close, descriptor)  # views of it keep it alive
    return array


def entries(root: Path) -> list[Entry]:
    """What the cache holds, the longest unused first."""
    found = []
    for folder in FOLDERS:
        for path in (root / folder).glob("*.npy*") if (root / folder).is_dir() else ():
            if _ENTRY.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    found.append(_entry(path))
    return sorted(found, key=lambda entry: entry.used_ns)


def _entry(path: Path) -> Entry:
    status = path.stat()
    written = min(status.st_size, status.st_blocks * 512) if path.suffix == ".part" else status.st_size
    return Entry(path, status.st_mtime_ns, status.st_size, written)


def _make_room(root: Path, partial: Path, size: int) -> None:
    held = [entry for entry in entries(root) if entry.path != partial]  # what a killed writer left of it is overwritten
    limit = cache_limit()
    on_disk = sum(entry.on_disk for entry in held) + shutil.disk_usage(root).free
    room = on_disk if limit is None else min(limit, on_disk)
    why = "all that its disk has room for" if room == on_disk else f"as SWEEP_CACHE_SIZE={limit} says"
    if size > room:
        name = partial.name.removeprefix(".").removesuffix(".part")
        raise StorageError(
            f"{name} needs {_gb(size)} in the cache {root}, which may hold {_gb(room)} ({why}); "
            "raise SWEEP_CACHE_SIZE, free some space, or set SWEEP_CACHE_DIR to a larger disk"
        )
    total = sum(entry.size for entry in held)
    for entry in held:
        if total + size <= room:
            return
        total -= entry.size if _removed(entry.path) else 0
    if total + size > room:
        raise StorageError(
            f"the cache {root} may hold {_gb(room)} ({why}), running processes use {_gb(total)} of it and {_gb(size)} "
            "more are needed; raise SWEEP_CACHE_SIZE, or let fewer subjects run at a time on this machine"
        )


def _removed(path: Path) -> bool:
    """Remove an entry, unless some process uses or writes it; where there are no locks, unless it may be written."""
    try:
        with path.open("r+b") as file:  # a network file system locks for one alone what is open for writing
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in NO_LOCKS or path.suffix == ".part":
                    return False
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g} GB"
