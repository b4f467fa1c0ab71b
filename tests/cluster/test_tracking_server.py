"""The servers that outlive a cluster, for real: PostgreSQL, MLflow with users, a bucket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from orchestrator import driver as driving
from orchestrator.driver import sole_driver
from orchestrator.ledger import Ledger
from orchestrator.ledger_storage import open_storage
from orchestrator.plan import SweepPlan
from orchestrator.tracking.client import connect
from orchestrator.tracking.figures import log_figures
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.projector import Projector
from tests.orchestrator.plans import V1_CONTRASTIVE, complete, open_ledger
from tests.servers import (
    DATABASE_PASSWORD,
    LEDGER_PASSWORD,
    PASSWORDS,
    SWEEP_PASSWORD,
    Servers,
    plan_on,
    postgres_is_missing,
    runs_of,
)
from tests.sweeps import ROOT
from trainables.errors import StorageError

pytestmark = [
    pytest.mark.timeout(590),
    pytest.mark.skipif(bool(postgres_is_missing()), reason=postgres_is_missing() or "nothing is missing"),
]
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
SWEEP = ("sweep", SWEEP_PASSWORD)


def wait_for(plan: SweepPlan, uid: str, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while (run := runs_of(plan).get(uid)) is None or run.info.status != "FINISHED":
        assert time.monotonic() < deadline, f"{uid} is not in MLflow after {timeout} s"
        time.sleep(0.2)


def said_by(error: pytest.ExceptionInfo[StorageError]) -> str:
    said = str(error.value)
    assert len(said.splitlines()) == 1
    assert not any(word in said for word in PASSWORDS)
    return said


def test_who_has_no_password_sees_nothing(servers: Servers) -> None:
    assert servers.request(SEARCH)[0] == 401
    assert servers.request("/")[0] == 401
    assert servers.request(SEARCH, ("sweep", "another-password"))[0] == 401
    assert servers.request(SEARCH, ("admin", "password1234"))[0] == 401
    code, said = servers.request(SEARCH, SWEEP)
    assert code == 200, said


def test_another_host_or_page_is_refused(servers: Servers) -> None:
    """A page that rebinds its name to this address, or sends the browser's password along."""
    code, said = servers.request(SEARCH, SWEEP, headers={"Host": "evil.example"})
    assert (code, "Host" in said) == (403, True)
    post = "/api/2.0/mlflow/experiments/search", SWEEP, {"max_results": 1}
    assert servers.request(*post, {"Origin": "http://evil.example"})[0] == 403
    assert servers.request(*post, {"Origin": "http://mlflow.internal:5000"})[0] == 200, "its own page was refused"


def test_wrong_password_of_mlflow_is_told(head: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(head.address)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another-password")
    with pytest.raises(StorageError, match="refuses the user name or the password") as told:
        connect(head.address)
    assert "~/.mlflow/credentials" in said_by(told)


def test_name_that_the_server_does_not_go_by_is_told(head: Servers) -> None:
    with pytest.raises(StorageError, match="--allowed-hosts") as told:
        connect(f"http://localhost:{head.port}")
    said_by(told)


@pytest.mark.parametrize(
    ("role", "password", "database", "words"),
    [
        ("sweep", "another", "ledger", "password authentication failed"),
        ("sweep", "", "ledger", "no password supplied"),
        ("sweep", LEDGER_PASSWORD, "mlflow", "permission denied for database"),
        ("mlflow", DATABASE_PASSWORD, "ledger", "permission denied for database"),
    ],
)
def test_only_its_own_role_opens_a_database(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, role: str, password: str, database: str, words: str
) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    monkeypatch.setenv("PGPASSWORD", password)
    with pytest.raises(StorageError, match=words) as told:
        open_storage(servers.database(database, role))
    assert "~/.pgpass" in said_by(told)


def test_figures_are_seen_without_a_key_of_the_bucket(head: Servers, tmp_path: Path) -> None:
    plan = plan_on(head, tmp_path, "figures")
    ledger = open_ledger(plan)
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.2})
    projection = Projection(Ledger(plan), "file:///nowhere")
    projection.sync(ended=True)
    for content in (b"old", b"new"):  # the second report takes the place of the first
        run_id = log_figures(projection, {"leaderboard": content})
    stored = {name: content for name, content in head.objects().items() if "figures" in name}
    assert list(stored.values()) == [b"new"]
    assert next(iter(stored)).startswith("mlflow/")

    head.add_user("colleague", "Colleague-long")
    with pytest.MonkeyPatch.context() as colleague:
        colleague.setenv("MLFLOW_TRACKING_USERNAME", "colleague")
        colleague.setenv("MLFLOW_TRACKING_PASSWORD", "Colleague-long")
        client = MlflowClient(plan.tracking_uri)
        path = client.download_artifacts(run_id, "figures/leaderboard.png", str(tmp_path))
        assert Path(path).read_bytes() == b"new"
        assert set(runs_of(plan)) == {V1_CONTRASTIVE.name, f"{V1_CONTRASTIVE.name}/00000"}
        with pytest.raises(MlflowException, match="Permission denied"):
            client.set_tag(run_id, "mine", "now")


def test_mlflow_that_was_away_is_caught_up_with(
    head: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_on(head, tmp_path, "away")
    ledger = open_ledger(plan)
    uids = [f"{V1_CONTRASTIVE.name}/0000{number}" for number in range(3)]
    projector = Projector(plan, "file:///nowhere")
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.1})
    wait_for(plan, uids[0])
    head.kill()
    began = time.monotonic()
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.2})
    assert time.monotonic() - began < 5, "a server that is away held up a trial"
    time.sleep(12)  # a round begins within two seconds and gives up within eight
    head.start()
    complete(ledger, ledger.ask(V1_CONTRASTIVE), {9: 0.3})
    assert projector.close()
    shown = runs_of(plan)
    assert {uid: run.info.status for uid, run in shown.items()} == dict.fromkeys(
        [V1_CONTRASTIVE.name, *uids], "FINISHED"
    )
    assert [shown[uid].data.metrics["val/encoding_r"] for uid in uids] == [0.1, 0.2, 0.3]
    assert {len(shown[uid].data.params) for uid in uids} == {7}
    assert capsys.readouterr().out == ""


def test_ledger_that_was_away_is_waited_for(head: Servers, tmp_path: Path) -> None:
    plan = plan_on(head, tmp_path, "patient")
    ledger = open_ledger(plan)
    first = ledger.ask(V1_CONTRASTIVE)
    head.postgres("stop")
    going_on = threading.Thread(target=complete, args=(ledger, first, {9: 0.1}))
    try:
        going_on.start()
        going_on.join(3)
        assert going_on.is_alive(), "the trial ended without its ledger"
    finally:
        head.postgres("start")
    going_on.join(30)
    assert not going_on.is_alive()
    (record,) = Ledger(plan).study_records(V1_CONTRASTIVE)
    assert (record.state, record.value) == ("complete", 0.1)
    assert head.request(SEARCH, SWEEP)[0] == 200, "MLflow did not find its database again"


HOLD = """
import sys
from pathlib import Path
from orchestrator import driver as driving
from orchestrator.driver import sole_driver
with sole_driver(Path(sys.argv[1]), sys.argv[2], sys.argv[3]):
    print("drives", flush=True)
    sys.stdin.read()
"""


def test_one_machine_alone_drives_a_sweep(head: Servers, tmp_path: Path) -> None:
    """Machines without a file system in common know of each other by the ledger's database, until one dies."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "other/driver.lock"), head.database(), "a-sweep"]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    here = tmp_path / "here/driver.lock"
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"drives\n"
        with pytest.raises(StorageError, match="here or on another machine") as told:
            sole_driver(here, head.database(), "a-sweep").__enter__()
        said_by(told)
        with sole_driver(here, head.database(), "another-sweep"):
            pass
    finally:
        other.kill()
        other.wait(20)
    deadline = time.monotonic() + 20
    while True:  # the server sees a moment later that the process is gone
        try:
            with sole_driver(here, head.database(), "a-sweep"):
                break
        except StorageError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_lock_is_taken_again_after_the_database_restarted(
    head: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "LOOK_SECONDS", 0.1)
    with sole_driver(tmp_path / "here/driver.lock", head.database(), "a-sweep"):
        head.postgres("stop")
        head.postgres("start")
        deadline = time.monotonic() + 30
        while not holds_lock(head):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        with pytest.raises(StorageError, match="here or on another machine"):
            sole_driver(tmp_path / "there/driver.lock", head.database(), "a-sweep").__enter__()
    assert not holds_lock(head)


def test_driver_that_lost_its_sweep_to_another_ends(
    head: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    monkeypatch.setattr(driving, "LOOK_SECONDS", 3.0)
    try:
        with sole_driver(tmp_path / "here/driver.lock", head.database(), "a-sweep"):
            head.postgres("stop")
            head.postgres("start")
            with sole_driver(tmp_path / "there/driver.lock", head.database(), "a-sweep"):
                deadline = time.monotonic() + 30
                while not told and time.monotonic() < deadline:
                    time.sleep(0.1)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert told == [signal.SIGTERM]


def holds_lock(servers: Servers) -> bool:
    engine = sqlalchemy.create_engine(servers.database(), poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return bool(connection.scalar(sqlalchemy.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")))


@pytest.mark.parametrize(
    ("name", "value"),
    [("MLFLOW_AUTH_ADMIN_PASSWORD", ""), ("MLFLOW_SERVER_ALLOWED_HOSTS", "*"), ("MLFLOW_ARTIFACTS_DESTINATION", "")],
)
def test_server_does_not_start_half_open(tmp_path: Path, name: str, value: str) -> None:
    settings = {**Servers(tmp_path, "").settings, name: value}
    line = [Path(__file__).parents[2] / "cluster/mlflow/server.sh"]
    done = subprocess.run(line, env={**os.environ, **settings}, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(name)
    assert len(done.stderr.splitlines()) == 1
