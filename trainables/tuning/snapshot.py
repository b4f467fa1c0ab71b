"""A trial's place between two epochs, kept on disk so that a restart goes on from there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from upath import UPath

from trainables.encoding.validation import ValidationScore
from trainables.errors import StorageError, WeightsError
from trainables.models.artifact import read_artifact, write_artifact
from trainables.tuning.results import EpochResult

FORMAT_VERSION = 1

SECONDS_BETWEEN = 60.0
"""A restart repeats about so much work at most; trials that are shorter never write anything."""
SHARE_OF_TIME = 0.05
"""What writing may cost of a trial's time: a large network on a slow storage is written less often."""

_PER_VOXEL = "score/r_per_voxel"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """All that the remaining epochs of a trial depend on."""

    epoch: int
    """Epochs that are done."""
    identity: Mapping[str, Any]
    """Configuration and digests of weights and split: whose snapshot it is."""
    states: Mapping[str, Mapping[str, Tensor]]
    """Tensors by part and name: network and optimiser as they are, network at the best scored epoch."""
    best: EpochResult | None
    """Of the best scored epoch so far."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else whoever runs the trial wants back; plain JSON values."""

    def is_of(self, identity: Mapping[str, Any]) -> bool:
        """Whether it is a snapshot of the trial with this identity."""
        return json.dumps(self.identity, sort_keys=True) == json.dumps(identity, sort_keys=True)

    def write(self, directory: Path | UPath) -> None:
        """Write all or nothing.

        Raises:
            StorageError: the directory cannot be written.
        """
        tensors = {f"{part}/{name}": tensor for part, state in self.states.items() for name, tensor in state.items()}
        description: dict[str, Any] = {"epoch": self.epoch, "identity": self.identity, "notes": self.notes}
        if self.best is not None and self.best.score is not None:
            best = asdict(self.best)
            tensors[_PER_VOXEL] = torch.from_numpy(best["score"].pop("r_per_voxel"))
            description["best"] = best
        write_artifact(directory, "snapshot", FORMAT_VERSION, description, tensors)

    @classmethod
    def read(cls, directory: Path | UPath) -> Snapshot:
        """Inverse of `write`; tensors come to the CPU.

        Raises:
            WeightsError: it is missing, damaged or of another version.
        """
        description, tensors = read_artifact(directory, "snapshot", FORMAT_VERSION)
        per_voxel = tensors.pop(_PER_VOXEL, None)
        states: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            part, name = path.split("/", 1)
            states.setdefault(part, {})[name] = tensor
        try:
            best = description.get("best")
            if best is not None and per_voxel is not None:
                best = EpochResult(**best | {"score": ValidationScore(**best["score"], r_per_voxel=per_voxel.numpy())})
            return cls(description["epoch"], description["identity"], states, best, description["notes"])
        except (KeyError, TypeError) as error:
            raise WeightsError(f"{directory} lacks {error} of a snapshot; delete it") from error


class SnapshotFolder:
    """One trial's snapshots. A new one is whole before the former goes, so there is always one to go on from."""

    def __init__(self, directory: UPath) -> None:
        self._directory = directory
        self._last = time.monotonic()
        self._cost = 0.0

    def due(self) -> bool:
        """Whether enough time has passed since the start or the last snapshot."""
        return time.monotonic() - self._last >= max(SECONDS_BETWEEN, self._cost / SHARE_OF_TIME)

    def write(self, snapshot: Snapshot) -> None:
        """Write a snapshot and delete the former ones.

        Raises:
            StorageError: the storage cannot be written.
        """
        started = time.monotonic()
        try:
            with self._storage_errors():
                place = self._place(snapshot.epoch)
                former = [other for other in self._places() if other.name != place.name]
                snapshot.write(place)
                for other in former:
                    other.rmdir(recursive=True)
        finally:  # a storage that fails is not asked again at every epoch
            self._last = time.monotonic()
            self._cost = self._last - started

    def newest(self) -> Snapshot | None:
        """The newest whole snapshot; None if there is none.

        Raises:
            StorageError: the storage cannot be listed.
        """
        with self._storage_errors():
            places = self._places()
        # The newest may be half there, its writer killed midway; the one before it is whole.
        found = (self.of_epoch(int(place.name)) for place in reversed(places))
        return next((snapshot for snapshot in found if snapshot is not None), None)

    def of_epoch(self, epoch: int) -> Snapshot | None:
        """The snapshot of one epoch; None if there is none that is whole."""
        try:
            return Snapshot.read(self._place(epoch))
        except WeightsError:
            return None

    def _place(self, epoch: int) -> UPath:
        return self._directory / f"{epoch:05d}"

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"{self._directory} cannot be written or listed ({error}); mend the storage") from error

    def _places(self) -> list[UPath]:
        if not self._directory.exists():
            return []
        return sorted((place for place in self._directory.iterdir() if place.name.isdigit()), key=lambda p: p.name)


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, by ``INDEX.NAME``."""
    remembered = optimiser.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, values in remembered.items() for name, tensor in values.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Inverse of `optimiser_state`, on an optimiser of the same parameters."""
    groups = optimiser.state_dict()["param_groups"]
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    remembered: dict[int, dict[str, Tensor]] = {}
    for path, tensor in state.items():
        index, name = path.split(".", 1)
        parameter = parameters[int(index)]
        # Fused kernels walk a parameter and its moments in the order of memory, so the strides have to agree; on disk
        # all are contiguous.
        fitting = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
        remembered.setdefault(int(index), {})[name] = fitting.detach()
    optimiser.load_state_dict({"state": remembered, "param_groups": groups})
