"""A cluster of several nodes on this machine; one of them goes down while a sweep runs on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from orchestrator.opening import open_sweep
from orchestrator.records import TrialRecord
from tests.sweeps import driver

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]
TRIALS = 5
NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head on which no trial fits, as in cluster/gpu.yaml."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whatever Ray that ran in this process before has set
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": True})
    yield started
    started.shutdown()


def records(storage: Path) -> dict[int, TrialRecord]:
    if not (storage / "nodes/plan.json").exists():
        return {}
    _, ledger = open_sweep("nodes", str(storage))
    (key,) = ledger.plan.studies
    return {record.number: record for record in ledger.study_records(key)}


def ended(storage: Path) -> dict[int, TrialRecord]:
    return {number: record for number, record in records(storage).items() if record.state != "running"}


def command(cluster: Cluster, demo_root: Path, storage: Path, slots: int) -> list[str]:
    options = (
        "--subjects=1 --hemispheres=lh --rois=V1v --space=smoke --methods=contrastive --weights=random --name=nodes"
    )
    sizes = f"--cutoffs=features.2 --batch-size=16 --trials={TRIALS} --epochs=3"
    where = f"--address={cluster.address} --profile=cpu,cpus_per_worker=2,max_slots={slots}"
    return ["run", f"--data={demo_root}", f"--storage={storage}", *f"{options} {sizes} {where}".split()]


def test_a_sweep_uses_a_node_that_joins_and_survives_one_that_dies(
    cluster: Cluster, demo_root: Path, tmp_path: Path
) -> None:
    words = command(cluster, demo_root, tmp_path, slots=2)
    with driver(tmp_path / "driver.log", *words, settings=NO_TOKEN) as sweep:
        sweep.wait_until(lambda: bool(records(tmp_path)), "a slot waited for a node")
        first = cluster.add_node(num_cpus=2)
        sweep.wait_until(lambda: len(ended(tmp_path)) > 0, "a trial had ended")
        cluster.add_node(num_cpus=2)
        before = ended(tmp_path)
        cluster.remove_node(first, allow_graceful=False)
        code = sweep.wait()
    assert code == 0, sweep.log.read_text()
    after = records(tmp_path)
    assert sorted(after) == list(range(TRIALS))
    assert {record.state for record in after.values()} <= {"complete", "pruned"}
    assert before.items() <= after.items(), "what had ended stays as it was"


def head(cluster: Cluster) -> Any:
    """The head node; Ray declares it as None."""
    return cluster.head_node


def coordinators(cluster: Cluster) -> list[str]:
    """Nodes of the slots' coordinators."""
    alive = list_actors(cluster.address, [("state", "=", "ALIVE")], limit=1000, detail=True)
    return [str(actor.node_id) for actor in alive if "ResourceTrainable" in actor.class_name]


def test_coordinators_stay_on_the_head_though_a_worker_has_more_room(
    cluster: Cluster, demo_root: Path, tmp_path: Path
) -> None:
    large = cluster.add_node(num_cpus=4)
    words = command(cluster, demo_root, tmp_path, slots=2)
    with driver(tmp_path / "driver.log", *words, settings=NO_TOKEN) as sweep:
        sweep.wait_until(lambda: len(coordinators(cluster)) == 2 and len(sweep_workers(cluster)) == 2, "slots ran")
        assert set(coordinators(cluster)) == {head(cluster).node_id}
        assert set(sweep_workers(cluster)) == {large.node_id}, "two workers fill a machine of twice their cores"


def sweep_workers(cluster: Cluster) -> list[str]:
    """Nodes of the slots' workers."""
    alive = list_actors(cluster.address, [("state", "=", "ALIVE")], limit=1000, detail=True)
    return [str(actor.node_id) for actor in alive if actor.class_name == "RayTrainWorker"]


def test_driver_ends_when_the_raylet_of_its_machine_dies(cluster: Cluster, demo_root: Path, tmp_path: Path) -> None:
    words = command(cluster, demo_root, tmp_path, slots=1)
    with driver(tmp_path / "driver.log", *words, settings=NO_TOKEN) as sweep:
        cluster.add_node(num_cpus=2)
        sweep.wait_until(lambda: bool(records(tmp_path)), "a trial had begun")
        (raylet,) = head(cluster).all_processes["raylet"]
        os.kill(raylet.process.pid, signal.SIGKILL)
        assert sweep.wait(120) == 1, sweep.log.read_text()
    said = sweep.log.read_text()
    assert "has died" in said, said
    assert "resume" in said
