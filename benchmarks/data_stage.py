"""From image files to what slots share: the first decoding, later starts, and what a further slot's copy takes.

    python -m benchmarks.data_stage [--stimuli 400] [--processes 4] [--repeats 3]

Pictures of the size of the Natural Scenes Dataset's (425 pixels, PNG). Decoded here (all cores, once for a machine)
against one core decoding and resizing each, which is what every epoch of the published way costs, and against what the
cores could do if nothing but decoding took time. Then several processes open the subject at once, as slots do, read all
of it, and say what memory they have for themselves. Prints a table; exits with 1 if pixels differ from those that
Pillow gives one by one, or if more than one process decoded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from upath import UPath

from trainables.data.demo_pictures import picture
from trainables.data.stimuli import decode_stimuli

PIXELS, SIZE = 425, 224


def make_pictures(folder: Path, number: int) -> list[UPath]:
    """Demo pictures with some noise, so that their files have a photograph's size."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(number):
        image = np.asarray(Image.fromarray(picture(index + 1, 0)).resize((PIXELS, PIXELS)))
        noisy = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        path = folder / f"{index:05d}.png"
        Image.fromarray(noisy).save(path)
        paths.append(UPath(path))
    return paths


def one_by_one(paths: list[UPath]) -> NDArray[np.uint8]:
    """What a loader of the published way does with every picture in every epoch."""
    return np.stack(
        [
            np.asarray(Image.open(str(path)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
            for path in paths
        ]
    )


def own_megabytes() -> float:
    """Memory that this process alone has and cannot read again from a file."""
    rows = re.findall(r"^Private_Dirty:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return sum(map(int, rows)) / 1024


def _slot(paths: list[UPath], cache: Path, results: Any) -> None:
    before, decoded = own_megabytes(), 0

    def progress(done: int, total: int) -> None:
        nonlocal decoded
        decoded += done < total  # a process that finds everything done hears of the end alone

    started = time.perf_counter()
    stimuli = decode_stimuli(paths, cache, progress=progress)
    seconds = time.perf_counter() - started
    total = int(stimuli.sum(dtype=np.int64))
    results.put((seconds, decoded > 0, own_megabytes() - before, total))


def opened_at_once(paths: list[UPath], cache: Path, processes: int) -> list[tuple[float, bool, float, int]]:
    """Seconds, whether it decoded, MB of its own and the sum of the pixels, of each process."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    running = [context.Process(target=_slot, args=(paths, cache, results)) for _ in range(processes)]
    for process in running:
        process.start()
    found = [results.get() for _ in running]
    for process in running:
        process.join()
    return found


def main() -> int:
    """Decode in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stimuli", type=int, default=400)
    parser.add_argument("--processes", type=int, default=4, help="that open the subject at once")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    single, here = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "pictures").mkdir()
        paths = make_pictures(folder / "pictures", asked.stimuli)
        for repeat in range(asked.repeats):
            started = time.perf_counter()
            expected = one_by_one(paths)
            single.append(time.perf_counter() - started)
            started = time.perf_counter()
            stimuli = decode_stimuli(paths, folder / f"cache{repeat}")
            here.append(time.perf_counter() - started)
            same = np.array_equal(stimuli, expected)
        started = time.perf_counter()
        decode_stimuli(paths, folder / "cache0")
        again = time.perf_counter() - started
        slots = opened_at_once(paths, folder / "fresh", asked.processes)
    return conclude(asked, statistics.median(single), statistics.median(here), again, slots, same)


def conclude(
    asked: argparse.Namespace,
    single: float,
    here: float,
    again: float,
    slots: list[tuple[float, bool, float, int]],
    same: bool,
) -> int:
    """Print; 1 if something is not as promised."""
    cores = len(os.sched_getaffinity(0))
    n = asked.stimuli
    table = Table("", "", title=f"{n} PNG of {PIXELS} pixels to uint8 of {SIZE}, {cores} cores")
    table.add_row("one core, in every epoch of the published way", f"{n / single:.0f} pictures/s")
    table.add_row("here, the first time", f"{n / here:.0f} pictures/s, {single / here:.2f} times as many")
    table.add_row("share of what all cores could do", f"{100 * single / cores / here:.0f} %")
    table.add_row("opened again", f"{1000 * again:.0f} ms")
    table.add_row(f"{len(slots)} processes at once", f"decoded in {sum(decoded for _, decoded, _, _ in slots)}")
    own = statistics.median(megabytes for *_, megabytes, _ in slots)
    table.add_row("own memory of one for the subject", f"{own:.1f} of {n * SIZE * SIZE * 3 / 2**20:.0f} MB")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    wrong = []
    if not same:
        wrong.append("pixels differ from Pillow's")
    if sum(decoded for _, decoded, _, _ in slots) > 1 or len({total for *_, total in slots}) > 1:
        wrong.append("more than one process decoded, or they read different pixels")
    print("; ".join(wrong) or "the same pixels, decoded once")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
