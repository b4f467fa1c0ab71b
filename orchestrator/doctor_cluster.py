"""The doctor's look at each node of a cluster."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from cluster.profiles import AUTO_SLOTS, choose_profile
from orchestrator.doctor import SKEW_SECONDS, Line, Needs, look_at_data, look_at_storage
from trainables.errors import CortexSweepError

PACKAGES = ("cortex-sweep", "ray", "torch", "torchvision", "optuna", "mlflow", "numpy")
FREE_GB = 20.0
"""Decoded stimuli of eight subjects take 12 GB on every node."""


def look_at_nodes(needs: Needs) -> Iterator[Line]:
    """Versions, devices, disks, clocks and the way to the data, on every node of the cluster, or on this machine."""
    mine = examine_node()
    address, profile = needs.address, needs.profile
    if address is None:
        yield from _node_lines("this machine", mine, mine, 0.0)
        return
    import ray

    from orchestrator.tuning import ray_running

    with ray_running(address) as resources:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        for node in nodes:
            yield from _ask(node, mine, needs)
        yield from _slot_lines(len(nodes), resources, profile)


def _slot_lines(nodes: int, resources: dict[str, float], profile: str) -> Iterator[Line]:
    chosen = choose_profile(profile, resources)
    slots = chosen.slots(resources)
    gpus = resources.get("GPU", 0)
    found = f"{nodes} nodes, {resources.get('CPU', 0):g} CPUs, {gpus:g} GPUs: {slots} slots ({profile})"
    yield Line("cluster", "ok", found)
    if AUTO_SLOTS in profile and chosen.slots_per_gpu:
        yield Line(
            "cluster", "note", f"{AUTO_SLOTS} is counted from the trials of a sweep; {slots} slots are for four a GPU"
        )
    if waits := chosen.waits_for_machines(resources, slots):
        again = "machines that have not joined were not looked at, so look again when one has (`ray status`)"
        yield Line("cluster", "note", f"{waits}; {again}")


def _ask(node: dict[str, Any], mine: dict[str, Any], needs: Needs) -> Iterator[Line]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = f"node {node['NodeManagerAddress']}"
    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    started = time.time()
    task = ray.remote(examine_node).options(num_cpus=0, scheduling_strategy=here, max_retries=0)
    try:
        found = ray.get(task.remote(needs), timeout=120)
    except ray.exceptions.RayError as error:
        yield Line(
            where, "wrong", f"does not run a task ({str(error).splitlines()[0]}); is this project installed there?"
        )
        return
    middle = (started + time.time()) / 2
    gpus = int(node["Resources"].get("GPU", 0))
    skew, unsure = found["time"] - middle, (time.time() - started) / 2
    yield from _node_lines(where, found, mine, skew if abs(skew) > SKEW_SECONDS + unsure else 0.0, gpus)


def examine_node(needs: Needs | None = None) -> dict[str, Any]:
    """What there is on the machine that this runs on, and what it lacks of ``needs``.

    The body of a Ray task without a share of any device.
    """
    from trainables.data.files import default_cache_dir

    folder = default_cache_dir()
    while not folder.exists():
        folder = folder.parent
    now = time.time()  # first: torch takes long to import
    return {
        "time": now,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "gpus": _gpus(),
        "free_gb": shutil.disk_usage(folder).free / 1e9,
        "cache": str(folder),
        "lacks": _lacks(needs) if needs else [],
    }


def _lacks(needs: Needs) -> list[str]:
    """What is wrong with data and storage, as this machine sees them: a worker's rights may not be the driver's."""
    lines: list[Line] = []
    for look in (look_at_data, look_at_storage):
        try:
            lines += look(needs)
        except (CortexSweepError, OSError) as error:
            lines.append(Line("", "wrong", str(error)))
    return [line.said for line in lines if line.state == "wrong"]


def _gpus() -> int:
    """GPUs of the machine, also those that Ray hides from a task that asked for none."""
    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    try:
        import torch

        return torch.cuda.device_count()
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden


def _node_lines(
    where: str, found: dict[str, Any], mine: dict[str, Any], skew: float, promised: int | None = None
) -> Iterator[Line]:
    wrong = []
    for name, ours in mine["versions"].items():
        if (theirs := found["versions"][name]) != ours:
            remedy = "give all nodes one Python" if name == "python" else "install constraints.txt on every node"
            wrong.append(f"{name} is {theirs} and {ours} here; {remedy}")
    if promised and found["gpus"] < promised:
        wrong.append(f"Ray has {promised} GPUs and torch sees {found['gpus']}; look at the driver (nvidia-smi)")
    if abs(skew) > SKEW_SECONDS:
        wrong.append(f"its clock is {skew:+.0f} s off; set it by a time server (chrony, ntp)")
    if found["free_gb"] < FREE_GB:
        wrong.append(
            f"{found['free_gb']:.0f} GB free in {found['cache']}, expected {FREE_GB:.0f}; free some, or set "
            "SWEEP_CACHE_DIR"
        )
    wrong += found["lacks"]
    yield from (Line(where, "wrong", said) for said in wrong)
    if not wrong:
        versions = found["versions"]
        yield Line(
            where,
            "ok",
            f"Python {versions['python']}, Ray {versions['ray']}, torch {versions['torch']}, {found['gpus']} GPUs, "
            f"{found['free_gb']:.0f} GB free",
        )
