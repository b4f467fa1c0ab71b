"""The Ray Train worker: a loop that stays up and runs trial after trial; the one room of the science that knows Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
import ray.train

if TYPE_CHECKING:
    from trainables.tuning.bench import TrialInHand


def serve_trials(channel: dict[str, Any]) -> None:
    """Ray Train's loop: take a command, do it, answer; until the command is to end.

    A trial's failure is answered and is the trial's alone. What leaves the device unusable ends the worker group, and
    the slot starts a new one.
    """
    # Here, because a slot's own processes name this function: without torch they are 300 MB smaller, and up sooner.
    import torch

    from trainables.tuning.bench import Bench, TrialInHand, Workspace, as_answer

    bench = Bench(Workspace(**channel["workspace"]), lambda: ray.train.get_preemption_info() is not None)
    speaks = ray.train.get_context().get_world_rank() == 0
    mailbox = channel["mailbox"]
    trial: TrialInHand | None = None
    waiting: dict[str, Any] = {}
    for index in range(2**62):
        command = ray.get(mailbox.command.remote(index))
        if command["do"] == "end":
            return
        if command["do"] == "start":
            trial, waiting = None, command  # frees the former trial's memory before the next one takes its own
            continue
        answer: dict[str, Any]
        try:
            # Made by its first step, not by its start: one answer to each step, or a slot reads another trial's.
            trial = trial or TrialInHand(bench, waiting)
            answer = trial.advance()
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - the other trials go on
            answer = {**as_answer(error), "done": True}
        if answer.get("failed") and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if speaks:
            ray.get(mailbox.answer.remote(answer))
