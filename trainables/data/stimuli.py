"""Stimuli as one uint8 array file per subject, decoded once per machine."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from upath import UPath

from trainables.data.files import NPY_DAMAGE, FaultyFileError, locked, missing, read_bytes, writing
from trainables.errors import DataError

DECODER_VERSION = 1
"""Part of every cache key: raise it whenever the same files would decode to other pixels."""

BLOCK = 128
"""Stimuli decoded before they are written; bounds memory, not speed."""

MIN_THREADS = 8
"""Reading waits on the disk or the network more than decoding waits on a core."""

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

# Pillow tells a damaged file by any of these, depending on where the damage lies.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def decode_stimuli(
    paths: Sequence[UPath], cache_dir: Path, *, size: int = 224, progress: Progress | None = None
) -> NDArray[np.uint8]:
    """Images as a read-only memory map, uint8 (n, size, size, 3), RGB; built once, then read from the cache.

    Each image is resized to a square, without crop, bilinearly with antialiasing, as torchvision's ``Resize``
    does with a PIL image. Processes that ask at the same time build it once; one that dies half-way leaves
    nothing that is taken for whole.

    The array's name is a hash of the content: the bytes of all files in order, the size and
    `DECODER_VERSION`, so what is found under it can only be right. Reading every file to learn the name would
    cost each start what the cache saves, so a memo keeps the name under a hash of paths, file sizes and times
    of change: whatever is edited or replaced is read again.

    Raises:
        FaultyFileError: an image is missing, truncated or of a kind that does not decode to 8-bit RGB.
        StorageError: ``cache_dir`` cannot be written, as when the disk is full; nothing is left behind.
        DataError: no path given.
    """
    if not paths:
        raise DataError("no stimulus to decode; expected at least one image")
    shape = (len(paths), size, size, 3)
    memo = cache_dir / f"stimuli-{_fingerprint(paths, size)}.txt"
    with locked(memo):
        stimuli = _remembered(memo, shape)
        if stimuli is None:
            array = _build(paths, shape, memo.with_suffix(".npy"), progress)
            with writing(memo) as file:
                file.write(array.name.encode())
            stimuli = np.lib.format.open_memmap(array, mode="r")
        elif progress:
            progress(len(paths), len(paths))
    return stimuli


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
        problem = f"the image cannot be decoded ({error})"
        raise FaultyFileError(path, problem, "copy it again from the original data set") from error
    raise FaultyFileError(path, f"its pixels have more than 8 bits (mode {mode})", "save it as 8-bit RGB")


def _fingerprint(paths: Sequence[UPath], size: int) -> str:
    digest = hashlib.sha256(f"{DECODER_VERSION}:{size}".encode())
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise missing(path) from error
        digest.update(f"\n{path}:{status.st_size}:{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _remembered(memo: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The array that the memo names, unless one of the two is gone or damaged."""
    try:
        array: NDArray[np.uint8] = np.lib.format.open_memmap(memo.with_name(memo.read_text()), mode="r")
    except NPY_DAMAGE:
        return None
    return array if array.shape == shape else None


def _build(paths: Sequence[UPath], shape: tuple[int, int, int, int], unnamed: Path, progress: Progress | None) -> Path:
    """Hashes and decodes all images in one pass, then gives the array the name that follows from the hash."""
    content_hash = hashlib.sha256(f"{DECODER_VERSION}:{shape[1]}".encode())
    with ThreadPoolExecutor(max(os.cpu_count() or 1, MIN_THREADS)) as threads, writing(unnamed) as file:
        # Plain writes, not a memory map: on a full disk they raise, where a map would kill the process.
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(paths), BLOCK):
            block = paths[start : start + BLOCK]
            for digest, pixels in threads.map(lambda path: _decode(path, shape[1]), block):
                content_hash.update(digest)
                file.write(pixels)
            if progress:
                progress(start + len(block), len(paths))
    return unnamed.replace(unnamed.with_name(f"stimuli-{content_hash.hexdigest()[:32]}.npy"))


def _decode(path: UPath, size: int) -> tuple[bytes, bytes]:
    """SHA-256 of the file, and the pixels (size, size, 3) of its image."""
    content = read_bytes(path)
    image = decode_image(content, path).resize((size, size), Image.Resampling.BILINEAR)
    return hashlib.sha256(content).digest(), image.tobytes()
