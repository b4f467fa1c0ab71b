"""Tasks without Ray: the same bodies with the same arguments, one after another in this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from orchestrator.tasks import TaskRunner


def _silent() -> Console:
    return Console(file=io.StringIO())


@dataclass(frozen=True)
class InlineTasks(TaskRunner):
    """Counts the jobs of each title, so that a test can see what was computed."""

    console: Console = field(default_factory=_silent)
    quiet: bool = True
    counts: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def ray(self) -> Iterator[None]:
        yield

    def run(
        self, function: Callable[..., Any], jobs: Sequence[dict[str, Any]], title: str
    ) -> Iterator[tuple[int, Any]]:
        for index, job in enumerate(jobs):
            self.counts[title] = self.counts.get(title, 0) + 1
            yield index, function(device="cpu", **job)
