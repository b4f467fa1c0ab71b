"""Every command of README and docs, typed as its page shows it: what the page says comes true."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import ray
from moto.server import ThreadedMotoServer

from orchestrator.tuning import ray_running
from tests.servers import LEDGER_PASSWORD, SWEEP_PASSWORD, postgres_is_missing, servers_running
from tests.walks import (
    CLUSTER,
    ONE_TARGET,
    PICTURES,
    algonauts,
    desk,
    labelled,
    own_data,
    save_space,
    walk,
    without_right_hemisphere,
)
from trainables.data.demo import make_demo

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
PUBLISHED_STIMULI = 110
"""15 % of them are enough for five folds."""


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """Settings of an S3 server that has the bucket of docs/cluster.md."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    yield {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    server.stop()


@pytest.fixture(scope="module")
def joined(store: dict[str, str]) -> Iterator[dict[str, str]]:
    """Ray for the commands of most pages, which join it: each would start its own for half a minute."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.items():  # Ray's processes have the store's keys from whoever starts Ray
            patch.setenv(name, value)
        with ray_running(None, cpus=2):
            token = Path.home() / ".ray/auth_token"  # desks have other homes
            values = (ray.get_runtime_context().gcs_address, "token", str(token))
            yield dict(zip(CLUSTER, values, strict=True))


def test_readme_and_faults(tmp_path: Path, joined: dict[str, str]) -> None:
    own = desk(tmp_path / "own", **joined, **ONE_TARGET, SWEEP_METHODS="untuned,contrastive", SWEEP_SEEDS="2")
    algonauts(own)
    walk(own, "README.md", PICTURES)
    walk(own, "faults.md")


def test_python_and_choosing_models(tmp_path: Path, joined: dict[str, str]) -> None:
    """Both go on from `make sweep`; here it has a target for each subject, and scores that the page asks for."""
    scores = {"SWEEP_SCORES": "encoding,classification", "SWEEP_LABELLED": "colours"}
    demo = desk(tmp_path / "demo", **joined, **scores)
    root = make_demo(demo.folder / "demo-data", subjects=3, stimuli=80)
    labelled(demo, "colours")
    shutil.copy(next(root.rglob("train-0001*.png")), demo.folder / "picture.png")
    small = "--hemispheres lh --rois V1v --cutoffs features.2 --epochs 1"
    for name, more in (("demo", "--trials 3 --methods untuned,contrastive"), ("other", "--methods untuned")):
        line = f"python sweep.py run --data demo-data --space smoke --name {name} --subjects 1,2 {small} {more}"
        code, shown = demo.type(line)
        assert code == 0, shown
    walk(demo, "python.md")
    walk(demo, "choosing-models.md", PICTURES)


def test_data_and_extending(tmp_path: Path, joined: dict[str, str]) -> None:
    lab = desk(tmp_path / "lab", **joined, SWEEP_CUTOFFS="features.2", SWEEP_TRIALS="1", SWEEP_EPOCHS="1")
    own_data(lab)
    walk(lab, "data.md")
    lab.settings.update(ONE_TARGET)
    algonauts(lab)
    save_space(lab, "extending.md", "cold.py")
    walk(lab, "extending.md")


def test_macaque(tmp_path: Path, joined: dict[str, str]) -> None:
    lab = desk(tmp_path / "lab", **joined, SWEEP_TRIALS="1")
    without_right_hemisphere(algonauts(lab, subjects=3))
    (lab.folder / "conv.npz").rename(lab.folder / "alexnet_imagenet_conv.npz")
    save_space(lab, "macaque.md", "macaques.py")
    labelled(lab, "caltech101")
    walk(lab, "macaque.md")


def test_reproduce(tmp_path: Path, joined: dict[str, str]) -> None:
    lab = desk(tmp_path / "lab", **joined, **ONE_TARGET)
    make_demo(lab.folder / "nsd", subjects=2, stimuli=PUBLISHED_STIMULI)
    make_demo(lab.folder / "NOD", subjects=1, stimuli=80, seed=1)
    labelled(lab, "imagenet", "caltech256", "places365")
    walk(lab, "reproduce.md")


def test_cluster_and_s3(tmp_path: Path, joined: dict[str, str]) -> None:
    lab = desk(tmp_path / "lab", **joined, **ONE_TARGET, SWEEP_NAME="nsd", SWEEP_METHODS="untuned")
    root = algonauts(lab)
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket="my-lab-sweeps")
    for path in (path for path in root.rglob("*") if path.is_file()):
        client.upload_file(str(path), "my-lab-sweeps", str(path.relative_to(root.parent)))
    (lab.home / "algonauts").symlink_to(root)
    lab.settings |= {"SWEEP_DATA": str(lab.home / "algonauts"), "SWEEP_STORAGE": str(lab.home / "results")}
    servers = f"--ledger {lab.folder}/nsd.journal --tracking-uri sqlite:///{lab.folder}/mlflow.db"
    code, shown = lab.type(f"python sweep.py run --storage s3://my-lab-sweeps/results {servers}")
    assert code == 0, shown
    walk(lab, "cluster.md")
    lab.settings |= {
        "SWEEP_LEDGER": f"{lab.folder}/nsd.journal",
        "SWEEP_TRACKING_URI": f"sqlite:///{lab.folder}/mlflow.db",
    }
    walk(lab, "s3.md")


@pytest.mark.skipif(bool(postgres_is_missing()), reason=postgres_is_missing() or "nothing is missing")
def test_tracking_server(tmp_path: Path, joined: dict[str, str]) -> None:
    lab = desk(tmp_path / "lab", **joined, **ONE_TARGET, SWEEP_NAME="lab", SWEEP_METHODS="untuned")
    lab.settings["SWEEP_DATA"] = str(algonauts(lab))
    with servers_running() as servers:
        lab.replaced["postgresql://sweep@mlflow.internal/ledger"] = servers.database()
        lab.replaced["http://mlflow.internal:5000"] = servers.address
        passwords = lab.home / ".pgpass"
        word = LEDGER_PASSWORD.replace(":", r"\:")
        passwords.write_text(f"127.0.0.1:{servers.database_port}:ledger:sweep:{word}\n")
        passwords.chmod(0o600)
        lab.settings["PGPASSFILE"] = str(passwords)  # not every libpq looks for the home in HOME
        credentials = lab.home / ".mlflow/credentials"
        credentials.parent.mkdir()
        names = "mlflow_tracking_username = sweep\nmlflow_tracking_password"
        credentials.write_text(f"[mlflow]\n{names} = {SWEEP_PASSWORD}\n")
        credentials.chmod(0o600)
        walk(lab, "tracking-server.md")
