"""A sweep on nodes that come, die and go: 0 -> n -> 0, and the same trials on one node and on several.

    python -m benchmarks.nodes [--trials 8]

Ray's own autoscaler with its fake provider, whose nodes are raylets on this machine; on the head no trial fits, as in
cluster/gpu.yaml. Slots that wait bring the nodes, one is killed with a trial on it, and when the sweep has ended they
go. Then the same sweep runs on this machine alone. Nodes have cores only: a worker that is given a GPU computes on it,
and a faked one cannot. Prints what happened when; exits with 1 if a trial was lost or differs, or if nodes did not come
or go.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it as it is imported.

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from rich.console import Console
from rich.table import Table

from orchestrator.opening import open_sweep
from orchestrator.records import TrialRecord
from tests.sweeps import Driver
from trainables.data.demo import make_demo

NODES = 2
PORT = 6391
WITH_TOKEN = {"RAY_AUTH_MODE": "token"}
IDLE_MINUTES = 0.25
EMPTY_LISTS = (
    "initialization_commands setup_commands head_setup_commands worker_setup_commands head_start_ray_commands "
    "worker_start_ray_commands rsync_exclude rsync_filter cluster_synced_files"
)
OPTIONS = "--subjects=1 --hemispheres=lh --rois=V1v --space=smoke --methods=contrastive --weights=random --epochs=3 "
OPTIONS += "--batch-size=16 --cutoffs=features.2,features.5"


def cluster_config(address: str) -> dict[str, object]:
    """What `ray up` would hand to the autoscaler, with nodes of two cores each."""
    here = {"disable_node_updaters": True, "disable_launch_config_check": True, "use_node_id_as_ip": True}
    return {
        "cluster_name": "nodes",
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            **here,
        },
        "max_workers": NODES,
        "upscaling_speed": 4.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            "ray.worker.default": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": NODES},
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        **{name: [] for name in EMPTY_LISTS.split()},
    }


class Head(Driver):
    """`ray start --head` with the autoscaler, in the foreground of a process of its own."""

    def __init__(self, folder: Path, address: str) -> None:
        self.log = folder / "head.log"
        self._known: set[int] = set()
        (folder / "cluster.json").write_text(json.dumps(cluster_config(address)))
        words = f"start --head --port={PORT} --num-cpus=1 --num-gpus=0 --dashboard-host=127.0.0.1 --block".split()
        line = [str(Path(sys.executable).with_name("ray")), *words, f"--autoscaling-config={folder / 'cluster.json'}"]
        settings = {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                line, env=os.environ | settings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def raylet(self, socket: str) -> int:
        """Process id of the node that has this socket."""
        (found,) = [
            pid for pid, title in self.family().items() if title.split()[0].endswith("raylet") and socket in title
        ]
        return found


class Story:
    """What happened, and when."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.lines: list[tuple[float, int, int, str]] = []
        self.wrong: list[str] = []

    def tell(self, nodes: int, ended: int, what: str) -> None:
        """Keep a line, and print it."""
        self.lines.append((time.monotonic() - self.started, nodes, ended, what))
        print(f"{self.lines[-1][0]:5.0f} s  {nodes} nodes, {ended} trials ended: {what}", flush=True)


def workers() -> list[dict[str, str]]:
    """Nodes that live, without the head."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU") != 1]


def records(name: str, folder: Path) -> dict[int, TrialRecord]:
    """The ledger's trials by number."""
    if not (folder / name / "plan.json").exists():
        return {}
    _, ledger = open_sweep(name, str(folder))
    return {record.number: record for key in ledger.plan.studies for record in ledger.study_records(key)}


def several_nodes(folder: Path, head: Head, command: list[str], story: Story) -> None:
    """The sweep on nodes that come, die and go."""

    def ended() -> int:
        return sum(record.state != "running" for record in records("several", folder).values())

    def until(condition: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not (held := condition()) and time.monotonic() < deadline:
            head.family()
            time.sleep(0.5)
        story.tell(len(workers()), ended(), what if held else f"NOT SEEN within {seconds:.0f} s: {what}")
        if not held:
            story.wrong.append(what)

    story.tell(len(workers()), 0, "the head is up")
    profile = f"--profile=cpu,cpus_per_worker=2,max_slots={NODES}"
    address = f"--address={ray.get_runtime_context().gcs_address}"
    sweep = Driver(folder / "several.log", *command, "--name=several", address, profile, settings=WITH_TOKEN)
    try:
        until(lambda: len(workers()) >= 1, "a slot that waits brings a node", 120)
        until(lambda: len(workers()) == NODES, "the second node has joined", 120)
        until(lambda: ended() >= 2, "trials have ended", 240)
        before = {n: record for n, record in records("several", folder).items() if record.state != "running"}
        os.kill(head.raylet(workers()[-1]["RayletSocketName"]), signal.SIGKILL)
        until(lambda: len(workers()) < NODES, "a node was killed", 60)
        until(lambda: sweep.process.poll() is not None, "the sweep has ended", 400)
    finally:
        if sweep.process.poll() is None:
            sweep.kill()
    if sweep.process.returncode != 0:
        story.wrong.append(f"the sweep ended with {sweep.process.returncode}: {sweep.log.read_text()[-2000:]}")
    after = records("several", folder)
    story.wrong += [f"trial {number} changed" for number, record in before.items() if after.get(number) != record]
    until(lambda: not workers(), "idle nodes have gone", 60 * IDLE_MINUTES + 240)


def main() -> int:
    """Several nodes, then one; compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as temporary:
        folder, story = Path(temporary), Story()
        os.environ.setdefault("SWEEP_CACHE_DIR", str(folder / "cache"))
        data = make_demo(folder / "demo", subjects=1, stimuli=80)
        command = ["run", f"--data={data}", f"--storage={folder}", f"--trials={trials}", *OPTIONS.split()]
        address = f"{ray.util.get_node_ip_address()}:{PORT}"
        head = Head(folder, address)
        try:
            head.wait_until(lambda: "block forever" in head.log.read_text(), "the head was up")
            time.sleep(5)  # An autoscaler that cannot read its file ends within this, and the head with it.
            if head.process.poll() is not None:
                raise SystemExit(f"the head ended: {head.log.read_text()[-3000:]}")
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            several_nodes(folder, head, command, story)
        finally:
            ray.shutdown()
            head.kill()
        alone = Driver(folder / "alone.log", *command, "--name=alone", "--profile=cpu,max_slots=2")
        if alone.wait(500) != 0:
            story.wrong.append(f"alone: {alone.log.read_text()[-2000:]}")
        compare(records("several", folder), records("alone", folder), trials, story)
    table = Table("s", "nodes", "trials ended", "what happened", title=f"{trials} trials, 0 -> {NODES} -> 0 nodes")
    for seconds, nodes, ended, what in story.lines:
        table.add_row(f"{seconds:.0f}", str(nodes), str(ended), what)
    Console().print(table)
    print("\n".join(story.wrong) or "nothing lost; the same trials on one node and on several")
    return 1 if story.wrong else 0


def compare(several: dict[int, TrialRecord], alone: dict[int, TrialRecord], trials: int, story: Story) -> None:
    """All trials are there, each once; those drawn before the search learns are the same, with the same scores.

    Later draws depend on which trials had ended by then, on one machine as on many.
    """
    for name, found in (("several", several), ("alone", alone)):
        states = {record.state for record in found.values()}
        if sorted(found) != list(range(trials)) or not states <= {"complete", "pruned"}:
            story.wrong.append(f"{name}: trials {sorted(found)}, states {states}")
    drawn = range(max(3, min(10, trials // 3)))
    for number in drawn:
        here, there = several[number], alone[number]
        same_score = here.state != there.state or math.isclose(here.value or 0, there.value or 0, abs_tol=1e-3)
        if here.config != there.config or not same_score:
            story.wrong.append(
                f"trial {number} on several nodes is {here.config} and scored {here.value}, on one {there.config} and "
                f"{there.value}"
            )
    story.tell(0, len(alone), f"the same sweep on this machine alone; {len(drawn)} trials compared")


if __name__ == "__main__":
    sys.exit(main())
