"""Runs independent pieces of work as Ray tasks, each on the share of the machine that a slot would get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.profiles import Profile
from trainables.errors import CortexSweepError, StorageError


def run_tasks(
    function: Callable[..., Any],
    jobs: Sequence[dict[str, Any]],
    profile: Profile,
    console: Console,
    title: str,
    quiet: bool,
) -> Iterator[tuple[int, Any]]:
    """Call ``function(**job)`` for every job; yields (index of the job, result) as they end.

    Raises:
        CortexSweepError: a job's own error, or a worker that died at every attempt.
    """
    remote = ray.remote(function).options(
        num_cpus=profile.cpus_per_worker, num_gpus=profile.gpus_per_worker, max_retries=2
    )
    pending = {remote.remote(**job): index for index, job in enumerate(jobs)}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bars:
        bar = bars.add_task(title, total=len(jobs))
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            index = pending.pop(done)
            yield index, _result(done, title)
            bars.advance(bar)


def _result(done: Any, title: str) -> Any:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CortexSweepError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise StorageError(
            f"{title}: a worker died at every attempt ({error}); look at the free memory and try again"
        ) from error
