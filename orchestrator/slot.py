"""A slot: a Tune trainable that keeps a Ray Train worker group warm from trial to trial.

Starting a worker group takes seconds; taking the next trial takes a message. The slot's own actor only waits. It and
its workers talk through a mailbox actor, so that either side can die without the other hanging.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import Any

import ray
from ray import tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from orchestrator.mailbox import Mailbox
from trainables.tuning.worker import serve_trials

PATIENCE_SECONDS = 2.0
"""How long a slot waits for an answer before it looks whether its workers still live."""


class Slot(tune.Trainable):
    """Runs trials one after another on one worker group."""

    def setup(self, config: dict[str, Any]) -> None:
        """Start the worker group, then take the first trial."""
        self._start_group(config["slot"])
        self.reset_config(config)

    def _start_group(self, slot: dict[str, Any]) -> None:
        self.mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()
        self.slot = slot
        trainer = TorchTrainer(
            serve_trials,
            train_loop_config={"mailbox": self.mailbox, "workspace": slot["workspace"]},
            scaling_config=ScalingConfig(
                num_workers=slot["workers"], use_gpu=slot["gpus"] > 0, resources_per_worker=_resources(slot)
            ),
            run_config=RunConfig(name=f"slot-{uuid.uuid4().hex[:12]}", storage_path=slot["scratch"]),
        )
        self.ended: Exception | None = None
        self.group = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self.group.start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits for answers
            self.ended = error

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Send the next trial to the warm workers, in place of the one in hand; to new ones if it wants others."""
        if new_config["slot"] != self.slot:
            self.cleanup()
            self._start_group(new_config["slot"])
        ray.get(self.mailbox.send.remote({"do": "start", **new_config["trial"]}))
        return True

    def step(self) -> dict[str, Any]:
        """Advance the trial to its next validation score.

        Raises:
            RuntimeError: the worker group has died; Tune then runs the trial again in a new slot.
        """
        ray.get(self.mailbox.send.remote({"do": "step"}))
        while (answer := ray.get(self.mailbox.next_answer.remote(PATIENCE_SECONDS))) is None:
            if not self.group.is_alive():
                raise RuntimeError(f"the worker group of this slot has ended: {self.ended}")
        return dict(answer)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """A trial's place is in the ledger and in its snapshots; Tune has nothing to keep."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See `save_checkpoint`: the worker goes on from the trial's newest snapshot."""

    def cleanup(self) -> None:
        """Let the workers end, then the mailbox."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.mailbox.send.remote({"do": "end"}))
            self.group.join(20)
            ray.kill(self.mailbox)


def _resources(slot: dict[str, Any]) -> dict[str, float]:
    resources = {"CPU": float(slot["cpus"])}
    if slot["gpus"]:
        resources["GPU"] = slot["gpus"]
    return resources
