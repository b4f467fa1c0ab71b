"""Several trials of one target on one device: in turn, as slots beside each other, or fused into one process.

    python -m benchmarks.fused [--models 2 4] [--batch-size 32] [--batches 3] [--cutoff output] [--rounds 3]

Fused, the parameters of K models are stacked, `torch.func.vmap` makes grouped convolutions of theirs, and one optimiser
step serves all. In turn, each model has the device to itself. As slots, each model has a process; on a CPU they
divide its threads. All three do the same steps from the same weights on the same pictures, at K temperatures and
learning rates. Prints pictures times models per second and the memory of the training process, in turn so that the
machine's moods hit all alike; exits with 1 if a fused model's loss is another than that of the model alone.
Runs without Ray on a CUDA device; full size there: `--models 2 4 8 16 --batch-size 1024 --batches 20`.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, replace_all_batch_norm_modules_, stack_module_state, vmap
from torch.nn import functional

from trainables.models.backbone import OUTPUT, backbone_spec, build_backbone
from trainables.models.hardware import autocast, choose_device, choose_precision
from trainables.models.heads import ContrastiveHead
from trainables.models.weights import load_weights

N_VOXELS = 300
BETAS, EPSILON = (0.9, 0.999), 1e-8
MOST_DIFFERENCE = 1e-3
"""Of losses of about 4: grouped convolutions add in another order."""


@dataclass(frozen=True)
class Work:
    """What is trained on what."""

    cutoff: str
    batches: list[tuple[Tensor, Tensor]]
    """Pictures, normalised, and responses."""
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, asked: argparse.Namespace) -> Work:
        """Random pictures and responses: only time is looked at."""
        device = choose_device()
        size = backbone_spec("alexnet").image_size
        generator = torch.Generator().manual_seed(0)
        batches = []
        for _ in range(asked.batches):
            images = torch.randn(asked.batch_size, 3, size, size, generator=generator)
            responses = torch.randn(asked.batch_size, N_VOXELS, generator=generator)
            batches.append((images.to(device, memory_format=torch.channels_last), responses.to(device)))
        return cls(asked.cutoff, batches, device, choose_precision("auto", device))


class Model(nn.Module):
    """A backbone and its contrastive head."""

    def __init__(self, work: Work, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = build_backbone("alexnet", load_weights("random").state, work.cutoff)
        self.head = ContrastiveHead(self.backbone.n_features, N_VOXELS)
        # Running statistics are written in place, which vmap refuses; tuning does not read them.
        replace_all_batch_norm_modules_(self)
        self.work = work
        self.to(work.device)

    def forward(self, images: Tensor, responses: Tensor, temperature: Tensor) -> Tensor:
        """InfoNCE in both directions."""
        with autocast(self.work.device, self.work.dtype):
            features = self.backbone(images)
        of_responses, of_images = self.head(responses, self.head.project_images(features))
        similarity = functional.normalize(of_responses, dim=1) @ functional.normalize(of_images, dim=1).T / temperature
        right = torch.arange(len(images), device=images.device)
        return (functional.cross_entropy(similarity, right) + functional.cross_entropy(similarity.T, right)) / 2


def settings(n_models: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Temperatures and learning rates, ``[n_models]`` each."""
    return torch.logspace(-1, 0, n_models, device=device), torch.logspace(-5, -4, n_models, device=device)


def without_dropout(model: nn.Module) -> nn.Module:
    """For the comparison of losses: no two ways draw the same masks."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def alone(work: Work, model: nn.Module, temperature: Tensor, learning_rate: float) -> list[float]:
    """Tune one model; losses by batch."""
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    losses = []
    for images, responses in work.batches:
        loss = model(images, responses, temperature)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


class Fused:
    """K models as one: stacked parameters, Adam with a learning rate for each."""

    def __init__(self, work: Work, models: list[nn.Module]) -> None:
        self.work = work
        self.skeleton = models[0]
        self.parameters: dict[str, Tensor] = {
            name: tensor.detach() for name, tensor in stack_module_state(models)[0].items()
        }
        self.temperatures, self.learning_rates = settings(len(models), work.device)
        self.moments = [[torch.zeros_like(tensor) for tensor in self.parameters.values()] for _ in BETAS]
        self.steps = 0
        self.gradients: Callable[..., Any] = vmap(
            grad_and_value(self._loss), in_dims=(0, 0, None, None), randomness="different"
        )

    def _loss(self, parameters: dict[str, Tensor], temperature: Tensor, images: Tensor, responses: Tensor) -> Tensor:
        loss: Tensor = functional_call(self.skeleton, parameters, (images, responses, temperature))
        return loss

    def tune(self) -> list[list[float]]:
        """Losses by batch and model."""
        losses = []
        for images, responses in self.work.batches:
            gradients, loss = self.gradients(self.parameters, self.temperatures, images, responses)
            self._step([gradients[name] for name in self.parameters])
            losses.append(loss.detach())
        return torch.stack(losses).tolist()

    def _step(self, gradients: list[Tensor]) -> None:
        self.steps += 1
        mean, square = self.moments
        torch._foreach_lerp_(mean, gradients, 1 - BETAS[0])
        torch._foreach_mul_(square, BETAS[1])
        torch._foreach_addcmul_(square, gradients, gradients, 1 - BETAS[1])
        scale = torch._foreach_sqrt(square)
        torch._foreach_div_(scale, (1 - BETAS[1] ** self.steps) ** 0.5)
        torch._foreach_add_(scale, EPSILON)
        rate = self.learning_rates / (1 - BETAS[0] ** self.steps)
        for tensor, first, second in zip(self.parameters.values(), mean, scale, strict=True):
            tensor.sub_(first / second * rate.view(-1, *[1] * (tensor.ndim - 1)))


def compare_losses(work: Work, n_models: int) -> float:
    """The largest difference between a model's losses fused and alone."""
    models = [without_dropout(Model(work, seed)) for seed in range(n_models)]
    fused = torch.tensor(Fused(work, models).tune())
    temperatures, rates = settings(n_models, work.device)
    each = [alone(work, model, t, float(r)) for model, t, r in zip(models, temperatures, rates, strict=True)]
    return float((fused.T - torch.tensor(each)).abs().max())


def seconds_in_turn(work: Work, n_models: int) -> float:
    """Of one pass with each model, one after the other."""
    temperatures, rates = settings(n_models, work.device)
    seconds = 0.0
    for number in range(n_models):
        model = Model(work, number)
        alone(work, model, temperatures[number], float(rates[number]))  # the first steps allocate
        seconds += timed(work, lambda: alone(work, model, temperatures[number], float(rates[number])))  # noqa: B023
    return seconds


def seconds_fused(work: Work, n_models: int) -> float:
    """Of one pass with all models at once."""
    fused = Fused(work, [Model(work, number) for number in range(n_models)])
    fused.tune()
    return timed(work, fused.tune)


def timed(work: Work, action: Callable[[], object]) -> float:
    """Seconds of the action, device included."""
    started = time.perf_counter()
    action()
    if work.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _slot(number: int, asked: argparse.Namespace, n_models: int, ready: Barrier, results: Any) -> None:
    torch.set_num_threads(max(1, asked.threads // n_models))
    work = Work.of(asked)
    temperatures, rates = settings(n_models, work.device)
    model = Model(work, number)
    alone(work, model, temperatures[number], float(rates[number]))
    ready.wait()
    started = time.time()
    timed(work, lambda: alone(work, model, temperatures[number], float(rates[number])))
    results.put((started, time.time()))


def seconds_as_slots(asked: argparse.Namespace, n_models: int) -> float:
    """Of one pass with each model in a process of its own, all at once; from the first start to the last end."""
    context = torch.multiprocessing.get_context("spawn")
    ready, results = context.Barrier(n_models), context.Queue()
    processes = [
        context.Process(target=_slot, args=(number, asked, n_models, ready, results)) for number in range(n_models)
    ]
    for process in processes:
        process.start()
    spans = [results.get() for _ in processes]
    for process in processes:
        process.join()
    seconds: float = max(end for _, end in spans) - min(start for start, _ in spans)
    return seconds


def main() -> int:
    """Compare losses, then time; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--cutoff", default=OUTPUT)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    asked.threads = torch.get_num_threads()
    work = Work.of(asked)
    apart = 0.0
    title = f"AlexNet up to {asked.cutoff}, batches of {asked.batch_size}, {work.device}, {asked.threads} threads"
    table = Table(title=f"pictures × models per second: {title}")
    for heading in ("models", "in turn", "slots", "fused", "slots / in turn", "fused / in turn"):
        table.add_column(heading, justify="right")
    for n_models in asked.models:
        apart = max(apart, compare_losses(work, n_models))
        seconds: dict[str, list[float]] = {"turn": [], "slots": [], "fused": []}
        for _ in range(asked.rounds):
            seconds["turn"].append(seconds_in_turn(work, n_models))
            seconds["slots"].append(seconds_as_slots(asked, n_models))
            seconds["fused"].append(seconds_fused(work, n_models))
        pictures = n_models * asked.batch_size * asked.batches
        speeds = {side: pictures / statistics.median(values) for side, values in seconds.items()}
        shown = [f"{speed:.1f}" for speed in speeds.values()]
        shown += [f"{speeds[side] / speeds['turn']:.2f}" for side in ("slots", "fused")]
        table.add_row(str(n_models), *shown)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    if work.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1024**3
    print(f"largest difference of a loss: {apart:.1e}; memory of the training process at most {peak:.1f} GB")
    return 1 if apart > MOST_DIFFERENCE else 0


if __name__ == "__main__":
    sys.exit(main())
