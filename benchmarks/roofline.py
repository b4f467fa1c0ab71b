"""How near the tuning loop's step comes to what the device can do, what limits it, and what `torch.compile` would give.

    python -m benchmarks.roofline [--cutoffs features.2 output] [--batch-size 64 256] [--stimuli 7380] [--steps 5]

For every layer cutoff and batch size the loop's own step runs on noise. Its least time is that of its arithmetic at the
rate of large matrix products, in the types that the loop uses, or that of its bytes at the rate of a large copy
(`benchmarks.step_work` says what is counted), whichever is longer. In turn with it and with the device's rates runs the
same step with its loss compiled, from the same weights with the same random numbers; both batch sizes of an epoch are
compiled, and it `pays after` so many epochs of `--stimuli` training stimuli. `step GB` and `score GB` are the closed
form of a trial's memory on a CUDA device, context included; `peak GB` is what CUDA's allocator says, without it.
Exits with 1 if compiled losses are others. Runs without Ray on a CUDA device; full size there:
`--cutoffs features.2 features.5 features.7 features.9 features.12 classifier.2 output --batch-size 64 1024 --steps 20`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._inductor.utils import fresh_cache
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device_rates import Device, timed
from benchmarks.step_work import step_work
from trainables.config import TrialConfig
from trainables.data.responses import Partition
from trainables.models.hardware import choose_device, choose_precision
from trainables.models.weights import PretrainedWeights, load_weights
from trainables.tuning.loop import TrialRun
from trainables.tuning.memory import SubjectSize, trial_bytes
from trainables.tuning.speed import N_VOXELS, noise_of

COMPARED_STEPS = 3
MOST_DIFFERENCE = 1e-3
"""Relative, of losses: other kernels add in another order, and Adam divides by what is small."""


class CompiledRun(TrialRun):
    """A trial whose loss is compiled, forward and backward; data and optimiser are as they are."""

    mode = "default"
    _compiled: Callable[..., Tensor] | None = None

    def loss_of(self, images: Tensor, responses: Tensor, generator: torch.Generator, subject: int) -> Tensor:
        """As in `TrialRun`."""
        if self._compiled is None:
            # Two batch sizes are two programs: one for all sizes would be slower.
            self._compiled = torch.compile(super().loss_of, mode=self.mode, dynamic=False)
        torch.compiler.cudagraph_mark_step_begin()
        return self._compiled(images, responses, generator, subject)


class GraphedRun(CompiledRun):
    """Likewise, as CUDA graphs."""

    mode = "reduce-overhead"


@dataclass
class Side:
    """One way of making the step."""

    run: TrialRun
    compiling: float = 0.0
    """Seconds of the first steps, of both batch sizes, beyond those of steps that follow."""
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def step(side: Side, device: torch.device, n_stimuli: int, seed: int) -> float:
    """Seconds of one step; its loss is kept."""
    torch.manual_seed(seed)  # before each step, so that all sides drop the same features
    batch, generator = torch.arange(n_stimuli), torch.Generator().manual_seed(seed)
    losses: list[Tensor] = []
    seconds = timed(device, lambda: losses.append(side.run.step(batch, generator).clone()))
    side.losses.append(float(losses[0]))
    return seconds


def sides_in_turn(
    config: TrialConfig, weights: PretrainedWeights, asked: argparse.Namespace
) -> tuple[list[Side], Device]:
    """Eager, compiled and, on CUDA, as graphs: first steps of both sizes, then steps in turn, and the device's rates.

    Raises:
        RuntimeError: `torch.compile` does not work here.
    """
    torch._dynamo.reset()
    data, device = noise_of(config.batch_size), choose_device()
    rates: list[Device] = []
    kinds = [TrialRun, CompiledRun, GraphedRun] if device.type == "cuda" else [TrialRun, CompiledRun]
    sides = [Side(kind(config, data, weights, device=device)) for kind in kinds[: 1 if asked.eager else None]]
    rest = asked.stimuli % config.batch_size
    sizes = [config.batch_size] if rest < 2 else [config.batch_size, rest]
    with fresh_cache():
        for side in sides:
            side.run.backbone.train()
            side.run.head.train()
            side.compiling = sum(step(side, device, size, seed) for seed, size in enumerate(sizes))
        for seed in range(len(sizes), len(sizes) + asked.steps):
            rates.append(Device.measured())
            for side in sides:
                side.seconds.append(step(side, device, config.batch_size, seed))
    for side in sides:
        side.compiling -= statistics.median(side.seconds) * sum(sizes) / config.batch_size
    return sides, Device.median(rates)


def measured_peak(at: Device, config: TrialConfig, weights: PretrainedWeights, size: SubjectSize) -> int:
    """Bytes that the allocator held at most during a whole trial of two epochs, score included."""
    noise = noise_of(size.n_stimuli)
    train, val = (
        Partition(noise.train.stimuli, rows, noise.train.responses[rows], rows)
        for rows in np.split(noise.train.rows, [size.n_train, size.n_train + size.n_val])[:2]
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    list(TrialRun(replace(config, epochs=2), replace(noise, train=train, val=val), weights, device=at.device))
    return torch.cuda.max_memory_allocated()


def counted_flops(side: Side, n_stimuli: int) -> int:
    """As PyTorch counts them in a step, operator by operator."""
    with FlopCounterMode(display=False) as counter:
        side.run.step(torch.arange(n_stimuli), torch.Generator().manual_seed(0))
    return int(counter.get_total_flops())


def subject_of(n_train: int) -> SubjectSize:
    """75 % for training, 10 % for validation, the rest for the test."""
    n_val, n_test = round(n_train * 10 / 75), round(n_train * 15 / 75)
    return SubjectSize(N_VOXELS, n_train + n_val + n_test, n_train, n_val)


def against_eager(sides: list[Side], asked: argparse.Namespace, batch_size: int) -> list[str]:
    """Of each compiled side: speed over eager, compile time, when it pays, and a whole trial over eager."""
    eager = statistics.median(sides[0].seconds)
    cells = []
    for side in sides[1:]:
        seconds = statistics.median(side.seconds)
        gain = (eager - seconds) * asked.stimuli / batch_size
        pays = f"{side.compiling / gain:.1f}" if gain > 0 else "never"
        steps = asked.epochs * asked.stimuli / batch_size
        trial = steps * eager / (side.compiling + steps * seconds)
        cells += [f"{eager / seconds:.2f}", f"{side.compiling:.0f}", pays, f"{trial:.2f}"]
    return cells


def apart(sides: list[Side]) -> float:
    """The largest relative difference of a first loss from the eager one."""
    first = [torch.tensor(side.losses[:COMPARED_STEPS]) for side in sides]
    return max((float(((each - first[0]) / first[0]).abs().max()) for each in first[1:]), default=0.0)


def row(config: TrialConfig, weights: PretrainedWeights, asked: argparse.Namespace) -> tuple[list[str], float]:
    """Cells of one layer cutoff and batch size, and how far apart losses are."""
    sides, at = sides_in_turn(config, weights, asked)
    work = step_work(config, N_VOXELS, at.dtype)
    seconds, n_batch = statistics.median(sides[0].seconds), config.batch_size
    counted = counted_flops(sides[0], n_batch)
    least, limit = at.roofline(work)
    size = subject_of(asked.stimuli)
    closed = trial_bytes(config, [size], dtype=at.dtype)
    peaks = [f"{closed.tuning / 1e9:.1f}", f"{closed.validation / 1e9:.1f}"]
    compiled, difference = against_eager(sides, asked, n_batch), apart(sides)
    del sides
    if at.device.type == "cuda":
        peaks.append(f"{measured_peak(at, config, weights, size) / 1e9:.1f}")
    cells = [
        config.layer_cutoff,
        str(n_batch),
        f"{work.flops / 1e9:.1f}",
        f"{counted / work.flops:.4f}",
        f"{work.n_bytes / 1e9:.2f}",
        f"{at.flops / 1e9:.0f}",
        f"{at.bandwidth / 1e9:.1f}",
        f"{1000 * least:.4g}",
        limit,
        f"{n_batch / seconds:.0f}",
        f"{100 * least / seconds:.0f} %",
    ]
    return [*cells, *compiled, *peaks], difference


def table_for(asked: argparse.Namespace) -> Table:
    """Without rows."""
    device = choose_device()
    cuda, dtype = device.type == "cuda", choose_precision("auto", device)
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    table = Table(title=f"step of AlexNet in {dtype} on {name}", collapse_padding=True, padding=0)
    headings = [
        "cutoff",
        "batch",
        "GFLOP",
        "counted",
        "GB",
        "GFLOP/s",
        "GB/s",
        "least ms",
        "limit",
        "pictures/s",
        "reached",
    ]
    for mode in () if asked.eager else ("compiled", "graphs") if cuda else ("compiled",):
        headings += [f"{mode} / eager", "compile s", "pays after", f"{asked.epochs} epochs"]
    headings += ["step GB", "score GB", *(["peak GB"] if cuda else [])]
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("cutoff", "limit") else "right")
    return table


def main() -> int:
    """Measure the device, then row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cutoffs", nargs="+", default=["features.2", "features.5", "features.12", "output"])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[64])
    parser.add_argument("--stimuli", type=int, default=7380, help="of the training part, for epochs and memory")
    parser.add_argument("--epochs", type=int, default=30, help="of a whole trial")
    parser.add_argument("--steps", type=int, default=5, help="of each side, in turn")
    parser.add_argument("--eager", action="store_true", help="nothing is compiled")
    asked = parser.parse_args()
    torch._inductor.config.fallback_random = True  # the same random numbers as eager
    weights, target = load_weights("random"), noise_of(2).target
    table, largest = table_for(asked), 0.0
    for cutoff in asked.cutoffs:
        for batch_size in asked.batch_size:
            config = TrialConfig(target, "contrastive", "alexnet", cutoff, batch_size=batch_size)
            try:
                cells, difference = row(config, weights, asked)
            except RuntimeError as error:
                if asked.eager:
                    raise
                reason = str(error).strip().splitlines()[0]
                table.caption = f"torch.compile does not work here ({reason}): its columns are empty"
                asked.eager = True
                cells, difference = row(config, weights, asked)
                cells[11:11] = [""] * (len(table.columns) - len(cells))
            table.add_row(*cells)
            largest = max(largest, difference)
            print(f"{cutoff}, batches of {batch_size}: done", flush=True)
    Console(width=None if sys.stdout.isatty() else 170).print(table)
    print(
        f"losses of the first {COMPARED_STEPS} steps, compiled and eager, differ by {largest:.1e} of themselves at most"
    )
    return 1 if largest > MOST_DIFFERENCE else 0


if __name__ == "__main__":
    sys.exit(main())
