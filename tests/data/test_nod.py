from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import zscore

from tests.data.builders_nod import (
    AREAS,
    N_RUNS,
    N_SESSIONS,
    beta_file,
    betas_of,
    cifti2,
    code_at,
    cortex_of,
    events_file,
    make_nod,
    prf_file,
    r2_of,
    results_of,
    write_maps,
    write_parcellation,
)
from tests.data.builders_pictures import code_of
from trainables.data.check import check_dataset
from trainables.data.faults import Fault
from trainables.data.files import FaultyFileError
from trainables.data.nod import NodSubject, open_nod
from trainables.errors import DataError

TRIALS = 2
RUNS = [(session, run) for session in range(1, N_SESSIONS + 1) for run in range(1, N_RUNS + 1)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nod(tmp_path_factory.mktemp("nod") / "ds004496", subjects=1, trials=TRIALS)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """Of links: remove a file before you write another in its place."""
    return Path(shutil.copytree(root, tmp_path / "nod", copy_function=os.link))


def subject_of(root: Path) -> NodSubject:
    return open_nod(root).subject("subj01")


def best_vertices(hemisphere: str, area: str) -> list[int]:
    """The fifty of highest R², one after the other."""
    r2 = r2_of(1, hemisphere)
    left = [vertex for vertex in AREAS[area][1] if vertex in cortex_of(hemisphere)]
    chosen = []
    for _ in range(min(50, len(left))):
        best = max(left, key=lambda vertex: 0.0 if np.isnan(r2[vertex]) else r2[vertex])
        left.remove(best)
        chosen.append(best)
    return sorted(chosen)


def expected_responses(hemisphere: str, vertices: list[int]) -> NDArray[Any]:
    """Run by run, z-scored by SciPy over the whole block of both hemispheres."""
    blocks = []
    for session, run in RUNS:
        sides = [betas_of(1, session, run, TRIALS, h).astype(np.float64) for h in ("lh", "rh")]
        whole = zscore(np.concatenate(sides, axis=1), axis=None)
        start = 0 if hemisphere == "lh" else len(cortex_of("lh"))
        columns = [start + cortex_of(hemisphere).tolist().index(vertex) for vertex in vertices]
        blocks.append(whole[:, columns])
    return np.concatenate(blocks)


@pytest.mark.parametrize("kind", ["mat", "dlabel", "dscalar"])
@pytest.mark.parametrize("low_numbers", ["lh", "rh"])
def test_vertices_are_the_most_reliable_of_the_area_and_hemisphere(copy: Path, kind: str, low_numbers: str) -> None:
    shutil.rmtree(copy / "parcellation")
    write_parcellation(copy, kind, low_numbers)
    for hemisphere in ("lh", "rh"):
        for area in AREAS:
            assert subject_of(copy).voxels(hemisphere, area).tolist() == best_vertices(hemisphere, area)
        assert subject_of(copy).roi_sizes(hemisphere) == {"V1": 50, "V2": 50, "V3": 50, "V4": len(AREAS["V4"][1])}


@pytest.mark.parametrize("hemisphere", ["lh", "rh"])
def test_responses_are_those_of_the_run_and_the_vertex(root: Path, hemisphere: str) -> None:
    subject = subject_of(root)
    for area in AREAS:
        expected = expected_responses(hemisphere, best_vertices(hemisphere, area))
        assert np.allclose(subject.responses(hemisphere, area), expected, atol=1e-5)
    assert subject.noise_ceiling(hemisphere, "V1") is None


def test_rows_are_in_the_order_of_session_and_run_numbers(root: Path) -> None:
    codes = [code_of(Path(path.path)) for path in subject_of(root).image_paths]
    assert codes == [code_at(1, session, run, trial, TRIALS) for session, run in RUNS for trial in range(TRIALS)]
    assert [run.name for run in subject_of(root).runs][8:11] == [
        "ses-imagenet01 run-9",
        "ses-imagenet01 run-10",
        "ses-imagenet02 run-1",
    ]


def test_subjects_1_to_9_by_name(copy: Path) -> None:
    for number in (3, 10, 2):
        (copy / f"derivatives/ciftify/sub-{number:02d}").mkdir()
    dataset = open_nod(copy)
    assert (dataset.name, dataset.is_demo, list(dataset.subjects)) == ("nod", False, ["subj01", "subj02", "subj03"])
    assert dataset.rois_of("early") == dataset.rois_of("all") == ["V1", "V2", "V3", "V4"]
    shutil.rmtree(copy / "derivatives/ciftify")
    (copy / "derivatives/ciftify/sub-10").mkdir(parents=True)
    with pytest.raises(DataError, match="none of NOD's subjects 1 to 9"):
        open_nod(copy)


def faults_of(root: Path) -> list[Fault]:
    return check_dataset(root).faults


def test_missing_runs_are_named(copy: Path) -> None:
    shutil.rmtree(beta_file(copy, 1, 2, 10).parent)
    events_file(copy, 1, 3, 1).unlink()
    problem = r"2 of 40 runs are missing: ses-imagenet02 run-10 \(betas\), ses-imagenet03 run-1 \(events\)"
    with pytest.raises(FaultyFileError, match=problem):
        _ = subject_of(copy).stimulus_ids
    (fault,) = faults_of(copy)
    assert (fault.severity, fault.file) == ("error", str(results_of(copy, 1)))
    assert "2 of 40 runs are missing" in fault.problem


def rewrite_run(root: Path, names: list[str] | None = None, n_trials: int = TRIALS, value: float | None = None) -> Path:
    """The second run of session 3 with other names of maps, fewer trials, or one value changed."""
    path = beta_file(root, 1, 3, 2)
    values = {h: betas_of(1, 3, 2, TRIALS, h)[:n_trials].copy() for h in ("lh", "rh")}
    if value is not None:
        values["rh"][0, 7] = value
    pictures = [line.rpartition("/")[2] for line in events_file(root, 1, 3, 2).read_text().split("\n")[1:-1]]
    path.unlink()
    write_maps(path, cifti2.ScalarAxis(names or pictures[:n_trials]), values)
    return path


def test_maps_in_another_order_than_the_events(copy: Path) -> None:
    pictures = [line.rpartition("/")[2] for line in events_file(copy, 1, 3, 2).read_text().split("\n")[1:-1]]
    path = rewrite_run(copy, pictures[::-1])
    with pytest.raises(FaultyFileError, match=rf"trial 1 is of {pictures[1]}; expected {pictures[0]}"):
        subject_of(copy).responses("lh", "V1")
    assert [fault.file for fault in faults_of(copy)] == [str(path)]


def test_maps_without_names_are_a_warning(copy: Path) -> None:
    path = rewrite_run(copy, ["one", "two"])
    assert subject_of(copy).responses("lh", "V1").shape == (40 * TRIALS, 50)
    (fault,) = faults_of(copy)
    assert (fault.severity, fault.file) == ("warning", str(path))
    assert "order cannot be verified" in fault.problem


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"n_trials": 1}, "it holds 1 trials; expected 2"),
        ({"value": np.nan}, "it holds NaN or infinity"),
        ({"value": np.inf}, "it holds NaN or infinity"),
    ],
)
def test_a_run_that_cannot_be_right(copy: Path, change: dict[str, Any], problem: str) -> None:
    path = rewrite_run(copy, **change)
    with pytest.raises(FaultyFileError, match=problem):
        subject_of(copy).responses("lh", "V1")
    (fault,) = faults_of(copy)
    assert (fault.severity, fault.file) == ("error", str(path))


def test_assembled_responses_are_kept_until_a_file_changes(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    before = subject_of(copy).responses("lh", "V1")
    with monkeypatch.context() as without:
        without.setattr("trainables.data.nod_betas.read_run", lambda *_: pytest.fail("read again"))
        assert np.array_equal(subject_of(copy).responses("lh", "V1"), before)
    rewrite_run(copy, value=1e3)
    after = subject_of(copy).responses("lh", "V1")
    rows = np.flatnonzero((before != after).any(axis=1))
    row = RUNS.index((3, 2)) * TRIALS
    assert rows.tolist() == [row, row + 1]


def test_the_parcellation_is_one_file_of_the_same_surface(copy: Path) -> None:
    path = write_parcellation(copy, "dscalar")
    with pytest.raises(FaultyFileError, match="it holds 2 files"):
        subject_of(copy).voxels("lh", "V1")
    path.unlink()
    (copy / "parcellation/MMP_mpmLR32k.mat").unlink()
    with pytest.raises(FaultyFileError, match=r"it holds 0 files .* put there MMP_mpmLR32k\.mat"):
        subject_of(copy).voxels("lh", "V1")
    (copy / "parcellation/MMP_mpmLR32k.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut short")
    with pytest.raises(FaultyFileError, match="not a whole MATLAB file"):
        subject_of(copy).voxels("lh", "V1")
    assert {fault.file for fault in faults_of(copy)} == {str(copy / "parcellation/MMP_mpmLR32k.mat"), str(copy)}


def test_missing_receptive_fields(copy: Path) -> None:
    prf_file(copy, 1).unlink()
    with pytest.raises(FaultyFileError, match=r"params\.dscalar\.nii: it is missing"):
        subject_of(copy).voxels("lh", "V1")


def test_without_nibabel_the_message_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert len(subject_of(root).stimulus_ids) == 40 * TRIALS
    for ask in (lambda: subject_of(root).voxels("lh", "V1"), lambda: check_dataset(root)):
        with pytest.raises(DataError, match=r"pip install 'cortex-sweep\[nod\]'"):
            ask()


def test_a_picture_that_is_missing_is_named(copy: Path) -> None:
    path = Path(subject_of(copy).image_paths[5].path)
    path.unlink()
    (fault,) = faults_of(copy)
    assert (fault.severity, fault.file, fault.problem) == ("error", str(path), "it is missing")
