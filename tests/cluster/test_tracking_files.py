"""What ``cluster/mlflow`` asks for and what it lets in; the servers themselves are in test_tracking_server.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster/mlflow"
SECRET = re.compile(r"PASSWORD|SECRET")


def example() -> dict[str, str]:
    """Settings of ``.env.example``, those that are commented out too."""
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE))


def test_example_names_every_setting_and_holds_no_secret() -> None:
    compose = (FOLDER / "compose.yaml").read_text()
    services = yaml.safe_load(compose)["services"].values()
    passed_on = {name for service in services for name, value in service["environment"].items() if value is None}
    assert {*re.findall(r"\$\{(\w+)", compose), *passed_on} == set(example())
    assert {value for name, value in example().items() if SECRET.search(name)} == {""}


def test_compose_starts_with_no_setting_left_empty() -> None:
    content = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    for service in content["services"].values():
        for name, value in service["environment"].items():
            if SECRET.search(name) and value is not None:
                assert value == f"${{{name}:?is not set}}"
        for port in service["ports"]:
            assert port.startswith("${BIND_ADDRESS:-127.0.0.1}:")


def test_compose_uses_the_files_that_are_there() -> None:
    content = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    build = content["services"]["mlflow"]["build"]
    context = (FOLDER / build["context"]).resolve()
    assert context == ROOT
    copied = re.findall(r"^COPY (.*) \S+$", (context / build["dockerfile"]).read_text(), re.MULTILINE)
    assert all((context / name).is_file() for line in copied for name in line.split())
    scripts = [volume.split(":")[0] for volume in content["services"]["postgres"]["volumes"] if volume.startswith(".")]
    assert all((FOLDER / name).is_file() for name in scripts)


@pytest.mark.parametrize("name", ["gpu.yaml", "gcp.yaml", "onprem.yaml"])
def test_settings_beside_the_files_stay_off_the_nodes(name: str) -> None:
    """`ray up` copies this folder to every node."""
    assert ".env" in yaml.safe_load((ROOT / "cluster" / name).read_text())["rsync_exclude"]
    assert "**/.env" in (ROOT / ".dockerignore").read_text().splitlines()
    ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "cluster/mlflow/.env"], check=False)
    assert ignored.returncode == 0


@pytest.mark.parametrize("name", ["server.sh", "postgres.sh"])
def test_scripts_are_bash(name: str) -> None:
    done = subprocess.run(["bash", "-n", str(FOLDER / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
