"""The same data set on disk and behind an ``s3://`` address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.builders_generic import make_generic
from tests.data.builders_nod import make_nod
from tests.data.helpers import write_challenge
from tests.remote.fault_proxy import ALWAYS, FaultProxy
from tests.remote.s3 import BUCKET, forget_connections, speak_to, upload
from trainables.data.algonauts import open_algonauts
from trainables.data.check import check_dataset
from trainables.data.files import FaultyFileError
from trainables.data.open import open_dataset
from trainables.data.stimuli import decode_stimuli
from trainables.errors import CortexSweepError, DataError
from trainables.s3 import PatientS3


@pytest.fixture
def remote(server: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set in a bucket, as `write_challenge` writes it."""
    speak_to(server, monkeypatch)
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    return upload(client, write_challenge(tmp_path / "lab"))


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
def test_other_layouts_read_alike(remote: str, client: Any, tmp_path: Path, layout: str) -> None:
    if layout == "nod":
        root = make_nod(tmp_path / "nod", subjects=1, trials=1)
    else:
        root = make_generic(tmp_path / "own", subjects=1, stimuli=12, ids=layout == "generic-ids", ncsnr=True)
    address = upload(client, root)
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


def test_a_replaced_array_is_copied_anew(remote: str, client: Any, tmp_path: Path) -> None:
    before = open_algonauts(remote).subject("subj01").responses("lh", "V1v")
    name = "lab/subj01/training_split/training_fmri/lh_training_fmri.npy"
    changed = np.zeros((3, 8, 2), np.float32)[..., 0] + np.arange(8, dtype=np.float32)
    np.save(tmp_path / "changed.npy", np.vstack([changed, changed])[:3, :].astype(np.float64))
    client.upload_file(str(tmp_path / "changed.npy"), BUCKET, name)
    forget_connections()
    with pytest.raises(FaultyFileError, match="float64; expected float32"):
        open_algonauts(remote).subject("subj01").responses("lh", "V1v")
    assert before.shape == (3, 3)


IMAGES = "subj01/training_split/training_images"


@pytest.mark.parametrize(
    "key",
    [
        "../escape/training_split/training_images/train-0001_nsd-00001.png",
        f"{IMAGES}/../../../../escape.png",
        f"{IMAGES}//escape.png",
        f"{IMAGES}/train-9999_nsd-99999\x07escape.png",
        "subj01/training_split/training_fmri/../../../../lh_escape.npy",
        "/escape/roi_masks/mapping_streams.npy",
    ],
)
def test_keys_that_name_other_places_reach_nothing_there(remote: str, client: Any, tmp_path: Path, key: str) -> None:
    """A store has no folders: a key may hold anything, and becomes part of no path of this machine."""
    bucket, _, prefix = remote.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=b"\x93NUMPY hostile")
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.relative_to(tmp_path).parts}
    try:
        dataset = open_dataset(remote)
        subject = dataset.subject("subj01")
        decode_stimuli(subject.image_paths, tmp_path / "cache")
        subject.responses("lh", "V1v")
        check_dataset(remote)
    except CortexSweepError as told:
        assert "Traceback" not in str(told)  # noqa: PT017 - to refuse is as good as to ignore
    after = {path for path in tmp_path.rglob("*") if "cache" not in path.relative_to(tmp_path).parts}
    assert after == before
    assert not [path for path in tmp_path.rglob("*") if "escape" in path.name]
    assert not [path for path in tmp_path.parent.iterdir() if "escape" in path.name]


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
    forget_connections()
    with pytest.raises(DataError, match=r"cannot be reached .* credentials"):
        open_algonauts(remote)


ARRAY = "lh_training_fmri.npy"


@pytest.fixture
def shaky(remote: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """The data set behind a proxy that can fail, read with little patience."""
    speak_to(proxy.address, monkeypatch)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("SWEEP_S3_TIMEOUT", "2")
    monkeypatch.setattr(PatientS3, "retries", 2)
    return remote


def test_a_data_set_is_read_through_faults_that_pass(
    shaky: str, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientS3, "retries", 5)
    proxy.fail("500", path="list-type=2")
    proxy.fail("503", path=r"train-0001\S*png", method="GET")
    proxy.fail("reset", path=r"train-0002\S*png", method="GET")
    proxy.fail("stall", path=r"train-0003\S*png", method="GET")
    proxy.fail("truncated", path=ARRAY, method="GET")
    proxy.fail("short", path=ARRAY, method="GET")
    proxy.fail("garbled", path=ARRAY, method="GET")
    far, near = (open_algonauts(place).subject("subj01") for place in (shaky, tmp_path / "lab"))
    there, here = (decode_stimuli(each.image_paths, tmp_path / "stimuli", size=16) for each in (far, near))
    assert np.array_equal(there, here)
    assert np.array_equal(far.responses("lh", "V1v"), near.responses("lh", "V1v"))
    assert {fault for *_, fault in proxy.log} == {"", "500", "503", "reset", "stall", "truncated", "short", "garbled"}


@pytest.mark.long  # test_object_store.py has the same faults a file at a time
@pytest.mark.parametrize("fault", ["500", "503", "reset", "truncated", "stall", "short", "expired", "denied"])
def test_what_does_not_come_whole_is_told_and_not_kept(
    shaky: str, proxy: FaultProxy, tmp_path: Path, fault: str
) -> None:
    subject = open_algonauts(shaky).subject("subj01")
    proxy.fail(fault, path=ARRAY, method="GET", times=ALWAYS)
    with pytest.raises(CortexSweepError, match=ARRAY) as told:
        subject.responses("lh", "V1v")
    assert not isinstance(told.value, FaultyFileError), "the file is not to blame"
    assert "\n" not in str(told.value)
    assert ("renew the credentials" in str(told.value)) == (fault == "expired")
    assert [path.name for path in (tmp_path / "cache/remote").iterdir() if path.suffix != ".lock"] == []
    proxy.heal()
    assert np.array_equal(
        subject.responses("lh", "V1v"), open_algonauts(tmp_path / "lab").subject("subj01").responses("lh", "V1v")
    )


@pytest.mark.parametrize("fault", ["500", "reset", "expired"])
def test_a_store_that_fails_is_told_when_a_data_set_is_opened(shaky: str, proxy: FaultProxy, fault: str) -> None:
    proxy.fail(fault, times=ALWAYS)
    for root in (shaky, f"s3://{BUCKET}"):  # which a store that fails must not make look empty
        with pytest.raises(DataError, match="cannot be reached") as told:
            open_dataset(root)
        assert root in str(told.value)


def test_images_that_do_not_come_are_told(shaky: str, proxy: FaultProxy, tmp_path: Path) -> None:
    subject = open_algonauts(shaky).subject("subj01")
    proxy.fail("cut", path=r"train-0002\S*png", method="GET", times=ALWAYS)
    with pytest.raises(CortexSweepError, match=r"train-0002\S*png cannot be read"):
        decode_stimuli(subject.image_paths, tmp_path / "stimuli", size=16)
    assert list((tmp_path / "stimuli").glob("*.npy")) == []
