"""What studies gain by taking over what their neighbours have found, on planted landscapes; and what it costs them.

    python -m benchmarks.neighbours [--subjects 8] [--trials 20] [--slots 16] [--seeds 4]

The search is the real one, with ledger and all; a trial's score follows from its temperature, layer cutoff and learning
rate and from its target's planted optimum, plus noise as large as that of training seeds. Optima of one ROI lie
``apart``: 0, the same in every subject and hemisphere; 1, nothing in common. Prints how far below its optimum the model
is that each study would choose, with and without neighbours, and after how many trials a study with neighbours has
what one without them has at the end. Nothing is pruned.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from orchestrator.ledger import Ledger
from orchestrator.search import StudySearch
from tests.orchestrator.plans import small_plan
from trainables.target import HEMISPHERES, Target

ROIS = ("V1v", "hV4")
CUTOFFS = ("features.2", "features.5", "features.7", "features.9", "features.12", "output")
APART = (0.0, 0.3, 0.6, 1.0)
STEEPNESS = 0.04
"""Score lost at a factor of ten from the best temperature or learning rate."""
CUTOFF_COSTS = (0.0, 0.004, 0.008, 0.012, 0.02, 0.03)
NOISE = 0.004


@dataclass(frozen=True)
class Landscape:
    """What scores follow from."""

    temperature: float
    """Logarithm of the best one; likewise:"""
    learning_rate: float
    costs: NDArray[np.float64]
    """Score lost by each cutoff."""

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Landscape:
        """One at random, its optimum within what is explored."""
        return cls(rng.uniform(-1.3, -0.2), rng.uniform(-4.7, -3.3), rng.permutation(CUTOFF_COSTS))

    def towards(self, other: Landscape, share: float) -> Landscape:
        """Between this one (0) and another (1)."""
        mine, theirs = (self.temperature, self.learning_rate), (other.temperature, other.learning_rate)
        temperature, rate = ((1 - share) * a + share * b for a, b in zip(mine, theirs, strict=True))
        return Landscape(temperature, rate, (1 - share) * self.costs + share * other.costs)

    def loss(self, config: dict[str, Any]) -> float:
        """How far below the optimum a trial lies, without noise."""
        far = (math.log10(config["temperature"]) - self.temperature) ** 2
        far += (math.log10(config["learning_rate"]) - self.learning_rate) ** 2
        return float(STEEPNESS * far + self.costs[CUTOFFS.index(config["layer_cutoff"])] - self.costs.min())


def run(asked: argparse.Namespace, neighbours: bool, apart: float, seed: int, folder: Path) -> NDArray[np.float64]:
    """Loss of the model that a study would choose after each of its trials, mean over studies: ``[n_trials]``."""
    rng = np.random.default_rng(seed)
    targets = tuple(
        Target("demo", (f"subj{subject:02d}",), hemisphere, roi)
        for roi in ROIS
        for subject in range(1, asked.subjects + 1)
        for hemisphere in HEMISPHERES
    )
    of_roi = {roi: Landscape.drawn(rng) for roi in ROIS}
    landscapes = {target: of_roi[target.roi].towards(Landscape.drawn(rng), apart) for target in targets}
    plan = small_plan(folder, targets=targets, trials=asked.trials, cutoffs=CUTOFFS, seed=seed, epochs=1)
    plan = replace(plan, space="full", roi_groups={roi: roi for roi in ROIS}, neighbours=neighbours)
    ledger = Ledger(plan)
    ledger.open_studies()
    losses: dict[Target, list[float]] = {target: [] for target in targets}
    best = dict.fromkeys(targets, -math.inf)
    search = StudySearch(ledger, lambda trial, *_: {"config": trial.config.to_dict()}, lambda _: None)
    running: dict[str, dict[str, Any]] = {}
    started = 0
    while True:
        while len(running) < asked.slots and search.due:
            running[f"trial-{started}"] = search.suggest(f"trial-{started}")["config"]
            started += 1
        if not running:
            break
        name = list(running)[int(rng.integers(0, min(4, len(running))))]  # trials do not take equally long
        config, target = running.pop(name), search.running[name].study.target
        loss = landscapes[target].loss(config)
        score = 0.3 - loss + rng.normal(0, NOISE)
        losses[target].append(loss if score > best[target] else losses[target][-1])
        best[target] = max(score, best[target])
        search.on_trial_complete(name, {"epoch": config["epochs"], "score": score, "best_score": score})
    mean: NDArray[np.float64] = np.mean(list(losses.values()), axis=0)
    return mean


def main() -> int:
    """With and without, at every distance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=8)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=4)
    asked = parser.parse_args()
    title = f"{2 * asked.subjects * len(ROIS)} studies of {asked.trials} trials, {asked.seeds} seeds; noise {NOISE}"
    table = Table(
        "optima apart", "", "below the optimum after 5", "10", f"{asked.trials} trials", "as good after", title=title
    )
    for apart in APART:
        means = {}
        for neighbours in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                places = [Path(folder) / str(seed) for seed in range(asked.seeds)]
                for place in places:
                    place.mkdir()
                means[neighbours] = np.mean(
                    [run(asked, neighbours, apart, seed, place) for seed, place in enumerate(places)], axis=0
                )
        enough = np.flatnonzero(means[True] <= means[False][-1])
        for neighbours, loss in means.items():
            cells = [f"{loss[n - 1]:.4f}" for n in (5, 10, asked.trials)]
            after = f"{enough[0] + 1} trials" if enough.size else "never"
            name = "with neighbours" if neighbours else "alone"
            table.add_row("" if neighbours else f"{apart:.1f}", name, *cells, after if neighbours else "")
        print(f"{apart} done", flush=True)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
