"""Slots from a GPU's memory, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.remote_function import RemoteFunction

from orchestrator import gpu_slots, launch
from orchestrator.gpu_slots import MOST, largest_trial_bytes, slots_that_fit, smallest_gpu_bytes
from tests.orchestrator.plans import small_plan
from trainables.data.algonauts import AlgonautsDataset
from trainables.target import Target

TARGET = Target("demo", ("subj01",), "lh", "V1v")
POOL = Target("demo", ("subj01", "subj02"), "lh", "V1v")


@pytest.mark.parametrize(
    ("gpu", "trial", "slots"),
    [(24, 12, 1), (80, 12, 5), (80, 10, 6), (8, 12, 1), (80, 0.5, MOST)],
)
def test_as_many_trials_as_fit_with_some_room_to_spare(gpu: float, trial: float, slots: int) -> None:
    assert slots_that_fit(int(gpu * 1e9), int(trial * 1e9)) == slots


def test_the_largest_trial_is_looked_for_over_cutoffs_and_methods(tmp_path: Path, demo: AlgonautsDataset) -> None:
    shallow = small_plan(tmp_path, targets=(TARGET,), cutoffs=("features.2",))
    deep = small_plan(tmp_path, targets=(TARGET,), cutoffs=("features.2", "output"))
    pooled = small_plan(tmp_path, targets=(TARGET, POOL), methods=("contrastive", "pooled-avg"), cutoffs=("output",))
    sizes = [largest_trial_bytes(plan, demo) for plan in (shallow, deep, pooled)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2]
    untuned = small_plan(tmp_path, targets=(TARGET,), methods=("untuned",), trials=1, cutoffs=("output",))
    assert largest_trial_bytes(untuned, demo) < sizes[1]


def node(name: str, gpus: float, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name.ljust(56, "0"), "Alive": alive, "Resources": {"CPU": 8.0, "GPU": gpus}}


def ray_with(monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, Any]], answers: list[Any]) -> None:
    """Tasks whose answers are known; Ray looks at their options as ever."""

    def get(answer: Any, timeout: float) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(RemoteFunction, "_remote", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr(ray, "get", get)


def test_the_smallest_gpu_of_all_nodes_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("a", 2), node("b", 0), node("c", 1, alive=False), node("d", 1)]
    ray_with(monkeypatch, nodes, [[80, 80], [24]])
    assert smallest_gpu_bytes() == 24
    ray_with(monkeypatch, [node("b", 0)], [])
    assert smallest_gpu_bytes() is None
    ray_with(monkeypatch, [node("a", 2)], [ray.exceptions.GetTimeoutError("late")])
    assert smallest_gpu_bytes() is None


def test_a_sweep_keeps_four_where_no_gpu_says_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as in a task that asked for none
    monkeypatch.setattr(launch, "smallest_gpu_bytes", lambda: None)
    assert launch._slots_that_fit(small_plan(tmp_path)) is None
    assert gpu_slots.gpu_bytes_here() == [] or gpu_slots.gpu_bytes_here()[0] > 0
