"""A cloud's notice, given by a metadata server of the test's own, drains a real node."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import run

import pytest
import ray
from ray._private.test_utils import wait_for_condition
from ray.cluster_utils import Cluster

from cluster.spot_watcher import aws_notice, gcp_notice


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
    for nonsense in ("", "{}", "[1]", "not json", json.dumps({"action": "terminate"}), json.dumps({"action": "hop"})):
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


@pytest.mark.timeout(180)
def test_a_notice_drains_the_node(server: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        leaving = cluster.add_node(num_cpus=1, resources={"leaving": 1})
        ray.init(address=cluster.address, log_to_driver=False)

        @ray.remote(num_cpus=0, resources={"leaving": 0.1})
        def here() -> str:
            return str(ray.get_runtime_context().get_node_id())

        assert ray.get(here.remote(), timeout=60) == leaving.node_id
        Metadata.notice = notice_in(100)
        words = ["aws", "--address", cluster.address, "--server", server, "--node-id", leaving.node_id]
        done = run(
            [sys.executable, "-m", "cluster.spot_watcher", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        assert "s left for node" in done.stdout
        time.sleep(1)
        waiting = here.remote()
        assert ray.wait([waiting], timeout=5) == ([], [waiting]), "the drained node still takes work"
        cluster.add_node(num_cpus=1, resources={"leaving": 1})
        wait_for_condition(lambda: bool(ray.wait([waiting], timeout=1)[0]), timeout=60)
        assert ray.get(waiting) != leaving.node_id
    finally:
        ray.shutdown()
        cluster.shutdown()
