"""Pretrained weights of a backbone, from wherever a lab has them."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from upath import UPath

from trainables.errors import StorageError, WeightsError
from trainables.models.artifact import local_path, save_tensors
from trainables.models.backbone import OUTPUT, Backbone, BackboneSpec, backbone_spec
from trainables.models.published_file import is_published
from trainables.models.random_weights import random_state
from trainables.remote import StoreError, read_whole, write_whole

# What the readers raise for a file that is damaged, truncated or not what its name says.
_READ_ERRORS = (
    EOFError,
    KeyError,
    RuntimeError,
    SafetensorError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
_CONNECT_TIMEOUT_S = 5.0
_ALTERNATIVES = "use --weights FILE (.pth, .safetensors or .npz) or --weights random"


@dataclass(frozen=True)
class PretrainedWeights:
    """The state dict that every trial of a sweep starts from."""

    backbone: str
    """Name in `trainables.models.backbone.BACKBONES`."""
    state: dict[str, Tensor]
    """Parameters by name, float32 on the CPU, and batch normalisation's counters, int64; never written to."""
    source: str
    """``random``, the file's name, or ``imagenet``, also for a file with the bytes that torchvision publishes."""
    digest: str
    """SHA-256 over names, shapes and values, hexadecimal: sources with one digest are the same."""
    readout_layers: tuple[str, ...]
    """Readout layers that these weights reach, in order."""
    cutoffs: tuple[str, ...]
    """Layer cutoffs that these weights allow; the last is the deepest."""
    note: str = ""
    """One sentence for the user when the weights do not reach the whole network, else empty."""


def load_weights(source: str, backbone: str = "alexnet", seed: int = 0) -> PretrainedWeights:
    """Read, check and describe pretrained weights.

    A file may end early: with AlexNet's convolutions alone, cutoffs and readouts up to ``features.12`` are
    allowed, and ``note`` says so.

    Args:
        source: ``imagenet`` (torchvision's, cached or downloaded), ``random`` (He initialisation, for trying
            things out), or a ``.pth``, ``.pt``, ``.safetensors`` or ``.npz`` file with torchvision's
            parameter names, local or at an ``s3://`` address.
        backbone: name of the CNN.
        seed: of ``random``; ignored otherwise.

    Raises:
        ConfigError: no such backbone.
        WeightsError: a file that is missing, damaged, would run code, or does not fit the backbone;
            ``imagenet`` with no cached file and no network.
    """
    spec = backbone_spec(backbone)
    if source == "imagenet":
        return _described(spec, _imagenet_state(spec), source)
    if source == "random":
        return _described(spec, random_state(spec, seed), source)
    try:
        place = UPath(source)
        place.fs  # noqa: B018 - made here, so that an unknown kind of address is told
    except (ImportError, ValueError) as error:
        raise WeightsError(f"weights {source!r} cannot be read ({error}); {_ALTERNATIVES}") from error
    path = local_path(place)
    if path is not None:
        return _of_file(spec, path.expanduser())
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / place.name
        try:
            copy.write_bytes(read_whole(place))
        except StoreError as error:
            raise WeightsError(f"weights file {place} cannot be read ({error.reason}); {error.remedy}") from error
        except OSError as error:
            raise WeightsError(f"weights file {place} cannot be read ({error}); {_ALTERNATIVES}") from error
        return _of_file(spec, copy)


def save_weights(weights: PretrainedWeights, path: Path | UPath) -> None:
    """Write the state dict as safetensors, which `load_weights` reads back; all or nothing.

    Args:
        weights: what `load_weights` gave.
        path: of the file, local or remote.

    Raises:
        StorageError: the file cannot be written.
    """
    local = local_path(path)
    if local is not None:
        _save_local(weights, local)
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / path.name
        _save_local(weights, copy)
        try:
            write_whole(UPath(path), copy.read_bytes())
        except StoreError:
            raise
        except OSError as error:
            raise StorageError(f"{path} cannot be written ({error}); choose another place") from error


def _save_local(weights: PretrainedWeights, path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(weights.state, unfinished)
        unfinished.rename(path)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to tell
            unfinished.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written ({error}); free space or choose another place") from error


def _of_file(spec: BackboneSpec, path: Path) -> PretrainedWeights:
    state = _read_file(path)
    return _described(spec, state, "imagenet" if is_published(path, spec.name) else path.name)


def _described(spec: BackboneSpec, state: Mapping[str, Any], source: str) -> PretrainedWeights:
    """Check the state dict against the backbone and find how deep it reaches."""
    with torch.device("meta"):
        expected = Backbone(spec, OUTPUT).state_dict()
    checked = {name: _checked(name, state[name], expected, spec, source) for name in state}
    checked |= _missing_counters(expected, checked)
    reached = _readouts_reached(spec, expected, checked, source)
    whole = len(checked) == len(expected)
    return PretrainedWeights(
        backbone=spec.name,
        state=checked,
        source=source,
        digest=_digest(checked),
        readout_layers=reached,
        cutoffs=(*reached, OUTPUT) if whole else reached,
        note=""
        if whole
        else f"{source} ends at {reached[-1]}: layer cutoffs and readout layers up to there are available",
    )


def _checked(name: str, value: object, expected: Mapping[str, Tensor], spec: BackboneSpec, source: str) -> Tensor:
    if name not in expected:
        raise WeightsError(
            f"{source} holds {name!r}, which {spec.name} lacks; expected names such as {next(iter(expected))!r}"
        )
    value = _numbers(name, value, expected[name].is_floating_point(), source)
    if value.shape != expected[name].shape:
        raise WeightsError(
            f"{name} in {source} has shape {tuple(value.shape)}; {spec.name} expects "
            f"{tuple(expected[name].shape)}, so choose weights of this backbone"
        )
    tensor = value.detach().to("cpu", expected[name].dtype).contiguous()
    if not torch.isfinite(tensor).all():
        raise WeightsError(f"{name} in {source} holds NaN or infinite values; the file is damaged, so fetch it again")
    return tensor


def _numbers(name: str, value: object, floating: bool, source: str) -> Tensor:
    """The value, if it is a tensor of floating-point numbers, or of integers where ``floating`` is False."""
    kind = "floating-point" if floating else "whole"
    if not isinstance(value, Tensor):
        raise WeightsError(f"{name} in {source} is {type(value).__name__}; expected an array of {kind} numbers")
    if not (value.is_floating_point() if floating else value.dtype in (torch.int32, torch.int64)):
        raise WeightsError(f"{name} in {source} is {value.dtype}; expected an array of {kind} numbers")
    return value


def _missing_counters(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for ``num_batches_tracked`` of batch normalisations that the file holds otherwise.

    Files from before PyTorch 0.4.1 lack them, as torchvision's ResNets did for long. They enter no result, and PyTorch
    itself takes a missing one for 0.
    """
    return {
        name: torch.zeros(wanted.shape, dtype=wanted.dtype, device="cpu")
        for name, wanted in expected.items()
        if not wanted.is_floating_point() and name not in state and f"{name.rpartition('.')[0]}.running_var" in state
    }


def _readouts_reached(
    spec: BackboneSpec, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str
) -> tuple[str, ...]:
    """Readout layers before the first missing parameter; the weights must not go on behind a gap."""
    names = list(expected)
    missing = [name for name in names if name not in state]
    if not missing:
        return tuple(spec.readout_layers)
    reached: list[str] = []
    for layer in spec.readout_layers:
        with torch.device("meta"):
            needed = Backbone(spec, layer).state_dict().keys()
        if missing[0] in needed:
            break
        reached.append(layer)
    behind_gap = [name for name in names[names.index(missing[0]) :] if name in state]
    if not reached or behind_gap:
        raise WeightsError(f"{source} lacks {missing[0]}; expected the parameters of {spec.name} without a gap")
    return tuple(reached)


def _imagenet_state(spec: BackboneSpec) -> Mapping[str, Tensor]:
    """The ImageNet-1k weights of torchvision, with its own cache and hash check.

    They are those that torchvision recommends: for ``resnet50`` the second version, from a longer recipe.
    """
    weights = torchvision.models.get_model_weights(spec.name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not cached.exists():
        _require_network(weights.url, cached)
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (*_READ_ERRORS, OSError) as error:
        raise WeightsError(
            f"ImageNet weights from {weights.url} cannot be read ({error}); delete {cached} and try again, "
            f"or {_ALTERNATIVES}"
        ) from error
    return state


def _require_network(url: str, cached: Path) -> None:
    """Fail within seconds where there is no way to ``url``; torchvision's own download has no time limit."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_CONNECT_TIMEOUT_S):
            return
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise WeightsError(
            f"ImageNet weights are not on this machine and {url} cannot be reached ({error}); put the file "
            f"at {cached}, or {_ALTERNATIVES}"
        ) from error


def _read_file(path: Path) -> Mapping[str, Any]:
    readers: dict[str, Callable[[Path], Any]] = {
        ".pth": _read_pth,
        ".pt": _read_pth,
        ".safetensors": load_file,
        ".npz": _read_npz,
    }
    if path.suffix not in readers:
        raise WeightsError(
            f"weights are {str(path)!r}; expected imagenet, random or a file ending in {', '.join(readers)}"
        )
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist; {_ALTERNATIVES}, or --weights imagenet")
    try:
        state = readers[path.suffix](path)
    except (*_READ_ERRORS, OSError) as error:
        # What the libraries say of such a file is to read it unsafely.
        raise WeightsError(
            f"{path} cannot be read as weights (no whole {path.suffix} file of tensors); fetch it again or convert it"
        ) from error
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path} holds a {type(state).__name__}; expected a state dict of parameters by name")
    return state


def _read_pth(path: Path) -> Any:
    """Tensors only: `weights_only` refuses a pickle that would run code."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content["state_dict"] if isinstance(content, dict) and "state_dict" in content else content


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].numpy().data)
    return digest.hexdigest()
