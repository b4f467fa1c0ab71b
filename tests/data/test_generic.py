from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from upath import UPath

from tests.data.builders_generic import MINIMAL, codes_of, labels_of, make_generic, write_minimal
from tests.data.builders_pictures import write_picture
from trainables.data.check import check_dataset
from trainables.data.files import FaultyFileError
from trainables.data.generic import open_generic
from trainables.data.generic_stimuli import content_ids, natural_order
from trainables.data.open import open_dataset
from trainables.data.responses import load_target
from trainables.data.targets import parse_subjects
from trainables.errors import DataError
from trainables.target import Target


def test_the_smallest_description(tmp_path: Path) -> None:
    dataset = open_dataset(write_minimal(tmp_path, MINIMAL))
    anna = dataset.subject("anna")
    assert (dataset.name, dataset.is_demo, dataset.rois, list(dataset.subjects)) == (
        "mylab",
        False,
        ["whole"],
        ["anna"],
    )
    assert dataset.rois_of("all") == dataset.rois_of("whole") == dataset.rois_of("ungrouped") == ["whole"]
    assert (anna.roi_sizes("lh"), anna.roi_sizes("rh")) == ({"whole": 5}, {"whole": 0})
    assert anna.responses("rh", "whole", np.array([1, 2])).shape == (2, 0)
    assert anna.noise_ceiling("lh", "whole") is None
    assert [path.name for path in anna.image_paths] == [f"{row}.png" for row in range(40)]
    assert load_target(dataset, Target("mylab", ("anna",), "lh", "whole")).n_voxels == 5
    report = check_dataset(tmp_path)
    assert report.faults == []
    assert report.subjects == {"anna": {"stimuli": 40, "rois": {"lh": {"whole": 5}, "rh": {"whole": 0}}}}


def test_natural_order() -> None:
    expected = ["2", "10", "a", "b1", "Image1.png", "image02.png", "image2.png", "image2b.png", "image10.png"]
    shuffled = expected[::-1]
    assert sorted(shuffled, key=natural_order) == expected


def test_labels_choose_columns_and_ceilings_follow_the_formula(tmp_path: Path) -> None:
    dataset = open_generic(make_generic(tmp_path, subjects=1, ncsnr=True))
    subject = dataset.subject("subj01")
    assert (dataset.rois, dataset.rois_of("early")) == (["V1", "V4", "empty"], ["V1", "V4"])
    assert [dataset.group_of(roi) for roi in dataset.rois] == ["early", "early", "ungrouped"]
    voxels = [voxel for voxel, label in enumerate(labels_of("rh")) if label == 2]
    assert subject.voxels("rh", "V4").tolist() == voxels
    raw = np.load(tmp_path / "subj01/rh.npy")
    assert np.array_equal(subject.responses("rh", "V4", np.array([4, 1])), raw[[4, 1]][:, voxels])
    ncsnr = np.load(tmp_path / "subj01/rh_ncsnr.npy")[voxels]
    # Rows 0, 1 and 5 were shown once, twice and three times.
    noise = (1 + 1 / 2 + 1 / 3) / 3
    found = subject.noise_ceiling("rh", "V4", np.array([0, 1, 5]))
    assert found == pytest.approx(ncsnr**2 / (ncsnr**2 + noise))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_of_any_width_become_float32(tmp_path: Path, dtype: Any) -> None:
    subject = open_generic(write_minimal(tmp_path, MINIMAL, dtype=dtype)).subject("anna")
    found = subject.responses("lh", "whole")
    assert found.dtype == np.float32
    assert np.array_equal(found, np.load(tmp_path / "anna.npy").astype(np.float32))


def test_what_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    write_minimal(tmp_path, MINIMAL, dtype=np.float64)
    responses = np.load(tmp_path / "anna.npy")
    responses[:, 3] = 1e300
    np.save(tmp_path / "anna.npy", responses)
    with pytest.raises(FaultyFileError, match="1 of 5 voxels of whole are NaN or infinite"):
        load_target(open_generic(tmp_path), Target("mylab", ("anna",), "lh", "whole"))


def test_ids_follow_from_the_content_and_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    root = make_generic(tmp_path / "lab")
    for name in ("subj01", "subj02"):
        subject = open_generic(root).subject(name)
        for path, stimulus_id in zip(subject.image_paths, subject.stimulus_ids.tolist(), strict=True):
            digest = hashlib.sha256(Path(path.path).read_bytes()).digest()
            assert stimulus_id == int.from_bytes(digest[:8], "big") // 2**11
    shared = set(codes_of(1, 60)) & set(codes_of(2, 60))
    ids = [set(open_generic(root).subject(name).stimulus_ids.tolist()) for name in ("subj01", "subj02")]
    assert len(ids[0] & ids[1]) == len(shared) == 20
    changed = root / "subj01/images/image7.png"
    with monkeypatch.context() as without:
        without.setattr("trainables.data.generic_stimuli.read_bytes", lambda _: pytest.fail("read again"))
        assert set(open_generic(root).subject("subj01").stimulus_ids.tolist()) == ids[0]
    write_picture(changed, 9999)
    assert len(ids[0] - set(open_generic(root).subject("subj01").stimulus_ids.tolist())) == 1


def test_a_damaged_memo_of_ids_is_made_again(tmp_path: Path) -> None:
    paths = [UPath(tmp_path / f"{code}.png") for code in range(4)]
    for code, path in enumerate(paths):
        write_picture(Path(path.path), code)
    ids = content_ids(paths, tmp_path / "cache")
    (memo,) = (tmp_path / "cache").glob("ids-*.npy")
    memo.write_bytes(memo.read_bytes()[:-3])
    assert np.array_equal(content_ids(paths, tmp_path / "cache"), ids)


def _array(path: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda root: np.save(root / path, change(np.load(root / path)))


def _put(index: Any, value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


RESPONSES, LABELS, NCSNR, REPEATS = (f"subj01/{name}.npy" for name in ("lh", "lh_rois", "lh_ncsnr", "repeats"))
IMAGE = "subj01/images/image7.png"


def _tear_image(root: Path) -> None:
    (root / IMAGE).write_bytes((root / IMAGE).read_bytes()[:50])


CHECKS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "fewer rows": (_array(RESPONSES, lambda a: a[:-1]), RESPONSES, "59 rows of responses for 60 stimuli"),
    "integers": (_array(RESPONSES, lambda a: (100 * a).astype(int)), RESPONSES, "int64; expected float32"),
    "one dimension": (_array(RESPONSES, np.ravel), RESPONSES, "expected two dimensions"),
    "NaN": (
        _array(RESPONSES, _put((3, 4), np.nan)),
        RESPONSES,
        "hold NaN or infinity in float32, the first is vertex 4",
    ),
    "constant": (_array(RESPONSES, _put((slice(None), 5), 1)), RESPONSES, "are constant, the first is vertex 5"),
    "missing responses": (lambda root: (root / RESPONSES).unlink(), RESPONSES, "missing"),
    "missing labels": (lambda root: (root / LABELS).unlink(), LABELS, "missing"),
    "short labels": (_array(LABELS, lambda a: a[:-1]), LABELS, "the shape is (29,); expected (30,)"),
    "fractions": (_array(LABELS, lambda a: a.astype(float)), LABELS, "not integers"),
    "unnamed label": (_array(LABELS, _put(0, 9)), LABELS, "label 9 has no name in dataset.toml"),
    "negative ncsnr": (_array(NCSNR, _put(0, -1)), NCSNR, "negative"),
    "zero repeats": (_array(REPEATS, _put(0, 0)), REPEATS, "at least 1"),
    "torn image": (_tear_image, IMAGE, "decoded"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_each_fault_is_found_at_its_file(tmp_path: Path, name: str) -> None:
    damage, file, problem = CHECKS[name]
    root = make_generic(tmp_path, ncsnr=True)
    damage(root)
    (fault,) = check_dataset(root).faults
    assert (fault.severity, fault.subject, fault.file) == ("error", "subj01", str(root / file))
    assert problem in fault.problem


def test_missing_images_and_one_picture_under_two_ids(tmp_path: Path) -> None:
    root = make_generic(tmp_path, ids=True)
    (root / IMAGE).unlink()
    write_picture(root / "subj02/images/image3.png", 1001)
    faults = check_dataset(root).faults
    assert (faults[0].severity, faults[0].file, faults[0].problem) == ("error", str(root / IMAGE), "it is missing")
    assert all("subj02/images/image3.png" in fault.file for fault in faults[1:])


def test_a_picture_shown_twice_is_a_warning(tmp_path: Path) -> None:
    root = write_minimal(tmp_path, MINIMAL)
    write_picture(root / "photos/3.png", 2)
    (fault,) = check_dataset(root).faults
    assert (fault.severity, fault.file) == ("warning", str(root / "photos"))
    assert "duplicate ids: 1 occur" in fault.problem


def test_empty_and_missing_folders_of_images(tmp_path: Path) -> None:
    root = write_minimal(tmp_path, MINIMAL.replace('"photos"', '"nothing"'), n_stimuli=1)
    with pytest.raises(FaultyFileError, match="the folder of images is missing"):
        _ = open_generic(root).subject("anna").image_paths
    (root / "nothing").mkdir()
    (root / "nothing/._0.png").touch()
    (root / "nothing/notes.txt").touch()
    with pytest.raises(FaultyFileError, match="it holds no image"):
        _ = open_generic(root).subject("anna").image_paths


def test_subjects_by_any_name(tmp_path: Path) -> None:
    other = MINIMAL.split("\n", 2)[2]
    dataset = open_generic(
        write_minimal(tmp_path, MINIMAL + other.replace("anna", "sub-2") + other.replace("anna", "subj07"), n_stimuli=1)
    )
    assert parse_subjects("all", dataset) == ["anna", "sub-2", "subj07"]
    assert parse_subjects("sub-2, 7,anna", dataset) == ["sub-2", "subj07", "anna"]
    with pytest.raises(DataError, match="'bert' mean nothing; expected .* or a name; the data set has anna"):
        parse_subjects("bert", dataset)
    with pytest.raises(DataError, match="no subject 'subj02'; expected one of anna, sub-2, subj07"):
        parse_subjects("2", dataset)
