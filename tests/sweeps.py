"""Runs ``sweep.py`` as a user does, and ends what a test started and nothing else."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from mlflow import MlflowClient

from orchestrator.ledger import Ledger
from orchestrator.opening import open_sweep
from orchestrator.records import TrialRecord
from sweep import main as command_line_of_sweep

ROOT = Path(__file__).parents[1]
SMALL = (
    "--subjects=1",
    "--hemispheres=lh",
    "--rois=V1v,RSC",
    "--cutoffs=features.2,features.5",
    "--trials=2",
    "--epochs=2",
    "--weights=random",
    "--batch-size=32",
    "--name=small",
)
"""Options of a sweep of five trials: V1v of one subject, RSC being too small."""


PATIENT = {"RAY_worker_niceness": "0"}
"""Ray's workers stand back behind everything else on a machine, so tests that run beside them would hold them up."""


def command_line(*words: str | Path) -> list[str]:
    return [sys.executable, str(ROOT / "sweep.py"), *map(str, words)]


def environment() -> dict[str, str]:
    """The tests' environment without options for the sweep or for Ray, but `PATIENT`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SWEEP_", "RAY_"))}
    return {**kept, **PATIENT, "SWEEP_CACHE_DIR": os.environ["SWEEP_CACHE_DIR"]}


def sweep(*words: str | Path, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Its output goes to files: a pipe stays open as long as one of Ray's processes."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        line = command_line(*words)
        code = subprocess.run(line, cwd=ROOT, env=environment(), stdout=out, stderr=err, timeout=timeout).returncode
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(line, code, out.read(), err.read())


def at_once(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which spares it the seconds that imports take; Ray has to run if it needs one."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["sweep.py", *map(str, words)]):
        try:
            command_line_of_sweep()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


class Driver:
    """A command that runs in the background."""

    def __init__(
        self, log: Path, *words: str | Path, settings: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> None:
        self.log = log
        self._known: set[int] = set()
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command_line(*words),
                cwd=cwd,
                env={**environment(), **(settings or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def family(self) -> dict[int, str]:
        """Command line by process id of everything that descends from the driver, itself left out."""
        listing = subprocess.run(
            ["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        ).stdout
        processes = [(int(pid), int(parent), rest) for pid, parent, rest in map(_three, listing.splitlines())]
        family = {self.process.pid: ""}
        while True:
            more = {pid: rest for pid, parent, rest in processes if parent in family and pid not in family}
            if not more:
                break
            family |= more
        del family[self.process.pid]
        self._known |= set(family)
        return family

    def workers(self) -> list[int]:
        """Process ids of the Ray Train workers."""
        return [pid for pid, title in self.family().items() if title.startswith("ray::") and "RayTrainWorker" in title]

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 240) -> None:
        """Wait for ``condition`` while the driver lives."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"the driver ended before {what}: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"{timeout} s passed before {what}: {self.log.read_text()}"
            time.sleep(0.1)

    def wait(self, timeout: float = 280) -> int:
        return self.process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL the driver, then what it leaves behind: a machine that goes down takes all with it."""
        self.family()
        self.process.kill()
        self.process.wait(20)
        for pid in self._known:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._known.clear()


def _three(line: str) -> tuple[str, str, str]:
    pid, parent, rest = (*line.split(None, 2), "")[:3]
    return pid, parent, rest


@contextmanager
def driver(
    log: Path, *words: str | Path, settings: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[Driver]:
    """A command in the background, with ``settings`` in its environment; if it still runs at the end it is killed."""
    started = Driver(log, *words, settings=settings, cwd=cwd)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()


class Watched:
    """What a bystander can read of a sweep while it runs."""

    def __init__(self, storage: Path, name: str) -> None:
        self.storage, self.name = storage, name

    @property
    def ledger(self) -> Ledger:
        return open_sweep(self.name, str(self.storage))[1]

    def records(self) -> dict[str, TrialRecord]:
        if not (self.storage / self.name / "plan.json").exists():
            return {}
        ledger = self.ledger
        return {record.uid: record for key in ledger.plan.studies for record in ledger.study_records(key)}

    def midway(self) -> list[TrialRecord]:
        """Trials that run and have a score already."""
        return [record for record in self.records().values() if record.state == "running" and record.scores]

    def ended(self) -> dict[str, TrialRecord]:
        return {uid: record for uid, record in self.records().items() if record.state != "running"}

    def resume(self, log: str) -> tuple[Path, str, str, str]:
        return self.storage / log, "resume", self.name, f"--storage={self.storage}"

    def statuses(self) -> dict[str, str]:
        """Status of every trial's run in MLflow."""
        client = MlflowClient(f"sqlite:///{self.storage / 'mlflow.db'}")
        experiment = client.get_experiment_by_name(self.name)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], filter_string="tags.kind = 'trial'")
        assert len({run.data.tags["sweep.trial"] for run in runs}) == len(runs)
        return {run.data.tags["sweep.trial"]: run.info.status for run in runs}


def assert_went_on(before: dict[str, TrialRecord], after: dict[str, TrialRecord]) -> None:
    """No finished trial ran again, and those that were interrupted are the same trials still."""
    for uid, record in before.items():
        if record.state == "running":
            assert (after[uid].config, after[uid].started_ms) == (record.config, record.started_ms)
            assert record.scores.items() <= after[uid].scores.items()
        else:
            assert after[uid] == record, "a finished trial ran again"


@dataclass(frozen=True)
class SmallSweep:
    """A finished sweep that a Ctrl-C had interrupted and `resume` went on with."""

    storage: Path
    printed: str
    """By the command that ended it."""
    code: int
    """Exit code of the command that was interrupted."""
    said: str
    """By that command."""
    before: dict[str, TrialRecord]
    """Trials when it was interrupted."""
    statuses: dict[str, str]
    """Their runs in MLflow."""


def interrupted_and_resumed(storage: Path, log: Path, *options: str) -> SmallSweep:
    """Run the sweep `SMALL`, stop it as a terminal does after its first trial and amid another, and let it end."""
    watched = Watched(storage, "small")

    def midst() -> bool:
        states = {record.state for record in watched.records().values()}
        return bool(run.workers()) and "running" in states and states != {"running"}

    with driver(log, "run", f"--storage={storage}", *SMALL, *options) as run:
        run.wait_until(midst, "a trial had ended and another one ran")
        os.killpg(run.process.pid, signal.SIGINT)
        code = run.wait(120)
    before, statuses = watched.records(), watched.statuses()
    done = sweep("resume", "small", "--storage", storage)
    assert done.returncode == 0, done.stdout + done.stderr
    return SmallSweep(storage, done.stdout, code, log.read_text(), before, statuses)
