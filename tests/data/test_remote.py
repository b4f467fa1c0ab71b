"""The same data set on disk and behind an ``s3://`` address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from tests.data.builders_generic import make_generic
from tests.data.builders_nod import make_nod
from tests.data.helpers import write_challenge
from trainables.data.algonauts import open_algonauts
from trainables.data.check import check_dataset
from trainables.data.files import FaultyFileError
from trainables.data.open import open_dataset
from trainables.data.stimuli import decode_stimuli
from trainables.errors import DataError

BUCKET = "laboratory"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def upload(root: Path) -> str:
    """Puts a folder into the bucket, which an open file system may have looked into before."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        boto3.client("s3").upload_file(str(path), BUCKET, str(path.relative_to(root.parent)))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    return f"s3://{BUCKET}/{root.name}"


@pytest.fixture
def remote(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A data set in a bucket, as `write_challenge` writes it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    upload(write_challenge(tmp_path / "lab"))
    yield f"s3://{BUCKET}/lab"
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_reads_alike(remote: str, tmp_path: Path) -> None:
    there, here = open_algonauts(remote), open_algonauts(tmp_path / "lab")
    assert there.name == here.name == "lab"
    assert there.rois == here.rois
    far, near = there.subject("subj01"), here.subject("subj01")
    assert far.stimulus_ids.tolist() == near.stimulus_ids.tolist()
    assert far.test_stimulus_ids.tolist() == near.test_stimulus_ids.tolist()
    assert far.roi_sizes("lh") == near.roi_sizes("lh")
    assert np.array_equal(far.responses("rh", "V1d"), near.responses("rh", "V1d"))
    cache = tmp_path / "stimuli"
    decoded = decode_stimuli(far.image_paths, cache, size=16)
    assert np.array_equal(decoded, decode_stimuli(near.image_paths, cache, size=16))
    assert len(list(cache.glob("*.npy"))) == 1, "the same content has the same name wherever it comes from"


def test_checks_alike(remote: str, tmp_path: Path) -> None:
    there, here = check_dataset(remote), check_dataset(tmp_path / "lab")
    assert there.subjects == here.subjects
    assert there.faults == here.faults == []


@pytest.mark.parametrize("layout", ["generic", "generic-ids", "nod"])
def test_other_layouts_read_alike(remote: str, tmp_path: Path, layout: str) -> None:
    if layout == "nod":
        root = make_nod(tmp_path / "nod", subjects=1, trials=1)
    else:
        root = make_generic(tmp_path / "own", subjects=1, stimuli=12, ids=layout == "generic-ids", ncsnr=True)
    address = upload(root)
    there, here = open_dataset(address), open_dataset(root)
    assert (there.name, there.rois, list(there.subjects)) == (here.name, here.rois, list(here.subjects))
    far, near = there.subject("subj01"), here.subject("subj01")
    assert far.stimulus_ids.tolist() == near.stimulus_ids.tolist()
    assert far.roi_sizes("rh") == near.roi_sizes("rh")
    assert np.array_equal(far.responses("rh", "V1"), near.responses("rh", "V1"))
    if layout != "nod":  # whose 120 files would only be read a second time
        ceiling = far.noise_ceiling("rh", "V1")
        other = near.noise_ceiling("rh", "V1")
        assert ceiling is not None
        assert other is not None
        assert ceiling.tolist() == other.tolist()
        report = check_dataset(address)
        assert report.subjects == check_dataset(root).subjects
        assert report.faults == []


def test_a_replaced_array_is_copied_anew(remote: str, tmp_path: Path) -> None:
    before = open_algonauts(remote).subject("subj01").responses("lh", "V1v")
    name = "lab/subj01/training_split/training_fmri/lh_training_fmri.npy"
    changed = np.zeros((3, 8, 2), np.float32)[..., 0] + np.arange(8, dtype=np.float32)
    np.save(tmp_path / "changed.npy", np.vstack([changed, changed])[:3, :].astype(np.float64))
    boto3.client("s3").upload_file(str(tmp_path / "changed.npy"), BUCKET, name)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(FaultyFileError, match="float64; expected float32"):
        open_algonauts(remote).subject("subj01").responses("lh", "V1v")
    assert before.shape == (3, 3)


def test_missing_places(remote: str) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_algonauts(f"s3://{BUCKET}/nothing")
    with pytest.raises(DataError, match="no-such-bucket"):
        open_algonauts("s3://no-such-bucket/lab")


def test_no_credentials(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(DataError, match=r"cannot be reached .* credentials"):
        open_algonauts(remote)
