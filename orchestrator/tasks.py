"""Runs independent pieces of work as Ray tasks, each on the share of the machine that a slot would get."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from types import FrameType
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.profiles import Profile, choose_profile
from orchestrator.node_watch import asked_to_end
from orchestrator.progress import LogLines, time_left
from orchestrator.tuning import ray_running
from trainables.errors import CortexSweepError, StorageError


@dataclass(frozen=True)
class TaskRunner:
    """Where tasks run and who watches."""

    console: Console
    quiet: bool = False
    address: str | None = None
    """Ray cluster to join; None starts Ray on this machine."""
    profile: str = "auto"
    """How resources become places for tasks."""

    @contextmanager
    def ray(self) -> Iterator[None]:
        """Keep Ray for several calls of `run`, each of which would start its own."""
        with ray_running(self.address), terminations_as_ctrl_c():
            yield

    def run(
        self, function: Callable[..., Any], jobs: Sequence[dict[str, Any]], title: str
    ) -> Iterator[tuple[int, Any]]:
        """Call ``function(device=..., **job)`` for every job; yields (index of the job, result) as they end.

        Raises:
            ConfigError: not one task fits on the machine.
            CortexSweepError: a job's own error, or a worker that died at every attempt.
        """
        with ray_running(self.address) as resources, terminations_as_ctrl_c():
            profile = choose_profile(self.profile, resources)
            # Raises where a task would wait for ever.
            places = profile.slots(resources, can_grow=bool(self.address)) * profile.workers_per_slot
            yield from self._collect(_submitter(function, profile), jobs, places, title)

    def _collect(
        self, submit: Callable[[dict[str, Any]], Any], jobs: Sequence[dict[str, Any]], places: int, title: str
    ) -> Iterator[tuple[int, Any]]:
        """No more at a time than there are places: Ray counts a core for coordinators, which tasks would take, too."""
        waiting = enumerate(jobs)
        pending = {submit(job): index for index, job in islice(waiting, places)}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = self.quiet or not self.console.is_terminal
        with Progress(*columns, console=self.console, disable=hidden, transient=True) as bars:
            total, done_so_far, log = len(jobs), 0, LogLines(self.console)
            started = first_end = time.monotonic()
            bar = bars.add_task(title, total=total)
            while pending:
                (done,), _ = ray.wait(list(pending), num_returns=1)
                index = pending.pop(done)
                result = _result(done, title)
                for following, job in islice(waiting, 1):
                    pending[submit(job)] = following
                yield index, result
                bars.advance(bar)
                done_so_far += 1
                first_end = time.monotonic() if done_so_far == 1 else first_end
                if not self.quiet:
                    eta = (
                        f", {time_left(done_so_far, total, places, started, first_end)}" if done_so_far < total else ""
                    )
                    log.say(f"{title}: {done_so_far}/{total}{eta}", last=done_so_far == total)


@contextmanager
def terminations_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which batch systems send, end tasks as Ctrl-C does; Ray would print where in its code it came."""
    in_main = threading.current_thread() is threading.main_thread()  # no other one may set handlers
    if not in_main or signal.getsignal(signal.SIGTERM) is _end:
        yield
        return
    former = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _end(signum: int, frame: FrameType | None) -> None:
    asked_to_end.set()  # Ray, which the same signal may end, is then not taken for one that died
    signal.default_int_handler(signum, frame)


def _submitter(function: Callable[..., Any], profile: Profile) -> Callable[[dict[str, Any]], Any]:
    remote = ray.remote(function).options(
        num_cpus=profile.cpus_per_worker, num_gpus=profile.gpus_per_worker, max_retries=2
    )
    device = "cuda" if profile.gpus_per_worker else "cpu"
    return lambda job: remote.remote(device=device, **job)


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
