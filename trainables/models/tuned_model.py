"""A tuned network on disk, in one versioned format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from upath import UPath

from trainables.errors import WeightsError
from trainables.models.artifact import read_artifact, write_artifact
from trainables.models.backbone import Backbone, build_backbone

FORMAT_VERSION = 1

_BACKBONE_PREFIX, _HEAD_PREFIX = "backbone.", "head."


@dataclass(frozen=True, eq=False)
class TunedModel:
    """A backbone after tuning, the layer to read it at, and where it comes from.

    On disk: a directory with ``model.safetensors`` (tensors ``backbone.…`` and ``head.…``) and
    ``model.json``.
    """

    backbone: str
    """Name in `trainables.models.backbone.BACKBONES`."""
    layer_cutoff: str
    method: str
    """``contrastive``, ``regression`` or ``untuned``."""
    readout_layer: str
    """Chosen on validation stimuli."""
    state: Mapping[str, Tensor]
    """Parameters of the backbone up to the cutoff."""
    head: Mapping[str, Tensor] = field(default_factory=dict)
    """Parameters and batch statistics of the head; empty for an untuned network."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Configuration, digests of weights and split, epoch and validation score; plain JSON values."""

    def build(self) -> Backbone:
        """The network, on the CPU, in evaluation mode.

        Raises:
            ConfigError: a backbone or cutoff that this version does not know.
            WeightsError: parameters that do not fit the backbone.
        """
        return build_backbone(self.backbone, self.state, self.layer_cutoff).eval()

    def save(self, directory: Path | UPath, *, with_head: bool = True) -> None:
        """Write the model, all or nothing; a model that is already there is replaced.

        Args:
            directory: becomes the model's directory, local or remote.
            with_head: whether the head is written too; encoding needs the backbone alone.

        Raises:
            StorageError: the directory cannot be written.
        """
        description = {
            "backbone": self.backbone,
            "layer_cutoff": self.layer_cutoff,
            "method": self.method,
            "readout_layer": self.readout_layer,
            "provenance": dict(self.provenance),
        }
        tensors = {_BACKBONE_PREFIX + name: tensor for name, tensor in self.state.items()}
        if with_head:
            tensors |= {_HEAD_PREFIX + name: tensor for name, tensor in self.head.items()}
        write_artifact(directory, "model", FORMAT_VERSION, description, tensors)

    @classmethod
    def load(cls, directory: Path | UPath) -> TunedModel:
        """Inverse of `save`; tensors come to the CPU.

        Raises:
            WeightsError: files that are missing, damaged or of another format version.
        """
        description, tensors = read_artifact(directory, "model", FORMAT_VERSION)
        try:
            return cls(
                **{name: description[name] for name in ("backbone", "layer_cutoff", "method", "readout_layer")},
                state=_with_prefix(tensors, _BACKBONE_PREFIX),
                head=_with_prefix(tensors, _HEAD_PREFIX),
                provenance=description["provenance"],
            )
        except KeyError as error:
            raise WeightsError(f"{directory} lacks {error} of a saved model; save it again") from error


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
