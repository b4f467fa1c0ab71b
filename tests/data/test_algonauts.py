from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.helpers import write_challenge, write_flattened
from trainables.data.algonauts import open_algonauts
from trainables.data.files import FaultyFileError
from trainables.errors import DataError

LAYOUTS = pytest.mark.parametrize("write", [write_challenge, write_flattened])


@LAYOUTS
def test_both_layouts_read_alike(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    dataset = open_algonauts(write(tmp_path / "lab"))
    assert dataset.name == "lab"
    assert not dataset.is_demo
    assert list(dataset.subjects) == ["subj01"]
    subject = dataset.subject("subj01")
    assert subject.stimulus_ids.tolist() == [13, 7, 400]
    assert [path.name for path in subject.image_paths] == [
        "train-0001_nsd-00013.png",
        "train-0002_nsd-00007.png",
        "train-0003_nsd-00400.png",
    ]
    assert subject.test_stimulus_ids.tolist() == [5000, 5001]
    assert subject.voxels("lh", "V1v").tolist() == [1, 2, 6]
    assert subject.voxels("lh", "hV4").tolist() == [3, 7]
    assert subject.voxels("rh", "V1d").tolist() == [0, 1, 2, 3, 4]
    responses = subject.responses("lh", "V1v")
    assert responses.dtype == np.float32
    assert responses.flags.c_contiguous
    assert responses.tolist() == [[1, 2, 6], [101, 102, 106], [201, 202, 206]]
    assert subject.responses("lh", "hV4", np.array([2, 0])).tolist() == [[203, 207], [3, 7]]
    assert subject.noise_ceiling("lh", "V1v") is None


def test_rows_follow_the_images_numbers_whatever_their_padding(tmp_path: Path) -> None:
    root = write_challenge(tmp_path / "lab", ids=range(100, 112))
    folder = root / "subj01/training_split/training_images"
    for path in list(folder.iterdir()):
        number, rest = path.name.removeprefix("train-").split("_")
        path.rename(folder / f"train-{int(number)}_{rest}")
    assert open_algonauts(root).subject("subj01").stimulus_ids.tolist() == list(range(100, 112))


def test_names_and_groups(tmp_path: Path) -> None:
    dataset = open_algonauts(write_challenge(tmp_path / "lab"))
    assert dataset.rois_of("early") == dataset.rois_of("prf-visualrois") == ["V1v", "V1d", "hV4"]
    assert dataset.rois_of("bodies") == ["EBA", "FBA-1"]  # the mapping has a trailing blank
    assert dataset.rois_of("streams") == ["streams:early", "ventral"]
    assert dataset.rois_of("streams:early") == ["streams:early"]
    assert dataset.rois_of("streams:ventral") == dataset.rois_of("ventral") == ["ventral"]
    assert dataset.rois_of("early:V1v") == ["V1v"]
    everything = dataset.rois_of("all")
    groups = ("early", "bodies", "faces", "places", "words", "streams")
    assert everything == [roi for group in groups for roi in dataset.rois_of(group)]
    assert len(everything) == len(set(everything)) == 11
    assert {roi: dataset.group_of(roi) for roi in ("hV4", "mTL-faces", "OPA", "streams:early")} == {
        "hV4": "early",
        "mTL-faces": "faces",
        "OPA": "places",
        "streams:early": "streams",
    }


@pytest.mark.parametrize("word", ["V9", "", "streams:V1v", "nothing:early", "Early"])
def test_unknown_roi(tmp_path: Path, word: str) -> None:
    dataset = open_algonauts(write_challenge(tmp_path / "lab"))
    with pytest.raises(DataError, match=r"is no ROI .* expected one of all, early, .*V1v"):
        dataset.rois_of(word)
    with pytest.raises(DataError, match="expected one of V1v"):
        dataset.group_of(word)


def test_the_two_meanings_of_early_hold_different_voxels(tmp_path: Path) -> None:
    subject = open_algonauts(write_challenge(tmp_path / "lab")).subject("subj01")
    assert subject.voxels("lh", "streams:early").tolist() == [0]
    with pytest.raises(DataError, match="no ROI 'early'"):
        subject.voxels("lh", "early")


def test_sizes_name_every_roi(tmp_path: Path) -> None:
    sizes = open_algonauts(write_challenge(tmp_path / "lab")).subject("subj01").roi_sizes("lh")
    assert sizes["V1v"] == 3
    assert sizes["mTL-faces"] == 0
    assert list(sizes) == open_algonauts(tmp_path / "lab").rois


def test_an_empty_hemisphere_is_legal(tmp_path: Path) -> None:
    root = write_challenge(tmp_path / "lab")
    home = root / "subj01"
    np.save(home / "training_split/training_fmri/rh_training_fmri.npy", np.zeros((3, 0), np.float32))
    for mask in (home / "roi_masks").glob("rh.*"):
        np.save(mask, np.zeros(0, np.float32))
    subject = open_algonauts(root).subject("subj01")
    assert subject.responses("rh", "V1v").shape == (3, 0)
    assert set(subject.roi_sizes("rh").values()) == {0}


def test_subjects_are_ordered_by_number_and_named_alike(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_flattened(tmp_path / "lab", number)
    assert list(open_algonauts(tmp_path / "lab").subjects) == ["subj01", "subj02", "subj10"]


def test_a_mask_that_is_wholly_absent_is_left_out(tmp_path: Path) -> None:
    root = write_challenge(tmp_path / "lab")
    for path in (root / "subj01/roi_masks").glob("*streams*"):
        path.unlink()
    dataset = open_algonauts(root)
    assert dataset.rois_of("streams") == []
    assert "V1v" in dataset.rois


def test_name_and_demo_flag_come_from_the_description(tmp_path: Path) -> None:
    root = write_challenge(tmp_path / "lab")
    (root / "dataset.json").write_text(json.dumps({"name": "macaque", "demo": True}))
    dataset = open_algonauts(root)
    assert (dataset.name, dataset.is_demo) == ("macaque", True)
    (root / "dataset.json").write_text("{")
    with pytest.raises(FaultyFileError, match=r"dataset\.json: not valid JSON"):
        open_algonauts(root)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My data (2024)", "My-data-2024"), (".hidden", "hidden"), ("données", "donn-es"), ("§", "data")],
)
def test_a_folders_name_becomes_one_that_models_may_have(tmp_path: Path, folder: str, name: str) -> None:
    assert open_algonauts(write_challenge(tmp_path / folder)).name == name


@pytest.mark.parametrize("given", ["my lab", "../lab", "a/b", "-lab", 7, ["lab"]])
def test_a_name_that_models_may_not_have_is_refused(tmp_path: Path, given: object) -> None:
    root = write_challenge(tmp_path / "lab")
    (root / "dataset.json").write_text(json.dumps({"name": given}))
    with pytest.raises(DataError, match=r"dataset\.json names the data set .*; expected letters, digits"):
        open_algonauts(root)


def test_wrong_roots(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_algonauts(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no subject; expected subj01"):
        open_algonauts(tmp_path)
    write_challenge(tmp_path / "lab")
    with pytest.raises(DataError, match="pass the one above it"):
        open_algonauts(tmp_path / "lab/subj01")
    with pytest.raises(DataError, match="no subject 'subj09'; expected one of subj01"):
        open_algonauts(tmp_path / "lab").subject("subj09")


def test_a_relative_root_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_challenge(tmp_path / "lab")
    monkeypatch.chdir(tmp_path / "lab")
    assert open_algonauts(".").name == "lab"


def test_opening_reads_no_array(tmp_path: Path) -> None:
    root = write_challenge(tmp_path / "lab")
    for path in root.rglob("*.npy"):
        path.write_bytes(b"damaged")
    dataset = open_algonauts(root)
    with pytest.raises(FaultyFileError):
        dataset.subject("subj01").responses("lh", "V1v")


def test_a_subject_travels_to_another_process(tmp_path: Path) -> None:
    subject = open_algonauts(write_challenge(tmp_path / "lab")).subject("subj01")
    subject.responses("lh", "V1v")
    sent = pickle.dumps(subject)
    assert len(sent) < 4000, "only paths travel"
    assert np.array_equal(pickle.loads(sent).responses("lh", "V1v"), subject.responses("lh", "V1v"))


def test_a_fault_travels_to_another_process() -> None:
    fault = pickle.loads(pickle.dumps(FaultyFileError("a.npy", "it is torn", "mend it")))
    assert str(fault) == "a.npy: it is torn; mend it"
    assert (fault.file, fault.problem, fault.remedy) == ("a.npy", "it is torn", "mend it")


def test_noise_ceilings_follow_the_formula_with_the_scored_rows_repeats(tmp_path: Path) -> None:
    root = write_challenge(tmp_path / "lab")
    folder = root / "subj01/noise_ceiling"
    folder.mkdir()
    ncsnr = np.linspace(0, 2, 8, dtype=np.float32)
    np.save(folder / "lh_ncsnr.npy", ncsnr)
    subject = open_algonauts(root).subject("subj01")
    expected = [float(ncsnr[v]) ** 2 / (float(ncsnr[v]) ** 2 + 1 / 3) for v in (1, 2, 6)]
    assert subject.noise_ceiling("lh", "V1v") == pytest.approx(expected)

    np.save(folder / "repeats.npy", np.array([1, 2, 3]))
    subject = open_algonauts(root).subject("subj01")
    # One stimulus with one repeat and one with three: (n3/3 + n2/2 + n1) / (n1 + n2 + n3) = (1/3 + 1) / 2.
    expected = [float(ncsnr[v]) ** 2 / (float(ncsnr[v]) ** 2 + 2 / 3) for v in (1, 2, 6)]
    assert subject.noise_ceiling("lh", "V1v", np.array([0, 2])) == pytest.approx(expected)
    assert subject.noise_ceiling("rh", "V1v") is None


def test_every_damaged_array_is_named(tmp_path: Path) -> None:
    whole = write_challenge(tmp_path / "whole")
    fmri, mask = (
        "subj01/training_split/training_fmri/lh_training_fmri.npy",
        "subj01/roi_masks/lh.streams_challenge_space.npy",
    )
    content = (whole / fmri).read_bytes()
    contents = [content[:length] for length in range(0, len(content), 7)] + [b"", b"PK\x03\x04", bytes(200)]
    for damaged in contents:
        (whole / fmri).write_bytes(damaged)
        with pytest.raises(FaultyFileError, match=r"lh_training_fmri\.npy"):
            open_algonauts(whole).subject("subj01").responses("lh", "V1v")
    shutil.rmtree(whole)
    write_challenge(whole)
    np.save(whole / mask, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FaultyFileError, match="streams_challenge"):
        open_algonauts(whole).subject("subj01").voxels("lh", "ventral")
