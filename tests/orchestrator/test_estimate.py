"""What a dry run counts, against a count by hand; and that it makes nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import estimate
from orchestrator.estimate import PRICES, count_work, estimate_and_print, machine_named
from orchestrator.planning import SweepOptions
from tests.orchestrator.plans import small_plan
from trainables.data.algonauts import AlgonautsDataset
from trainables.data.splits import nested_split
from trainables.errors import ConfigError
from trainables.models.weights import load_weights
from trainables.target import Target
from trainables.tuning.speed import Speed, measure_speed

TARGET = Target("demo", ("subj01",), "lh", "V1v")
OTHER = Target("demo", ("subj02",), "lh", "V1v")
POOL = Target("demo", ("subj01", "subj02"), "lh", "V1v")


def sizes(demo: AlgonautsDataset, *names: str) -> tuple[int, int]:
    splits = [nested_split(demo.subject(name).stimulus_ids) for name in names]
    return sum(len(split.train) for split in splits), sum(len(split.val) for split in splits)


def test_pictures_are_counted_as_the_ladder_of_rungs_says(tmp_path: Path, demo: AlgonautsDataset) -> None:
    plan = small_plan(tmp_path, targets=(TARGET,), methods=("untuned", "contrastive"), trials=5, epochs=9)
    plan = replace(plan, grace_epochs=3, reduction_factor=3)  # rungs after 3 epochs, the end after 9
    train, val = sizes(demo, "subj01")
    work = count_work(plan, demo)
    assert (work.targets, work.studies, work.trials) == (1, 2, 6)
    assert work.tuned == (5 * (3 + 6 // 3) * train, 5 * 9 * train)
    assert work.read == (round((1 + 5 * (1 + 1 / 3)) * (train + val)), (1 + 5 * 2) * (train + val))


def test_pooled_networks_see_every_subjects_pictures_and_two_aims_prune_nothing(
    tmp_path: Path, demo: AlgonautsDataset
) -> None:
    plan = small_plan(tmp_path, targets=(TARGET, OTHER, POOL), methods=("pooled-avg",), trials=2, epochs=4)
    train, _ = sizes(demo, "subj01", "subj02")
    assert count_work(plan, demo).tuned[1] == 2 * 4 * train
    both = replace(plan, scores=("encoding", "transfer"), optimise=("encoding", "transfer"), methods=("contrastive",))
    work = count_work(both, demo)
    assert work.tuned[0] == work.tuned[1] == 2 * 4 * train


def options(demo_root: Path, tmp_path: Path, profile: str = "auto") -> SweepOptions:
    given = SweepOptions(
        data=str(demo_root),
        name="dry",
        storage=str(tmp_path / "results"),
        rois="V1v",
        weights="random",
        trials=2,
        epochs=3,
        batch_size=16,
        cutoffs="features.2",
        hemispheres="lh",
    )
    return replace(given, profile=profile)


def test_dry_run_says_hours_and_cost_and_makes_nothing(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(demo_root, tmp_path, profile="gpu-shared")
    estimate_and_print(asked, "g6.2xlarge", 50.0, as_json=True)
    found = json.loads(capsys.readouterr().out)
    seconds = [tuned / 50 + read / 150 for tuned, read in zip(found["tuned"], found["read"], strict=True)]
    assert found["slot_hours"] == pytest.approx([value / 3600 for value in seconds])
    assert found["slots_per_machine"] == 4
    assert found["gpu_hours"] == pytest.approx([value / 3600 / 4 for value in seconds])
    price = machine_named("g6.2xlarge").usd_per_hour
    assert found["usd"] == pytest.approx([hours * price for hours in found["gpu_hours"]])
    estimate_and_print(asked, "g6.2xlarge", 50.0, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{found['trials']} trials in {found['studies']} studies of {found['targets']} targets" in said
    assert "US dollars on demand" in said
    assert not (tmp_path / "results").exists()


def test_a_clusters_head_is_paid_for_too(demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = options(demo_root, tmp_path, profile="gpu-shared,max_slots=64")
    estimate_and_print(asked, "g6.2xlarge", 50.0, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["machines"], found["head"]) == (16, "r7i.4xlarge"), "as many as cluster/gpu.yaml has at most"
    hourly = machine_named("g6.2xlarge").usd_per_hour + machine_named("r7i.4xlarge").usd_per_hour / 16
    assert found["usd"] == pytest.approx([hours * hourly for hours in found["gpu_hours"]])
    estimate_and_print(asked, "g6.2xlarge", 50.0, as_json=False)
    assert "minutes on 16 machines g6.2xlarge and its head r7i.4xlarge" in " ".join(capsys.readouterr().out.split())


def test_slots_are_counted_from_the_memory_of_the_machine(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = options(demo_root, tmp_path, profile="gpu-shared,slots_per_gpu=auto")
    for trial, slots in ((12.0, 1), (6.0, 3)):
        monkeypatch.setattr(estimate, "largest_trial_bytes", lambda *_, size=trial: int(size * 1e9))
        estimate_and_print(asked, "g6.2xlarge", 50.0, as_json=True)
        assert json.loads(capsys.readouterr().out)["slots_per_machine"] == slots
    with pytest.raises(ConfigError, match="no gpu_memory_gb for 'r7i.4xlarge'"):
        estimate_and_print(asked, "r7i.4xlarge", 50.0, as_json=True)


def test_every_machine_of_the_clusters_files_has_a_price() -> None:
    for name in ("gpu.yaml", "gcp.yaml"):
        for found in re.findall(r"(?:InstanceType|machineType): ([\w.-]+)", (PRICES.parent / name).read_text()):
            machine = machine_named(found)
            assert machine.usd_per_hour > 0
            assert (machine.gpu_memory_gb > 0) == (machine.gpus > 0)
            assert machine.head is None or machine_named(machine.head).gpus == 0


def test_without_a_machine_the_speed_is_measured_here(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(estimate, "measure_speed", lambda *_, **__: Speed(10.0, 40.0))
    estimate_and_print(options(demo_root, tmp_path), None, None, as_json=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "at 10 and 40 pictures a second" in said
    assert "Nothing was started" in said


def test_nobody_guesses_the_speed_of_another_machine(demo_root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --throughput"):
        estimate_and_print(options(demo_root, tmp_path), "g6.2xlarge", None, as_json=False)
    with pytest.raises(ConfigError, match="'toaster'; cluster/prices.toml has g6.2xlarge"):
        machine_named("toaster")


def test_speed_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.tuning.speed.SECONDS", 0.2)
    speed = measure_speed(load_weights("random"), "features.2", 8, device="cpu")
    assert 0 < speed.tuning < speed.reading
