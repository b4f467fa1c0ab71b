"""Distances between hundreds of networks: all pairs of a block of images at once, and one pair after another.

    python benchmarks/landscape.py [--models 300 --images 50000 --classes 1000 --measured 256]

Prints the ratio at a small size, where both ways run, and then what the full size takes: ``--measured`` images of it
are computed and the rest is extrapolated, since every image takes the same. Probabilities are made up block by block,
as they are read from files in earnest; the time of that is left out. Exits with 1 if the two ways differ or the first
is not the faster one.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from trainables.analyses.landscape import bhattacharyya_distances

SMALL = (64, 400, 200)
"""Networks, images and classes of the comparison."""
REPEATS = 5
"""Of the comparison; the quickest counts, so that another program's work does not."""


@dataclass
class MadeUpNetwork:
    """Class probabilities that follow from a seed, made when they are asked for."""

    seed: int
    shape: tuple[int, int]
    seconds: float = field(default=0.0)
    """Spent on making them up, which reading replaces."""

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Probabilities of the images from ``rows.start`` on."""
        started = time.perf_counter()
        generator = np.random.default_rng((self.seed, rows.start))
        weights = generator.standard_exponential((rows.stop - rows.start, self.shape[1]), dtype=np.float32) ** 4
        weights /= weights.sum(axis=1, keepdims=True)
        self.seconds += time.perf_counter() - started
        return weights


def make_up(m: int, n: int, c: int) -> list[MadeUpNetwork]:
    return [MadeUpNetwork(seed, (n, c)) for seed in range(m)]


def pair_by_pair(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The naive way: everything in memory, a product of two matrices of probabilities for each pair."""
    m = len(probabilities)
    distances = np.zeros((m, m))
    for u in range(m):
        for v in range(u):
            coefficients = np.sqrt(probabilities[u] * probabilities[v]).sum(axis=1)
            distances[u, v] = distances[v, u] = -np.log(coefficients).mean()
    return distances


def computing(networks: Sequence[MadeUpNetwork]) -> float:
    """Seconds that the distances take without making the probabilities up."""
    started = time.perf_counter()
    bhattacharyya_distances(networks)
    return time.perf_counter() - started - sum(network.seconds for network in networks)


def compare() -> tuple[float, float, float]:
    """Seconds of either way at the small size, and their largest difference."""
    whole = np.array([network[0 : SMALL[1]] for network in make_up(*SMALL)])
    double = whole.astype(np.float64)
    double /= double.sum(axis=2, keepdims=True)
    quickest = [np.inf, np.inf]
    for _ in range(REPEATS):
        started = time.perf_counter()
        distances = bhattacharyya_distances(whole)
        between = time.perf_counter()
        naive = pair_by_pair(double)
        ended = time.perf_counter()
        quickest = [min(quickest[0], between - started), min(quickest[1], ended - between)]
    return quickest[0], quickest[1], float(np.abs(distances - naive).max())


def peak_memory_gb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 30 if sys.platform == "darwin" else 1 << 20)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=300)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--measured", type=int, default=256)
    return parser.parse_args()


def main() -> int:
    """Compare at the small size, then measure a part of the full one."""
    chosen = options()
    m, n, c = chosen.models, chosen.images, chosen.classes
    table = Table(title="Bhattacharyya distances of all pairs of networks")
    for heading in ("networks x images x classes", "block by block", "pair by pair", "ratio"):
        table.add_column(heading, justify="right")

    computing(make_up(4, 8, 8))  # libraries start their threads
    seconds, naive_seconds, difference = compare()
    table.add_row(_size(*SMALL), f"{seconds:.2f} s", f"{naive_seconds:.2f} s", f"{naive_seconds / seconds:.1f}x")

    measured = min(chosen.measured, n)
    part_seconds = computing(make_up(m, measured, c))
    table.add_row(f"{_size(m, measured, c)}, measured", f"{part_seconds:.1f} s", "", "")
    scale = (m * (m - 1) * n * c) / (SMALL[0] * (SMALL[0] - 1) * SMALL[1] * SMALL[2])
    full, naive_full = part_seconds * n / measured, naive_seconds * scale
    table.add_row(
        f"{_size(m, n, c)}, extrapolated",
        f"{full / 60:.1f} min",
        f"{naive_full / 60:.0f} min",
        f"{naive_full / full:.0f}x",
    )
    table.add_row(
        "peak memory of that, with libraries", f"{peak_memory_gb():.1f} GB", f"{m * n * c * 8 / (1 << 30):.0f} GB", ""
    )
    Console().print(table)
    print(f"largest difference of the two ways: {difference:.1e}")
    return 0 if difference < 1e-12 and seconds < naive_seconds else 1


def _size(m: int, n: int, c: int) -> str:
    return f"{m} x {n} x {c}"


if __name__ == "__main__":
    sys.exit(main())
