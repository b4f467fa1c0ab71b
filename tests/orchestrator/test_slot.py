from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray._private.worker import get_dashboard_url
from upath import UPath

from orchestrator.mailbox import Mailbox
from orchestrator.slot import Slot, slot_with
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


TARGET = Target("demo", ("subj01",), "lh", "V1v")
UNTUNED = TrialConfig(TARGET, "untuned", layer_cutoff="features.5", epochs=0)
TUNED = TrialConfig(TARGET, "regression", layer_cutoff="features.2", epochs=2, batch_size=32, seed=3, score_epochs=(1,))


class OpenSlot(Slot):
    """A slot whose workers' settings can change."""

    def add_share(self, name: str, share: dict[str, Any]) -> None:
        self.shares[name] = share


class SlotAtWork:
    """A slot in an actor of its own, as Tune has it; the worker's group outlives trials, so all tests here share it."""

    def __init__(self, workspace: Workspace, folder: Path, trial: dict[str, Any]) -> None:
        self.folder = folder
        self._slot: dict[str, Any] = {"workspace": asdict(workspace), "workers": 1, "cpus": 1, "gpus": 0.0}
        self._slot["scratch"] = str(folder / "scratch")
        self._shares = 0
        slot = slot_with(OpenSlot, {"0": self._slot})
        self.actor: Any = ray.remote(num_cpus=0.01)(slot).remote({"share": "0", "trial": trial})
        self.worker = 0
        """Process id of the worker that gave the last answer."""
        self.first = self.step()

    def step(self) -> dict[str, Any]:
        answer = dict(ray.get(self.actor.step.remote(), timeout=200))
        if "details" in answer:
            self.worker = int(json.loads(answer["details"])["worker_pid"])
        return answer

    def take(self, trial: dict[str, Any], **workspace: Any) -> None:
        """Give it the next trial; a ``workspace`` that differs from the last one takes other workers."""
        if workspace:
            self._slot = {**self._slot, "workspace": {**self._slot["workspace"], **workspace}}
            self._shares += 1
            ray.get(self.actor.add_share.remote(str(self._shares), self._slot), timeout=60)
        assert ray.get(self.actor.reset_config.remote({"share": str(self._shares), "trial": trial}), timeout=60)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(load_weights("random"), path)
    return path


@pytest.fixture(scope="module")
def expected(weights: Path, demo_root: Path, cache_dir: Path) -> dict[str, list[float]]:
    """Validation scores by method, from the tuning loop in this process."""
    torch.set_num_threads(1)
    data, pretrained = load_target(open_algonauts(demo_root), TARGET, 0, cache_dir), load_weights(str(weights))
    return {
        config.method: [result.score.r for result in TrialRun(config, data, pretrained) if result.score]
        for config in (UNTUNED, TUNED)
    }


@pytest.fixture(scope="module")
def slot(
    shared_ray: None, weights: Path, demo_root: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlotAtWork]:
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
    folder = tmp_path_factory.mktemp("slot")
    started = SlotAtWork(workspace, folder, command(UNTUNED, folder / "first"))
    yield started
    ray.kill(started.actor)


@pytest.mark.long
class TestSlot:
    """Trial after trial in one slot; the last test ends its worker."""

    def test_a_slot_begins_with_a_trial(self, slot: SlotAtWork, expected: dict[str, list[float]]) -> None:
        assert (slot.first["epoch"], slot.first["done"]) == (0, True)
        assert slot.first["score"] == pytest.approx(expected["untuned"][0], abs=1e-4)

    def test_a_trial_that_cannot_start_fails_alone(self, slot: SlotAtWork) -> None:
        damaged = command(TUNED, slot.folder / "no")
        slot.take({**damaged, "config": {**damaged["config"], "surprise": 1}})
        failed = slot.step()
        assert (failed["done"], "score" in failed) == (True, False)
        assert "surprise" in failed["failed"]

    def test_the_next_trial_has_answers_of_its_own_from_the_same_worker(
        self, slot: SlotAtWork, expected: dict[str, list[float]]
    ) -> None:
        warm = slot.worker
        slot.take(command(TUNED, slot.folder / "tuned"))
        answers = [slot.step(), slot.step()]
        assert [(answer["epoch"], answer["done"]) for answer in answers] == [(1, False), (2, True)]
        assert [answer["score"] for answer in answers] == pytest.approx(expected["regression"], abs=1e-3)
        assert slot.worker == warm, "the worker did not stay warm"
        assert answers[1]["best_score"] == max(answer["score"] for answer in answers)
        assert TunedModel.load(UPath(slot.folder / "tuned")).layer_cutoff == "features.2"

    def test_weights_are_those_of_trials_that_end_and_beat_the_best(self, slot: SlotAtWork) -> None:
        slot.take(command(TUNED, slot.folder / "dropped"))
        assert slot.step()["epoch"] == 1
        slot.take(command(TUNED, slot.folder / "worse", score_to_beat=0.999))
        assert [slot.step()["epoch"], slot.step()["epoch"]] == [1, 2]
        assert not (slot.folder / "dropped").exists()
        assert not (slot.folder / "worse").exists()

    def test_a_trial_that_wants_other_workers_gets_new_ones(
        self, slot: SlotAtWork, expected: dict[str, list[float]]
    ) -> None:
        """As one does that ran out of memory on a share of a GPU."""
        former = slot.worker
        slot.take(command(UNTUNED, slot.folder / "alone"), threads=2)
        assert slot.step()["score"] == pytest.approx(expected["untuned"][0], abs=1e-4)
        assert slot.worker != former

    def test_a_dead_worker_raises_so_that_tune_starts_the_trial_elsewhere(self, slot: SlotAtWork) -> None:
        slot.take(command(TUNED, slot.folder / "killed"))
        os.kill(slot.worker, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(ray.exceptions.RayTaskError, match="worker group of this slot has ended"):
            slot.step()
        assert time.monotonic() - began < 60
