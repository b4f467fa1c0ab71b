"""Files of a data set and of the cache: faults with their remedy, arrays without pickle, whole writes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from upath import UPath

from trainables.data.cache import mapped, reserve
from trainables.errors import DataError, StorageError
from trainables.remote import StoreError, copy_whole, is_local, read_whole

REBUILDS = 3
"""How often an entry of the cache is made again that another process removed before it was in use."""

MIN_THREADS = 8
"""Reading waits on the disk or the network more than what follows it waits on a core."""

# NumPy parses the header of an .npy file as Python text, so damage shows as faults of a program, too.
NPY_DAMAGE = (OSError, ValueError, EOFError, SyntaxError, TokenError, TypeError, OverflowError, MemoryError)


class FaultyFileError(DataError):
    """One file that is not what the layout promises; `trainables.data.check` lists what others raise."""

    def __init__(self, file: object, problem: str, remedy: str) -> None:
        super().__init__(f"{file}: {problem}; {remedy}")
        self.file, self.problem, self.remedy = str(file), problem, remedy

    def __reduce__(self) -> tuple[type[FaultyFileError], tuple[str, str, str]]:
        # The default rebuilds an exception from its message alone, which fails when another process sends it.
        return (type(self), (self.file, self.problem, self.remedy))


def missing(path: UPath) -> FaultyFileError:
    """The fault of a file that is not there."""
    return FaultyFileError(path, "it is missing", "restore it from the original data set")


def fingerprint(paths: Iterable[UPath], recipe: str) -> str:
    """A key that changes with the recipe and with every file that is edited or replaced, found without reading them.

    Raises:
        FaultyFileError: a file is missing.
    """
    digest = hashlib.sha256(recipe.encode())
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise missing(path) from error
        digest.update(f"\n{path}:{status.st_size}:{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def reading_threads() -> ThreadPoolExecutor:
    """Threads to read many files with."""
    return ThreadPoolExecutor(max(os.cpu_count() or 1, MIN_THREADS))


def default_cache_dir() -> Path:
    """Where decoded stimuli and copies of remote arrays lie: ``$SWEEP_CACHE_DIR``, else the user's cache."""
    if chosen := os.environ.get("SWEEP_CACHE_DIR"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cortex-sweep"


def read_bytes(path: UPath) -> bytes:
    """The whole file.

    Raises:
        FaultyFileError: it is missing or cannot be read.
        StoreError: a store did not give it, which is no fault of the file.
    """
    try:
        return read_whole(path)
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise FaultyFileError(path, f"it cannot be read ({error})", "check its permissions and its disk") from error


def read_array(path: UPath) -> NDArray[Any]:
    """The array of an ``.npy`` file, memory-mapped; a remote file is copied to the cache once.

    Raises:
        FaultyFileError: the file is missing, truncated, no ``.npy`` file, or holds pickled objects.
        StorageError: a store did not give it, or the copy of a remote file cannot be written.
    """
    try:
        array: NDArray[Any] = (
            np.lib.format.open_memmap(Path(path.path), mode="r") if is_local(path) else _copied_array(path)
        )
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise missing(path) from error
    except NPY_DAMAGE as error:
        problem = f"it is not a whole .npy array of numbers ({error})"
        raise FaultyFileError(path, problem, "copy it again from the original data set") from error
    return array


@contextmanager
def writing(
    path: Path, size: int | None = None, root: Path | None = None, name: Callable[[], str] | None = None
) -> Iterator[BinaryIO]:
    """A binary file that appears under its name only when it is whole; hold `locked` around it.

    Args:
        path: of the file.
        size: bytes that it will have at most, if the cache has to have room for them.
        root: the cache's folder; that of the file by default.
        name: gives the file's name in its folder when it is whole, if it follows from the content.

    Raises:
        StorageError: the disk or the cache is full or the place cannot be written; nothing is left behind.
    """
    # One name, not one per process: what a killed writer left is overwritten by the next, not collected.
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") if size is None else reserve(root or path.parent, partial, size) as file:
            yield file
            file.truncate()  # where writing ended
            file.flush()
            os.fsync(file.fileno())  # a network disk reports that it is full only here
            partial.replace(path.with_name(name()) if name else path)
    except StoreError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Makes the folder of ``path`` and holds a lock beside it, which goes away with its process.

    Raises:
        StorageError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise unwritable(path.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def unwritable(path: Path, error: OSError) -> StorageError:
    """The error for a failed write, in words for the person at the terminal."""
    cause = error.strerror or str(error)
    return StorageError(f"{path} cannot be written ({cause}); free some space or choose another place")


def _copied_array(path: UPath) -> NDArray[Any]:
    """The array of a copy of a remote file in the cache.

    The key is the address with the size and the time of the last change: a replaced file is copied anew.
    """
    status = path.stat()
    key = hashlib.sha256(f"{path}:{status.st_size}:{status.st_mtime}".encode()).hexdigest()[:32]
    cache = default_cache_dir()
    copy = cache / "remote" / f"{key}{path.suffix}"
    with locked(copy):
        for _ in range(REBUILDS):
            if not copy.exists():
                with writing(copy, status.st_size, cache) as file:
                    copy_whole(path, file)
            try:
                return mapped(copy)
            except FileNotFoundError:  # gone again, to make room for another
                continue
    raise StorageError(f"{copy} was removed {REBUILDS} times before it could be read; raise SWEEP_CACHE_SIZE")
