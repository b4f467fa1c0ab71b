"""Images as one uint8 array file, decoded once per machine, found again by content."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from upath import UPath

from trainables.data.cache import mapped
from trainables.data.files import (
    NPY_DAMAGE,
    REBUILDS,
    FaultyFileError,
    fingerprint,
    locked,
    read_bytes,
    reading_threads,
    writing,
)
from trainables.errors import StorageError

DECODER_VERSION = 1
"""Part of every recipe: raise it whenever the same files would decode to other pixels."""

BLOCK = 128
"""Images decoded before they are written; bounds memory, not speed."""

NPY_HEADER_BYTES = 128
"""What NumPy writes before such an array."""

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

# Pillow tells a damaged file by any of these, depending on where the damage lies.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def decode_once(
    paths: Sequence[UPath],
    cache_dir: Path,
    kind: str,
    recipe: str,
    shrink: Callable[[Image.Image], Image.Image],
    size: int,
    progress: Progress | None,
) -> NDArray[np.uint8]:
    """Images as a read-only memory map, uint8 (n, size, size, 3), RGB; built once, then read from the cache.

    Processes that ask at the same time build it once; one that dies half-way leaves nothing that is taken for whole.

    The array's name is a hash of the content: the bytes of all files in order, and the recipe, so what is found under
    it can only be right. Reading every file to learn the name would cost each start what the cache saves, so a memo
    keeps the name under a hash of paths, file sizes and times of change: whatever is edited or replaced is read again.

    Args:
        paths: images in the order of the rows.
        cache_dir: where the array and its memo are kept.
        kind: how their names begin.
        recipe: tells apart all that ``shrink`` can do, and holds `DECODER_VERSION`.
        shrink: makes a square of ``size`` pixels of an RGB image.
        size: pixels.
        progress: called after each block; once, with everything done, if nothing had to be decoded.

    Raises:
        FaultyFileError: an image is missing, truncated or of a kind that does not decode to 8-bit RGB.
        StorageError: ``cache_dir`` cannot be written, as when the disk is full; nothing is left behind.
    """
    shape = (len(paths), size, size, 3)
    memo = cache_dir / f"{kind}-{fingerprint(paths, recipe)}.txt"
    with locked(memo):
        array = _remembered(memo, shape)
        if array is not None and progress:
            progress(len(paths), len(paths))
        for _ in range(REBUILDS if array is None else 0):
            name = _build(paths, shape, kind, recipe, shrink, memo.with_suffix(".npy"), progress)
            with writing(memo) as file:
                file.write(name.encode())
            array = _remembered(memo, shape)
            if array is not None:
                break
    if array is None:
        raise StorageError(f"{cache_dir} loses what is written there, {REBUILDS} times; raise SWEEP_CACHE_SIZE")
    return array


def decode_image(content: bytes, path: UPath) -> Image.Image:
    """An 8-bit RGB image from the bytes of its file.

    Raises:
        FaultyFileError: the bytes are no whole image, or one with more than 8 bits a channel.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            if image.mode[0] not in "IF":
                return image.convert("RGB")
            mode = image.mode
    except _DAMAGE as error:
        # Pillow names the object that it read from, which tells nobody anything.
        why = "it is no image of a known kind" if isinstance(error, UnidentifiedImageError) else error
        problem = f"the image cannot be decoded ({why})"
        raise FaultyFileError(path, problem, "copy it again from the original data set") from error
    raise FaultyFileError(path, f"its pixels have more than 8 bits (mode {mode})", "save it as 8-bit RGB")


def _remembered(memo: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The array that the memo names, unless one of the two is gone or damaged."""
    try:
        array: NDArray[np.uint8] = mapped(memo.with_name(memo.read_text()))
    except NPY_DAMAGE:
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _build(
    paths: Sequence[UPath],
    shape: tuple[int, int, int, int],
    kind: str,
    recipe: str,
    shrink: Callable[[Image.Image], Image.Image],
    unnamed: Path,
    progress: Progress | None,
) -> str:
    """Hashes and decodes all images in one pass; the name of the array follows from the hash."""
    content_hash = hashlib.sha256(recipe.encode())

    def decode(path: UPath) -> tuple[bytes, bytes]:
        content = read_bytes(path)
        return hashlib.sha256(content).digest(), shrink(decode_image(content, path)).tobytes()

    def name() -> str:
        return f"{kind}-{content_hash.hexdigest()[:32]}.npy"

    with reading_threads() as threads, writing(unnamed, math.prod(shape) + NPY_HEADER_BYTES, name=name) as file:
        # Plain writes, not a memory map: on a full disk they raise, where a map would kill the process.
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for start in range(0, len(paths), BLOCK):
            block = paths[start : start + BLOCK]
            for digest, pixels in threads.map(decode, block):
                content_hash.update(digest)
                file.write(pixels)
            if progress:
                progress(start + len(block), len(paths))
    return name()
