"""A slot: a Tune trainable that keeps a Ray Train worker group warm from trial to trial.

Starting a worker group takes seconds; taking the next trial takes a message. The slot's own actor only waits. It and
its workers talk through a mailbox actor, so that either side can die without the other hanging.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import Any, ClassVar

import ray
from ray import tune
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.mailbox import Mailbox
from orchestrator.storage import ray_storage
from trainables.tuning.worker import serve_trials

PATIENCE_SECONDS = 2.0
"""How long a slot waits for an answer before it looks whether its workers still live."""


def slot_with(slot: type[tune.Trainable], shares: dict[str, dict[str, Any]]) -> type[tune.Trainable]:
    """A slot that knows what a worker group is: that is written once, with the class, where Ray keeps its code.

    It holds the names of all targets, and Tune keeps several copies of every trial's configuration. In Ray's object
    store it would go with the raylet that it lies on, and the driver would end over the loss without a word.
    """
    return type(slot.__name__, (slot,), {"shares": shares})


class Slot(tune.Trainable):
    """Runs trials one after another on one worker group."""

    shares: ClassVar[dict[str, dict[str, Any]]] = {}
    """What a worker group is, by the share of a machine that a trial gets; see `slot_with`."""

    def setup(self, config: dict[str, Any]) -> None:
        """Start the worker group, then take the first trial.

        Args:
            config: the trial, and which share of a machine it gets.
        """
        self._start_group(config["share"])
        self.reset_config(config)

    def _start_group(self, share: str) -> None:
        slot = self.shares[share]
        # On the slot's own machine: one that goes takes workers along, not the slot's word to the others.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Mailbox)
        self.mailbox = actor.options(num_cpus=0, scheduling_strategy=here).remote()
        self.share = share
        trainer = _trainer_of(slot["workers"])(
            serve_trials,
            train_loop_config={"mailbox": self.mailbox, "workspace": slot["workspace"]},
            scaling_config=ScalingConfig(
                num_workers=slot["workers"], use_gpu=slot["gpus"] > 0, resources_per_worker=_resources(slot)
            ),
            run_config=RunConfig(
                name=f"slot-{uuid.uuid4().hex[:12]}",
                **ray_storage(slot["scratch"]),
                # A group that Ray Train started again would read the mailbox from its beginning.
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
            ),
        )
        self.ended: Exception | None = None
        self.group = threading.Thread(target=self._fit, args=(trainer,), daemon=True)
        self.group.start()

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - handed to the thread that waits for answers
            self.ended = error

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Send the next trial to the warm workers, in place of the one in hand; to new ones if it wants others."""
        if new_config["share"] != self.share:
            self.cleanup()
            self._start_group(new_config["share"])
        self.trial = new_config["trial"]
        self._send({"do": "start", **self.trial})
        return True

    def _send(self, command: dict[str, Any]) -> None:
        ray.get(self.mailbox.send.remote(command))

    def step(self) -> dict[str, Any]:
        """Advance the trial to its next validation score.

        Workers whose machine the cloud has taken away are started anew, elsewhere, and go on from the newest snapshot.

        Raises:
            RuntimeError: the worker group has died of something else; Tune then runs the trial again in a new slot.
        """
        self._send({"do": "step"})
        while (answer := ray.get(self.mailbox.next_answer.remote(PATIENCE_SECONDS))) is None:
            if self.group.is_alive():
                continue
            if not _taken_away(self.ended):
                raise RuntimeError(f"the worker group of this slot has ended: {self.ended}")
            ray.kill(self.mailbox)
            self._start_group(self.share)
            self._send({"do": "start", **self.trial})
            self._send({"do": "step"})
        return dict(answer)

    def cleanup(self) -> None:
        """Let the workers end, then the mailbox."""
        with contextlib.suppress(ray.exceptions.RayError):
            self._send({"do": "end"})
            self.group.join(20)
            ray.kill(self.mailbox)


def _trainer_of(workers: int) -> type[Any]:
    """Ray Train for workers that share batches out and need a process group; without torch for one that needs none.

    The slot's own process and the controller of its workers import what the trainer does. They only wait, every slot
    has both, and all of them live on a cluster's head.
    """
    if workers == 1:
        return DataParallelTrainer
    from ray.train.torch import TorchTrainer

    return TorchTrainer


def _taken_away(error: Exception | None) -> bool:
    """Whether a worker group ended because a machine was drained (`cluster.spot_watcher`) and went."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    # A worker that did not answer any more comes wrapped in the check that found it dead.
    deaths = [getattr(failure, "health_check_failure", failure) for failure in failures]
    return isinstance(error, PreemptionError) or any(getattr(death, "preempted", False) for death in deaths)


def _resources(slot: dict[str, Any]) -> dict[str, float]:
    resources = {"CPU": float(slot["cpus"])}
    if slot["gpus"]:
        resources["GPU"] = slot["gpus"]
    return resources
