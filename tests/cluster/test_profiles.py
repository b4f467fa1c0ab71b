from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.profiles import COORDINATOR_CPUS, PROFILES, Profile, choose_profile
from trainables.errors import ConfigError


@pytest.mark.parametrize(
    ("profile", "resources", "slots"),
    [
        # A slot takes its workers and a sliver for the coordinator: n cores hold n slots if slivers are on top.
        (Profile("p", cpus_per_worker=1), {"CPU": 4 + 4 * COORDINATOR_CPUS}, 4),
        (Profile("p", cpus_per_worker=1), {"CPU": 4}, 3),
        (Profile("p", cpus_per_worker=2), {"CPU": 9}, 4),
        (Profile("p", cpus_per_worker=1, workers_per_slot=2), {"CPU": 5}, 2),
        (Profile("p", cpus_per_worker=2, slots_per_gpu=1), {"CPU": 32, "GPU": 3}, 3),
        (Profile("p", cpus_per_worker=2, slots_per_gpu=4), {"CPU": 32, "GPU": 2}, 8),
        (Profile("p", cpus_per_worker=2, slots_per_gpu=4), {"CPU": 7, "GPU": 2}, 3),
        (Profile("p", cpus_per_worker=1, slots_per_gpu=2, workers_per_slot=2), {"CPU": 32, "GPU": 3}, 3),
    ],
)
def test_slots_are_those_that_fit(profile: Profile, resources: dict[str, float], slots: int) -> None:
    assert profile.slots(resources) == slots


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_no_resource_is_promised_twice(profile: Profile) -> None:
    for cpus in range(3, 40):
        for gpus in range(1, 5):
            slots = profile.slots({"CPU": cpus, "GPU": gpus})
            assert slots * (profile.workers_per_slot * profile.cpus_per_worker + COORDINATOR_CPUS) <= cpus
            assert slots * profile.workers_per_slot * profile.gpus_per_worker <= gpus


def test_gpu_is_shared_evenly() -> None:
    assert Profile("p", 1).gpus_per_worker == 0
    assert Profile("p", 1, slots_per_gpu=1).gpus_per_worker == 1
    assert Profile("p", 1, slots_per_gpu=4).gpus_per_worker == 0.25


def test_autoscaled_cluster_is_asked_for_all_its_slots() -> None:
    profile = Profile("p", cpus_per_worker=2, slots_per_gpu=4, max_slots=16)
    assert profile.slots({}) == 16
    assert profile.slots({"CPU": 1000, "GPU": 100}) == 16


@pytest.mark.parametrize(
    ("name", "resources", "words"),
    [
        ("cpu", {"CPU": 0.5}, "found 0.5 CPUs"),
        ("gpu", {"CPU": 8}, "found 8 CPUs and 0 GPUs"),
        ("gpu", {"CPU": 2, "GPU": 1}, "needs 2.01 CPUs and 1 GPUs"),
        ("gpu-shared", {}, "found 0 CPUs and 0 GPUs"),
    ],
)
def test_too_small_a_machine_is_told(name: str, resources: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PROFILES[name].slots(resources)


def test_slots_that_wait_for_machines_are_told() -> None:
    profile = choose_profile("gpu-shared,max_slots=8", {})
    waits = profile.waits_for_machines({"CPU": 16.0}, 8)
    assert waits is not None
    assert "needs 2.01 CPUs and 0.25 GPUs for one slot; found 16 CPUs and 0 GPUs" in waits
    waits = profile.waits_for_machines({"CPU": 16.0, "GPU": 1.0}, 8)
    assert waits == "4 of 8 slots have room now, 4 wait for machines to join"
    assert profile.waits_for_machines({"CPU": 16.0, "GPU": 1.0}, 4) is None, "no more trials are left than fit"
    assert profile.waits_for_machines({"CPU": 32.0, "GPU": 2.0}, 8) is None


def test_machine_alone_is_not_asked_for_slots_that_it_has_no_room_for() -> None:
    profile = choose_profile("gpu-shared,max_slots=64", {})
    assert profile.slots({"CPU": 16.0, "GPU": 1.0}, can_grow=False) == 4
    assert replace(profile, max_slots=2).slots({"CPU": 16.0, "GPU": 1.0}, can_grow=False) == 2
    with pytest.raises(ConfigError, match="found 16 CPUs and 0 GPUs"):
        profile.slots({"CPU": 16.0}, can_grow=False)


def test_auto_looks_for_a_gpu() -> None:
    assert choose_profile("auto", {"CPU": 2}).name == "cpu"
    assert choose_profile("auto", {"CPU": 8, "GPU": 0}).name == "cpu"
    assert choose_profile("auto", {"CPU": 8, "GPU": 1}).name == "gpu-shared"
    assert choose_profile("gpu", {"CPU": 8}).name == "gpu"


def test_unknown_profile_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'tpu'; expected auto or one of cpu, gpu, gpu-shared"):
        choose_profile("tpu", {})


def test_settings_behind_the_name_change_the_profile_and_no_other() -> None:
    found = choose_profile("gpu-shared, slots_per_gpu=8,max_slots=64,workers_per_slot=2", {})
    assert (found.slots_per_gpu, found.max_slots, found.workers_per_slot, found.cpus_per_worker) == (8, 64, 2, 2)
    assert found.gpus_per_worker == 1 / 8
    assert choose_profile("gpu-shared", {}).max_slots is None
    assert choose_profile("auto,max_slots=5", {"GPU": 1}) == choose_profile("gpu-shared,max_slots=5", {})
    assert choose_profile("cpu,memory_gb_per_worker=1.5", {}).memory_gb_per_worker == 1.5


@pytest.mark.parametrize(
    "word", ["max_slots=0", "max_slots=many", "max_slots", "max_slots=-3", "slots=3", "name=x", ""]
)
def test_a_wrong_setting_is_told(word: str) -> None:
    with pytest.raises(ConfigError, match="--profile holds"):
        choose_profile(f"gpu,{word}", {})


def test_slots_that_fit_a_gpu_are_asked_for_on_demand_alone() -> None:
    asked: list[int] = []

    def fit() -> int:
        asked.append(1)
        return 6

    assert choose_profile("gpu-shared", {"GPU": 1}, fit).slots_per_gpu == 4
    assert choose_profile("gpu-shared,slots_per_gpu=8", {"GPU": 1}, fit).slots_per_gpu == 8
    assert choose_profile("auto,slots_per_gpu=auto", {"CPU": 2}, fit) == PROFILES["cpu"]
    assert not asked
    found = choose_profile("auto, slots_per_gpu=auto,max_slots=9", {"GPU": 1}, fit)
    assert (found.slots_per_gpu, found.max_slots, asked) == (6, 9, [1])
    assert choose_profile("gpu-shared,slots_per_gpu=auto", {}).slots_per_gpu == 4, "nobody can say"
