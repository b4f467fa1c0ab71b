"""Looks at everything that a sweep needs, before it costs money: one line each, fine or what to do."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from upath import UPath

from orchestrator.hints import count
from orchestrator.passwords import without_password
from orchestrator.storage import resolved, storage_errors, write_whole
from trainables.errors import ConfigError, CortexSweepError
from trainables.remote import is_local, read_whole

SKEW_SECONDS = 30.0
"""Clocks further apart than this make object stores refuse requests and trials seem to end before they began."""
PROBE = "cortex-sweep-doctor"


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    what: str
    state: str
    """``ok``, ``note`` (worth knowing, stops nothing) or ``wrong``."""
    said: str
    """What was found; where it is wrong, what to do."""


@dataclass(frozen=True)
class Needs:
    """What the sweep would be run with; None where an option was not given."""

    data: str | None = None
    weights: str | None = None
    backbone: str = "alexnet"
    storage: str = "results"
    tracking_uri: str | None = None
    ledger: str | None = None
    address: str | None = None
    profile: str = "auto"
    cluster: str | None = None
    """A cluster's YAML file."""


def examine(needs: Needs) -> Iterator[Line]:
    """Every line, as soon as it is known. What is written to try storage and MLflow is deleted again; a new
    ledger's database keeps Optuna's empty tables, which the sweep needs anyway.
    """
    from orchestrator.doctor_cluster import look_at_nodes
    from orchestrator.doctor_cluster_file import look_at_cluster_file

    looks: list[tuple[str, Callable[[], Iterator[Line]]]] = [
        ("data", lambda: look_at_data(needs)),
        ("weights", lambda: _weights(needs)),
        ("storage", lambda: look_at_storage(needs)),
        ("ledger", lambda: _ledger(needs)),
        ("tracking", lambda: _tracking(needs)),
        ("secrets", _secrets),
        ("cluster file", lambda: look_at_cluster_file(needs.cluster)),
        ("nodes", lambda: look_at_nodes(needs)),
    ]
    for what, look in looks:
        try:
            yield from look()
        except CortexSweepError as error:
            yield Line(what, "wrong", str(error))
        except OSError as error:
            yield Line(what, "wrong", f"{error.filename} cannot be looked at ({error.strerror}); mend it")


def look_at_data(needs: Needs) -> Iterator[Line]:
    """Whether every subject can be opened and a stimulus of it decoded, from this machine."""
    from trainables.data.files import default_cache_dir
    from trainables.data.open import open_dataset
    from trainables.data.stimuli import decode_stimuli

    if needs.data is None:
        yield Line("data", "note", "not looked at; give --data, or make a set with `sweep.py data demo DIR`")
        return
    dataset = open_dataset(needs.data)
    counts = []
    for name in dataset.subjects:
        subject = dataset.subject(name)
        decode_stimuli(subject.image_paths[:1], default_cache_dir())  # readable, from here at least
        counts.append(f"{name} {len(subject.image_paths)}")
    yield Line("data", "ok", f"{dataset.name}, stimuli: {', '.join(counts)}; `sweep.py data check` looks at every file")


def _weights(needs: Needs) -> Iterator[Line]:
    from trainables.models.weights import load_weights

    weights = load_weights(needs.weights or "imagenet", needs.backbone)
    yield Line("weights", "ok", f"{weights.source}, layer cutoffs {weights.cutoffs[0]} to {weights.cutoffs[-1]}")


def look_at_storage(needs: Needs) -> Iterator[Line]:
    """Whether the storage takes, lists, gives back and deletes an object, from this machine."""
    base = resolved(needs.storage)
    local = is_local(base)
    probe = base / f".{PROBE}-{uuid.uuid4().hex}"
    before = time.time()
    made = local and not base.exists()
    write_whole(probe, b"probe")
    try:
        with storage_errors(probe, "read back"):
            intact = read_whole(probe) == b"probe"
            listed = probe.name in {path.name for path in base.iterdir()}
            skew = _modified(probe) - before
    finally:
        with storage_errors(probe, "delete"):
            probe.unlink()
        if made:
            base.rmdir()
    if not (intact and listed):
        yield Line("storage", "wrong", f"{base} does not {'list' if intact else 'give back'} what was written there")
        return
    yield Line("storage", "ok", f"{base} was written, listed, read and deleted")
    seconds = time.time() - before
    if abs(skew) > SKEW_SECONDS + seconds:
        yield Line(
            "clock",
            "wrong",
            f"{base} is {skew:+.0f} s from this machine's clock; set it by a time server (chrony, ntp)",
        )
    if not local and not (needs.ledger and needs.tracking_uri):
        yield Line(
            "storage", "wrong", "a remote --storage needs --ledger postgresql://… and --tracking-uri http://… too"
        )


def _modified(path: UPath) -> float:
    info = path.stat()
    return float(info.st_mtime)


def _ledger(needs: Needs) -> Iterator[Line]:
    from orchestrator.ledger_storage import open_storage

    if needs.ledger is None:
        yield Line("ledger", "ok", "a journal file in --storage")
        return
    shown = without_password(needs.ledger)
    if "://" not in needs.ledger:
        file = Path(needs.ledger).expanduser()
        if not file.exists():
            folder = next(parent for parent in file.absolute().parents if parent.exists())
            try:
                with tempfile.TemporaryFile(dir=folder):
                    yield Line("ledger", "ok", f"{shown} will be made")
            except OSError as error:
                said = f"{shown} cannot be made in {folder} ({error.strerror}); choose another --ledger"
                yield Line("ledger", "wrong", said)
            return
    started = time.monotonic()
    studies = open_storage(needs.ledger).get_all_studies()
    milliseconds = 1000 * (time.monotonic() - started)
    held = count(len(studies), "study", "studies")
    yield Line("ledger", "ok", f"{shown} answers, holds {held} ({milliseconds:.0f} ms)")
    if shown != needs.ledger:
        said = "a password stands in --ledger, where others see it among the processes; put it in ~/.pgpass"
        yield Line("ledger", "wrong", said)


def _tracking(needs: Needs) -> Iterator[Line]:
    from orchestrator.tracking.client import artifact_comes_back, connect, is_server, tracking_errors

    if needs.tracking_uri is None:
        yield Line("tracking", "ok", "a SQLite database in --storage")
        return
    client = connect(needs.tracking_uri)
    name = f"{PROBE}-{uuid.uuid4().hex[:8]}"
    with tracking_errors(needs.tracking_uri):
        experiment = client.create_experiment(name)
        try:
            run = client.create_run(experiment)
            client.log_metric(run.info.run_id, "probe", 1.0)
            written = client.get_run(run.info.run_id).data.metrics == {"probe": 1.0}
            # Without a server the sweep's storage keeps them, which has a line of its own.
            kept = not is_server(needs.tracking_uri) or artifact_comes_back(client, run.info.run_id)
            artifacts = client.get_experiment(experiment).artifact_location
        finally:
            client.delete_experiment(experiment)
    shown = without_password(needs.tracking_uri)
    if not written:
        raise ConfigError(f"MLflow at {shown} took a metric and does not give it back; look at its log")
    if not kept:
        raise ConfigError(f"MLflow at {shown} does not give back an artifact; look at its place, {artifacts}")
    yield Line("tracking", "ok", f"MLflow at {shown} was written and read")
    if is_server(needs.tracking_uri) and artifacts.startswith(("/", "file:")):
        said = "which other machines cannot write; start it with --serve-artifacts and --artifacts-destination"
        yield Line("tracking", "note", f"MLflow at {shown} keeps figures and models in its folder {artifacts}, {said}")
    if shown != needs.tracking_uri:
        said = "a password stands in --tracking-uri, where others see it among the processes; put it in "
        yield Line("tracking", "wrong", f"{said}~/.mlflow/credentials")


SECRET_FILES = ("~/.pgpass", "~/.mlflow/credentials", "~/.aws/credentials", "~/.ray/auth_token")


def _secrets() -> Iterator[Line]:
    """Files that hold a password or a token, and who may read them."""
    found = [Path(name).expanduser() for name in SECRET_FILES]
    if token := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        found.append(Path(token).expanduser())
    for path in found:
        if not path.exists():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            yield Line("secrets", "wrong", f"{path} has mode {mode:04o} and others can read it: chmod 600 {path}")
        else:
            yield Line("secrets", "ok", f"{path} is yours alone")
    if os.environ.get("RAY_AUTH_MODE") == "token" and not (
        os.environ.get("RAY_AUTH_TOKEN") or any(path.exists() for path in found[3:])
    ):
        yield Line("secrets", "wrong", "RAY_AUTH_MODE is token and there is none: `ray get-auth-token --generate`")


def examine_and_print(needs: Needs, as_json: bool) -> int:
    """Print every line as soon as it is known; 1 if something is wrong, else 0."""
    console = Console()
    lines = []
    for line in examine(needs):
        lines.append(line)
        if not as_json:
            colour, word = {"ok": ("green", "OK"), "note": ("yellow", "note"), "wrong": ("red", "WRONG")}[line.state]
            console.print(f"[{colour}]{word:<6}[/]{line.what}: {escape(line.said)}", soft_wrap=True)
    wrong = sum(line.state == "wrong" for line in lines)
    if as_json:
        print(json.dumps([asdict(line) for line in lines]))
    else:
        ready = (
            f"Ready: ray up {needs.cluster}, then look from its head: ray submit {needs.cluster} sweep.py doctor"
            if needs.cluster
            else "Ready: sweep.py run"
        )
        console.print(f"\n{wrong} of {len(lines)} lines are wrong." if wrong else f"\n{ready}", soft_wrap=True)
    return 1 if wrong else 0
