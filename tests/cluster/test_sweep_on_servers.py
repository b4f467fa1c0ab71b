"""A whole sweep on the servers of a cluster, and the doctor's look at them."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import fsspec
import pytest
import sqlalchemy

from orchestrator import doctor
from orchestrator.opening import open_sweep
from tests.servers import (
    BUCKET,
    DATABASE_PASSWORD,
    ENCODED,
    KEYS,
    LEDGER_PASSWORD,
    SWEEP_PASSWORD,
    Servers,
    postgres_is_missing,
    runs_of,
    s3,
)
from tests.sweeps import SMALL, Driver, SmallSweep, driver
from trainables.errors import CortexSweepError

pytestmark = [
    pytest.mark.timeout(590),
    pytest.mark.skipif(bool(postgres_is_missing()), reason=postgres_is_missing() or "nothing is missing"),
]


def test_doctor_tries_the_servers_artifacts(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that answers may still have lost its bucket, which a sweep would find out at its first figure."""
    for name in (*KEYS, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "sweep")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SWEEP_PASSWORD)
    needs = doctor.Needs(tracking_uri=servers.address)
    before = servers.objects()
    (line,) = doctor._tracking(needs)
    assert servers.objects() == before, "what was tried is deleted again"
    assert (line.state, line.said) == ("ok", f"MLflow at {servers.address} was written and read")
    client = s3(servers.bucket)
    for name in servers.objects():
        client.delete_object(Bucket=BUCKET, Key=name)
    client.delete_bucket(Bucket=BUCKET)
    try:
        with pytest.raises(CortexSweepError) as told:
            list(doctor._tracking(needs))
    finally:
        client.create_bucket(Bucket=BUCKET)
    assert servers.address in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended
        return b""


def watch(run: Driver) -> dict[str, bytes]:
    """Command line and environment of every process of Ray's that the driver started, until it ends."""
    seen: dict[str, bytes] = {}
    while run.process.poll() is None:
        for pid, title in run.family().items():
            if "ray" in title:  # the driver itself calls git
                seen[title] = seen.get(title, b"") + title.encode() + environment_of(pid)
        time.sleep(1)
    return seen


@pytest.mark.long
def test_sweep_on_servers_gives_the_trials_of_a_sweep_on_one_disk(
    servers: Servers, small_sweep: SmallSweep, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same options but for where things lie; and the passwords, which stand in them, come nowhere else.

    One method less: a study's trials do not depend on the others.
    """
    client = s3(servers.bucket)
    for path in sorted(path for path in demo_root.rglob("*") if path.is_file()):
        client.upload_file(str(path), BUCKET, f"{demo_root.name}/{path.relative_to(demo_root)}")
    places = {
        **KEYS,
        "AWS_ENDPOINT_URL": servers.bucket,
        "SWEEP_DATA": f"s3://{BUCKET}/{demo_root.name}",
        "SWEEP_STORAGE": f"s3://{BUCKET}/results",
        "SWEEP_LEDGER": servers.database(password=LEDGER_PASSWORD),
        "SWEEP_TRACKING_URI": servers.address.replace("//", f"//sweep:{quote(SWEEP_PASSWORD, safe='')}@"),
    }
    log = tmp_path / "run.log"
    with TemporaryDirectory(prefix="ray-") as ray_folder:  # pytest's is too long for the name of a socket
        places["RAY_TMPDIR"] = ray_folder
        with driver(log, "run", *SMALL, "--methods=untuned,contrastive", settings=places, cwd=tmp_path) as run:
            seen = watch(run)
        assert run.wait() == 0, log.read_text()
        for path in Path(ray_folder).rglob("session_*/logs/**/*"):
            if path.is_file():
                seen[str(path)] = path.read_bytes()

    for name in (*KEYS, "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, places[name])
    monkeypatch.setenv("PGPASSWORD", LEDGER_PASSWORD)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "sweep")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SWEEP_PASSWORD)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    _, here = open_sweep("small", str(small_sweep.storage))
    _, there = open_sweep("small", places["SWEEP_STORAGE"])
    assert there.plan.differences(here.plan) == ["data", "methods"]
    for key in there.plan.studies:
        near, far = here.study_records(key), there.study_records(key)
        assert [record.config for record in far] == [record.config for record in near]
        for one, other in zip(far, near, strict=True):
            both = one.scores.keys() & other.scores.keys()  # which of two trials at once is pruned depends on the clock
            assert both
            assert [one.scores[epoch] for epoch in both] == pytest.approx(
                [other.scores[epoch] for epoch in both], rel=1e-5
            )
    shown = runs_of(there.plan)
    assert {uid for uid in shown if uid.count("/") == 4} == {
        record.uid for key in there.plan.studies for record in there.study_records(key)
    }
    assert {run.info.status for run in shown.values()} == {"FINISHED"}
    stored = servers.objects()
    assert {name for name in stored if name.endswith("model.safetensors")} == {
        f"results/small/trials/subj01-lh-V1v/{key.method}/{there.best(key)[0].number:05d}/model.safetensors"
        for key in there.plan.studies
    }
    assert_no_password(seen, log.read_bytes(), stored, servers)


def assert_no_password(seen: dict[str, bytes], said: bytes, stored: dict[str, bytes], servers: Servers) -> None:
    assert any("RayTrainWorker" in title for title in seen)
    assert any(b"AWS_ENDPOINT_URL=" in content for title, content in seen.items() if "raylet" in title)
    with sqlalchemy.create_engine(servers.database("mlflow", "mlflow", DATABASE_PASSWORD)).connect() as database:
        tables = sqlalchemy.inspect(database).get_table_names()
        content = {
            table: str(database.execute(sqlalchemy.text(f'SELECT * FROM "{table}"')).all()).encode() for table in tables
        }
    assert b"small" in content["experiments"]
    assert any(name.endswith("raylet.out") for name in seen), "Ray's logs"
    places = {**seen, **stored, **content, "what the command said": said}
    assert [place for place, text in places.items() if any(word in text for word in ENCODED)] == []
