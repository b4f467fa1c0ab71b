"""The demo set: simulated subjects in the Algonauts layout, whose noise ceilings are known."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.data.algonauts import DESCRIPTION_FILE
from trainables.data.decoding import Progress
from trainables.data.demo_model import add_noise, channel_maps
from trainables.data.demo_pictures import picture
from trainables.data.demo_rois import LABELS, N_FSAVERAGE, Hemisphere, simulate
from trainables.data.files import unwritable
from trainables.errors import DataError
from trainables.target import HEMISPHERES

DEMO_VERSION = 1
TRAINING_FMRI = "training_split/training_fmri"
IMAGES = {"train": "training_split/training_images", "test": "test_split/test_images"}

LAST_STIMULUS_ID = 73000
"""NSD's ids run from 1 to 73000."""


def make_demo(
    root: str | os.PathLike[str],
    *,
    subjects: int = 3,
    stimuli: int = 240,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Writes a demo set, the same byte for byte for the same arguments; an older one there is replaced.

    Besides the files of the layout each subject's folder holds ``truth.npz``, with names such as
    ``lh_signal``: the noise-free ``signal`` (n_stimuli, n_vertices); the ``noise_ceiling`` (n_vertices,);
    ``best_r``, its root, the accuracy that no model can expect to pass; and the receptive fields ``rf_x``,
    ``rf_y``, ``rf_size``, NaN beyond the early areas.

    Args:
        root: folder to make.
        subjects: how many subjects; a quarter of their stimuli is shared by all.
        stimuli: training images of a subject; a twelfth as many test images come on top.
        seed: another seed gives other pictures and voxels.
        progress: called while pictures are made.

    Returns:
        The folder.

    Raises:
        DataError: the folder holds something other than a demo set, or a number is out of range.
        StorageError: it cannot be written, as when the disk is full; nothing is left behind.
    """
    place = Path(root).expanduser().absolute()
    if subjects < 1 or stimuli < 20 or subjects * stimuli > LAST_STIMULUS_ID // 2:
        raise DataError(
            f"a demo of {subjects} subjects with {stimuli} stimuli; expected at least 1 with 20, "
            f"and at most {LAST_STIMULUS_ID // 2} stimuli in all"
        )
    _refuse_foreign(place)
    building = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        _write(building / "new", subjects, stimuli, seed, progress)
        if place.exists():
            place.rename(building / "old")
        (building / "new").rename(place)
    except OSError as error:
        raise unwritable(place, error) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
    return place


def _refuse_foreign(place: Path) -> None:
    """Raises DataError unless the place is free, empty, or holds a demo set and nothing else."""
    if not place.exists():
        return
    if not place.is_dir():
        raise DataError(f"{place} is a file; expected a folder to make for the demo set")
    inside = {path.name for path in place.iterdir()}
    description = place / DESCRIPTION_FILE
    try:
        is_demo = DESCRIPTION_FILE in inside and json.loads(description.read_bytes()).get("demo") is True
    except (OSError, ValueError, AttributeError):
        is_demo = False
    foreign = {name for name in inside if not is_demo or not name.startswith(("subj", DESCRIPTION_FILE))}
    if foreign:
        raise DataError(f"{place} already holds {min(foreign)}, which is no part of a demo set; choose another folder")


def _write(root: Path, subjects: int, stimuli: int, seed: int, progress: Progress | None) -> None:
    root.mkdir()
    training, test = _stimulus_ids(subjects, stimuli, seed)
    total = subjects * (training.shape[1] + test.shape[1])
    done = 0
    for index in range(subjects):
        folder = root / f"subj{index + 1:02d}"
        pictures = []
        for split, ids in (("train", training[index]), ("test", test[index])):
            images = folder / IMAGES[split]
            images.mkdir(parents=True)
            for row, stimulus in enumerate(ids.tolist(), start=1):
                pixels = picture(stimulus, seed)
                # The fastest compression: photographs hardly gain from more.
                Image.fromarray(pixels).save(images / f"{split}-{row:04d}_nsd-{stimulus:05d}.png", compress_level=1)
                pictures.append(pixels)
                done += 1
                if progress:
                    progress(done, total)
        _write_responses(folder, np.stack(pictures[:stimuli]), index, seed)
    description = {"name": "demo", "demo": True, "version": DEMO_VERSION, "seed": seed, "stimuli": stimuli}
    (root / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")


def _stimulus_ids(subjects: int, stimuli: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending training and test ids, (subjects, stimuli) and (subjects, stimuli // 12)."""
    n_shared, n_test = stimuli // 4, stimuli // 12
    n_own = stimuli - n_shared + n_test
    rng = np.random.default_rng([seed, 0])
    ids = rng.permutation(np.arange(1, LAST_STIMULUS_ID + 1))[: n_shared + subjects * n_own]
    shared, own = ids[:n_shared], ids[n_shared:].reshape(subjects, n_own)
    training = np.hstack([np.tile(shared, (subjects, 1)), own[:, n_test:]])
    return np.sort(training, axis=1), np.sort(own[:, :n_test], axis=1)


def _write_responses(folder: Path, pictures: NDArray[np.uint8], index: int, seed: int) -> None:
    fmri, masks, ceilings = folder / TRAINING_FMRI, folder / "roi_masks", folder / "noise_ceiling"
    for directory in (fmri, masks, ceilings):
        directory.mkdir(parents=True)
    maps = channel_maps(pictures)
    rng = np.random.default_rng([seed, 1, index])
    repeats = rng.choice((1, 2, 3), size=len(pictures), p=(0.05, 0.10, 0.85))
    np.save(ceilings / "repeats.npy", repeats)
    truth: dict[str, NDArray[np.float32]] = {}
    for hemisphere in HEMISPHERES:
        simulated = simulate(maps, hemisphere, index, seed)
        responses, ncsnr = add_noise(simulated.signal, simulated.ceiling, repeats, rng)
        np.save(fmri / f"{hemisphere}_training_fmri.npy", responses)
        np.save(ceilings / f"{hemisphere}_ncsnr.npy", ncsnr)
        _write_masks(masks, hemisphere, simulated.labels, rng)
        truth |= {f"{hemisphere}_{name}": array for name, array in _truth(simulated).items()}
    for mask, names in LABELS.items():
        mapping = np.array({0: "Unknown", **dict(enumerate(names, start=1))}, dtype=object)
        np.save(masks / f"mapping_{mask}.npy", mapping, allow_pickle=True)
    np.savez_compressed(folder / "truth.npz", allow_pickle=False, **truth)


def _write_masks(
    folder: Path, hemisphere: str, labels: dict[str, NDArray[np.float32]], rng: np.random.Generator
) -> None:
    n_vertices = len(next(iter(labels.values())))
    # Challenge space is the part of the average surface that was recorded, in the order of its vertices.
    recorded = np.sort(rng.permutation(N_FSAVERAGE)[:n_vertices])
    for mask, values in {"all-vertices": np.ones(n_vertices, np.float32), **labels}.items():
        surface = np.zeros(N_FSAVERAGE, np.uint8)
        surface[recorded] = values
        np.save(folder / f"{hemisphere}.{mask}_fsaverage_space.npy", surface)
        if mask in labels:
            np.save(folder / f"{hemisphere}.{mask}_challenge_space.npy", values)


def _truth(simulated: Hemisphere) -> dict[str, NDArray[np.float32]]:
    truth = {
        "signal": simulated.signal,
        "noise_ceiling": simulated.ceiling,
        "best_r": np.sqrt(simulated.ceiling),
        "rf_x": simulated.rf_x,
        "rf_y": simulated.rf_y,
        "rf_size": simulated.rf_size,
    }
    return {name: array.astype(np.float32) for name, array in truth.items()}
