"""How near a tuning step comes to what its device can do at most: arithmetic or memory, and which of the two limits.

    python -m benchmarks.roofline [--cutoffs features.5 output] [--batch-size 64] [--steps 2] [--rounds 2] [--compiled]

Counts a step's floating point operations (PyTorch's own counter, held against the shapes of the layers) and the bytes
that it has to move at least, measures the device's peaks in the same run (a product of two large matrices in the
precision that the backbone runs in, a copy of a large tensor), and times the loop that trials run on pictures of noise.
The roofline is the larger of both times. With ``--compiled`` the same steps run with `torch.compile` too (on CUDA also
as CUDA graphs), in turn, and the losses are compared without dropout. Exits with 1 if a count or a loss is off.
Without Ray; full size on a CUDA device: ``--batch-size 1024 --steps 9``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import TrialConfig
from trainables.models.hardware import choose_device, choose_precision
from trainables.models.weights import PretrainedWeights, load_weights
from trainables.tuning.loop import TrialRun
from trainables.tuning.speed import noise

MOST_DIFFERENCE = 0.01
"""Of counted operations from those of the layers' shapes, as a share: the loss is not in these."""
MOST_LOSS_DIFFERENCE = 1e-3
PEAK_SECONDS = 1.0
SWITCHED_ON = ["default", "reduce-overhead"]
"""Modes of `torch.compile`; the second makes CUDA graphs."""


@dataclass
class Counts:
    """What a step computes and moves."""

    flops: float = 0.0
    """A multiplication and an addition are two."""
    parameters: int = 0
    activations: float = 0.0
    """Elements of all layers' outputs, for the whole batch."""

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A forward hook of a layer without children."""
        if not (isinstance(module, nn.ReLU) and module.inplace) and not isinstance(module, nn.Flatten | nn.Dropout):
            self.activations += output.numel()
        if isinstance(module, nn.Conv2d):
            forward = 2 * output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            forward = 2 * output.numel() * module.in_features
        else:
            return
        # Backward: a product for the weights' gradient, one for the input's, which neither pictures nor responses need.
        self.flops += forward * (3 if inputs[0].requires_grad else 2)

    def least_bytes(self, of_activation: int) -> float:
        """Bytes that a step moves at least, each tensor read or written once where it is needed.

        Weights are read forward and backward, gradients written once; Adam reads weights, gradients and two moments and
        writes weights and moments: ten times the float32 parameters. An activation is written and read forward, read
        backward, its gradient written and read.
        """
        return 10 * 4 * self.parameters + 5 * of_activation * self.activations


def counted(run: TrialRun) -> tuple[Counts, float]:
    """Counts of one step by the layers' shapes, and its operations by PyTorch's counter."""
    counts = Counts(parameters=sum(p.numel() for part in (run.backbone, run.head) for p in part.parameters()))
    layers = [*run.backbone.modules(), *run.head.modules()]
    hooks = [layer.register_forward_hook(counts.see) for layer in layers if not any(layer.children())]
    with FlopCounterMode(display=False) as counter:
        next(run)
    for hook in hooks:
        hook.remove()
    return counts, float(counter.get_total_flops())


def peaks(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Operations and bytes per second that the device reaches."""
    n = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    large = torch.empty(2**28 if device.type == "cuda" else 2**26, device=device)
    copy = torch.empty_like(large)
    products = best_rate(device, lambda: one @ other)
    return 2 * n**3 * products, 2 * large.nbytes * best_rate(device, lambda: copy.copy_(large))


def best_rate(device: torch.device, action: Callable[[], object]) -> float:
    """Times per second, of the best of several."""
    seconds: list[float] = []
    ends = time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < ends or len(seconds) < 3:
        wait_for(device)
        started = time.perf_counter()
        action()
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return 1 / min(seconds)


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def started(asked: argparse.Namespace, weights: PretrainedWeights, cutoff: str, steps: int, mode: str = "") -> TrialRun:
    """A trial on noise; compiled if ``mode`` is one of `torch.compile`'s, and then without dropout."""
    data = noise(asked.batch_size * steps)
    config = TrialConfig(data.target, "contrastive", layer_cutoff=cutoff, batch_size=asked.batch_size, epochs=10**6)
    run = TrialRun(config, data, weights)
    if mode and mode != "eager":
        run.backbone.compile(mode=mode)
    return run


def without_dropout(run: TrialRun) -> TrialRun:
    """Compiled code draws other masks."""
    for module in run.backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return run


def tried(
    asked: argparse.Namespace, weights: PretrainedWeights, cutoff: str, modes: list[str]
) -> tuple[dict[str, float], dict[str, float], float]:
    """Pictures per second and seconds until ready by mode, and the largest difference of losses from the first mode's.

    All start from the same weights on the same batches; an epoch of each in turn.
    """
    runs = {mode: started(asked, weights, cutoff, asked.steps, mode) for mode in modes}
    if len(runs) > 1:
        runs = {mode: without_dropout(run) for mode, run in runs.items()}
    ready, rates, losses = {}, {mode: list[float]() for mode in modes}, {mode: list[float]() for mode in modes}
    for mode, run in runs.items():
        began = time.perf_counter()
        losses[mode].append(next(run).train_loss)  # an epoch ends with its loss on the host: the device is done
        ready[mode] = time.perf_counter() - began
    for _ in range(asked.rounds):
        for mode, run in runs.items():
            result = next(run)
            rates[mode].append(result.images_per_second)
            losses[mode].append(result.train_loss)
    first, *others = losses.values()
    apart = max((abs(a - b) for other in others for a, b in zip(first, other, strict=True)), default=0.0)
    return {mode: statistics.median(rate) for mode, rate in rates.items()}, ready, apart


def main() -> int:
    """Count, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cutoffs", nargs="+", default=["features.5", "features.12", "output"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=2, help="epochs that are timed")
    parser.add_argument("--compiled", action="store_true", help="torch.compile beside it")
    asked = parser.parse_args()
    device, weights = choose_device(), load_weights("random")
    dtype = choose_precision("auto", device)
    flops, bandwidth = peaks(device, dtype)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    title = (
        f"{name}, {str(dtype).removeprefix('torch.')}: {flops / 1e12:.3g} TFLOP/s, {bandwidth / 1e9:.3g} GB/s; "
        f"batches of {asked.batch_size}"
    )
    table = Table("cutoff", "GFLOP", "MB moved", "limit", "roofline", "here", "share", title=title)
    modes = [] if not asked.compiled else ["eager", *SWITCHED_ON[: 2 if device.type == "cuda" else 1]]
    for mode in modes[1:]:
        table.add_column(f"compiled, {mode} / eager")
    right = True
    for cutoff in asked.cutoffs:
        right &= add_row(table, asked, weights, cutoff, modes, (flops, bandwidth), dtype)
    for column in table.columns[1:]:
        column.justify = "right"
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print("GFLOP and MB: of one picture; roofline and here: pictures/s; behind compiled: seconds to get ready")
    return 0 if right else 1


def add_row(
    table: Table,
    asked: argparse.Namespace,
    weights: PretrainedWeights,
    cutoff: str,
    modes: list[str],
    reached: tuple[float, float],
    dtype: torch.dtype,
) -> bool:
    """One cutoff; whether counts and losses agree."""
    counts, flops = counted(started(asked, weights, cutoff, 1))
    moved = counts.least_bytes(dtype.itemsize)
    seconds = flops / reached[0], moved / reached[1]
    roof = asked.batch_size / max(seconds)
    rates, _, _ = tried(asked, weights, cutoff, ["eager"])
    cells, apart = [], 0.0
    if modes:
        compiled, ready, apart = tried(asked, weights, cutoff, modes)
        extra = {mode: ready[mode] - ready["eager"] for mode in modes[1:]}
        cells = [f"{compiled[mode] / compiled['eager']:.2f} ({late:.0f} s)" for mode, late in extra.items()]
    table.add_row(
        cutoff,
        f"{flops / asked.batch_size / 1e9:.2f}",
        f"{moved / asked.batch_size / 1e6:.1f}",
        "arithmetic" if seconds[0] >= seconds[1] else "memory",
        f"{roof:.0f}",
        f"{rates['eager']:.0f}",
        f"{100 * rates['eager'] / roof:.0f} %",
        *cells,
    )
    off = abs(flops / counts.flops - 1)
    if off > MOST_DIFFERENCE or apart > MOST_LOSS_DIFFERENCE:
        print(f"{cutoff}: operations are off by {100 * off:.1f} %, losses by {apart:.1e}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
