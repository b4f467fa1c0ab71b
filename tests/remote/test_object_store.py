"""What is written to a store that fails, and read from it: all of it or nothing, or one sentence."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from upath import UPath

from orchestrator.storage import read_json, reading_arrays, sweep_names, write_arrays, write_json
from orchestrator.tuning import runtime_env
from tests.remote.fault_proxy import ALWAYS, FaultProxy
from tests.remote.s3 import BUCKET, forget_connections, forget_listings, names, speak_to
from tests.sweeps import ROOT, at_once
from trainables import remote, s3
from trainables.errors import ConfigError, StorageError, WeightsError
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import load_weights, save_weights
from trainables.remote import StoreError
from trainables.s3 import PatientS3

CONTENT = {"scores": list(range(400))}


@pytest.fixture
def proxy(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    """With a client that does not wait long for a body that stops."""
    monkeypatch.setenv("SWEEP_S3_TIMEOUT", "2")
    return proxy


@pytest.fixture
def impatient(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    """The proxy, and a client that gives up soon."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(PatientS3, "retries", 2)
    return proxy


def place(name: str) -> UPath:
    return UPath(f"s3://{BUCKET}/results/{name}")


def model(value: float = 0.0) -> TunedModel:
    state = {"features.0.weight": torch.full((4, 3), value)}
    return TunedModel("alexnet", "features.2", "contrastive", "features.2", state)


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut", "truncated", "stall", "short", "garbled"])
def test_reading_survives_a_fault_that_passes(proxy: FaultProxy, fault: str) -> None:
    write_json(place("a.json"), CONTENT)
    proxy.fail(fault, method="GET", path="a.json")
    assert read_json(place("a.json")) == CONTENT
    assert proxy.count(fault) == 1


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost"])
def test_writing_survives_a_fault_that_passes(proxy: FaultProxy, fault: str) -> None:
    proxy.fail(fault, method="PUT")
    write_arrays(place("a.npz"), r=np.arange(5))
    with reading_arrays(place("a.npz")) as arrays:
        assert arrays["r"].tolist() == list(range(5))
    assert proxy.count(fault) == 1


def test_a_slow_answer_is_waited_for(proxy: FaultProxy) -> None:
    write_json(place("a.json"), CONTENT)
    proxy.fail("slow", method="GET")
    assert read_json(place("a.json")) == CONTENT
    assert [method for method, path, _ in proxy.log if path.endswith("a.json")].count("GET") == 1


@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated"])
def test_listing_survives_a_fault_that_passes(proxy: FaultProxy, fault: str) -> None:
    for name in ("b", "a"):
        write_json(place(f"{name}/plan.json"), {})
    forget_listings()
    proxy.fail(fault, method="GET", path="list-type=2")
    assert sweep_names(f"s3://{BUCKET}/results") == ["a", "b"]
    assert proxy.count(fault) == 1


def test_attempts_wait_longer_and_longer(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(place("a.json"), CONTENT)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # so that the waits are s3fs' own, without chance
    forget_connections()
    proxy.fail("503", method="GET", path="a.json", times=4)
    assert read_json(place("a.json")) == CONTENT
    assert proxy.count("503") == 4
    came = [moment for moment, (*_, fault) in zip(proxy.moments, proxy.log, strict=True) if fault]
    waits = np.diff([*came, proxy.moments[-1]])
    assert waits[0] >= 0.1
    assert waits[-1] > 2 * waits[0], waits


ACTIONS: dict[str, Callable[[], object]] = {
    "read": lambda: read_json(place("a.json")),
    "write": lambda: write_json(place("b.json"), CONTENT),
    "arrays": lambda: write_arrays(place("b.npz"), r=np.arange(3)),
    "list": lambda: sweep_names(f"s3://{BUCKET}/results"),
    "model": lambda: model().save(place("model")),
    "load": lambda: TunedModel.load(place("kept")),
}


@pytest.mark.parametrize(
    "fault, remedy",
    [
        ("500", "when it is well"),
        ("503", "when it is well"),
        ("reset", "AWS_ENDPOINT_URL"),
        ("expired", "expired"),
        ("denied", "credentials"),
    ],
)
def test_a_fault_that_stays_is_one_sentence(impatient: FaultProxy, fault: str, remedy: str) -> None:
    write_json(place("a.json"), CONTENT)
    model().save(place("kept"))
    for action in ACTIONS.values():
        forget_listings()
        impatient.fail(fault, times=ALWAYS)
        with pytest.raises(StorageError, match=f"s3://{BUCKET}/results") as told:
            action()
        assert len(str(told.value).splitlines()) == 1
        assert remedy in str(told.value)
        impatient.heal()
        forget_listings()
        action()


def test_what_cannot_be_seen_is_not_taken_for_absent(impatient: FaultProxy) -> None:
    write_json(place("a.json"), CONTENT)
    forget_listings()
    questions: list[tuple[UPath, str, bool]] = [
        (place("a.json"), "exists", True),
        (place("b.json"), "exists", False),
        (place("a.json"), "is_file", True),
        (place("a.json"), "is_dir", False),
        (UPath(f"s3://{BUCKET}"), "exists", True),
        (UPath("s3://no-such-bucket"), "exists", False),
    ]
    assert [getattr(path, question)() for path, question, _ in questions] == [answer for *_, answer in questions]
    impatient.fail("500", times=ALWAYS)
    for path, question, _ in questions:
        forget_listings()
        with pytest.raises(StoreError):
            getattr(path, question)()


def test_expired_credentials_are_to_be_renewed(impatient: FaultProxy) -> None:
    impatient.fail("expired", method="PUT", times=ALWAYS)
    with pytest.raises(StorageError, match="The provided token has expired.; renew the credentials, then go on"):
        write_json(place("a.json"), CONTENT)


def test_a_body_that_stops_or_trickles_ends(impatient: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(place("a.json"), CONTENT)
    impatient.fail("stall", method="GET", path="a.json", times=ALWAYS)
    started = time.monotonic()
    with pytest.raises(StoreError, match="a.json cannot be read"):
        read_json(place("a.json"))
    assert time.monotonic() - started < 20
    impatient.heal()
    impatient.fail("trickle", method="GET", path="a.json", times=ALWAYS)
    monkeypatch.setattr(remote, "PATIENCE_S", 2.0)
    with pytest.raises(StoreError, match=r"a.json cannot be read \(\d+ bytes took more than 2 s\)"):
        read_json(place("a.json"))


def test_a_file_of_several_pieces_is_read_whole(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PIECE_BYTES", 1000)
    content = np.random.default_rng(0).bytes(4500)
    remote.write_whole(place("large"), content)
    proxy.fail("truncated", method="GET", path="large", after=2)
    proxy.fail("short", method="GET", path="large", after=2)
    proxy.fail("garbled", method="GET", path="large", after=6)  # in the second reading
    assert remote.read_whole(place("large")) == content
    assert all(proxy.count(fault) == 1 for fault in ("truncated", "short", "garbled"))


def test_etags_that_are_no_md5_cost_a_second_read_once(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_other_etags", set())
    plain = PatientS3._info

    async def of_a_kms_bucket(self: PatientS3, *args: Any, **kwargs: Any) -> Any:
        return {**await plain(self, *args, **kwargs), "ETag": f'"{"0" * 32}"'}

    monkeypatch.setattr(PatientS3, "_info", of_a_kms_bucket)
    remote.write_whole(place("a"), b"content")
    for reads in (2, 3, 4):
        assert remote.read_whole(place("a")) == b"content"
        assert sum(method == "GET" and path.endswith("/a") for method, path, _ in proxy.log) == reads


def test_a_request_that_is_never_answered_ends(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "CALL_S", 3.0)
    proxy.fail("mute", times=ALWAYS)
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"cannot be written \(no answer came in time\); the store failed"):
        write_json(place("a.json"), CONTENT)
    assert time.monotonic() - started < 10


def test_a_killed_upload_leaves_nothing_to_read(proxy: FaultProxy, client: Any) -> None:
    proxy.fail("mute", method="PUT", path="partNumber=2", times=ALWAYS)
    code = (
        "import functools\n"
        "from upath import UPath\n"
        "from trainables.remote import write_whole\n"
        f"path = UPath('s3://{BUCKET}/results/large')\n"
        "path.fs.pipe_file = functools.partial(path.fs.pipe_file, chunksize=5 << 20)\n"
        "write_whole(path, bytes(12 << 20))\n"
    )
    environment = {**os.environ, "SWEEP_S3_TIMEOUT": "100"}
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 60
    while not proxy.count("mute"):
        assert writer.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)  # its other parts arrive
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(20)
    assert names(client, "results") == []
    assert not place("large").exists()
    assert len(client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]) == 1, "it had begun"
    proxy.heal()
    remote.write_whole(place("large"), b"whole")
    assert client.get_object(Bucket=BUCKET, Key="results/large")["Body"].read() == b"whole"


def test_half_a_model_is_no_model(impatient: FaultProxy, client: Any) -> None:
    impatient.fail("500", method="PUT", path="model.json", times=ALWAYS)
    with pytest.raises(StoreError, match="model.json cannot be written"):
        model().save(place("model"))
    assert names(client, "results/model") == ["results/model/model.safetensors"]
    with pytest.raises(WeightsError, match="cannot be read"):
        TunedModel.load(place("model"))
    impatient.heal()
    model(1.0).save(place("model"))
    assert TunedModel.load(place("model")).state["features.0.weight"].unique().tolist() == [1.0]
    # One that replaces another, and dies between its files, is not mixed with it.
    impatient.fail("500", method="PUT", path="model.json", times=ALWAYS)
    with pytest.raises(StoreError, match="model.json"):
        model(2.0).save(place("model"))
    with pytest.raises(WeightsError, match="belongs to another model"):
        TunedModel.load(place("model"))


def test_weights_go_to_a_store_and_back(impatient: FaultProxy) -> None:
    weights = load_weights("random", "resnet18")
    impatient.fail("cut", method="GET", path="weights.safetensors")
    save_weights(weights, place("weights.safetensors"))
    assert load_weights(str(place("weights.safetensors")), "resnet18").digest == weights.digest
    impatient.fail("expired", times=ALWAYS)
    with pytest.raises(WeightsError, match="weights file s3://.*credentials"):
        load_weights(str(place("weights.safetensors")), "resnet18")


@pytest.mark.parametrize(
    "words",
    [
        ["list", f"--storage=s3://{BUCKET}/results"],
        ["status", "lost", f"--storage=s3://{BUCKET}/results"],
        ["data", "check", f"s3://{BUCKET}/lab"],
        ["run", f"--data=s3://{BUCKET}/lab", "--name=a", "--weights=random"],
    ],
    ids=lambda words: words[0],
)
def test_commands_say_one_sentence(impatient: FaultProxy, words: list[str], tmp_path: Path) -> None:
    impatient.fail("expired", times=ALWAYS)
    if words[0] == "run":
        words = [*words, f"--storage={tmp_path}"]
    done = at_once(*words)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert f"s3://{BUCKET}" in said
    assert "Traceback" not in said
    assert "cannot be re" in said.replace("\n", " ")


def test_a_bucket_is_not_made_by_mistake(proxy: FaultProxy, client: Any) -> None:
    with pytest.raises(StorageError, match="bucket does not exist"):
        write_json(UPath("s3://no-such-bucket/results/a.json"), CONTENT)
    assert [entry["Name"] for entry in client.list_buckets()["Buckets"]] == [BUCKET]


def test_settings_reach_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def address() -> str:
        forget_connections()
        return str(UPath(f"s3://{BUCKET}/a").fs.url(f"{BUCKET}/a"))

    speak_to("http://localhost:1", monkeypatch)
    assert address().startswith(f"http://localhost:1/{BUCKET}/a?")
    monkeypatch.setenv("SWEEP_S3_ADDRESSING_STYLE", "virtual")
    assert address().startswith(f"http://{BUCKET}.localhost:1/a?")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert "eu-north-1" in address()
    forget_connections()


def test_checksums_are_left_out_where_a_store_does_not_know_them(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checksums() -> bool:
        forget_connections()
        proxy.headers.clear()
        write_json(place("a.json"), CONTENT)
        return any(name.startswith("x-amz-checksum") for headers in proxy.headers for name in headers)

    assert checksums()
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    assert not checksums()


@pytest.mark.parametrize(
    "name, value", [("SWEEP_S3_TIMEOUT", "soon"), ("SWEEP_S3_TIMEOUT", "-1"), ("SWEEP_S3_ADDRESSING_STYLE", "host")]
)
def test_settings_without_meaning_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    forget_connections()
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is '{value}'"):
        sweep_names(f"s3://{BUCKET}/results")


def test_an_address_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    speak_to("localhost:9000", monkeypatch)
    with pytest.raises(StorageError, match="Invalid endpoint.*AWS_ENDPOINT_URL is an address such as"):
        sweep_names(f"s3://{BUCKET}/results")
    forget_connections()


def test_nodes_are_told_where_the_store_is_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in remote.NODE_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert runtime_env() == {}
    speak_to("http://minio:9000", monkeypatch)
    monkeypatch.setenv("SWEEP_CACHE_SIZE", "20GB")
    told = {"AWS_ENDPOINT_URL": "http://minio:9000", "AWS_DEFAULT_REGION": "us-east-1", "SWEEP_CACHE_SIZE": "20GB"}
    assert runtime_env() == {"env_vars": told}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"runtime_env": {"env_vars": {"SWEEP_CACHE_SIZE": "20GB"}}}')
    del told["SWEEP_CACHE_SIZE"]
    assert runtime_env() == {"env_vars": told}


def test_errors_of_a_store_travel_between_processes() -> None:
    error = StoreError("s3://a/b", "read", "SlowDown", "wait")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.remedy) == (StoreError, str(error), "wait")


def test_artifacts_of_mlflow_go_to_the_same_store(
    impatient: FaultProxy, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.tracking.client import connect, tracking_errors

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking = connect(uri)
    experiment = tracking.create_experiment("a", artifact_location=f"s3://{BUCKET}/results/a/artifacts")
    run = tracking.create_run(experiment)
    impatient.fail("503", method="PUT")
    tracking.log_text(run.info.run_id, "content", "note.txt")
    (name,) = names(client, "results/a/artifacts")
    assert client.get_object(Bucket=BUCKET, Key=name)["Body"].read() == b"content"
    impatient.fail("expired", times=ALWAYS)
    with pytest.raises(StorageError, match="MLflow.*expired"), tracking_errors(uri):
        tracking.log_text(run.info.run_id, "content", "other.txt")
