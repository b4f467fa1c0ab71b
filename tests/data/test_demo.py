from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickletools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.processes import make_demo_with_little_room
from trainables.data.algonauts import AlgonautsDataset, open_algonauts
from trainables.data.check import check_dataset
from trainables.data.demo import make_demo
from trainables.data.responses import load_target
from trainables.encoding.scores import pearson_r
from trainables.errors import DataError, StorageError
from trainables.target import Target

SPAWN = multiprocessing.get_context("spawn")
EARLY = ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4")


def digest(root: Path) -> str:
    """Of every file's path and bytes."""
    whole = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        whole.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return whole.hexdigest()


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    seeds = {"first": 3, "again": 3, "other": 4}
    digests = [digest(make_demo(tmp_path / name, subjects=1, stimuli=24, seed=seed)) for name, seed in seeds.items()]
    assert digests[0] == digests[1] != digests[2]


def test_other_subjects_change_nothing_for_the_first(tmp_path: Path) -> None:
    fewer, more = (make_demo(tmp_path / str(n), subjects=n, stimuli=24) for n in (1, 2))
    assert digest(fewer / "subj01") == digest(more / "subj01")


def test_size_leaves_room_below_60_mb(demo_root: Path) -> None:
    per_subject = sum(path.stat().st_size for path in demo_root.rglob("*") if path.is_file()) / 2
    images = [path.stat().st_size for path in demo_root.rglob("*.png")]
    assert 3 * per_subject + 3 * (240 - 80) * 13 / 12 * float(np.mean(images)) < 55e6


def test_it_is_open_to_the_reader(demo: AlgonautsDataset, demo_root: Path) -> None:
    assert demo.is_demo
    assert demo.name == "demo"
    assert check_dataset(demo_root).faults == []
    for subject in demo.subjects.values():
        assert len(subject.stimulus_ids) == len(set(subject.stimulus_ids.tolist())) == 80
        assert len(subject.test_stimulus_ids) == 6
        assert not set(subject.test_stimulus_ids) & set(subject.stimulus_ids)
        for hemisphere in ("lh", "rh"):
            sizes = subject.roi_sizes(hemisphere)
            assert all(24 <= sizes[roi] <= 40 for roi in (*EARLY, "EBA", "FFA-1", "PPA", "mfs-words"))
            assert 0 < sizes["RSC"] < 20
            assert 0 < sizes["VWFA-2"] < 20
            assert sizes["mTL-faces"] == sizes["aTL-faces"] == 0
            early = {vertex for roi in EARLY[:-1] for vertex in subject.voxels(hemisphere, roi).tolist()}
            assert set(subject.voxels(hemisphere, "streams:early").tolist()) == early


def test_files_are_written_as_the_real_ones(demo_root: Path) -> None:
    masks = demo_root / "subj01/roi_masks"
    content = (masks / "mapping_floc-words.npy").read_bytes()
    names = [argument for _, argument, _ in pickletools.genops(content[128:]) if isinstance(argument, str)]
    assert "mfs-words " in names
    for path in masks.glob("*_fsaverage_space.npy"):
        surface = np.load(path)
        assert surface.shape == (163842,)
        assert surface.dtype == np.uint8
    recorded = np.load(masks / "lh.all-vertices_fsaverage_space.npy") == 1
    labels = np.load(masks / "lh.streams_fsaverage_space.npy")[recorded]
    assert np.array_equal(labels, np.load(masks / "lh.streams_challenge_space.npy"))
    with Image.open(next((demo_root / "subj01/training_split/training_images").iterdir())) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (128, 128))


def test_a_quarter_of_the_stimuli_is_shared(demo: AlgonautsDataset) -> None:
    first, second = (
        {int(i): path.read_bytes() for i, path in zip(subject.stimulus_ids, subject.image_paths, strict=True)}
        for subject in demo.subjects.values()
    )
    shared = set(first) & set(second)
    assert len(shared) == 20
    assert all(first[i] == second[i] for i in shared)
    assert len({*first.values(), *second.values()}) == len({*first, *second}), "ids that show the same picture"


def test_responses_are_z_scored(demo: AlgonautsDataset) -> None:
    for roi in ("V1v", "PPA", "parietal"):
        responses = demo.subject("subj02").responses("rh", roi)
        assert responses.mean(axis=0) == pytest.approx(0, abs=1e-5)
        assert responses.std(axis=0) == pytest.approx(1, abs=1e-5)


def test_truth_is_what_the_files_imply(large_demo_root: Path) -> None:
    """Noise ceilings from ncsnr and repeats, and the accuracy of the true signal, agree with the planted truth."""
    subject = open_algonauts(large_demo_root).subject("subj01")
    truth = np.load(large_demo_root / "subj01/truth.npz")
    for hemisphere in ("lh", "rh"):
        for roi in (*EARLY, "EBA", "FFA-1", "OPA", "ventral"):
            voxels = subject.voxels(hemisphere, roi)
            ceiling, best_r = (truth[f"{hemisphere}_{name}"][voxels] for name in ("noise_ceiling", "best_r"))
            assert subject.noise_ceiling(hemisphere, roi) == pytest.approx(ceiling, rel=1e-4)
            assert best_r == pytest.approx(np.sqrt(ceiling), rel=1e-5)
            r = pearson_r(truth[f"{hemisphere}_signal"][:, voxels], subject.responses(hemisphere, roi))
            # r of 400 draws has a standard deviation of (1 - r^2) / 20; five of them for the hundreds of voxels.
            assert (np.abs(r - best_r) < 5 * (1 - best_r**2) / 20).all()
            assert abs(np.mean(r - best_r)) < 5 * np.mean(1 - best_r**2) / 20 / np.sqrt(len(voxels))


def test_vertices_outside_every_roi_hold_noise_alone(large_demo_root: Path) -> None:
    truth = np.load(large_demo_root / "subj01/truth.npz")
    masks = large_demo_root / "subj01/roi_masks"
    labels = [np.load(path) for path in sorted(masks.glob("lh.*_challenge_space.npy"))]
    outside = ~np.any(labels, axis=0)
    assert outside.sum() == 60
    assert np.array_equal(truth["lh_noise_ceiling"] == 0, outside)
    assert np.array_equal(np.load(large_demo_root / "subj01/noise_ceiling/lh_ncsnr.npy") == 0, outside)


def test_receptive_fields_lie_in_the_opposite_visual_field(demo: AlgonautsDataset, demo_root: Path) -> None:
    truth = np.load(demo_root / "subj01/truth.npz")
    subject = demo.subject("subj01")
    for hemisphere, side in (("lh", 1), ("rh", -1)):
        for roi in EARLY:
            voxels = subject.voxels(hemisphere, roi)
            x, y = truth[f"{hemisphere}_rf_x"][voxels], truth[f"{hemisphere}_rf_y"][voxels]
            assert (side * (x - 0.5) > 0).all()
            assert ((x > 0) & (x < 1) & (y > 0) & (y < 1)).all()
            if roi != "hV4":
                above = y < 0.5  # rows of an image count from its upper edge
                assert (above == roi.endswith("v")).all()
        assert np.isnan(truth[f"{hemisphere}_rf_x"][subject.voxels(hemisphere, "PPA")]).all()


@pytest.mark.parametrize("hemisphere", ["lh", "rh"])
def test_early_voxels_follow_the_contrast_at_their_place(large_demo_root: Path, hemisphere: str) -> None:
    """The contrast in a window at the receptive field tells more about a response than at its mirror image."""
    dataset = open_algonauts(large_demo_root)
    subject = dataset.subject("subj01")
    pictures = np.stack([np.asarray(Image.open(str(path)).convert("L"), float) for path in subject.image_paths])
    truth = np.load(large_demo_root / "subj01/truth.npz")
    for roi in ("V1v", "V2d"):
        here: list[float] = []
        mirrored: list[float] = []
        responses = subject.responses(hemisphere, roi)
        for column, vertex in enumerate(subject.voxels(hemisphere, roi)):
            x, y = truth[f"{hemisphere}_rf_x"][vertex] * 128, truth[f"{hemisphere}_rf_y"][vertex] * 128
            for centre, found in ((x, here), (128 - x, mirrored)):
                rows, columns = (
                    slice(max(int(y) - 12, 0), int(y) + 12),
                    slice(max(int(centre) - 12, 0), int(centre) + 12),
                )
                contrast = pictures[:, rows, columns].std(axis=(1, 2))
                found.append(np.corrcoef(contrast, responses[:, column])[0, 1])
        assert np.mean(here) > 0.25
        assert np.mean(here) > np.mean(mirrored) + 0.1


def test_progress_counts_the_pictures(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_demo(tmp_path / "demo", subjects=2, stimuli=24, progress=lambda *call: calls.append(call))
    assert calls == [(done, 52) for done in range(1, 53)]


def test_an_older_demo_is_replaced(demo_copy: Path) -> None:
    data = load_target(open_algonauts(demo_copy), Target("demo", ("subj01",), "lh", "V1v"))
    assert make_demo(demo_copy, subjects=1, stimuli=24) == demo_copy
    assert list(open_algonauts(demo_copy).subjects) == ["subj01"]
    assert len(open_algonauts(demo_copy).subject("subj01").stimulus_ids) == 24
    assert [path.name for path in demo_copy.parent.iterdir()] == ["demo"]
    assert data.train.stimuli[0].any(), "what was decoded before stays readable"


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert open_algonauts(make_demo(tmp_path / "demo", subjects=1, stimuli=24)).is_demo


def test_a_foreign_folder_is_refused(tmp_path: Path, demo_copy: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("years of work")
    (demo_copy / "results.csv").write_text("hours of work")
    for root, name in ((tmp_path / "thesis", "chapter1.tex"), (demo_copy, "results.csv")):
        before = digest(root)
        with pytest.raises(DataError, match=f"already holds {name}, which is no part of a demo"):
            make_demo(root)
        assert digest(root) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        make_demo(tmp_path / "file")


def test_real_data_are_never_taken_for_a_demo(demo_copy: Path) -> None:
    (demo_copy / "dataset.json").write_text(json.dumps({"name": "demo", "demo": False}))
    with pytest.raises(DataError, match="no part of a demo"):
        make_demo(demo_copy)


def test_no_room_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    receiver, sender = SPAWN.Pipe(duplex=False)
    worker = SPAWN.Process(target=make_demo_with_little_room, args=(tmp_path / "demo", sender))
    worker.start()
    message = receiver.recv()
    worker.join(60)
    assert "demo cannot be written" in message
    assert "free some space" in message
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "demo", subjects=1, stimuli=24, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        make_demo(tmp_path / "file/demo", subjects=1, stimuli=24)


@pytest.mark.parametrize("subjects, stimuli", [(0, 240), (1, 19), (-1, 24), (10, 100_000)])
def test_sizes_out_of_range(tmp_path: Path, subjects: int, stimuli: int) -> None:
    with pytest.raises(DataError, match=f"{subjects} subjects with {stimuli} stimuli"):
        make_demo(tmp_path / "demo", subjects=subjects, stimuli=stimuli)
