"""What one study tunes a model for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainables.errors import ConfigError

HEMISPHERES = ("lh", "rh")


@dataclass(frozen=True, order=True)
class Target:
    """The voxels of one ROI in one hemisphere of one subject, or of several subjects together.

    Raises:
        ConfigError: no subject, or a hemisphere other than ``lh`` and ``rh``.
    """

    dataset: str
    """Name of the data set, part of a registered model's name."""
    subjects: tuple[str, ...]
    """Subject names such as ``subj01``; more than one means a pooled model."""
    hemisphere: str
    """``lh`` or ``rh``."""
    roi: str
    """ROI label such as ``V1v``; a label that is also a group's name is written ``mask:label``."""

    def __post_init__(self) -> None:
        if not self.subjects:
            raise ConfigError(f"target for {self.roi} names no subject; expected at least one such as 'subj01'")
        if self.hemisphere not in HEMISPHERES:
            raise ConfigError(f"hemisphere is {self.hemisphere!r}; expected one of {', '.join(HEMISPHERES)}")

    @property
    def name(self) -> str:
        """``subj01/lh/V1v``: how people name a target."""
        return f"{'+'.join(self.subjects)}/{self.hemisphere}/{self.roi}"

    @property
    def slug(self) -> str:
        """``subj01-lh-V1v``: the name in file paths and registries, where ``/`` and ``:`` have meanings."""
        return self.name.replace("/", "-").replace(":", "_")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and Ray carry them."""
        return {**asdict(self), "subjects": list(self.subjects)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Target:
        """Inverse of `to_dict`."""
        return cls(values["dataset"], tuple(values["subjects"]), values["hemisphere"], values["roi"])
