"""MLflow goes away and comes back: a real server, ended and started again."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.plan import SweepPlan
from orchestrator.tracking import projector as room
from orchestrator.tracking.projector import Projector
from tests.orchestrator.plans import V1_CONTRASTIVE, complete, open_ledger, small_plan

pytestmark = pytest.mark.timeout(280)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(database: str, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--workers", "1"],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def shown(database: str) -> dict[str, str]:
    client = MlflowClient(database)
    experiment = client.get_experiment_by_name("small")
    if experiment is None:  # the process has not begun
        return {}
    return {run.data.tags["sweep.trial"]: run.info.status for run in client.search_runs([experiment.experiment_id])}


def wait_for(condition: object, what: str, timeout: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.1)


@pytest.mark.long  # tests/cluster/test_tracking_server.py does it with PostgreSQL
def test_server_that_was_away_is_caught_up_with(tracked_plan: SweepPlan, tmp_path: Path, port: int) -> None:
    database = tracked_plan.tracking_uri
    plan = small_plan(tmp_path, trials=3, tracking_uri=f"http://127.0.0.1:{port}")
    ledger = open_ledger(plan)
    first, second, third = (f"{V1_CONTRASTIVE.name}/0000{number}" for number in range(3))
    with server(database, port):
        projector = Projector(plan, "file:///nowhere")
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.1})
        wait_for(lambda: shown(database).get(first) == "FINISHED", "first run")
    began = time.monotonic()
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.2})  # a server that is away holds up no trial
    assert time.monotonic() - began < 5
    time.sleep(12)  # a round begins within two seconds and gives up within eight
    with server(database, port):
        wait_for(lambda: shown(database).get(second) == "FINISHED", "second run")
        complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.3})
        assert projector.close()
    assert shown(database) == dict.fromkeys([V1_CONTRASTIVE.name, first, second, third], "FINISHED")


def test_end_of_a_sweep_does_not_wait_for_ever(
    tracked_plan: SweepPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room, "PATIENCE_AT_END_SECONDS", 3.0)
    monkeypatch.setattr(room, "QUIET_SECONDS", 1.0)
    ledger = open_ledger(tracked_plan)
    (tmp_path / "mlflow.db").write_bytes(b"no database any more" * 500)
    projector, said = Projector(tracked_plan, "file:///nowhere"), list[str]()
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.1})
    assert not projector.close(said.append)
    assert said == ["MLflow is being brought up to date …"]
    assert projector.process is not None
    assert not projector.process.is_alive()
    assert not [thread for thread in threading.enumerate() if thread.name == "mlflow-projection"]


END_OF_TWO = {
    V1_CONTRASTIVE.name: "KILLED",
    f"{V1_CONTRASTIVE.name}/00000": "FINISHED",
    f"{V1_CONTRASTIVE.name}/00001": "KILLED",
}


def test_last_state_is_written_at_the_end(tracked_plan: SweepPlan) -> None:
    ledger = open_ledger(tracked_plan)
    projector = Projector(tracked_plan, "file:///nowhere")
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.1})
    ledger.ask(V1_CONTRASTIVE)
    assert projector.close()
    assert shown(tracked_plan.tracking_uri) == END_OF_TWO


@pytest.mark.parametrize("midway", [True, False], ids=["midway", "at the end"])
def test_process_that_is_ended_is_started_again(
    tracked_plan: SweepPlan, monkeypatch: pytest.MonkeyPatch, midway: bool
) -> None:
    """What a machine does that has no memory left."""
    monkeypatch.setattr(room, "PAUSE_SECONDS", 0.2 if midway else 60.0)
    ledger = open_ledger(tracked_plan)
    projector = Projector(tracked_plan, "file:///nowhere")
    first = projector.process
    assert first is not None
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.1})
    first.kill()
    first.join()
    if midway:
        wait_for(lambda: shown(tracked_plan.tracking_uri).get(f"{V1_CONTRASTIVE.name}/00000") == "FINISHED", "run")
    ledger.ask(V1_CONTRASTIVE)
    assert projector.close()
    assert shown(tracked_plan.tracking_uri) == END_OF_TWO


def run_as_driver(code: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A driver of its own: in this process former tests have started what a first projector starts."""
    script = folder / "driver.py"
    script.write_text(code)
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, script, folder, *words], env=paths, capture_output=True, text=True, timeout=100
    )


SIGNALLED = """
import os, signal, sys
from pathlib import Path

from orchestrator.ledger import Ledger
from orchestrator.tracking.projector import Projector
from tests.orchestrator.plans import V1_CONTRASTIVE, small_plan

if __name__ == "__main__":
    plan = small_plan(Path(sys.argv[1]))
    projector = Projector(plan, "file:///nowhere")
    for notice in (signal.SIGINT, signal.SIGTERM):
        os.kill(projector.process.pid, notice)
    first = projector.process.pid
    Ledger(plan).ask(V1_CONTRASTIVE)
    assert projector.close()
    assert projector.process.pid == first, "it was ended"
"""


def test_signals_to_every_process_do_not_end_it(tracked_plan: SweepPlan, tmp_path: Path) -> None:
    """Ctrl-C in a terminal and a batch system's notice; the driver says when it is done."""
    open_ledger(tracked_plan)
    done = run_as_driver(SIGNALLED, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown(tracked_plan.tracking_uri)[f"{V1_CONTRASTIVE.name}/00000"] == "KILLED"


OWN_SPACE = """
def cold(trial, cutoffs):
    return {"temperature": trial.suggest_float("temperature", 0.01, 0.1)}

from search_spaces import Space

SPACE = Space("cold", methods=("contrastive",), rois=("V1v",), trials=2, epochs=2, suggest={"contrastive": cold})
"""


def test_plan_with_a_space_of_ones_own_reaches_the_process(tracked_plan: SweepPlan) -> None:
    plan = replace(tracked_plan, space="mine.py", space_text=OWN_SPACE)
    assert plan.search_space.suggest
    ledger = open_ledger(plan)
    projector = Projector(plan, "file:///nowhere")
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.1})
    ledger.ask(V1_CONTRASTIVE)
    assert projector.close()
    assert shown(plan.tracking_uri) == END_OF_TWO


def test_process_that_cannot_be_started_holds_up_nobody(
    tracked_plan: SweepPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without memory for it, until the end."""

    def start(_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    ledger = open_ledger(tracked_plan)
    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing.get_context("spawn").Process, "start", start)
        patch.setattr(room, "PAUSE_SECONDS", 0.1)
        projector = Projector(tracked_plan, "file:///nowhere")
        time.sleep(1)
        assert not projector.close()
    assert projector.process is None
    projector = Projector(tracked_plan, "file:///nowhere")
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.1})
    assert projector.close()


DIES = """
import os, signal, socket, sys
from pathlib import Path

from orchestrator.tracking.projector import Projector
from tests.orchestrator.plans import small_plan

if __name__ == "__main__":
    silent = socket.create_server(("127.0.0.1", 0))  # a server that takes calls and answers none
    address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    projector = Projector(small_plan(Path(sys.argv[1]), tracking_uri=address), "file:///nowhere")
    print(projector.process.pid, flush=True)
    silent.accept()
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "killed" else sys.exit("an error")
"""


@pytest.mark.parametrize("end", ["killed", "left"])
def test_process_ends_with_its_driver_though_it_waits_for_a_server(
    tracked_plan: SweepPlan, tmp_path: Path, end: str
) -> None:
    open_ledger(tracked_plan)
    done = run_as_driver(DIES, tmp_path, end)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    wait_for(lambda: not is_there(int(done.stdout)), "end", timeout=10)


def is_there(process: int) -> bool:
    """Whether a process runs; one that nobody waited for is no more."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")
