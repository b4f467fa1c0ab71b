from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.data.helpers import write_challenge, write_flattened
from trainables.data.algonauts import open_algonauts
from trainables.data.check import check_dataset
from trainables.data.faults import Fault

HOME = "subj01/"
IMAGES = HOME + "training_split/training_images/"
FMRI = HOME + "training_split/training_fmri/lh_training_fmri.npy"
MASK = HOME + "roi_masks/lh.prf-visualrois_challenge_space.npy"
MAPPING = HOME + "roi_masks/mapping_floc-faces.npy"
NCSNR = HOME + "noise_ceiling/lh_ncsnr.npy"


def faults_of(root: Path) -> list[Fault]:
    """The faults, after a look at what every fault must hold."""
    report = check_dataset(root)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert report.ok == all(fault.severity == "warning" for fault in report.faults)
    for fault in report.faults:
        assert fault.severity in ("error", "warning")
        assert fault.file
        assert fault.problem
        assert fault.remedy
    return report.faults


def image(root: Path, number: int) -> Path:
    (path,) = (root / IMAGES).glob(f"train-{number:04d}_*")
    return path


def edit(path: Path, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    np.save(path, change(np.load(path)))


def test_a_sound_data_set_has_no_fault(demo_root: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check_dataset(demo_root, progress=lambda *call: calls.append(call))
    assert report.faults == []
    assert report.ok
    assert list(report.subjects) == ["subj01", "subj02"]
    dataset = open_algonauts(demo_root)
    for name, entry in report.subjects.items():
        subject = dataset.subject(name)
        assert entry["stimuli"] == 80
        assert entry["rois"] == {hemisphere: subject.roi_sizes(hemisphere) for hemisphere in ("lh", "rh")}
    n_images = 2 * (80 + 6)
    assert calls == [(done, n_images) for done in range(1, n_images + 1)]


@pytest.mark.parametrize("write", [write_challenge, write_flattened])
def test_counts_in_both_layouts(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    report = check_dataset(write(tmp_path / "lab"))
    assert report.ok
    rois = report.subjects["subj01"]["rois"]
    assert {roi: n for roi, n in rois["lh"].items() if n} == {"V1v": 3, "V1d": 1, "hV4": 2, "streams:early": 1}
    assert {roi: n for roi, n in rois["rh"].items() if n} == {"V1d": 5, "streams:early": 1}
    assert len(rois["lh"]) == 11


def _remove_image(root: Path) -> None:
    image(root, 17).unlink()


def _cut_image(root: Path) -> None:
    path = image(root, 17)
    path.write_bytes(path.read_bytes()[:-500])


def _other_picture_same_id(root: Path) -> None:
    stimulus = image(root, 17).name.split("_")[1]
    image(root, 18).rename(root / IMAGES / f"train-0018_{stimulus}")


def _same_number_twice(root: Path) -> None:
    shutil.copy(image(root, 17), root / IMAGES / "train-0017_nsd-70000.png")


def _set(path: str, index: Any, value: float) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        array = np.load(root / path)
        array[index] = value
        np.save(root / path, array)

    return damage


def _cut(path: str, n_bytes: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / path).write_bytes((root / path).read_bytes()[:-n_bytes])

    return damage


def _change(path: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Path], None]:
    return lambda root: edit(root / path, change)


def _unlink(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


ERRORS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "row without image": (_remove_image, FMRI, "80 rows of responses for 79 training images"),
    "image without row": (_change(FMRI, lambda a: a[:-1]), FMRI, "79 rows of responses for 80"),
    "wrong type": (_change(FMRI, lambda a: a.astype(np.float64)), FMRI, "float64; expected float32"),
    "one dimension": (_change(FMRI, np.ravel), FMRI, "expected two dimensions"),
    "torn array": (_cut(FMRI, 10), FMRI, "not a whole .npy array"),
    "NaN": (_set(FMRI, (3, 5), np.nan), FMRI, "1 of"),
    "infinity": (_set(FMRI, (0, 5), np.inf), FMRI, "hold NaN or infinity in float32, the first is vertex 5"),
    "constant voxel": (_set(FMRI, (slice(None), 9), 0.5), FMRI, "are constant, the first is vertex 9"),
    "torn image": (_cut_image, IMAGES + "train-0017", "cannot be decoded"),
    "id of two pictures": (_other_picture_same_id, IMAGES + "train-0018", "another picture than"),
    "number of two images": (_same_number_twice, IMAGES + "train-0017", "the same number"),
    "missing responses": (_unlink(FMRI), FMRI, "missing"),
    "missing mask": (_unlink(MASK), MASK, "missing"),
    "missing mapping": (_unlink(MAPPING), MAPPING, "missing"),
    "short mask": (_change(MASK, lambda a: a[:-1]), MASK, "the shape is"),
    "fraction in a mask": (_set(MASK, 3, 0.5), MASK, "whole numbers"),
    "infinity in a mask": (_set(MASK, 3, np.inf), MASK, "whole numbers"),
    "NaN in a mask": (_set(MASK, 3, np.nan), MASK, "whole numbers"),
    "label without name": (_set(MASK, 3, 9), MASK, "label 9 has no name"),
    "torn mask": (_cut(MASK, 3), MASK, "not a whole .npy array"),
    "torn mapping": (_cut(MAPPING, 3), MAPPING, "not a readable mapping"),
    "short ncsnr": (_change(NCSNR, lambda a: a[:-1]), NCSNR, "expected float32 of shape"),
    "negative ncsnr": (_set(NCSNR, 3, -1), NCSNR, "negative"),
    "zero repeats": (_set(HOME + "noise_ceiling/repeats.npy", 3, 0), HOME + "noise_ceiling/repeats.npy", "at least 1"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_each_fault_is_found_at_its_file(demo_copy: Path, name: str) -> None:
    damage, file, problem = ERRORS[name]
    damage(demo_copy)
    found = [fault for fault in faults_of(demo_copy) if fault.severity == "error"]
    # One image less contradicts the responses of both hemispheres and the repeats.
    assert len(found) == (3 if name == "row without image" else 1), found
    assert [fault.subject for fault in found] == ["subj01"] * len(found)
    assert [problem in fault.problem for fault in found if fault.file.startswith(str(demo_copy / file))] == [True]


def _add_notes(root: Path) -> None:
    (root / IMAGES / "notes.txt").write_text("dark room, new coil")


def _remove_streams(root: Path) -> None:
    for path in (root / HOME / "roi_masks").glob("*streams*"):
        path.unlink()


WARNINGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "gap": (_remove_image, "1 images are missing, the first is number 17"),
    "duplicate id": (_other_picture_same_id, "duplicate ids: 1 occur more than once"),
    "stranger": (_add_notes, "its name tells neither"),
    "surface": (
        _change(HOME + "roi_masks/lh.all-vertices_fsaverage_space.npy", lambda a: a * 0),
        "it marks 0 vertices",
    ),
    "whole mask absent": (
        _remove_streams,
        "there is no mask streams",
    ),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_each_doubt_is_a_warning(demo_copy: Path, name: str) -> None:
    damage, problem = WARNINGS[name]
    damage(demo_copy)
    found = [fault for fault in faults_of(demo_copy) if fault.severity == "warning"]
    assert [problem in fault.problem for fault in found] == [True]


def test_mask_on_the_average_surface_alone_is_told(demo_copy: Path) -> None:
    for path in (demo_copy / HOME / "roi_masks").glob("*streams*"):
        if "fsaverage" not in path.name:
            path.unlink()
    (fault,) = faults_of(demo_copy)
    assert "the challenge-space one does" in fault.remedy
    _remove_streams(demo_copy)
    (fault,) = faults_of(demo_copy)
    assert "challenge-space" not in fault.remedy


def test_all_faults_are_found_at_once(demo_copy: Path) -> None:
    chosen = [
        "image without row",
        "NaN",
        "constant voxel",
        "missing mask",
        "torn mapping",
        "torn image",
        "zero repeats",
    ]
    for name in chosen:
        ERRORS[name][0](demo_copy)
    problems = [fault.problem for fault in faults_of(demo_copy) if fault.severity == "error"]
    for name in chosen:
        assert any(ERRORS[name][2] in problem for problem in problems), name
    assert len(problems) == len(chosen)


def test_the_same_picture_shown_twice_is_no_error(demo_copy: Path) -> None:
    first, second = image(demo_copy, 17), image(demo_copy, 18)
    second.unlink()
    shutil.copy(first, demo_copy / IMAGES / f"train-0018_{first.name.split('_')[1]}")
    report = check_dataset(demo_copy)
    assert report.ok
    assert ["duplicate ids" in fault.problem for fault in report.faults] == [True]


def test_one_picture_under_two_ids_leaks_through_the_split(demo_copy: Path) -> None:
    subjects = open_algonauts(demo_copy).subjects
    own = ~np.isin(subjects["subj01"].stimulus_ids, subjects["subj02"].stimulus_ids)
    first, second = (image(demo_copy, row + 1) for row in np.flatnonzero(own)[:2])
    # Stored with another compression: the pixels count, not the bytes.
    with Image.open(first) as picture:
        picture.save(second, compress_level=1)
    (fault,) = faults_of(demo_copy)
    assert fault.severity == "warning"
    assert fault.file == str(second)
    assert f"the same picture as {first}" in fault.problem


def test_ids_numbered_anew_for_each_subject_are_one_warning(tmp_path: Path) -> None:
    root = write_challenge(tmp_path / "lab")
    write_challenge(root, "subj02")
    for number, path in enumerate(sorted((root / "subj02/training_split/training_images").iterdir())):
        Image.new("RGB", (30, 20), (0, 0, number)).save(path)
    (fault,) = faults_of(root)
    assert (fault.severity, fault.subject) == ("warning", "subj02")
    assert "(3 such images)" in fault.problem


def test_test_images_among_the_training_images(demo_copy: Path) -> None:
    first = image(demo_copy, 1)
    shutil.copy(first, demo_copy / HOME / f"test_split/test_images/test-0099_{first.name.split('_')[1]}")
    assert ["also among the training images" in fault.problem for fault in faults_of(demo_copy)] == [True]


def test_rois_of_a_subject_without_images_are_still_counted(demo_copy: Path) -> None:
    expected = check_dataset(demo_copy).subjects["subj01"]["rois"]
    shutil.rmtree(demo_copy / IMAGES)
    report = check_dataset(demo_copy)
    assert report.subjects["subj01"] == {"stimuli": 0, "rois": expected}
    assert [fault.problem for fault in report.faults] == ["the folder of images is missing"]


def test_an_empty_folder_of_images(demo_copy: Path) -> None:
    for path in (demo_copy / IMAGES).iterdir():
        path.unlink()
    assert any("holds no image" in fault.problem for fault in faults_of(demo_copy))


def test_what_is_no_data_set_is_a_fault_too(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        (fault,) = faults_of(root)
        assert fault.severity == "error"
        assert fault.file == str(root)
    root = write_challenge(tmp_path / "lab")
    (root / "dataset.json").write_text("{")
    (fault,) = faults_of(root)
    assert fault.file == str(root / "dataset.json")


def test_blocks_of_rows_change_nothing(demo_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _set(FMRI, (70, 5), np.nan)(demo_copy)
    _set(FMRI, (slice(None), 9), -1)(demo_copy)
    whole = check_dataset(demo_copy)
    monkeypatch.setattr("trainables.data.check_values.BLOCK_BYTES", 10_000)
    assert check_dataset(demo_copy) == whole
    assert len(whole.faults) == 2
