"""What a warm slot saves: the same trials in one warm slot and in a new slot each, side by side.

    python benchmarks/warm_slots.py [--trials 6]

Prints a table; exits with 1 if a second trial starts later than 0.5 s after the first one's end, or if the two ways of
working give different scores.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.profiles import PROFILES
from orchestrator.ledger import Ledger
from orchestrator.planning import SweepOptions, make_plan
from orchestrator.progress import SweepProgress
from orchestrator.records import TrialRecord
from orchestrator.storage import SweepStorage
from orchestrator.tuning import ray_running, run_trials
from trainables.data.demo import make_demo
from trainables.data.open import open_dataset
from trainables.models.weights import load_weights, save_weights

LIMIT_SECONDS = 0.5


def run_sweep(data: Path, folder: Path, name: str, trials: int, warm: bool) -> tuple[list[TrialRecord], float]:
    """Run ``trials`` short trials one after another; their records and the seconds of it all."""
    options = SweepOptions(
        data=str(data),
        name=name,
        storage=str(folder),
        subjects="1",
        hemispheres="lh",
        rois="V1v",
        methods="contrastive",
        space="smoke",
        trials=trials,
        epochs=1,
        batch_size=32,
        cutoffs="features.2",
    )
    storage = SweepStorage(options.storage, name)
    weights = load_weights("random")
    plan = make_plan(options, storage, open_dataset(data), weights)
    storage.create()
    save_weights(weights, storage.weights_file)
    ledger = Ledger(plan)
    ledger.open_studies()
    progress = SweepProgress(Console(quiet=True), plan, quiet=True)
    started = time.perf_counter()
    with ray_running(None, cpus=1):
        ready = time.perf_counter()
        run_trials(storage, ledger, PROFILES["cpu"], 1, progress, warm=warm)
        seconds = time.perf_counter() - ready
    print(f"{name}: Ray up in {ready - started:.1f} s, {trials} trials in {seconds:.1f} s")
    (key,) = plan.studies
    return ledger.study_records(key), seconds


def gaps(records: list[TrialRecord]) -> list[float]:
    """Seconds from each trial's end to the next one's start, as the worker's clock has them."""
    spans = sorted((r.details["worker_started"], r.details["worker_ended"]) for r in records)
    return [after[0] - before[1] for before, after in itertools.pairwise(spans)]


def main() -> int:
    """Run both ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as folder:
        data = make_demo(Path(folder) / "demo", subjects=1, stimuli=60)
        warm, warm_seconds = run_sweep(data, Path(folder), "warm", trials, warm=True)
        cold, cold_seconds = run_sweep(data, Path(folder), "cold", trials, warm=False)
    table = Table(title=f"{trials} trials in one slot, one after another")
    for heading in ("", "warm slot", "slot per trial", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    warm_gap, cold_gap = statistics.median(gaps(warm)), statistics.median(gaps(cold))
    table.add_row("median gap (s)", f"{warm_gap:.3f}", f"{cold_gap:.2f}", f"{cold_gap / warm_gap:.0f}x")
    table.add_row("largest gap (s)", f"{max(gaps(warm)):.3f}", f"{max(gaps(cold)):.2f}", "")
    table.add_row("all trials (s)", f"{warm_seconds:.1f}", f"{cold_seconds:.1f}", f"{cold_seconds / warm_seconds:.1f}x")
    Console().print(table)
    same = [r.value for r in warm] == [r.value for r in cold]
    print("scores are equal" if same else "SCORES DIFFER")
    return 0 if same and max(gaps(warm)) <= LIMIT_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
