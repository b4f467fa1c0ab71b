"""Where a sweep keeps things: every path and URI, on a local disk or in object storage.

STORAGE/mlflow.db                    tracking database (local default)
STORAGE/NAME/plan.json               what the sweep computes
STORAGE/NAME/ledger.journal          every trial, finished or not (local default)
STORAGE/NAME/weights.safetensors     the pretrained weights that all trials start from
STORAGE/NAME/trials/SLUG/METHOD/N/   weights of a study's best trials
STORAGE/NAME/snapshots/SLUG/METHOD/N/  where a running trial is, if it runs for longer than a minute
STORAGE/NAME/scratch/                Ray's own bookkeeping, while a driver runs
STORAGE/NAME/selection.json          what `select` chose
STORAGE/NAME/models/SLUG/METHOD/     selected models, each with its encoding model
STORAGE/NAME/evaluation/             test scores, a table for each evaluation; cells/: r of every voxel
STORAGE/NAME/artifacts/              MLflow artifacts (a tracking server keeps its own)
STORAGE/NAME/archived.json           there if the sweep was put away
STORAGE/NAME/renamed.json            nothing else lies there: the folder, by its first name, of a sweep called NAME now
"""

from __future__ import annotations

import json
import os
import re
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from botocore.exceptions import BotoCoreError
from upath import UPath

from trainables import remote
from trainables.errors import ConfigError, StorageError
from trainables.remote import StoreError, is_local, read_whole
from trainables.target import Target

RENAMED = "renamed.json"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@contextmanager
def storage_errors(path: UPath | Path | str, action: str = "write") -> Iterator[None]:
    """Turn the operating system's errors about ``path`` into one sentence."""
    try:
        yield
    except StoreError:  # a sentence already
        raise
    except (OSError, BotoCoreError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"could not {action} {path}: {reason}; free space or permissions there, or choose another --storage"
        ) from error


def write_json(path: UPath, content: Any) -> None:
    """Write ``content`` so that a reader sees the whole file or none.

    Raises:
        StorageError: nothing was written.
    """
    write_whole(path, (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def write_arrays(path: UPath, **arrays: Any) -> None:
    """Write an ``.npz`` file so that a reader sees the whole file or none.

    Raises:
        StorageError: nothing was written.
    """
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def write_whole(path: UPath, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none.

    Raises:
        StorageError: nothing was written.
    """
    with storage_errors(path):
        if not is_local(path):
            remote.write_whole(path, content)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(str(path.with_name(f".{path.name}.{uuid.uuid4().hex}")))
        try:
            with temporary.open("xb") as file:  # unlike tempfile's, readable by whom the umask says
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(str(path))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def reading_arrays(path: UPath) -> Iterator[Mapping[str, Any]]:
    """The arrays of an ``.npz`` file, each read when it is asked for.

    Raises:
        StorageError: the file is not there, or is damaged.
    """
    try:
        with storage_errors(path, "read"), _opened(path) as file, np.load(file, allow_pickle=False) as archive:
            yield archive
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StorageError(f"{path} is damaged ({error}); delete it and evaluate again") from error


def _opened(path: UPath) -> BinaryIO:
    return Path(str(path)).open("rb") if is_local(path) else BytesIO(read_whole(path))


def read_json(path: UPath) -> Any:
    """Read what `write_json` wrote.

    Raises:
        StorageError: the file is not there or is not JSON.
    """
    with storage_errors(path, "read"):
        content = read_whole(path)
    try:
        return json.loads(content)
    except ValueError as error:
        raise StorageError(f"{path} is damaged ({error}); restore it from a backup or start a new sweep") from error


class SweepStorage:
    """The places of one sweep.

    Raises:
        ConfigError: the name would not be safe as a folder's name.
    """

    def __init__(self, storage: str, name: str) -> None:
        if not NAME_PATTERN.fullmatch(name):
            raise ConfigError(
                f"sweep name is {name!r}; expected up to 80 letters, digits, '.', '_' and '-', a letter or digit first"
            )
        self.base = resolved(storage)
        self.name = name
        pointer = self.base / name / RENAMED
        # A remote one has none, and nothing is asked of it before somebody wants something there.
        self.folder: str = read_json(pointer)["folder"] if is_local(self.base) and pointer.exists() else name
        """Folder of the sweep: its first name."""
        self.root = self.base / self.folder

    @property
    def is_local(self) -> bool:
        """Whether the storage is a folder of this machine (or a shared file system)."""
        return is_local(self.base)

    @property
    def local_base(self) -> Path:
        """Folder for what needs a file system (ledger, tracking database) even when the storage is remote."""
        return Path(str(self.base)) if self.is_local else Path.cwd() / "results"

    @property
    def plan_file(self) -> UPath:
        """What the sweep computes; its presence makes the folder a sweep."""
        return self.root / "plan.json"

    @property
    def journal_file(self) -> Path:
        """Default ledger."""
        return self.local_base / self.folder / "ledger.journal"

    @property
    def driver_lock(self) -> Path:
        """Held by the process that runs the sweep."""
        return self.journal_file.with_name("driver.lock")

    @property
    def default_tracking_uri(self) -> str:
        """SQLite database beside the sweeps."""
        return f"sqlite:///{self.local_base / 'mlflow.db'}"

    @property
    def artifacts_uri(self) -> str:
        """Where this sweep's artifacts lie if no MLflow server keeps them."""
        return (self.root / "artifacts").as_uri() if self.is_local else str(self.root / "artifacts")

    @property
    def weights_file(self) -> UPath:
        """The pretrained weights that all trials start from."""
        return self.root / "weights.safetensors"

    @property
    def scratch(self) -> str:
        """Ray's own bookkeeping; nothing there is needed after a run."""
        return str(self.root / "scratch")

    def forget_scratch(self) -> None:
        """Delete what Ray has written of former runs; what cannot be deleted stays, and harms nobody."""
        with suppress(StorageError), storage_errors(self.root / "scratch", "delete"):
            if (self.root / "scratch").exists():
                (self.root / "scratch").rmdir(recursive=True)

    def trial_dir(self, target: Target, method: str, number: int) -> UPath:
        """Tuned weights of one trial."""
        return self.root / "trials" / target.slug / method / f"{number:05d}"

    @property
    def snapshots_dir(self) -> UPath:
        """Snapshots of all trials that run."""
        return self.root / "snapshots"

    def snapshot_dir(self, target: Target, method: str, number: int) -> UPath:
        """Where one trial's snapshots are, as long as it runs."""
        return self.snapshots_dir / target.slug / method / f"{number:05d}"

    @property
    def archived_file(self) -> UPath:
        """There if the sweep was put away."""
        return self.root / "archived.json"

    def require_not_archived(self) -> None:
        """Refuse to work on a sweep that was put away.

        Raises:
            StorageError: it is archived.
        """
        if self.archived_file.exists():
            raise StorageError(
                f"sweep {self.name} is archived; `sweep.py archive --undo {self.name} --storage {self.base}` brings it "
                "back"
            )

    @property
    def selection_file(self) -> UPath:
        """What `select` chose."""
        return self.root / "selection.json"

    @property
    def evaluation_dir(self) -> UPath:
        """Scores on test stimuli."""
        return self.root / "evaluation"

    @property
    def encoding_scores_file(self) -> UPath:
        """Summary of the encoding scores on test stimuli."""
        return self.evaluation_dir / "encoding.json"

    def evaluation_file(self, name: str) -> UPath:
        """Table of one evaluation."""
        return self.evaluation_dir / f"{name}.json"

    def voxel_scores_file(self, target: Target, method: str) -> UPath:
        """Test r of every voxel."""
        return self.evaluation_dir / "encoding" / target.slug / f"{method}.npz"

    def model_dir(self, target: Target, method: str) -> UPath:
        """A selected model with its encoding model, ready to predict."""
        return self.root / "models" / target.slug / method

    def create(self) -> None:
        """Make the sweep's folders.

        Raises:
            StorageError: the place cannot be written.
        """
        with storage_errors(self.root):
            if self.is_local:
                self.root.mkdir(parents=True, exist_ok=True)
            self.journal_file.parent.mkdir(parents=True, exist_ok=True)


def ray_storage(scratch: str) -> dict[str, Any]:
    """Where Ray's RunConfig keeps its own bookkeeping; S3 is spoken to as elsewhere, not by Arrow's own client."""
    place = UPath(scratch)
    if is_local(place):
        return {"storage_path": scratch}
    from pyarrow.fs import FSSpecHandler, PyFileSystem  # Ray has it

    return {"storage_path": place.path, "storage_filesystem": PyFileSystem(FSSpecHandler(place.fs))}


def resolved(storage: str, option: str = "--storage") -> UPath:
    """``storage`` as an absolute path or URI; ``option`` is where it was given."""
    try:
        path = UPath(storage)
        path.fs  # noqa: B018 - made here, so that an unknown kind of address is told before anything else
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{option} is {storage!r} ({error}); expected a folder or an s3:// address") from error
    return UPath(Path(storage).expanduser().resolve()) if is_local(path) else path


def sweep_names(storage: str, archived: bool = False) -> list[str]:
    """Names of the sweeps kept in ``storage``, in order; the archived ones, or the others."""
    base = resolved(storage)
    with storage_errors(base, "list"):
        if not base.exists():
            return []
        folders = list(base.iterdir())
        found = [folder for folder in folders if (folder / "plan.json").exists()]
        found = [folder for folder in found if (folder / "archived.json").exists() == archived]
        pointers = [folder for folder in folders if (folder / RENAMED).exists()]
    called = {read_json(folder / RENAMED)["folder"]: folder.name for folder in pointers}
    return sorted(called.get(folder.name, folder.name) for folder in found)
