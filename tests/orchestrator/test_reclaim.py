"""Placement groups whose makers were killed, on a real Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.profiles import COORDINATOR_CPUS
from orchestrator.reclaim import abandoned_groups, abandoned_reclaimed
from orchestrator.tuning import ray_running

pytestmark = [pytest.mark.timeout(200), pytest.mark.long]


class Controller:
    """Reserves a place for a worker and starts it, or is killed before."""

    def reserve(self, cpus: float, with_worker: bool) -> tuple[str, int, Any]:
        group = placement_group([{"CPU": cpus}])
        ray.get(group.ready())
        where = PlacementGroupSchedulingStrategy(group)
        actor: Any = ray.remote(Controller)
        worker = actor.options(num_cpus=cpus, scheduling_strategy=where).remote() if with_worker else None
        if worker:
            ray.get(worker.ping.remote())
        return group.id.hex(), os.getpid(), worker

    def ping(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module")
def running() -> Iterator[None]:
    with ray_running(None, cpus=3):
        yield


def controller() -> Any:
    return ray.remote(Controller).options(num_cpus=0).remote()


def state(group: str) -> str:
    return str(placement_group_table()[group]["state"])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_what_killed_controllers_left_is_free_again_and_nothing_else(running: None) -> None:
    killed, living, tunes = controller(), controller(), controller()
    empty, pid, _ = ray.get(killed.reserve.remote(1.0, False))
    used, _, worker = ray.get(living.reserve.remote(1.0, True))
    coordinators, _, _ = ray.get(tunes.reserve.remote(COORDINATOR_CPUS, False))
    os.kill(pid, signal.SIGKILL)
    until(lambda: abandoned_groups() == {empty})
    assert state(empty) == "CREATED", "Ray frees it by itself now: this room can go"
    with abandoned_reclaimed(seconds=1.0):
        until(lambda: state(empty) == "REMOVED")
    assert (state(used), state(coordinators)) == ("CREATED", "CREATED")
    assert ray.get(worker.ping.remote()) > 0


def test_a_group_that_is_about_to_get_its_workers_is_left_alone(running: None) -> None:
    made = controller()
    group, _, _ = ray.get(made.reserve.remote(1.0, False))
    with abandoned_reclaimed(seconds=2.0):
        time.sleep(3.0)  # one look
    assert state(group) == "CREATED"
