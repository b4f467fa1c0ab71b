"""Starts the MLflow UI and points at the view that answers the usual question: which model is best?"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import replace
from typing import IO

from rich.console import Console

from orchestrator.opening import open_sweep
from orchestrator.passwords import without_passwords
from orchestrator.storage import SweepStorage
from trainables.errors import ConfigError, StorageError

START_SECONDS = 180
PATIENCE_AT_END_SECONDS = 10
PORTS_TRIED = 20
ALL_EXPERIMENTS = "#/experiments?workflowType=machine_learning"


def serve(name: str | None, storage_uri: str, tracking_uri: str | None, port: int, view: str, as_json: bool) -> None:
    """Run an MLflow server on loopback until Ctrl-C, and say where a sweep's view is.

    Raises:
        ConfigError: no free port near ``port``, or no such view.
        StorageError: no such sweep, or the server does not start.
    """
    console = Console(stderr=as_json)
    storage = SweepStorage(storage_uri, name or "all")
    _, tracking_uri = without_passwords(None, tracking_uri)
    experiment = ""
    if name is not None:
        places, ledger = open_sweep(name, storage_uri)
        places.require_not_archived()
        tracking_uri = tracking_uri or ledger.plan.tracking_uri
        from orchestrator.tracking.views import view_link

        experiment = view_link(replace(ledger.plan, tracking_uri=tracking_uri), view)
    uri = tracking_uri or storage.default_tracking_uri
    if uri.startswith(("http://", "https://")):
        link = f"{uri.rstrip('/')}/{experiment or ALL_EXPERIMENTS}"
        print(json.dumps({"link": link})) if as_json else console.print(f"Open  {link}", soft_wrap=True)
        return
    free = free_port(port)
    # One worker process and no job runners: a single person looks, and each of them takes half a gigabyte.
    where = ["--host", "127.0.0.1", "--port", str(free), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "server", *where]
    settings = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    address = f"http://127.0.0.1:{free}"
    console.print(f"Starting the MLflow UI on {uri} …", soft_wrap=True)
    with tempfile.TemporaryFile("w+") as log:  # a pipe that nobody reads would fill and stop the server
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=settings)
        _watch(server, log, address, f"{address}/{experiment or ALL_EXPERIMENTS}", console, as_json)


def _watch(
    server: subprocess.Popen[bytes], log: IO[str], address: str, link: str, console: Console, as_json: bool
) -> None:
    signal.signal(signal.SIGTERM, _end)  # or the server would outlive this process
    try:
        wait_until_up(server, log, address)
        if as_json:
            print(json.dumps({"link": link}), flush=True)
        else:
            console.print(f"Open  {link}", soft_wrap=True)
            console.print("Ctrl-C ends it.")
        server.wait()
    except KeyboardInterrupt:
        console.print("The MLflow UI has ended.")
    finally:
        end_group(server)


def _end(*_: object) -> None:
    raise KeyboardInterrupt


def end_group(server: subprocess.Popen[bytes]) -> None:
    """End the server with the worker processes that it started."""
    for verdict in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, verdict)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(PATIENCE_AT_END_SECONDS)
            return


def free_port(first: int) -> int:
    """``first`` or the next port that nobody listens on.

    Raises:
        ConfigError: none among the next ones.
    """
    for port in range(first, first + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return port
    raise ConfigError(f"ports {first} to {first + PORTS_TRIED - 1} are taken; choose another --port")


def wait_until_up(server: subprocess.Popen[bytes], log: IO[str], address: str) -> None:
    """Wait for the server's health page.

    Raises:
        StorageError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            words = log.read().strip().splitlines() or ["no reason given"]
            raise StorageError(f"the MLflow server ended at once ({words[-1]}); check --tracking-uri")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise StorageError(
        f"the MLflow server did not answer at {address} within {START_SECONDS} s; look at its port and database"
    )
