from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.helpers import write_challenge
from trainables.data.algonauts import AlgonautsDataset, open_algonauts
from trainables.data.files import FaultyFileError
from trainables.data.responses import Partition, load_target, load_test, subject_digest
from trainables.data.splits import nested_digest, nested_split
from trainables.errors import ConfigError, DataError
from trainables.target import Target

V2D = Target("demo", ("subj01",), "rh", "V2d")
FMRI = "subj01/training_split/training_fmri/rh_training_fmri.npy"


def test_parts_hold_the_rows_and_columns_of_the_file(demo: AlgonautsDataset, demo_root: Path) -> None:
    data, test = load_target(demo, V2D), load_test(demo, V2D)
    raw = np.load(demo_root / FMRI)
    labels = np.load(demo_root / "subj01/roi_masks/rh.prf-visualrois_challenge_space.npy")
    names = sorted((demo_root / "subj01/training_split/training_images").iterdir())
    ids = [int(path.stem.split("nsd-")[1]) for path in names]
    split = nested_split(np.array(ids))
    vertices = [vertex for vertex, label in enumerate(labels) if label == 4]
    assert data.n_voxels == len(vertices) >= 24
    for part, rows in ((data.train, split.train), (data.val, split.val), (test, split.test)):
        assert part.rows.tolist() == rows.tolist()
        assert part.stimulus_ids.tolist() == [ids[row] for row in rows]
        assert part.responses.dtype == np.float32
        for i, row in enumerate(rows):
            assert part.responses[i].tolist() == [raw[row, vertex] for vertex in vertices]
        assert part.stimuli.shape == (80, 224, 224, 3)


def test_digest_is_that_of_the_whole_data_set(demo: AlgonautsDataset) -> None:
    ids = [i for subject in demo.subjects.values() for i in subject.stimulus_ids.tolist()]
    other = Target("demo", ("subj02",), "lh", "EBA")
    assert load_target(demo, V2D).digest == load_target(demo, other).digest == nested_digest(ids)
    assert load_target(demo, V2D, split_seed=5).digest == nested_digest(ids, seed=5)


def test_test_responses_are_out_of_reach(demo_copy: Path) -> None:
    before = load_target(open_algonauts(demo_copy), V2D)
    unseen = load_test(open_algonauts(demo_copy), V2D)
    responses = np.load(demo_copy / FMRI)
    responses[unseen.rows] = np.nan  # would be refused, and would spread into anything computed from it
    np.save(demo_copy / FMRI, responses)
    after = load_target(open_algonauts(demo_copy), V2D)
    for part, other in ((before.train, after.train), (before.val, after.val)):
        _assert_same(part, other)
    assert before.digest == after.digest
    assert not set(unseen.rows) & {*before.train.rows, *before.val.rows}
    assert {*unseen.rows, *before.train.rows, *before.val.rows} == set(range(80))
    with pytest.raises(FaultyFileError, match="NaN"):
        load_test(open_algonauts(demo_copy), V2D)


def _assert_same(part: Partition, other: Partition) -> None:
    assert np.array_equal(part.rows, other.rows)
    assert np.array_equal(part.responses, other.responses)
    assert np.array_equal(part.stimulus_ids, other.stimulus_ids)
    assert np.array_equal(part.stimuli, other.stimuli)
    assert part.noise_ceiling is not None
    assert other.noise_ceiling is not None
    assert np.array_equal(part.noise_ceiling, other.noise_ceiling)


def test_noise_ceilings_count_the_repeats_of_the_part(demo: AlgonautsDataset, demo_root: Path) -> None:
    data, test = load_target(demo, V2D), load_test(demo, V2D)
    folder = demo_root / "subj01/noise_ceiling"
    ncsnr = np.load(folder / "rh_ncsnr.npy")[demo.subject("subj01").voxels("rh", "V2d")]
    repeats = np.load(folder / "repeats.npy")
    for part in (data.train, data.val, test):
        n1, n2, n3 = (int((repeats[part.rows] == k).sum()) for k in (1, 2, 3))
        noise = (n3 / 3 + n2 / 2 + n1) / (n1 + n2 + n3)
        assert part.noise_ceiling == pytest.approx(ncsnr**2 / (ncsnr**2 + noise), rel=1e-5)
    assert data.noise_ceiling is data.val.noise_ceiling


def test_without_ncsnr_there_is_no_ceiling(demo_copy: Path) -> None:
    (demo_copy / "subj01/noise_ceiling/rh_ncsnr.npy").unlink()
    assert load_target(open_algonauts(demo_copy), V2D).noise_ceiling is None


def test_pooled_targets_are_refused(demo: AlgonautsDataset) -> None:
    with pytest.raises(ConfigError, match="has 2 subjects; expected a single one"):
        load_target(demo, Target("demo", ("subj01", "subj02"), "lh", "V1v"))


def test_a_target_without_voxels_is_refused(demo: AlgonautsDataset) -> None:
    with pytest.raises(DataError, match="subj01/lh/mTL-faces has no voxel"):
        load_target(demo, Target("demo", ("subj01",), "lh", "mTL-faces"))


@pytest.mark.parametrize("value, problem", [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (7, "the same")])
def test_useless_voxels_are_named(demo_copy: Path, value: float, problem: str) -> None:
    dataset = open_algonauts(demo_copy)
    vertex = dataset.subject("subj01").voxels("rh", "V2d")[3]
    rows = slice(None) if value == 7 else load_target(dataset, V2D).train.rows[5]
    responses = np.load(demo_copy / FMRI)
    responses[rows, vertex] = value
    np.save(demo_copy / FMRI, responses)
    with pytest.raises(FaultyFileError, match=rf"rh_training_fmri\.npy: .* 1 of \d+ .*{problem}.* vertex {vertex}"):
        load_target(open_algonauts(demo_copy), V2D)
    load_target(open_algonauts(demo_copy), Target("demo", ("subj01",), "rh", "V1v"))


def test_too_few_stimuli(tmp_path: Path) -> None:
    dataset = open_algonauts(write_challenge(tmp_path / "lab"))
    with pytest.raises(DataError, match="3 stimuli leave"):
        load_target(dataset, Target("lab", ("subj01",), "lh", "V1v"), cache_dir=tmp_path)


def _scale(root: Path) -> None:
    np.save(root / FMRI, np.load(root / FMRI) * np.float32(1.01))


def _move_a_voxel(root: Path) -> None:
    path = root / "subj01/roi_masks/rh.prf-visualrois_challenge_space.npy"
    labels = np.load(path)
    labels[np.flatnonzero(labels == 4)[0]] = 0
    np.save(path, labels)


def _rename_a_stimulus(root: Path) -> None:
    folder = root / "subj01/training_split/training_images"
    first = min(folder.iterdir())
    first.rename(first.with_name(first.name.split("nsd-")[0] + "nsd-72999" + first.suffix))


@pytest.mark.parametrize("change", [_scale, _move_a_voxel, _rename_a_stimulus])
def test_digest_of_a_subject_changes_with_its_data(
    demo: AlgonautsDataset, demo_copy: Path, change: Callable[[Path], None]
) -> None:
    before = {name: subject_digest(subject) for name, subject in demo.subjects.items()}
    assert {name: subject_digest(s) for name, s in open_algonauts(demo_copy).subjects.items()} == before
    change(demo_copy)
    after = {name: subject_digest(s) for name, s in open_algonauts(demo_copy).subjects.items()}
    assert after["subj01"] != before["subj01"]
    assert after["subj02"] == before["subj02"]
