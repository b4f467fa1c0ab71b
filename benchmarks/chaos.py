"""Kills parts of a running sweep with SIGKILL, many times over, and counts what was lost.

    python -m benchmarks.chaos [--kills 50] [--seed 0] [--parts slot mailbox] [--keep FOLDER]

Each time a part is chosen at random, at a random moment: the driver with all that runs on its machine, a Ray Train
worker, its controller, a slot's coordinator or its mailbox, the raylet, the GCS. A driver that ends is started again by
`resume`. After every kill the trials that had ended are compared with what they were; at the end the ledger is compared
with the plan and with MLflow. Prints a table; exits with 1 if a trial was lost, changed, counted twice or left running.
With --keep, a sweep in which nothing happens any more is left as it is, running, to be looked at.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

from orchestrator.opening import open_sweep
from orchestrator.records import TrialRecord
from tests.sweeps import Driver
from trainables.data.demo import make_demo

PARTS = {
    "driver": "",
    "Train worker": "RayTrainWorker",
    "Train controller": "ray::TrainController",
    "slot": "ray::ResourceTrainable",
    "mailbox": "ray::Mailbox",
    "raylet": "raylet/raylet",
    "GCS (head)": "gcs_server",
}
"""What is killed, and a part of its process's title."""
MOST_SECONDS = 12.0
"""A kill comes within so many seconds after a trial was seen to run."""
PATIENCE_SECONDS = 400.0
"""A trial has to end within so many seconds after a kill."""


@dataclass
class Tally:
    """What happened at the kills of one part."""

    killed: int = 0
    lost: int = 0
    duplicated: int = 0
    driver_ended: int = 0
    recovery: list[float] = field(default_factory=list)


class Chaos:
    """One sweep and what is done to it."""

    def __init__(self, folder: Path, trials: int, rng: random.Random, parts: list[str]) -> None:
        self.folder, self.rng, self.parts = folder, rng, parts
        self.data = make_demo(folder / "demo", subjects=1, stimuli=60)
        self.trials = trials
        self.tallies = {part: Tally() for part in PARTS}
        self.starts = 0
        self.last = "nothing"
        self.driver = self._start()

    def _start(self) -> Driver:
        self.starts += 1
        storage = f"--storage={self.folder / 'results'}"
        words = ["resume", "chaos", storage]
        if not (self.folder / "results/chaos/plan.json").exists():
            options = "--subjects=1 --hemispheres=lh --rois=V1v --space=smoke --methods=contrastive --weights=random"
            sizes = f"--trials={self.trials} --epochs=6 --batch-size=16 --cutoffs=features.2"
            words = ["run", f"--data={self.data}", "--name=chaos", storage, *options.split(), *sizes.split()]
        return Driver(self.folder / f"driver-{self.starts:03d}.log", *words)

    def records(self) -> dict[str, TrialRecord]:
        """All trials of the ledger."""
        if not (self.folder / "results/chaos/plan.json").exists():
            return {}
        _, ledger = open_sweep("chaos", str(self.folder / "results"))
        return {r.uid: r for key in ledger.plan.studies for r in ledger.study_records(key)}

    def ended(self) -> dict[str, TrialRecord]:
        """Trials with a result."""
        return {uid: record for uid, record in self.records().items() if record.state != "running"}

    def keep_running(self) -> bool:
        """Start the driver again if it has ended; False when the sweep is finished."""
        code = self.driver.process.poll()
        if code == 0:
            return False
        if code is not None:
            self.driver.kill()  # what it left behind
            self.driver = self._start()
        return True

    def kill_one(self) -> bool:
        """One kill and the wait for the next trial's end; False when the sweep ended before it."""
        running = self._wait(lambda: bool(self.driver.workers()) and len(self.ended()) < self.trials - 1)
        if not running:
            return False
        time.sleep(self.rng.uniform(0.0, MOST_SECONDS))
        before = self.ended()
        part = self._kill()
        if part is None:
            return self.keep_running()
        self.last = f"{part} at {time.strftime('%H:%M:%S')}"
        tally, started = self.tallies[part], time.monotonic()
        tally.killed += 1
        starts = self.starts
        self._wait(lambda: len(self.ended()) > len(before))
        tally.recovery.append(time.monotonic() - started)
        tally.driver_ended += self.starts > starts
        after = self.records()
        lost = {uid for uid in before if uid not in after or after[uid].state == "running"}
        tally.lost += len(lost)
        # One that had ended and differs now has run again; so has one that the plan does not hold.
        tally.duplicated += sum(after[uid] != before[uid] for uid in before.keys() - lost)
        tally.duplicated += max(0, len(after) - self.trials)
        return True

    def _wait(self, condition: object) -> bool:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():  # type: ignore[operator]
            if not self.keep_running():
                return False
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"nothing happened for {PATIENCE_SECONDS:.0f} s; killed last: {self.last}; see {self.driver.log}, "
                    f"process {self.driver.process.pid}"
                )
            time.sleep(0.2)
        return True

    def _kill(self) -> str | None:
        """Kill one part that is there, chosen at random."""
        family = self.driver.family()
        parts = self.rng.sample(self.parts, len(self.parts))
        for part in parts:
            if part == "driver":
                self.driver.kill()
                return part
            if found := [pid for pid, title in family.items() if PARTS[part] in title]:
                with suppress(ProcessLookupError):
                    os.kill(self.rng.choice(found), signal.SIGKILL)
                    return part
        return None

    def finish(self) -> list[str]:
        """Let the sweep end; what is wrong with the outcome."""
        self.last = "nothing since the last kill"
        while (ended := len(self.ended())) < self.trials and self._wait(lambda: len(self.ended()) > ended):
            pass
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.keep_running() and time.monotonic() < deadline:
            time.sleep(0.5)
        records = self.records()
        client = MlflowClient(f"sqlite:///{self.folder / 'results/mlflow.db'}")
        experiment = client.get_experiment_by_name("chaos")
        if experiment is None:
            return ["MLflow has no such experiment"]
        runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'", max_results=5000)
        shown = [run.data.tags["sweep.trial"] for run in runs]
        wrong = []
        if sorted(record.number for record in records.values()) != list(range(self.trials)):
            wrong.append(f"the ledger holds {len(records)} trials of {self.trials}")
        if odd := [uid for uid, record in records.items() if record.state not in ("complete", "pruned")]:
            wrong.append(f"{len(odd)} trials did not end well: {odd[:3]}")
        if sorted(shown) != sorted(records):
            wrong.append(f"MLflow shows {len(shown)} runs, {len(set(shown))} different, of {len(records)} trials")
        if left := [run.info.run_id for run in runs if run.info.status != "FINISHED"]:
            wrong.append(f"{len(left)} runs are not FINISHED in MLflow")
        return wrong


def print_table(chaos: Chaos) -> None:
    """Kills and what they did, by part."""
    table = Table(title=f"one sweep of {chaos.trials} trials, {chaos.starts} drivers")
    for heading in ("killed", "times", "lost", "duplicated", "driver ended", "median recovery (s)", "longest (s)"):
        table.add_column(heading, justify="left" if heading == "killed" else "right")
    for part, tally in chaos.tallies.items():
        times = [statistics.median(tally.recovery), max(tally.recovery)] if tally.recovery else []
        seconds = [f"{value:.0f}" for value in times] or ["–", "–"]
        table.add_row(part, *map(str, (tally.killed, tally.lost, tally.duplicated, tally.driver_ended)), *seconds)
    Console().print(table)


def main() -> int:
    """Kill until enough was killed, then let the sweep end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what may be killed")
    parser.add_argument("--keep", type=Path, help="a new folder that stays, with every driver's log")
    asked = parser.parse_args()
    with nullcontext(asked.keep) if asked.keep else tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("SWEEP_CACHE_DIR", f"{folder}/cache")
        # Two trials may end before the next kill; enough are left for the last one.
        chaos = Chaos(Path(folder), trials=4 * asked.kills + 4, rng=random.Random(asked.seed), parts=asked.parts)
        try:
            wrong = cause(chaos, asked.kills)
        except BaseException:
            if not asked.keep:
                chaos.driver.kill()
            raise
    print_table(chaos)
    tallies = chaos.tallies.values()
    wrong += [f"{sum(t.lost for t in tallies)} trials lost"] if any(t.lost for t in tallies) else []
    wrong += [f"{sum(t.duplicated for t in tallies)} trials twice"] if any(t.duplicated for t in tallies) else []
    print("; ".join(wrong) or "nothing lost, nothing counted twice")
    return 1 if wrong else 0


def cause(chaos: Chaos, kills: int) -> list[str]:
    """Kill so many times; what is wrong in the end."""
    for number in range(kills):
        if not chaos.kill_one():
            return [f"the sweep ended after {number} kills of {kills}; it needs more trials", *chaos.finish()]
        print(f"kill {number + 1} of {kills}: {chaos.last}; {len(chaos.ended())} trials have ended", flush=True)
    return chaos.finish()


if __name__ == "__main__":
    sys.exit(main())
