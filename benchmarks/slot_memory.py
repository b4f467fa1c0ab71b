"""What a further slot takes of a machine's memory: the same sweep on one slot and on two.

    python -m benchmarks.slot_memory [--profile cpu]

While trials run, the memory of every process that the driver started is added up by kind: what a process has for
itself and its share of what several have mapped (PSS), such as torch's libraries and the stimuli. Prints both sweeps
and what lies between them. Linux only.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.sweeps import Driver
from trainables.data.demo import make_demo

KINDS = {
    "driver": r"sweep\.py run",
    "coordinator": r"ray::(ResourceTrainable|Slot)",
    "Train controller": r"ray::(TrainController|RayTrainController|.*[Cc]ontroller)",
    "mailbox": r"ray::Mailbox",
    "Train worker": r"ray::.*TrainWorker",
    "idle workers": r"ray::IDLE",
    "Ray itself": r".*",
}
SAMPLES = 8


def kind_of(title: str) -> str:
    """Which part of a sweep a process is."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, title))


def megabytes(pid: int) -> float:
    """Proportional set size of a process; 0 if it has just ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def measure(slots: int, data: Path, folder: Path, profile: str) -> tuple[Counter[str], Counter[str]]:
    """Largest sum of MB by kind, and processes by kind, while trials run on ``slots`` slots."""
    options = f"--data={data} --storage={folder} --name=slots{slots} --profile={profile},max_slots={slots}"
    small = "--subjects=1 --hemispheres=lh --rois=V1v --space=smoke --methods=contrastive --weights=random --trials=2"
    many = "--epochs=40 --batch-size=16 --cutoffs=features.5"
    largest: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    sweep = Driver(folder / f"{slots}.log", "run", *options.split(), *small.split(), *many.split())
    try:
        sweep.wait_until(lambda: len(sweep.workers()) == slots, "all slots had a worker")
        for _ in range(SAMPLES):
            time.sleep(3)
            here: Counter[str] = Counter()
            count: Counter[str] = Counter()
            for pid, title in {sweep.process.pid: "sweep.py run", **sweep.family()}.items():
                here[kind_of(title)] += megabytes(pid)  # type: ignore[assignment]
                count[kind_of(title)] += 1
            if sum(here.values()) > sum(largest.values()):
                largest, numbers = here, count
    finally:
        sweep.kill()
    return largest, numbers


def main() -> int:
    """One slot, two slots, the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="cpu")
    profile = parser.parse_args().profile
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ.setdefault("SWEEP_CACHE_DIR", str(folder / "cache"))
        data = make_demo(folder / "demo", subjects=1, stimuli=200)
        found = [measure(slots, data, folder, profile) for slots in (1, 2)]
    table = Table("MB (processes)", "one slot", "two slots", "a further slot", title=f"profile {profile}")
    for kind in KINDS:
        cells = [f"{memory[kind]:.0f} ({numbers[kind]})" for memory, numbers in found]
        table.add_row(kind, *cells, f"{found[1][0][kind] - found[0][0][kind]:.0f}")
    sums = [sum(memory.values()) for memory, _ in found]
    table.add_row("all", *(f"{value:.0f}" for value in sums), f"{sums[1] - sums[0]:.0f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
