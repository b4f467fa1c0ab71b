"""The servers that outlive a cluster, started for real once for each file that wants them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import KEYS, LEDGER_PASSWORD, SWEEP_PASSWORD, Servers, servers_running


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with servers_running() as running:
        yield running


@pytest.fixture
def head(servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Servers:
    """What the head of a cluster has: two files with passwords, and no key of the bucket."""
    for name in (*KEYS, "AWS_ENDPOINT_URL", "PGPASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    (home / ".mlflow").mkdir(parents=True)
    (home / ".mlflow/credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = sweep\nmlflow_tracking_password = {SWEEP_PASSWORD}\n"
    )
    pgpass = home / ".pgpass"
    pgpass.write_text(f"127.0.0.1:{servers.database_port}:ledger:sweep:{LEDGER_PASSWORD.replace(':', chr(92) + ':')}\n")
    pgpass.chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PGPASSFILE", str(pgpass))  # not every libpq looks for the home in HOME
    return servers
