"""What every data set must satisfy, whatever its files look like."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.data.builders_generic import codes_of, make_generic
from tests.data.builders_nod import beta_file, events_file, make_nod, voxel_number
from tests.data.builders_pictures import code_of, signal, write_picture
from tests.data.helpers import write_challenge
from trainables.data.check import check_dataset
from trainables.data.dataset import Dataset
from trainables.data.files import FaultyFileError
from trainables.data.open import open_dataset
from trainables.data.responses import load_target, load_test, split_digest
from trainables.data.targets import plan_targets
from trainables.errors import DataError
from trainables.target import HEMISPHERES, Target

ALGONAUTS_FMRI = "training_split/training_fmri/{}_training_fmri.npy"


@dataclass(frozen=True)
class Layout:
    """A data set whose responses are `signal` of the pictures, and what to damage in it."""

    make: Callable[[Path], Path]
    empty: tuple[str, str]
    """Hemisphere and ROI without a voxel."""
    responses: str
    """A file of the first subject's responses."""
    number: Callable[[str, NDArray[np.int64]], NDArray[Any]] = lambda hemisphere, voxels: (
        voxels + (100 if hemisphere == "rh" else 0)
    )
    """What `signal` knows a voxel by."""


def make_algonauts(root: Path) -> Path:
    for number in (1, 2):
        codes = codes_of(number, 60)
        home = write_challenge(root, f"subj{number:02d}", codes) / f"subj{number:02d}"
        for path, code in zip(sorted((home / "training_split/training_images").iterdir()), codes, strict=True):
            write_picture(path, code)
        for hemisphere in HEMISPHERES:
            path = home / ALGONAUTS_FMRI.format(hemisphere)
            voxels = np.arange(np.load(path).shape[1]) + (100 if hemisphere == "rh" else 0)
            np.save(path, signal(np.array(codes)[:, None], voxels[None]).astype(np.float32))
    return root


LAYOUTS = {
    "algonauts": Layout(make_algonauts, ("lh", "mTL-faces"), "subj01/" + ALGONAUTS_FMRI.format("lh")),
    "generic": Layout(make_generic, ("lh", "empty"), "subj01/lh.npy"),
    "generic-ids": Layout(lambda root: make_generic(root, ids=True, ncsnr=True), ("rh", "empty"), "subj01/lh.npy"),
    "nod": Layout(
        lambda root: make_nod(root, trials=2, empty=("rh", "V4")),
        ("rh", "V4"),
        str(beta_file(Path(), 1, 2, 3)),
        voxel_number,
    ),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def root(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LAYOUTS[name].make(tmp_path_factory.mktemp("contract") / "lab")


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return open_dataset(root)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """Of links, since most files are only read: remove a file before you write another in its place."""
    return Path(shutil.copytree(root, tmp_path / "lab", copy_function=os.link))


def pictures_of(dataset: Dataset, subject: str) -> NDArray[np.int64]:
    return np.array([code_of(Path(path.path)) for path in dataset.subject(subject).image_paths])


def served(dataset: Dataset) -> list[Target]:
    return plan_targets(dataset, dataset.subjects, HEMISPHERES, ["all"], min_voxels=1).targets


class TestDataset:
    def test_row_i_belongs_to_image_i_and_column_j_to_voxel_j(self, dataset: Dataset, name: str) -> None:
        targets = served(dataset)
        assert {target.subjects[0] for target in targets} == {"subj01", "subj02"}
        for target in targets:
            subject = dataset.subject(target.subjects[0])
            voxels = subject.voxels(target.hemisphere, target.roi)
            codes = pictures_of(dataset, subject.name)
            expected = signal(codes[:, None], LAYOUTS[name].number(target.hemisphere, voxels)[None])
            found = subject.responses(target.hemisphere, target.roi)
            assert found.shape == expected.shape == (len(subject.stimulus_ids), len(voxels))
            # NOD's runs are z-scored one by one, so a column follows the planted one up to the runs' small differences.
            for column, planted in zip(found.T, expected.T, strict=True):
                assert np.corrcoef(column, planted)[0, 1] > 0.9
                assert np.corrcoef(np.roll(column, 1), planted)[0, 1] < 0.6

    def test_an_id_means_one_picture_in_all_subjects(self, dataset: Dataset) -> None:
        pairs = set()
        for subject in dataset.subjects.values():
            assert subject.stimulus_ids.dtype == np.int64
            assert (subject.stimulus_ids >= 0).all()
            pairs |= set(zip(subject.stimulus_ids.tolist(), pictures_of(dataset, subject.name).tolist(), strict=True))
        assert len(pairs) == len({stimulus for stimulus, _ in pairs}) == len({code for _, code in pairs})

    def test_chosen_rows_are_those_of_the_whole(self, dataset: Dataset) -> None:
        rows = np.array([7, 3, 3, 50])
        for target in served(dataset):
            subject = dataset.subject(target.subjects[0])
            chosen = subject.responses(target.hemisphere, target.roi, rows)
            assert chosen.dtype == np.float32
            assert chosen.flags.c_contiguous
            assert np.array_equal(chosen, subject.responses(target.hemisphere, target.roi)[rows])

    def test_rois_groups_and_voxels_agree(self, dataset: Dataset) -> None:
        assert dataset.rois_of("all") == dataset.rois
        groups = {dataset.group_of(roi) for roi in dataset.rois}
        assert [roi for roi in dataset.rois if dataset.group_of(roi) in groups] == dataset.rois
        assert "early" in groups
        assert set(dataset.rois_of("early")) == {roi for roi in dataset.rois if dataset.group_of(roi) == "early"}
        for subject in dataset.subjects.values():
            for hemisphere in HEMISPHERES:
                sizes = subject.roi_sizes(hemisphere)
                assert list(sizes) == dataset.rois
                for roi, size in sizes.items():
                    voxels = subject.voxels(hemisphere, roi)
                    assert voxels.dtype == np.int64
                    assert voxels.tolist() == sorted(set(voxels.tolist()))
                    assert len(voxels) == size

    def test_unknown_words_are_refused(self, dataset: Dataset) -> None:
        subject = next(iter(dataset.subjects.values()))
        roi = dataset.rois[0]
        for ask in (
            lambda: dataset.subject("subj99"),
            lambda: dataset.rois_of("V99"),
            lambda: dataset.group_of("V99"),
            lambda: subject.voxels("left", roi),
            lambda: subject.voxels("lh", "V99"),
            lambda: subject.responses("lh", "V99"),
            lambda: subject.responses("left", roi),
        ):
            with pytest.raises(DataError, match="V99|subj99|left"):
                ask()

    def test_parts_are_disjoint_complete_and_the_same_for_shared_pictures(self, dataset: Dataset) -> None:
        parts: dict[int, set[str]] = {}
        for name in dataset.subjects:
            target = next(target for target in served(dataset) if target.subjects == (name,))
            data, test = load_target(dataset, target), load_test(dataset, target)
            assert data.digest == split_digest(dataset)
            subject, rows = dataset.subject(name), []
            whole = subject.responses(target.hemisphere, target.roi)
            for part, partition in (("train", data.train), ("val", data.val), ("test", test)):
                rows += partition.rows.tolist()
                assert np.isfinite(partition.responses).all()
                assert np.array_equal(partition.responses, whole[partition.rows])
                assert np.array_equal(partition.stimulus_ids, subject.stimulus_ids[partition.rows])
                for stimulus in partition.stimulus_ids.tolist():
                    parts.setdefault(stimulus, set()).add(part)
            assert sorted(rows) == list(range(len(subject.stimulus_ids)))
        assert all(len(found) == 1 for found in parts.values())

    def test_decoded_stimuli_are_in_the_order_of_rows(self, dataset: Dataset) -> None:
        target = served(dataset)[0]
        stimuli = load_target(dataset, target).train.stimuli
        for row, path in enumerate(dataset.subject(target.subjects[0]).image_paths[:20]):
            code = code_of(Path(path.path))
            expected = [code % 32 * 8, code // 32 % 32 * 8, code // 1024 * 8]
            assert np.abs(stimuli[row, 112, 112].astype(int) - expected).max() <= 3

    def test_an_empty_roi_is_skipped_and_refused(self, dataset: Dataset, name: str) -> None:
        hemisphere, roi = LAYOUTS[name].empty
        subject = dataset.subject("subj01")
        assert subject.voxels(hemisphere, roi).shape == (0,)
        assert subject.responses(hemisphere, roi).shape == (len(subject.stimulus_ids), 0)
        plan = plan_targets(dataset, ["subj01"], [hemisphere], [roi], min_voxels=0)
        assert (plan.targets, plan.skipped[0].reason) == ([], "no voxel")
        with pytest.raises(DataError, match="has no voxel"):
            load_target(dataset, Target(dataset.name, ("subj01",), hemisphere, roi))

    def test_a_subject_travels_to_another_process(self, dataset: Dataset) -> None:
        target = served(dataset)[0]
        subject = dataset.subject(target.subjects[0])
        before = subject.responses(target.hemisphere, target.roi)
        sent = pickle.dumps(subject)
        assert len(sent) < 4000, "only paths travel"
        assert np.array_equal(pickle.loads(sent).responses(target.hemisphere, target.roi), before)

    def test_responses_files_exist_and_a_sound_set_has_no_error(self, dataset: Dataset, root: Path) -> None:
        report = check_dataset(root)
        assert [fault for fault in report.faults if fault.severity == "error"] == []
        for subject in dataset.subjects.values():
            assert report.subjects[subject.name]["stimuli"] == len(subject.stimulus_ids)
            for hemisphere in HEMISPHERES:
                assert subject.responses_file(hemisphere).exists()
                assert report.subjects[subject.name]["rois"][hemisphere] == subject.roi_sizes(hemisphere)

    def test_a_torn_file_is_one_sentence(self, copy: Path, name: str) -> None:
        path = copy / LAYOUTS[name].responses
        content = path.read_bytes()
        for kept in (0.0, 0.02, 0.5, 0.98):
            path.unlink()
            path.write_bytes(content[: int(kept * len(content))])
            refused(copy, path)
        assert errors_at(copy) == [str(path)]

    def test_a_pickle_is_refused_and_not_run(self, copy: Path, name: str, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (os.mkdir, (str(tmp_path / "sprung"),))

        path = copy / LAYOUTS[name].responses
        path.unlink()
        with path.open("wb") as file:
            if path.suffix == ".npy":
                np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)
            else:
                pickle.dump(Trap(), file)
        refused(copy, path)
        assert not (tmp_path / "sprung").exists()

    def test_a_missing_file_is_one_sentence(self, copy: Path, name: str) -> None:
        path = copy / LAYOUTS[name].responses
        path.unlink()
        refused(copy, path)
        assert errors_at(copy) == [str(path)]


def refused(root: Path, path: Path) -> None:
    """Loading a target of the first subject complains of ``path``."""
    dataset = open_dataset(root)
    target = Target(dataset.name, ("subj01",), "lh", "V1v" if "V1v" in dataset.rois else "V1")
    with pytest.raises(FaultyFileError) as caught:
        load_target(dataset, target)
    assert caught.value.file == str(path)
    assert "\n" not in str(caught.value)


def errors_at(root: Path) -> list[str]:
    return [fault.file for fault in check_dataset(root).faults if fault.severity == "error"]


def test_paths_that_leave_the_data_set_are_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "outside/secret.png", 5)
    root = make_generic(tmp_path / "generic", subjects=1)
    text = (root / "dataset.toml").read_text()
    (root / "dataset.toml").write_text(text.replace('"subj01/images"', '"../outside"'))
    with pytest.raises(FaultyFileError, match=r"\.\./outside.*without '\.\.'"):
        open_dataset(root)
    root = make_nod(tmp_path / "nod", subjects=1, trials=1)
    events = events_file(root, 1, 1, 1)
    events.write_text("onset\tduration\ttrial_type\tstim_file\n0\t0.5\t1\t../../outside/secret.png\n")
    with pytest.raises(FaultyFileError, match=r"stim_file in line 2 is '\.\./\.\./outside"):
        _ = open_dataset(root).subject("subj01").image_paths
