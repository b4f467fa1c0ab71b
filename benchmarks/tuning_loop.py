"""One trial's tuning, here and in the published way, side by side: pictures per second, and the same validation r.

    python -m benchmarks.tuning_loop [--stimuli 256] [--epochs 2] [--rounds 3] [--batch-size 64]

The published way decodes and resizes every picture in every epoch, in as many loader processes as there are cores
(`--loaders 0`: in the training process, as the released scripts did), in float32, and reads the loss at every step.
Both sides tune whole networks from the same weights with the same batches' size, in turn; each round has a seed of its
own. Prints a table; exits with 1 if the validation r of the two differ by more than their spread over seeds allows.
Runs on a CUDA device where there is one; full size there: `--stimuli 9841 --batch-size 1024 --epochs 3`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from benchmarks.published_way import PictureFiles, PublishedModel, tune_epoch
from trainables.config import TrialConfig
from trainables.data.demo import make_demo
from trainables.data.open import open_dataset
from trainables.data.responses import TargetData, load_target
from trainables.encoding.validation import score_readout_layers
from trainables.models.backbone import build_backbone
from trainables.models.weights import PretrainedWeights, load_weights
from trainables.target import Target
from trainables.tuning.loop import TrialRun

LEARNING_RATE = 1e-4
PUBLISHED_EPOCHS = 30


@dataclass
class Side:
    """What one way of working took and reached, round by round."""

    seconds: list[float] = field(default_factory=list)
    """Of an epoch; the first epoch of the first round is not counted."""
    r: list[float] = field(default_factory=list)
    """Validation r at the end of each round."""


def demo_of_full_size(folder: Path, n_stimuli: int) -> Path:
    """A demo set whose pictures have the size of those of the Natural Scenes Dataset."""
    for path in make_demo(folder, subjects=1, stimuli=n_stimuli).rglob("*.png"):
        Image.open(path).resize((425, 425)).save(path)
    return folder


def published_round(
    side: Side, asked: argparse.Namespace, files: list[Path], data: TargetData, weights: PretrainedWeights, seed: int
) -> None:
    """Tune for some epochs in the published way."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = PublishedModel(weights.state, data.n_voxels).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    pictures = PictureFiles([files[row] for row in data.train.rows], data.train.responses)
    loader = DataLoader(
        pictures, asked.batch_size, shuffle=True, num_workers=asked.loaders, persistent_workers=asked.loaders > 0
    )
    for _ in range(asked.epochs):
        started = time.perf_counter()
        tune_epoch(model, optimiser, loader, device)
        side.seconds.append(time.perf_counter() - started)
    tuned = build_backbone("alexnet", model.backbone.state_dict(), "output").to(device)
    side.r.append(score_readout_layers(tuned, data).r)


def own_round(side: Side, asked: argparse.Namespace, data: TargetData, weights: PretrainedWeights, seed: int) -> None:
    """Tune for as many epochs with the loop that trials run."""
    config = TrialConfig(
        data.target,
        "contrastive",
        learning_rate=LEARNING_RATE,
        batch_size=asked.batch_size,
        epochs=asked.epochs,
        seed=seed,
    )
    run = TrialRun(config, data, weights)
    side.seconds += [result.seconds for result in run]
    side.r.append(score_readout_layers(run.backbone, data).r)


def main() -> int:
    """Tune in turn, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stimuli", type=int, default=256, help="of the demo set's subject")
    parser.add_argument("--epochs", type=int, default=2, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--loaders", type=int, default=os.cpu_count(), help="processes that decode, published way")
    parser.add_argument("--weights", default="random")
    asked = parser.parse_args()
    published, own = Side(), Side()
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_dataset(demo_of_full_size(Path(folder) / "demo", asked.stimuli))
        started = time.perf_counter()
        data = load_target(dataset, Target("demo", ("subj01",), "lh", "V1v"), 0, Path(folder) / "cache")
        decoding = time.perf_counter() - started
        weights = load_weights(asked.weights)
        files = [Path(str(path)) for path in dataset.subject("subj01").image_paths]
        for seed in range(asked.rounds):
            published_round(published, asked, files, data, weights, seed)
            own_round(own, asked, data, weights, seed)
            print(f"round {seed + 1} of {asked.rounds} done", flush=True)
    return conclude(asked, published, own, decoding, len(data.train.rows))


def conclude(asked: argparse.Namespace, published: Side, own: Side, decoding: float, n_stimuli: int) -> int:
    """Print both sides; 1 if they do not reach the same."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    epochs = [statistics.median(side.seconds[1:]) for side in (published, own)]
    trials = [PUBLISHED_EPOCHS * epochs[0], decoding + PUBLISHED_EPOCHS * epochs[1]]
    table = Table(title=f"whole AlexNet, {n_stimuli} stimuli, batches of {asked.batch_size}, {device}")
    for heading in ("", "published way", "here", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("pictures/s", *(f"{n_stimuli / seconds:.0f}" for seconds in epochs), f"{epochs[0] / epochs[1]:.1f}")
    table.add_row(
        f"{PUBLISHED_EPOCHS} epochs, decoding once (s)", *(f"{s:.0f}" for s in trials), f"{trials[0] / trials[1]:.1f}"
    )
    means = [(statistics.mean(side.r), statistics.pstdev(side.r)) for side in (published, own)]
    table.add_row("validation r, mean ± sd over seeds", *(f"{mean:.4f} ± {sd:.4f}" for mean, sd in means), "")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    # Both drew other initial heads and other batches: three standard errors of the difference.
    allowed = 3 * float(np.hypot(means[0][1], means[1][1])) / max(1, asked.rounds - 1) ** 0.5
    apart = abs(means[0][0] - means[1][0])
    print(f"validation r differs by {apart:.4f}; the spread over seeds allows {allowed:.4f}")
    return 1 if asked.rounds > 1 and apart > allowed else 0


if __name__ == "__main__":
    sys.exit(main())
