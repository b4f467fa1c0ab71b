"""One versioned way to keep tensors on disk: a directory with ``<kind>.safetensors`` and ``<kind>.json``.

The JSON names its format version and the SHA-256 of the tensors beside it, so a damaged or mixed-up pair is
an error instead of a wrong prediction. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from upath import UPath

from trainables.errors import StorageError, WeightsError
from trainables.remote import StoreError, is_local, read_whole, write_whole


def write_artifact(
    directory: Path | UPath,
    kind: str,
    version: int,
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Write all or nothing; an artifact that is already there is replaced.

    Args:
        directory: becomes the artifact's directory; local, or remote such as ``s3://bucket/name``.
        kind: ``model`` or ``encoder``, the stem of both file names.
        version: of the format that ``description`` and ``tensors`` follow.
        description: plain values, as JSON carries them.
        tensors: saved from wherever they are, loaded to the CPU.

    Raises:
        StorageError: the disk is full or the directory cannot be written; nothing is left behind.
    """
    local = local_path(directory)
    try:
        if local is not None:
            _write_local(local, kind, version, description, tensors)
        else:
            _upload(UPath(directory), kind, version, description, tensors)
    except StoreError:
        raise
    except OSError as error:
        raise StorageError(f"{directory} cannot be written ({error}); free space or choose another place") from error


def read_artifact(directory: Path | UPath, kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Inverse of `write_artifact`: the description and the tensors, on the CPU.

    Raises:
        WeightsError: files that are missing, damaged, from another version, or that do not belong together.
        StoreError: a store did not give them.
    """
    local = local_path(directory)
    if local is not None:
        return _read_local(local, kind, version)
    remote = UPath(directory)
    with tempfile.TemporaryDirectory() as scratch:
        for name in _file_names(kind):
            try:
                (Path(scratch) / name).write_bytes(read_whole(remote / name))
            except StoreError:
                raise
            except OSError as error:
                raise WeightsError(f"{remote / name} cannot be read ({error}); expected a saved {kind}") from error
        return _read_local(Path(scratch), kind, version)


def local_path(path: Path | UPath) -> Path | None:
    """The path on this machine's file system, or None for one that lies elsewhere."""
    if isinstance(path, UPath):
        return Path(path.path) if is_local(path) else None
    return path


def _file_names(kind: str) -> tuple[str, str]:
    """Tensors first: the description that vouches for them is written after them."""
    return f"{kind}.safetensors", f"{kind}.json"


def _write_local(
    directory: Path, kind: str, version: int, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    suffix = uuid.uuid4().hex[:8]
    unfinished, replaced = (directory.with_name(f".{directory.name}.{part}{suffix}") for part in ("", "old-"))
    try:
        unfinished.mkdir(parents=True)
        _write_files(unfinished, kind, version, description, tensors)
        for place in (*(unfinished / name for name in _file_names(kind)), unfinished):
            _to_disk(place)
        if directory.exists():
            directory.rename(replaced)
        unfinished.rename(directory)
        _to_disk(directory.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _to_disk(place: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk: the ledger is about to vouch for it."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _upload(
    directory: UPath, kind: str, version: int, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Tensors, then the description that vouches for them: until it is there, a reader finds no artifact, or two files
    that do not belong together.
    """
    with tempfile.TemporaryDirectory() as scratch:
        _write_files(Path(scratch), kind, version, description, tensors)
        for name in _file_names(kind):
            write_whole(directory / name, (Path(scratch) / name).read_bytes())


def _write_files(
    directory: Path, kind: str, version: int, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    tensors_path, description_path = (directory / name for name in _file_names(kind))
    save_tensors(tensors, tensors_path)
    content = {**description, "format_version": version, "tensors_sha256": _sha256(tensors_path)}
    description_path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def _read_local(directory: Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors_path, description_path = (directory / name for name in _file_names(kind))
    description = _read_description(description_path)
    if description.get("format_version") != version:
        raise WeightsError(
            f"{directory} has format version {description.get('format_version')}; this version of "
            f"cortex-sweep reads {version}, so load it with the version that wrote it"
        )
    try:
        digest = _sha256(tensors_path)
        tensors = load_file(tensors_path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{tensors_path} cannot be read ({error}); write it again or restore it") from error
    if digest != description.get("tensors_sha256"):
        raise WeightsError(
            f"{tensors_path} is damaged or belongs to another {kind}: its SHA-256 is {digest[:12]}…, "
            f"{kind}.json expects {str(description.get('tensors_sha256'))[:12]}…; restore both files together"
        )
    return description, tensors


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file that may be read by whom the umask says; the library's own is the writer's alone.

    Raises:
        OSError: the disk is full or the file cannot be written.
    """
    with path.open("wb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
        path.chmod(mode)
    except SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from error


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror}); expected a file that cortex-sweep saved"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path} is damaged ({error}); restore it or save the {path.stem} again") from error
    if not isinstance(description, dict):
        raise WeightsError(f"{path} holds a {type(description).__name__}; expected a JSON object")
    return description


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
