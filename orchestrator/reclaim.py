"""Resources that Ray Train leaves reserved when its controller is killed.

The placement group of a worker group stays until the job ends. Ray Train's own remedy, an actor that removes the group
of a dead controller, knows it only once the workers have started, and gives up for good if Ray's list of actors does
not name the controller yet. Each group that stays takes a slot away; when all are taken, new slots wait for ever.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_actors, list_placement_groups

from cluster.profiles import COORDINATOR_CPUS

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
"""A group is removed if it stands empty at two looks: one that has just been made has no workers yet."""
FAILED_LOOKS = 6
"""So many in a row are told: what is not seen is not freed."""
MOST = 10_000
"""As many as Ray lists at once."""


@contextmanager
def abandoned_reclaimed(seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """Remove worker groups' placement groups that nobody uses any more, as long as the block runs."""
    left = threading.Event()
    watch = threading.Thread(target=_look, args=(left.wait, seconds), daemon=True)
    watch.start()
    try:
        yield
    finally:
        left.set()
        watch.join(seconds)  # a Ray that died may not answer its last question


def _look(wait: Callable[[float], bool], seconds: float) -> None:
    suspects: set[str] = set()
    failed = 0
    while not wait(seconds):
        try:
            found = abandoned_groups()
            for name in found & suspects:
                remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))
            suspects, failed = found - suspects, 0
        except Exception as error:  # noqa: BLE001 - Ray is busy or away, and the next look tells; a thread must not end
            failed += 1
            if failed == FAILED_LOOKS:
                log.warning("Ray does not say which slots' resources killed processes left reserved: %s", error)


def abandoned_groups() -> set[str]:
    """Ids of this job's worker groups' placement groups that hold resources and no actor.

    Raises:
        RayStateApiException: Ray's dashboard does not answer.
    """
    here = ray.get_runtime_context()
    job, address = here.get_job_id(), here.gcs_address  # named: there may be another Ray on this machine
    alive = list_actors(address, [("job_id", "=", job), ("state", "!=", "DEAD")], limit=MOST, detail=True)
    held: list[Any] = [("creator_job_id", "=", job), ("state", "=", "CREATED")]
    groups = list_placement_groups(address, held, limit=MOST, detail=True)
    used = {actor.placement_group_id for actor in alive}
    return {group.placement_group_id for group in groups if not _is_tunes(group)} - used


def _is_tunes(group: Any) -> bool:
    """Whether Tune reserved it for a slot's coordinator; Tune looks after its own."""
    return all(bundle["unit_resources"].get("CPU") == COORDINATOR_CPUS for bundle in group.bundles)
