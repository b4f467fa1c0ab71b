"""Faults caused for real: a machine that goes down, a worker that dies, Ctrl-C, a batch system's SIGTERM."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.sweeps import Driver, Watched, assert_went_on, driver
from trainables.models.weights import load_weights

pytestmark = [pytest.mark.timeout(590), pytest.mark.long]


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the convolutional layers."""
    path = tmp_path_factory.mktemp("weights") / "conv.safetensors"
    state = load_weights("random").state
    save_file({name: tensor for name, tensor in state.items() if name.startswith("features.")}, path)
    return path


@pytest.fixture
def command(demo_root: Path, weights_file: Path, tmp_path: Path) -> list[str]:
    """Trials of a shallow network that take some seconds each."""
    options = "--subjects=1 --hemispheres=lh --rois=V1v --cutoffs=features.2 --batch-size=16 --name=hurt"
    return ["run", f"--data={demo_root}", f"--weights={weights_file}", f"--storage={tmp_path}", *options.split()]


def assert_whole(sweep_of: Watched) -> None:
    """Every trial of the plan ended well, once, and MLflow says so."""
    ledger = sweep_of.ledger
    assert ledger.trials_left() == 0
    for key, budget in ledger.plan.studies.items():
        records = ledger.study_records(key)
        assert [record.number for record in records] == list(range(budget))
        assert {record.state for record in records} <= {"complete", "pruned"}, [record.error for record in records]
        (best,) = ledger.best(key)
        folder = sweep_of.storage / "hurt/trials/subj01-lh-V1v" / key.method
        assert [place.name for place in folder.iterdir()] == [f"{best.number:05d}"]
    assert sweep_of.statuses() == dict.fromkeys(sweep_of.records(), "FINISHED")


def terminate(run: Driver, hurt: Watched) -> None:
    """Send the driver what a batch system sends it while a trial runs."""
    run.wait_until(lambda: bool(run.workers() and hurt.midway()), "a trial was midway")
    run.process.send_signal(signal.SIGTERM)
    code = run.wait(120)
    said = run.log.read_text()
    assert code == 130, said
    assert f"sweep.py resume hurt --storage {hurt.storage}" in said.replace("--storage=", "--storage ")
    assert "Traceback" not in said
    running = {uid for uid, record in hurt.records().items() if record.state == "running"}
    assert running
    statuses = hurt.statuses()
    assert {uid for uid, status in statuses.items() if status == "KILLED"} == running
    assert set(statuses.values()) <= {"KILLED", "FINISHED"}


def test_batch_systems_signal_ends_a_sweep_like_ctrl_c(command: list[str], tmp_path: Path) -> None:
    hurt = Watched(tmp_path, "hurt")
    with driver(tmp_path / "run.log", *command, "--methods=contrastive", "--trials=1", "--epochs=15") as run:
        terminate(run, hurt)


def test_signal_to_every_process_is_no_error_and_loses_nothing(command: list[str], tmp_path: Path) -> None:
    hurt = Watched(tmp_path, "hurt")
    with driver(tmp_path / "run.log", *command, "--methods=untuned,contrastive", "--trials=1", "--epochs=15") as run:
        run.wait_until(lambda: bool(run.workers() and hurt.midway()), "a trial was midway")
        os.killpg(run.process.pid, signal.SIGTERM)  # as `timeout` does
        assert run.wait(120) == 130, run.log.read_text()
    said = run.log.read_text()
    assert "nterrupted" in said
    assert "resume" in said
    assert "error" not in said.lower(), said
    interrupted = hurt.records()
    with driver(*hurt.resume("last.log")) as run:
        assert run.wait() == 0, run.log.read_text()
    assert_went_on(interrupted, hurt.records())
    assert_whole(hurt)


def test_sweep_survives_the_death_of_its_machine_and_of_a_worker(command: list[str], tmp_path: Path) -> None:
    hurt = Watched(tmp_path, "hurt")
    with driver(tmp_path / "run.log", *command, "--methods=untuned,contrastive", "--trials=3", "--epochs=18") as run:
        run.wait_until(lambda: bool(hurt.ended() and hurt.midway()), "a trial had ended and one was midway")
        run.kill()
    killed = hurt.records()
    with driver(*hurt.resume("resume.log")) as run:
        run.wait_until(lambda: bool(hurt.midway() and run.workers()), "a trial was midway again")
        os.kill(run.workers()[0], signal.SIGKILL)
        assert run.wait() == 0, run.log.read_text()
    assert_went_on(killed, hurt.records())
    assert_whole(hurt)


@pytest.mark.parametrize("part", ["ray::ResourceTrainable", "ray::TrainController", "ray::Mailbox"])
def test_sweep_outlives_the_death_of_a_part_of_a_slot(part: str, command: list[str], tmp_path: Path) -> None:
    hurt = Watched(tmp_path, "hurt")
    with driver(tmp_path / "run.log", *command, "--methods=contrastive", "--trials=2", "--epochs=15") as run:
        run.wait_until(lambda: bool(run.workers() and hurt.midway()), "a trial was midway")
        pid, *_ = [pid for pid, title in run.family().items() if title.startswith(part)]
        os.kill(pid, signal.SIGKILL)
        assert run.wait() == 0, run.log.read_text()
    assert_whole(hurt)


def test_disk_that_fills_up_stops_the_sweep_and_loses_nothing(command: list[str], tmp_path: Path) -> None:
    hurt = Watched(tmp_path, "hurt")
    with driver(tmp_path / "run.log", *command, "--methods=untuned,contrastive", "--trials=2", "--epochs=15") as run:
        run.wait_until(lambda: bool(hurt.ended() and hurt.midway()), "a trial had ended and one was midway")
        # What a full disk is to the ledger: the driver, and nothing else, can make no file longer than this one is.
        full = (tmp_path / "hurt/ledger.journal").stat().st_size
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (full, full))
        assert run.wait(200) == 1, run.log.read_text()
    said = run.log.read_text()
    assert "ledger.journal" in said, said
    assert ("Traceback" in said, said.count("Error:")) == (False, 1), said
    full_up = hurt.records()
    with driver(*hurt.resume("last.log")) as run:
        assert run.wait() == 0, run.log.read_text()
    assert_went_on(full_up, hurt.records())
    assert_whole(hurt)


@pytest.mark.parametrize("part", ["raylet/raylet", "gcs_server"])
def test_driver_whose_ray_dies_ends_and_loses_nothing(part: str, command: list[str], tmp_path: Path) -> None:
    hurt = Watched(tmp_path, "hurt")
    with driver(tmp_path / "run.log", *command, "--methods=contrastive", "--trials=1", "--epochs=15") as run:
        run.wait_until(lambda: bool(run.workers() and hurt.midway()), "a trial was midway")
        (pid,) = [pid for pid, title in run.family().items() if f"/{part} " in title]
        os.kill(pid, signal.SIGKILL)
        assert run.wait(120) == 1, run.log.read_text()
        left = [title for title in run.family().values() if "raylet" in title or "gcs_server" in title]
    assert left == []
    said = run.log.read_text()
    assert "has died" in said, said
    killed = hurt.records()
    with driver(*hurt.resume("last.log")) as run:
        assert run.wait() == 0, run.log.read_text()
    assert_went_on(killed, hurt.records())
    assert_whole(hurt)
