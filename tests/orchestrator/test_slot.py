from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray._private.worker import get_dashboard_url
from upath import UPath

from orchestrator.mailbox import Mailbox
from orchestrator.slot import Slot
from trainables.config import TrialConfig
from trainables.data.algonauts import open_algonauts
from trainables.data.responses import load_target
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import load_weights, save_weights
from trainables.target import Target
from trainables.tuning.bench import Workspace
from trainables.tuning.loop import TrialRun

pytestmark = pytest.mark.timeout(280)


def test_mailbox_keeps_commands_in_order_for_every_reader() -> None:
    async def scene() -> list[Any]:
        box = Mailbox()
        early = asyncio.create_task(box.command(1))  # asked before it is there
        await asyncio.sleep(0)
        for name in ("a", "b", "c"):
            await box.send({"do": name})
        late = [await box.command(index) for index in (0, 1, 2)]
        again = [await box.command(index) for index in (0, 1, 2)]
        return [await early, late, again]

    early, late, again = asyncio.run(scene())
    assert early == {"do": "b"}
    assert late == again == [{"do": "a"}, {"do": "b"}, {"do": "c"}]


def test_mailbox_hands_answers_over_once_and_in_order() -> None:
    async def scene() -> list[Any]:
        box = Mailbox()
        waiting = asyncio.create_task(box.next_answer(5))
        await asyncio.sleep(0)
        await box.answer({"epoch": 1})
        await box.answer({"epoch": 2})
        return [await waiting, await box.next_answer(5), await box.next_answer(0.01)]

    assert asyncio.run(scene()) == [{"epoch": 1}, {"epoch": 2}, None]


def test_answer_that_comes_after_the_patience_is_not_lost() -> None:
    async def scene() -> list[Any]:
        box = Mailbox()
        nothing = await box.next_answer(0.01)
        await box.answer({"epoch": 1})
        return [nothing, await box.next_answer(1)]

    assert asyncio.run(scene()) == [None, {"epoch": 1}]


def test_others_on_this_machine_cannot_run_code(shared_ray: None) -> None:
    """Loopback is everybody's on a machine that is shared: Ray asks for a token that its owner alone can read."""
    address = f"http://{get_dashboard_url()}/api/jobs/"
    job = urllib.request.Request(
        address, json.dumps({"entrypoint": "true"}).encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(job, timeout=30)
    assert refused.value.code in (401, 403)
    assert (Path.home() / ".ray/auth_token").stat().st_mode & 0o077 == 0


def command(config: TrialConfig, place: Path, score_to_beat: float = -1.0) -> dict[str, Any]:
    places = {"weights_dir": str(place), "snapshot_dir": f"{place}-snapshots"}
    return {"config": config.to_dict(), "score_to_beat": score_to_beat, **places}


def worker_of(answer: dict[str, Any]) -> int:
    return int(json.loads(answer["details"])["worker_pid"])


def test_slot_serves_trial_after_trial(shared_ray: None, demo_root: Path, cache_dir: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_weights(load_weights("random"), weights)
    target = Target("demo", ("subj01",), "lh", "V1v")
    workspace = Workspace(
        data=str(demo_root),
        weights=str(weights),
        backbone="alexnet",
        cache_dir=str(cache_dir),
        split_seed=0,
        protocol="nested",
        scores=("encoding",),
        transfer_targets=(),
        labelled="",
        threads=1,
        gpu_memory_fraction=0.0,
    )
    slot = {"workspace": asdict(workspace), "workers": 1, "cpus": 1, "gpus": 0.0, "scratch": str(tmp_path / "scratch")}
    untuned = TrialConfig(target, "untuned", layer_cutoff="features.5", epochs=0)
    tuned = TrialConfig(
        target, "regression", layer_cutoff="features.2", epochs=2, batch_size=32, seed=3, score_epochs=(1,)
    )
    damaged = command(tuned, tmp_path / "no")
    damaged["config"] = {**damaged["config"], "surprise": 1}

    torch.set_num_threads(1)
    data = load_target(open_algonauts(demo_root), target, 0, cache_dir)
    expected = {
        config.method: [r.score.r for r in TrialRun(config, data, load_weights(str(weights))) if r.score]
        for config in (untuned, tuned)
    }

    actor: Any = ray.remote(num_cpus=0.01)(Slot).remote({"slot": slot, "trial": command(untuned, tmp_path / "untuned")})

    def step() -> dict[str, Any]:
        return dict(ray.get(actor.step.remote(), timeout=200))

    def take(trial: dict[str, Any]) -> None:
        assert ray.get(actor.reset_config.remote({"slot": slot, "trial": trial}), timeout=60)

    first = step()
    assert (first["epoch"], first["done"]) == (0, True)
    assert first["score"] == pytest.approx(expected["untuned"][0], abs=1e-4)
    pid = worker_of(first)

    # A trial that cannot even start fails alone: the answers of the next one are its own.
    take(damaged)
    failed = step()
    assert (failed["done"], "score" in failed) == (True, False)
    assert "surprise" in failed["failed"]

    take(command(tuned, tmp_path / "tuned"))
    answers = [step(), step()]
    assert [(answer["epoch"], answer["done"]) for answer in answers] == [(1, False), (2, True)]
    assert [answer["score"] for answer in answers] == pytest.approx(expected["regression"], abs=1e-3)
    assert {worker_of(answer) for answer in answers} == {pid}, "the worker did not stay warm"
    assert answers[1]["best_score"] == max(answer["score"] for answer in answers)
    assert TunedModel.load(UPath(tmp_path / "tuned")).layer_cutoff == "features.2"

    # A trial is dropped for the next one; one that does not beat the best leaves no weights.
    take(command(tuned, tmp_path / "dropped"))
    assert step()["epoch"] == 1
    take(command(tuned, tmp_path / "worse", score_to_beat=0.999))
    assert [step()["epoch"], step()["epoch"]] == [1, 2]
    assert not (tmp_path / "dropped").exists()
    assert not (tmp_path / "worse").exists()

    # A trial that wants other workers gets new ones, as one does that ran out of memory on a share of a GPU.
    slot = {**slot, "workspace": {**asdict(workspace), "threads": 2}}
    take(command(untuned, tmp_path / "alone"))
    alone = step()
    assert alone["score"] == pytest.approx(expected["untuned"][0], abs=1e-4)
    assert worker_of(alone) != pid
    pid = worker_of(alone)

    # A dead worker is noticed, and raises, so that Tune starts the trial again elsewhere.
    take(command(tuned, tmp_path / "killed"))
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(ray.exceptions.RayTaskError, match="worker group of this slot has ended"):
        step()
    assert time.monotonic() - began < 60
    ray.kill(actor)
