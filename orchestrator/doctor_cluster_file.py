"""The doctor's look at a cluster's file: whether it would start, what is still the example's, and what it opens."""

from __future__ import annotations

import contextlib
import io
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestrator.doctor import Line
from orchestrator.passwords import holds_password
from trainables.errors import ConfigError

PLACEHOLDERS = re.compile(
    r"\bmy-lab\b[\w-]*|\bmlflow\.internal\b|\bsg-of-aws-prerequisites\b|\bregistry\.example\.org\b|\b203\.0\.113\.\d+\b"
)
DASHBOARD_FOR_ALL = re.compile(r"--dashboard-host[=\s]+[\"']?(?:0\.0\.0\.0|::|\*)(?![\w:.])")
COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s\"']+")
MAKE_TOKEN = "`ray get-auth-token --generate && chmod 600 ~/.ray/auth_token`"
ASKS_ITSELF = {"RayJob": "kubectl apply --dry-run=server -f", "batch script": "sbatch --test-only"}
"""What checks the rest of a file that is not Ray's."""


def look_at_cluster_file(path: str | None) -> Iterator[Line]:
    """Whether ``ray up`` would take the file, and whether it opens what should stay closed.

    Of a file for Kubernetes or Slurm: what is still the example's, and secrets.

    Raises:
        ConfigError: it cannot be read, or starts no cluster.
    """
    if path is None:
        return
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise ConfigError(f"--cluster {path} cannot be read ({reason}); name a file of cluster/") from error
    kind = _kind(text)
    if kind in ASKS_ITSELF:
        fine = f"{path}: a {kind}; `{ASKS_ITSELF[kind]} {path}` looks at the rest"
        wrong = [*_left_of_the_example(text), *_secrets(text)]
    else:
        content, config = _rays(path, text)
        fine = f"{path}: cluster {config['cluster_name']} of {config['provider']['type']}"
        wrong = [*_left_of_the_example(text, config["provider"]["type"]), *_secrets(text), *_faults(content, text)]
    yield from (Line("cluster file", "wrong", said) for said in wrong)
    if not wrong:
        yield Line("cluster file", "ok", fine)


def _kind(text: str) -> str:
    if text.startswith("#!"):
        return "batch script"
    with contextlib.suppress(yaml.YAMLError):
        kinds = {document.get("kind") for document in yaml.safe_load_all(text) if isinstance(document, dict)}
        if "RayJob" in kinds:
            return "RayJob"
    return "cluster"


def _rays(path: str, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file as it stands, and as Ray fills it out."""
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        content = yaml.safe_load(text)
        with contextlib.redirect_stdout(io.StringIO()):  # Ray warns of every mount that is a file
            config = prepare_config(content)
            validate_config(config)
    except (yaml.YAMLError, ValidationError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--cluster {path} is no cluster that Ray would start ({reason}); mend the file") from error
    return content, config


def _left_of_the_example(text: str, provider: str | None = None) -> Iterator[str]:
    left = set(PLACEHOLDERS.findall(COMMENT.sub("", text)))
    if provider == "aws":
        left.discard("mlflow.internal")  # the name that aws-prerequisites.yaml gives to its tracking machine
    if left:
        yield f"still holds the example's {', '.join(sorted(left))}; put your own there"


def _secrets(text: str) -> Iterator[str]:
    if any(holds_password(address) for address in ADDRESS.findall(text)):
        yield "holds a password in an address, and others read this file; docs/security.md says where it belongs"
    if KEY_ID.search(text):
        yield "holds an AWS access key, and others read this file; let the machines' role, or ~/.aws, have the rights"


def _faults(content: dict[str, Any], text: str) -> Iterator[str]:
    starts = " ".join([*content.get("head_start_ray_commands", []), *content.get("worker_start_ray_commands", [])])
    if DASHBOARD_FOR_ALL.search(starts):
        yield "starts Ray's dashboard for everybody; write --dashboard-host=127.0.0.1 and use an SSH tunnel"
    if "RAY_AUTH_MODE=token" not in COMMENT.sub("", text):
        yield "starts Ray without a token, and whoever reaches its ports can run code; export RAY_AUTH_MODE=token"
    if content["provider"]["type"] == "aws":
        nodes = content.get("available_node_types", {}).items()
        if without := [name for name, node in nodes if not node.get("node_config", {}).get("SecurityGroupIds")]:
            yield (
                f"has no SecurityGroupIds for {', '.join(without)}, and Ray would make a group that is open to the "
                "world; see aws-prerequisites.yaml"
            )
    if not content.get("setup_commands"):
        yield "has no setup_commands, and Ray would install a nightly wheel; install constraints.txt there"
    yield from _mounts(content.get("file_mounts") or {})


def _mounts(mounts: dict[str, str]) -> Iterator[str]:
    """What ``ray up`` would copy and what is not there, or others may read although it is a token."""
    for source in mounts.values():
        path = Path(source).expanduser()
        if not path.exists():
            remedy = MAKE_TOKEN if path.name == "auth_token" else "start in the repository's root"
            yield f"copies {source}, which is not here; {remedy}"
        elif path.name == "auth_token" and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield f"copies {source}, which has mode {mode:04o} and others can read: chmod 600 {source}"
