"""Turns a cloud's notice that it will take this machine away into a drain: Ray places nothing more on it.

    python -m cluster.spot_watcher aws

Runs beside Ray on every worker (`worker_start_ray_commands` of gpu.yaml and gcp.yaml) and ends after a notice. What
the machine computes goes on until it is gone; the autoscaler has that long to start another one. A trial that was
running there starts again from its newest snapshot.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError
from ray.util import get_node_ip_address

POLL_SECONDS = 5.0
"""AWS asks for this interval."""
REQUEST_SECONDS = 2.0
GCP_SECONDS = 30
"""From Google's notice to the end of the machine."""


def ask(url: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
    """The metadata server's answer; None where there is nothing, or no such server."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as answer:
            return str(answer.read().decode())
    except (OSError, http.client.HTTPException, UnicodeDecodeError):  # URLError is an OSError
        return None


def aws_notice(server: str) -> float | None:
    """Seconds until AWS takes this machine away; None without a notice. Source: EC2's spot interruption notices."""
    token = ask(f"{server}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    if token is None:
        return None
    text = ask(f"{server}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    try:
        notice = json.loads(text or "{}")
        when = datetime.fromisoformat(notice["time"]) if notice.get("action") in ("terminate", "stop") else None
    except (ValueError, KeyError, AttributeError, TypeError):  # what is no notice must not end the watch
        return None
    return None if when is None else max(0.0, (when - datetime.now(UTC)).total_seconds())


def gcp_notice(server: str) -> float | None:
    """Seconds until Google takes this machine away; None without a notice. Source: Compute Engine's preemption."""
    text = ask(f"{server}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return float(GCP_SECONDS) if (text or "").strip() == "TRUE" else None


CLOUDS: dict[str, tuple[str, Callable[[str], float | None]]] = {
    "aws": ("http://169.254.169.254", aws_notice),
    "gcp": ("http://metadata.google.internal", gcp_notice),
}


def node_here(head: str) -> str:
    """Ray's id of the node that started last on this machine.

    Raises:
        LookupError: none runs here.
        RuntimeError: the head does not answer.
    """
    nodes = GcsClient(address=head).get_all_node_info(timeout=10)
    here = get_node_ip_address()
    alive = [node for node in nodes.values() if node.state == 0 and node.node_manager_address == here]
    if not alive:
        raise LookupError(f"no node of Ray's cluster at {head} runs at {here}")
    return str(max(alive, key=lambda node: node.start_time_ms).node_id.hex())


def drain(head: str, node: str, seconds: float) -> None:
    """Tell Ray that the node goes away.

    Raises:
        subprocess.CalledProcessError: Ray refused, or does not answer.
    """
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the cloud takes this machine away"]
    # Through Ray's command: the reasons are numbers of a protocol that changes between releases.
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", head, "--node-id", node, *reason]
    subprocess.run([*command, "--deadline-remaining-seconds", str(max(0, round(seconds)))], check=True, timeout=60)


def main() -> int:
    """Watch until there is a notice, then drain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cloud", choices=CLOUDS)
    parser.add_argument("--address", required=True, help="HEAD:PORT of the Ray cluster")
    parser.add_argument("--server", help="the metadata server, where it is not the cloud's own")
    parser.add_argument("--every", type=float, default=POLL_SECONDS, help="seconds between two looks")
    asked = parser.parse_args()
    server, look = CLOUDS[asked.cloud]
    while (seconds := look(asked.server or server)) is None:
        time.sleep(asked.every)
    deadline = time.monotonic() + seconds
    print(f"{datetime.now(UTC):%F %T} notice: {seconds:.0f} s left", flush=True)
    while True:
        try:
            drain(asked.address, node_here(asked.address), deadline - time.monotonic())
        except (RayError, RuntimeError, subprocess.SubprocessError, LookupError) as error:
            print(f"{datetime.now(UTC):%F %T} could not drain: {error}", flush=True)
            if time.monotonic() > deadline:
                return 1
            time.sleep(asked.every)
        else:
            print(f"{datetime.now(UTC):%F %T} drained", flush=True)
            return 0


if __name__ == "__main__":
    sys.exit(main())
