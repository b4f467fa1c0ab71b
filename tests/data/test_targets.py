from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from trainables.data.algonauts import AlgonautsDataset, open_algonauts
from trainables.data.targets import parse_subjects, plan_targets
from trainables.errors import DataError
from trainables.target import Target


def test_every_target_is_planned_or_skipped_with_a_reason(demo: AlgonautsDataset, demo_root: Path) -> None:
    plan = plan_targets(demo, ["subj01", "subj02"], ["lh", "rh"], ["all"])
    planned = {target.name for target in plan.targets}
    skipped = {entry.target.name: entry for entry in plan.skipped}
    assert len(planned) + len(skipped) == 2 * 2 * 31
    masks = demo_root / "subj02/roi_masks"
    for label, roi in enumerate(("OPA", "PPA", "RSC"), start=1):
        size = int((np.load(masks / "lh.floc-places_challenge_space.npy") == label).sum())
        assert (f"subj02/lh/{roi}" in planned) == (size >= 20)
        if size < 20:
            assert skipped[f"subj02/lh/{roi}"].n_voxels == size
            assert skipped[f"subj02/lh/{roi}"].reason == f"{size} voxels, fewer than 20"
    assert skipped["subj01/rh/aTL-faces"].reason == "no voxel"


def test_order_and_repeats(demo: AlgonautsDataset) -> None:
    plan = plan_targets(demo, ["subj02", "subj01", "subj02"], ["rh"], ["V1v", "early", "streams:early"], min_voxels=1)
    rois = ["V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "streams:early"]
    assert plan.targets == [Target("demo", (name,), "rh", roi) for name in ("subj02", "subj01") for roi in rois]
    assert plan.skipped == []


def test_an_empty_roi_is_never_planned(demo: AlgonautsDataset) -> None:
    plan = plan_targets(demo, ["subj01"], ["lh"], ["mTL-faces"], min_voxels=0)
    assert plan.targets == []


def test_a_subject_without_the_mask(demo_copy: Path) -> None:
    for path in (demo_copy / "subj02/roi_masks").glob("*floc-places*"):
        path.unlink()
    plan = plan_targets(open_algonauts(demo_copy), ["subj01", "subj02"], ["lh"], ["PPA"])
    assert [target.name for target in plan.targets] == ["subj01/lh/PPA"]
    assert plan.skipped[0].reason == "the subject's masks do not name this ROI"


def test_unknown_words(demo: AlgonautsDataset) -> None:
    with pytest.raises(DataError, match="no subject 'subj07'"):
        plan_targets(demo, ["subj07"], ["lh"], ["early"])
    with pytest.raises(DataError, match="'V7' is no ROI"):
        plan_targets(demo, ["subj01"], ["lh"], ["V7"])
    with pytest.raises(DataError, match="hemisphere is 'left'"):
        plan_targets(demo, ["subj01"], ["left"], ["early"])


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("all", [1, 2, 3, 4]),
        ("1-3", [1, 2, 3]),
        ("1,3", [1, 3]),
        ("subj04", [4]),
        ("subj2-subj3, 1", [2, 3, 1]),
        ("3,1-3", [3, 1, 2]),
        ("04", [4]),
    ],
)
def test_subjects_as_people_type_them(demo_root: Path, tmp_path: Path, text: str, numbers: list[int]) -> None:
    for number in range(1, 5):
        (tmp_path / f"subj{number:02d}").mkdir()
    dataset = open_algonauts(tmp_path)
    assert parse_subjects(text, dataset) == [f"subj{number:02d}" for number in numbers]


@pytest.mark.parametrize("text", ["", "1-", "3-1", "one", "1;2", "-1", "1.5"])
def test_subjects_that_mean_nothing(demo: AlgonautsDataset, text: str) -> None:
    with pytest.raises(DataError, match="mean nothing; expected 'all', '1-8'"):
        parse_subjects(text, demo)


def test_subjects_that_are_not_there(demo: AlgonautsDataset) -> None:
    with pytest.raises(DataError, match="no subject 'subj03'; expected one of subj01, subj02"):
        parse_subjects("1-8", demo)


def test_missing_files_are_named(demo_copy: Path) -> None:
    shutil.rmtree(demo_copy / "subj01/training_split/training_fmri")
    with pytest.raises(DataError, match=r"lh_training_fmri\.npy: it is missing"):
        plan_targets(open_algonauts(demo_copy), ["subj01"], ["lh"], ["early"])
