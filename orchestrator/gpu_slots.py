"""``slots_per_gpu=auto``: how many slots share a GPU, from its memory and from what the largest trial takes of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.plan import SweepPlan
from trainables.config import TrialConfig
from trainables.data.dataset import Dataset
from trainables.data.responses import split_of
from trainables.target import Target
from trainables.tuning.memory import SubjectSize, trial_bytes

MARGIN = 1.15
"""Of a trial's closed form: what the allocator rounds up, and workspaces of convolutions."""
MOST = 16
"""Slots of one GPU: more would fight over its arithmetic."""
PATIENCE_SECONDS = 120.0
"""How long a node may take to say what GPUs it has; it imports torch for that."""


def slots_that_fit(gpu_bytes: int, largest_trial: int) -> int:
    """Slots of a GPU of ``gpu_bytes``, if each may run a trial of ``largest_trial`` bytes; one is always tried."""
    return max(1, min(MOST, int(gpu_bytes / (MARGIN * largest_trial))))


def largest_trial_bytes(plan: SweepPlan, dataset: Dataset) -> int:
    """Bytes that the largest trial of a plan takes of a GPU that multiplies bfloat16.

    Every layer cutoff of the target with the most voxels, of each method and number of subjects, in batches of the
    plan's size, the largest that ``--explore batch_size`` tries too. A squared error beside the objective is not
    counted: a trial that runs out of memory on its share is run again on a whole GPU.
    """
    largest: dict[tuple[str, int], list[SubjectSize]] = {}
    targets: dict[tuple[str, int], Target] = {}
    for key in plan.studies:
        sizes = [_size(plan, dataset, name, key.target) for name in key.target.subjects]
        kind = key.method, len(sizes)
        if kind not in largest or _voxels(sizes) > _voxels(largest[kind]):
            largest[kind], targets[kind] = sizes, key.target
    return max(
        trial_bytes(_config(plan, targets[method, n], method, cutoff), sizes).peak
        for (method, n), sizes in largest.items()
        for cutoff in plan.cutoffs
    )


def smallest_gpu_bytes() -> int | None:
    """Memory of the smallest GPU of the cluster that Ray is connected to; None if no node has one that says so.

    A task on every node with GPUs looks, without a share of any: it does not wait for slots that hold them.
    """
    found: list[int] = []
    for node in ray.nodes():
        if not (node["Alive"] and node["Resources"].get("GPU")):
            continue
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        # The process ends with its call: a context that it may have on the device goes with it.
        task: Any = ray.remote(max_calls=1)(gpu_bytes_here).options(num_cpus=0, scheduling_strategy=here, max_retries=0)
        try:
            found += ray.get(task.remote(), timeout=PATIENCE_SECONDS)
        except ray.exceptions.RayError:
            return None
    return min(found, default=None)


def gpu_bytes_here() -> list[int]:
    """Memory of each GPU of this machine, also of those that Ray hides from a task that asked for none."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    import torch

    return [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]


def _voxels(sizes: Iterable[SubjectSize]) -> int:
    return sum(size.n_voxels for size in sizes)


def _size(plan: SweepPlan, dataset: Dataset, name: str, target: Target) -> SubjectSize:
    subject = dataset.subject(name)
    split = split_of(subject, plan.protocol, plan.split_seed)
    n_voxels = subject.roi_sizes(target.hemisphere)[target.roi]
    return SubjectSize(n_voxels, len(subject.stimulus_ids), len(split.train), len(split.val))


def _config(plan: SweepPlan, target: Target, method: str, cutoff: str) -> TrialConfig:
    epochs = 0 if method == "untuned" else 1
    return TrialConfig(target, method, plan.backbone, cutoff, batch_size=plan.batch_size, epochs=epochs)
