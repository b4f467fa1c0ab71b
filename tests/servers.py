"""A cluster's servers, on loopback: PostgreSQL and MLflow as ``cluster/mlflow`` starts them, and an S3 server."""

from __future__ import annotations

import base64
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
from mlflow import MlflowClient
from mlflow.entities import Run
from moto.server import ThreadedMotoServer

from orchestrator.plan import SweepPlan
from tests.orchestrator.plans import small_plan
from tests.sweeps import ROOT

SCRIPTS = ROOT / "cluster/mlflow"
BUCKET = "laboratory"
KEYS = {"AWS_ACCESS_KEY_ID": "key-of-the-bucket", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
LEDGER_PASSWORD = "Ledger/p@ss:1"
DATABASE_PASSWORD = "Database/p@ss:2"
ADMIN_PASSWORD = "Admin/p@ss:3-long"
SWEEP_PASSWORD = "Sweep/p@ss:4-long"
"""Of MLflow's user ``sweep``; like the others with characters that have a meaning in an address."""
PASSWORDS = (LEDGER_PASSWORD, DATABASE_PASSWORD, ADMIN_PASSWORD, SWEEP_PASSWORD)
ENCODED = [form.encode() for word in PASSWORDS for form in (word, quote(word, safe=""), quote(word))]
"""Every form in which a password may show up."""
START_SECONDS = 180


def postgres_is_missing() -> str:
    """Why there can be no PostgreSQL here; empty if there can."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return "PostgreSQL's initdb is not in /usr/lib/postgresql (Debian: apt install postgresql)"
    if os.getuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        return "PostgreSQL refuses root, and there is no user postgres"
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Servers:
    """What a cluster's head and people reach."""

    folder: Path
    bucket: str
    """Address of the S3 server."""
    database_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def database(self, name: str = "ledger", role: str = "sweep", password: str = "") -> str:
        colon = f":{quote(password, safe='')}" if password else ""
        return f"postgresql://{role}{colon}@127.0.0.1:{self.database_port}/{name}"

    @property
    def settings(self) -> dict[str, str]:
        """The environment of both servers, as ``.env.example`` names it."""
        return {
            **KEYS,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PGPORT": str(self.database_port),
            "LEDGER_PASSWORD": LEDGER_PASSWORD,
            "MLFLOW_DATABASE_PASSWORD": DATABASE_PASSWORD,
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs",
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{self.port}",
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "http://mlflow.internal:5000",
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
            "AWS_ENDPOINT_URL": self.bucket,
            "MLFLOW_PORT": str(self.port),
            "MLFLOW_WORKERS": "1",
        }

    def postgres(self, verb: str) -> None:
        done = subprocess.run(
            [SCRIPTS / "postgres.sh", self.folder, verb],
            env={**os.environ, **self.settings},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start MLflow and wait for its health page."""
        log = self.folder.with_suffix(".log")
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [SCRIPTS / "server.sh"],
                env={**os.environ, **self.settings},
                cwd=log.parent,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while self.request("/health")[0] != 200:
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """End MLflow without warning."""
        if self.process is not None:
            with suppress(ProcessLookupError):  # it did not start, which is what the test then says
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)
            self.process = None

    def request(
        self,
        path: str,
        user: tuple[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Status and text of an answer; 0 where nobody answers."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        if user is not None:
            sent["Authorization"] = "Basic " + base64.b64encode(":".join(user).encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.address + path, data, sent), timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def add_user(self, name: str, password: str) -> None:
        """What docs/tracking-server.md does with curl."""
        body = {"username": name, "password": password}
        code, said = self.request("/api/2.0/mlflow/users/create", ("admin", ADMIN_PASSWORD), body)
        assert code == 200, said

    def objects(self) -> dict[str, bytes]:
        """All that lies in the bucket."""
        client = s3(self.bucket)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        names = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}


def s3(endpoint: str) -> Any:
    """A client that has the bucket's keys; this process has none in its environment."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        region_name=KEYS["AWS_DEFAULT_REGION"],
    )


@contextmanager
def servers_running() -> Iterator[Servers]:
    """All of them, with the user ``sweep``; what they wrote is gone afterwards."""
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    # Not pytest's own folder: PostgreSQL's user could not look into it.
    above = Path(tempfile.mkdtemp(prefix="sweep-servers-"))
    above.chmod(0o755)
    servers = Servers(above / "postgres", f"http://{host}:{port}")
    try:
        s3(servers.bucket).create_bucket(Bucket=BUCKET)
        servers.postgres("start")
        try:
            servers.start()
            servers.add_user("sweep", SWEEP_PASSWORD)
            yield servers
        finally:
            servers.kill()
            servers.postgres("stop")
    finally:
        shutil.rmtree(above, ignore_errors=True)
        store.stop()


def runs_of(plan: SweepPlan) -> dict[str, Run]:
    """The runs of a sweep's trials and parents in MLflow, by what they stand for; each once."""
    client = MlflowClient(plan.tracking_uri)
    experiment = client.get_experiment_by_name(plan.name)
    if experiment is None:  # the process that writes has not begun
        return {}
    found = client.search_runs([experiment.experiment_id], "tags.`sweep.trial` != ''")
    by_uid = {run.data.tags["sweep.trial"]: run for run in found}
    assert len(by_uid) == len(found), "a trial has two runs"
    return by_uid


def plan_on(servers: Servers, folder: Path, name: str) -> SweepPlan:
    """A small plan with its ledger and MLflow on the servers."""
    return small_plan(folder, name=name, ledger=servers.database(), tracking_uri=servers.address, trials=3)
