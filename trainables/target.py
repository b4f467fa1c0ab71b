"""What one study tunes a model for."""

from __future__ import annotations

import re
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
    def is_pooled(self) -> bool:
        """Whether it has several subjects."""
        return len(self.subjects) > 1

    def of_subject(self, subject: str) -> Target:
        """The same ROI of one subject."""
        return Target(self.dataset, (subject,), self.hemisphere, self.roi)

    @property
    def name(self) -> str:
        """``subj01/lh/V1v``: how people name a target."""
        return f"{'+'.join(self.subjects)}/{self.hemisphere}/{self.roi}"

    @property
    def label(self) -> str:
        """As `name`, with subjects in a row drawn together for tables: ``subj01-03+05/lh/V1v``."""
        runs: list[list[str]] = []
        for subject in self.subjects:
            follows = runs and _number(subject) == _number(runs[-1][-1]) + 1
            runs[-1].append(subject) if follows else runs.append([subject])
        words = [run[0] if len(run) == 1 else f"{run[0]}-{_digits(run[-1])}" for run in runs]
        first, *others = words
        short = [first, *(_digits(word) or word for word in others)]
        return f"{'+'.join(short)}/{self.hemisphere}/{self.roi}"

    @property
    def slug(self) -> str:
        """``subj01-lh-V1v``: the name in file paths and registries, where ``/`` and ``:`` have meanings."""
        return slug_of(self.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and Ray carry them."""
        return {**asdict(self), "subjects": list(self.subjects)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Target:
        """Inverse of `to_dict`."""
        return cls(values["dataset"], tuple(values["subjects"]), values["hemisphere"], values["roi"])


def slug_of(name: str) -> str:
    """`Target.slug` of the target that is called ``name``."""
    return name.replace("/", "-").replace(":", "_")


_NUMBERED = re.compile(r"\D*(\d[\d-]*)")


def _digits(subject: str) -> str:
    """What follows the letters of ``subj01`` or ``subj01-03``; empty for a name that is not numbered so."""
    match = _NUMBERED.fullmatch(subject)
    return match[1] if match else ""


def _number(subject: str) -> int:
    digits = _digits(subject)
    return int(digits) if digits.isdigit() else -2
