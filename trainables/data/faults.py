"""What `trainables.data.check` reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

from trainables.data.files import FaultyFileError

ERROR, WARNING = "error", "warning"


class SubjectEntry(TypedDict):
    """What a check found of one subject."""

    stimuli: int
    """Rows of the responses that have an image."""
    rois: dict[str, dict[str, int]]
    """Voxels of each ROI by hemisphere."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with one file."""

    severity: str
    """``error``: a sweep would fail or be wrong; ``warning``: it works, but somebody should know."""
    subject: str
    """Name such as ``subj01``; empty for the data set as a whole."""
    file: str
    problem: str
    remedy: str


class FaultList(list[Fault]):
    """Faults in the order in which they were found, each once."""

    def add(self, severity: str, subject: str, fault: FaultyFileError) -> None:
        """Notes a fault, unless another check has come upon it before."""
        noted = Fault(severity, subject, fault.file, fault.problem, fault.remedy)
        if noted not in self:
            self.append(noted)

    @contextmanager
    def of(self, subject: str, severity: str = ERROR) -> Iterator[None]:
        """Notes the fault that the block raises, and goes on after the block."""
        try:
            yield
        except FaultyFileError as fault:
            self.add(severity, subject, fault)
