"""How many trials a driver can serve: stub trials of all targets on many slots, ledger and MLflow beside.

    python -m benchmarks.orchestration [--trials 10000] [--targets 350] [--slots 64] [--seconds 1.0] [--keep FOLDER]

Search, pruning, ledger, progress and projection to MLflow are the real ones; a slot sleeps instead of training, at one
validation score a trial. Prints a table: trials per second, how long slots idle, the driver's memory, and how long
MLflow's server takes for the lists that people look at when all runs are there. Exits with 1 if a trial is missing or
counted twice, in the ledger or in MLflow.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from ray import tune
from rich.console import Console
from rich.table import Table

from cluster.profiles import Profile
from orchestrator import tuning
from orchestrator.ledger import Ledger
from orchestrator.plan import SweepPlan
from orchestrator.planning import SweepOptions, make_plan
from orchestrator.progress import SweepProgress
from orchestrator.storage import SweepStorage
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.projector import Projector
from trainables.data.demo import make_demo
from trainables.data.open import open_dataset
from trainables.models.weights import load_weights, save_weights
from trainables.target import Target

SUBJECTS = 8
LAYERS = [f"features.{number}" for number in (2, 5, 7, 9, 12)] + [f"classifier.{number}" for number in (2, 5, 6)]
STUB_SECONDS = "STUB_SECONDS"


class StubSlot(tune.Trainable):
    """A slot that sleeps, and answers with as much as a real one."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first trial."""
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial."""
        self.started = time.time()
        self.trial = new_config["trial"]["config"]
        return True

    def step(self) -> dict[str, Any]:
        """Sleep; the score follows from the parameters."""
        time.sleep(float(os.environ[STUB_SECONDS]))
        score = 0.4 - abs(math.log10(self.trial["learning_rate"]) + 4) / 10 - abs(self.trial["temperature"] - 0.3) / 10
        history = [{"epoch": e, "train_loss": 5.0, "seconds": 1.0, "score_seconds": 0.1} for e in range(1, 31)]
        details = {
            "best_epoch": 30,
            "readout_layer": LAYERS[3],
            "r_by_layer": dict.fromkeys(LAYERS, score),
            "images_per_second": 100.0,
            "history": history,
            "weights": None,
            "worker_started": self.started,
            "worker_ended": time.time(),
            "worker_pid": os.getpid(),
        }
        best = {"epoch": self.trial["epochs"], "score": score, "best_score": score, "done": True}
        return {**best, "details": json.dumps(details)}


@dataclass
class Watch:
    """The driver's memory, looked at once a second."""

    progress: SweepProgress
    rss: list[tuple[int, float]] = field(default_factory=list)
    """Trials that had ended, MB."""

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look until left."""
        left = threading.Event()

        def look() -> None:
            while not left.wait(1.0):
                (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmRSS"))
                self.rss.append((self.progress.ended, int(line.split()[1]) / 1024))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            left.set()
            thread.join()

    def growth(self) -> float:
        """KB that a trial adds, by the line through all looks after the first quarter of the trials."""
        looks = [look for look in self.rss if look[0] > self.rss[-1][0] / 4]
        ended, memory = [look[0] for look in looks], [look[1] for look in looks]
        if len(set(ended)) < 2:  # a run of a moment
            return math.nan
        return float(np.polyfit(ended, memory, 1)[0]) * 1024


def plan_of(asked: argparse.Namespace, folder: Path) -> tuple[SweepStorage, SweepPlan]:
    """A sweep over as many targets as asked, of subjects that nobody scanned."""
    data = make_demo(folder / "demo", subjects=1, stimuli=20)
    trials = math.ceil(asked.trials / asked.targets)
    options = SweepOptions(
        data=str(data), name="stubs", storage=str(folder), methods="contrastive", trials=trials, epochs=30, rois="V1v"
    )
    storage, weights = SweepStorage(options.storage, options.name), load_weights("random")
    plan = make_plan(options, storage, open_dataset(data), weights)
    storage.create()
    save_weights(weights, storage.weights_file)
    targets = tuple(
        Target("demo", (f"subj{1 + number % SUBJECTS:02d}",), ("lh", "rh")[number // SUBJECTS % 2], f"R{number // 16}")
        for number in range(asked.targets)
    )
    return storage, replace(plan, targets=targets, roi_groups={target.roi: "all" for target in targets})


def idle_share(spans: list[tuple[int, float, float]]) -> tuple[int, float, float]:
    """Slots that came to be, the share of their time in which they ran no trial, and the seconds that this looks at.

    From the first trial of the last slot on: before, slots are not idle but starting.

    Args:
        spans: process of the slot, start and end of a trial.
    """
    first: dict[int, float] = {}
    for slot, start, _ in sorted(spans, key=lambda span: span[1]):
        first.setdefault(slot, start)
    if len(spans) <= len(first):  # no slot has had a second trial
        return len(first), math.nan, 0.0
    begin, end = max(first.values()), max(start for _, start, _ in spans)
    busy = sum(max(0.0, min(last, end) - max(start, begin)) for _, start, last in spans)
    return len(first), 1 - busy / ((end - begin) * len(first)), end - begin


def main() -> int:
    """Run the stubs, look at what is left of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10000)
    parser.add_argument("--targets", type=int, default=350)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a stub trial")
    parser.add_argument("--keep", metavar="FOLDER", help="an empty or new one, to look at what is in it afterwards")
    asked = parser.parse_args()
    os.environ[STUB_SECONDS] = str(asked.seconds)
    with nullcontext(asked.keep) if asked.keep else tempfile.TemporaryDirectory() as temporary:
        storage, plan = plan_of(asked, Path(temporary))
        ledger = Ledger(plan)
        ledger.open_studies()
        vars(tuning)["Slot"] = StubSlot
        progress = SweepProgress(Console(), plan)
        watch = Watch(progress)
        profile = Profile("stub", cpus_per_worker=1)
        Projection(ledger, storage.artifacts_uri)  # makes the tables
        projector = Projector(plan, storage.artifacts_uri)
        with tuning.ray_running(None, cpus=asked.slots):
            started, worked = time.monotonic(), time.process_time()
            with watch.on():
                tuning.run_trials(storage, ledger, profile, asked.slots, progress)
            seconds, work = time.monotonic() - started, time.process_time() - worked
            progress.stop()
            closed = time.monotonic()
            projector.close()
            lag = time.monotonic() - closed
        return conclude(asked, plan, ledger, watch, seconds, work, lag)


def looked_up(plan: SweepPlan) -> tuple[list[str], dict[str, float]]:
    """Trials that MLflow shows, and seconds of the lists that its page asks for."""
    client = MlflowClient(plan.tracking_uri)
    experiment = client.get_experiment_by_name(plan.name)
    if experiment is None:
        return [], {}
    places, shown, token = [experiment.experiment_id], [], None
    best = ["metrics.`val/encoding_r` DESC"]
    lists = {
        "best 100 trials": ("tags.kind = 'trial'", best),
        "best 100 of an ROI": ("tags.kind = 'trial' and tags.roi = 'R0'", best),
        "targets": ("tags.kind = 'target'", []),
    }
    seconds = {}
    for title, (wanted, order) in lists.items():
        started = time.perf_counter()
        client.search_runs(places, wanted, max_results=100, order_by=order)
        seconds[title] = time.perf_counter() - started
    while token is None or token:
        page = client.search_runs(places, "tags.kind = 'trial'", max_results=1000, page_token=token)
        shown += [run.data.tags["sweep.trial"] for run in page]
        token = page.token or ""
    return shown, seconds


def conclude(
    asked: argparse.Namespace, plan: SweepPlan, ledger: Ledger, watch: Watch, seconds: float, work: float, lag: float
) -> int:
    """Print the table; 1 if a trial is missing or there twice."""
    records = [record for key in plan.studies for record in ledger.study_records(key)]
    spans = [
        (record.details["worker_pid"], record.details["worker_started"], record.details["worker_ended"])
        for record in records
        if "worker_ended" in record.details
    ]
    slots, idle, watched = idle_share(spans)
    shown, lists = looked_up(plan)
    table = Table(
        "", "", title=f"{len(records)} trials of {asked.seconds} s, {asked.targets} targets, {asked.slots} slots"
    )
    table.add_row("trials/s", f"{len(records) / seconds:.1f} (slots could do {asked.slots / asked.seconds:.0f})")
    table.add_row("slots that came to be", f"{slots}; then idle for {100 * idle:.1f} % of {watched:.0f} s")
    table.add_row("driver's work", f"{1000 * work / len(records):.0f} ms of a core for each trial")
    table.add_row("driver's memory", f"{watch.rss[-1][1]:.0f} MB, {watch.growth():.0f} KB more for each trial")
    table.add_row("MLflow behind at the end", f"{lag:.1f} s")
    for title, value in lists.items():
        table.add_row(f"MLflow: {title}", f"{value:.2f} s")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    uids = [record.uid for record in records]
    whole = len(set(uids)) == len(uids) == sum(plan.studies.values()) and sorted(shown) == sorted(uids)
    print("every trial once" if whole else f"{len(uids)} in the ledger, {len(shown)} in MLflow")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
