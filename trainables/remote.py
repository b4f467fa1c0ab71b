"""Reading and writing whole files in object storage; `trainables.s3` says how S3 is spoken to.

A remote file is read whole or not at all, and appears whole or not at all. Nothing here imports the S3 client: it is
loaded when the first ``s3://`` address is used.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from upath import UPath

from trainables.errors import StorageError

PIECE_BYTES = 32 << 20
"""What is asked for at once: smaller files come in one answer, whose checksum the client verifies."""

TRANSFERS = 4
"""How often a file is read again that came short or damaged; what merely failed was tried often before."""

PATIENCE_S = 300.0
LEAST_SPEED = 50_000.0
"""A transfer ends at the latest after `PATIENCE_S` plus its bytes at `LEAST_SPEED` a second, however it trickles."""

LOCAL_PROTOCOLS = ("", "file", "local")

NODE_SETTINGS = (
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_MAX_ATTEMPTS",
    "AWS_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "AWS_RETRY_MODE",
    "SWEEP_CACHE_SIZE",
    "SWEEP_S3_ADDRESSING_STYLE",
    "SWEEP_S3_TIMEOUT",
)
"""What every node has to be told alike. No credentials: Ray shows these to whoever sees its dashboard."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_other_etags: set[str] = set()
"""Buckets whose ETags are no MD5, as where a key of KMS encrypts."""


class StoreError(StorageError, OSError):
    """An object store that did not do what it was asked for, at any attempt.

    Also an OSError, since that is what whoever reads a file is prepared for.
    """

    def __init__(self, place: str, action: str, reason: str, remedy: str) -> None:
        super().__init__(f"{place} cannot be {action} ({reason}); {remedy}")
        self.place, self.action, self.reason, self.remedy = place, action, reason, remedy

    def __reduce__(self) -> tuple[type[StoreError], tuple[str, str, str, str]]:
        # The default rebuilds an exception from its message alone, which fails when another process sends it.
        return (type(self), (self.place, self.action, self.reason, self.remedy))


def node_settings() -> dict[str, str]:
    """The settings of `NODE_SETTINGS` that this process was given."""
    return {name: os.environ[name] for name in NODE_SETTINGS if os.environ.get(name)}


def is_local(path: UPath | Path) -> bool:
    """Whether the path lies on a disk of this machine, where files can be memory-mapped."""
    return not isinstance(path, UPath) or path.protocol in LOCAL_PROTOCOLS


def read_whole(path: UPath) -> bytes:
    """All bytes of a file, local or remote.

    Raises:
        StoreError: the store did not give them.
        OSError: the file is missing, or a local one cannot be read.
    """
    if is_local(path):
        return bytes(path.read_bytes())
    buffer = BytesIO()
    copy_whole(path, buffer)
    return buffer.getvalue()


def copy_whole(path: UPath, file: BinaryIO) -> None:
    """Write all bytes of a remote file into ``file``, from its start, and cut off what it held behind them.

    What comes short, or does not fit the ETag where that is an MD5, is read again.

    Raises:
        StoreError: the store did not give them.
        OSError: the file is missing.
    """
    former = found = ""
    for _ in range(TRANSFERS):
        info = path.fs.info(path.path)
        if info["type"] == "directory":
            raise FileNotFoundError(f"{path} is a folder")
        file.seek(0)
        digest = hashlib.md5(usedforsecurity=False)
        for piece in _pieces(path, info["size"]):
            file.write(piece)
            digest.update(piece)
        if file.tell() == info["size"] and _fits(path, info, digest.hexdigest(), former):
            file.truncate()
            return
        former = digest.hexdigest()
        short = file.tell() != info["size"]
        found = f"{file.tell()} of {info['size']} bytes came" if short else "what came does not fit its ETag"
        path.fs.invalidate_cache(path.path)  # the file may have been replaced since its folder was listed
    remedy = "look at the network and at proxies on the way, and whether somebody writes to it"
    raise StoreError(str(path), "read", f"{found}, {TRANSFERS} times", remedy)


def write_whole(path: UPath, content: bytes) -> None:
    """Write a remote file so that a reader sees all of it or none.

    A store shows an object when its last byte has arrived; large ones go in parts, which it shows when they are
    joined. Parts of a writer that was killed stay unseen, and are paid for until the bucket's lifecycle drops them.

    Raises:
        StoreError: the store did not take it.
        OSError: there is no such bucket.
    """
    with _in_time(path, "written", len(content)) as limit:
        path.fs.pipe_file(path.path, content, timeout=limit)


def _pieces(path: UPath, size: int) -> Iterator[bytes]:
    for start in range(0, size, PIECE_BYTES):
        end = min(start + PIECE_BYTES, size)
        # A range carries no checksum of the whole, so a small file is asked for without one.
        part: dict[str, Any] = {"start": start, "end": end} if size > PIECE_BYTES else {"max_concurrency": 1}
        with _in_time(path, "read", end - start) as limit:
            piece = bytes(path.fs.cat_file(path.path, timeout=limit, **part))
        yield piece


def _fits(path: UPath, info: dict[str, Any], digest: str, former: str) -> bool:
    """Whether the bytes are those that the ETag is of.

    Of an object that was put together of parts, or encrypted by a key of KMS, the ETag is no MD5. The latter shows
    only when the same bytes come twice; from then on the bucket's ETags are not looked at. A file of several pieces
    has to have the same ETag at the end, or it was replaced while it was read.
    """
    etag, bucket = str(info.get("ETag", "")).strip('"'), path.drive
    if info["size"] > PIECE_BYTES:
        path.fs.invalidate_cache(path.path)
        if path.fs.info(path.path).get("ETag") != info.get("ETag"):
            return False
    if not _MD5.fullmatch(etag) or etag == digest or bucket in _other_etags:
        return True
    if digest == former:
        _other_etags.add(bucket)
    return digest == former


@contextmanager
def _in_time(path: UPath, action: str, n_bytes: int) -> Iterator[float]:
    """Yields the seconds that moving so many bytes may take, which fsspec keeps as the call's ``timeout``."""
    limit = PATIENCE_S + n_bytes / LEAST_SPEED
    try:
        yield limit
    except StoreError:
        raise
    except TimeoutError as error:
        remedy = "look at the network and at how busy the store is, then go on: what had finished is kept"
        raise StoreError(str(path), action, f"{n_bytes} bytes took more than {limit:.0f} s", remedy) from error


for _protocol in ("s3", "s3a"):
    if _protocol in fsspec.registry:  # somebody used it before: a name would not replace the class any more
        from trainables.s3 import PatientS3

        fsspec.register_implementation(_protocol, PatientS3, clobber=True)
    else:
        fsspec.register_implementation(_protocol, "trainables.s3.PatientS3", clobber=True)
