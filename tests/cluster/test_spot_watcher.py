"""A cloud's notice, given by a metadata server of the test's own, drains a real node, and the trial there goes on."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import ray
from ray._common.test_utils import wait_for_condition
from ray.cluster_utils import Cluster
from upath import UPath

from cluster import spot_watcher
from cluster.spot_watcher import aws_notice, gcp_notice
from orchestrator.slot import Slot, slot_with
from trainables.config import TrialConfig
from trainables.models.weights import load_weights, save_weights
from trainables.target import Target
from trainables.tuning.bench import Workspace
from trainables.tuning.snapshot import SnapshotFolder

EPOCHS = 50


class Metadata(BaseHTTPRequestHandler):
    """Both clouds' metadata servers; AWS's answers nobody without a token."""

    notice: str | None = None

    def do_PUT(self) -> None:
        self._answer("a-token" if self.headers.get("X-aws-ec2-metadata-token-ttl-seconds") else None)

    def do_GET(self) -> None:
        aws = self.path.startswith("/latest/") and self.headers.get("X-aws-ec2-metadata-token") == "a-token"
        gcp = self.path.startswith("/computeMetadata/") and self.headers.get("Metadata-Flavor") == "Google"
        self._answer(type(self).notice if aws or gcp else None)

    def _answer(self, text: str | None) -> None:
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    Metadata.notice = None
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def notice_in(seconds: float) -> str:
    return json.dumps({"action": "terminate", "time": f"{datetime.now(UTC) + timedelta(seconds=seconds):%FT%TZ}"})


def test_aws_says_how_long_is_left(server: str) -> None:
    assert aws_notice(server) is None
    Metadata.notice = notice_in(120)
    assert aws_notice(server) == pytest.approx(119, abs=3)
    for nonsense in (
        "",
        "{}",
        "[1]",
        "not json",
        '{"action": "stop", "time": 5}',
        json.dumps({"action": "terminate"}),
        json.dumps({"action": "hop"}),
    ):
        Metadata.notice = nonsense
        assert aws_notice(server) is None


def test_google_says_that_it_takes_the_machine(server: str) -> None:
    Metadata.notice = "FALSE"
    assert gcp_notice(server) is None
    Metadata.notice = "TRUE\n"
    assert gcp_notice(server) == 30


def test_no_metadata_server_is_no_notice() -> None:
    assert aws_notice("http://127.0.0.1:9") is None
    assert gcp_notice("http://127.0.0.1:9") is None


def test_drain_that_fails_is_tried_until_the_machine_is_gone(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def nobody(head: str) -> str:
        asked.append(head)
        raise LookupError("no node here")

    monkeypatch.setattr(spot_watcher, "node_here", nobody)
    options = ["aws", "--address", "head:6379", "--server", server, "--every", "0.1"]
    monkeypatch.setattr(sys, "argv", ["spot_watcher", *options])
    Metadata.notice = notice_in(2)
    assert spot_watcher.main() == 1
    assert set(asked) == {"head:6379"}
    assert len(asked) > 3
    assert "could not drain: no node here" in capsys.readouterr().out


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that is too small for workers, and a machine for them that will be taken away."""
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whatever Ray that ran in this process before has set
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": True})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def slot_with_long_trial(data: Path, place: Path, cache: Path) -> Any:
    weights = place / "weights.safetensors"
    save_weights(load_weights("random"), weights)
    work = Workspace(str(data), str(weights), "alexnet", str(cache), 0, "nested", ("encoding",), (), "", 1, 0.0)
    target = Target("demo", ("subj01",), "lh", "V1v")
    config = TrialConfig(
        target, "regression", layer_cutoff="features.2", epochs=EPOCHS, batch_size=16, score_epochs=(2,)
    )
    places = {"weights_dir": str(place / "model"), "snapshot_dir": str(place / "snapshots")}
    slot = {"workspace": asdict(work), "workers": 1, "cpus": 2, "gpus": 0.0, "scratch": str(place / "scratch")}
    trial = {"config": config.to_dict(), "score_to_beat": -1.0, **places}
    with_share: Any = slot_with(Slot, {"own": slot})
    return ray.remote(num_cpus=0.01)(with_share).remote({"share": "own", "trial": trial})


@pytest.mark.long
@pytest.mark.timeout(280)
def test_trial_on_a_machine_that_is_taken_away_goes_on_elsewhere(
    two_machines: Cluster, server: str, demo_root: Path, cache_dir: Path, tmp_path: Path
) -> None:
    leaving = two_machines.add_node(num_cpus=2)
    slot = slot_with_long_trial(demo_root, tmp_path, cache_dir)
    first = ray.get(slot.step.remote(), timeout=120)
    assert (first["epoch"], first["done"]) == (2, False)
    rest = slot.step.remote()

    Metadata.notice = notice_in(2)
    options = ["--address", two_machines.address, "--server", server, "--every", "0.5"]
    watcher = [sys.executable, "-m", "cluster.spot_watcher", "aws", *options]
    watched = run(watcher, capture_output=True, text=True, check=False, timeout=90)
    assert watched.returncode == 0, watched.stderr
    assert "drained" in watched.stdout
    snapshots = SnapshotFolder(UPath(tmp_path / "snapshots"))
    wait_for_condition(lambda: snapshots.newest() is not None, timeout=60)
    assert ray.wait([rest], timeout=5) == ([], [rest]), "the trial was not long enough"
    two_machines.remove_node(leaving, allow_graceful=False)

    two_machines.add_node(num_cpus=2)
    last = ray.get(rest, timeout=120)
    details = json.loads(last["details"])
    assert (last["epoch"], last["done"]) == (EPOCHS, True)
    assert [entry["epoch"] for entry in details["history"]] == list(range(1, EPOCHS + 1))
    assert details["worker_pid"] != json.loads(first["details"])["worker_pid"]
    assert (tmp_path / "model/model.json").exists()
    ray.get(slot.cleanup.remote(), timeout=60)
