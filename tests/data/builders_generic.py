"""Small data sets described by a ``dataset.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.data.builders_pictures import Respond, signal, write_picture

LABELS = {"V1": 1, "V4": 2, "empty": 3}
N_VOXELS = {"lh": 30, "rh": 26}
UNIQUE = 1000
"""First code of a subject's own pictures, times the subject's number; codes below are shared."""


def codes_of(number: int, stimuli: int) -> list[int]:
    """The picture of each row: every third one is shared by all subjects."""
    return [row if row % 3 == 0 else UNIQUE * number + row for row in range(stimuli)]


def labels_of(hemisphere: str) -> list[int]:
    """0, 1, 2, 0, 1, 2, ...: a third of the voxels is in no ROI."""
    return [voxel % 3 for voxel in range(N_VOXELS[hemisphere])]


def make_generic(
    root: Path,
    *,
    subjects: int = 2,
    stimuli: int = 60,
    ids: bool = False,
    labels: bool = True,
    ncsnr: bool = False,
    respond: Respond = signal,
) -> Path:
    """A data set ``mylab`` with subjects ``subj01``... in its folder; ``empty`` is an ROI without voxels.

    Args:
        root: folder to make.
        subjects: how many.
        stimuli: of each subject.
        ids: list the stimuli with ids, in reverse order of their names; else the folder's order counts.
        labels: name ROIs; else there is the one ROI ``whole``.
        ncsnr: write noise ceilings and repeats.
        respond: the responses to a picture.
    """
    lines = ['name = "mylab"']
    if labels:
        lines.append(f"rois = {{ {', '.join(f'{roi} = {label}' for roi, label in LABELS.items())} }}")
        lines.append('groups = { early = ["V1", "V4"] }')
    for number in range(1, subjects + 1):
        lines += _write_subject(root, number, codes_of(number, stimuli), ids, labels, ncsnr, respond)
    (root / "dataset.toml").write_text("\n".join(lines) + "\n")
    return root


def _write_subject(
    root: Path, number: int, codes: list[int], ids: bool, labels: bool, ncsnr: bool, respond: Respond
) -> list[str]:
    name = f"subj{number:02d}"
    home = root / name
    lines = [f"[subjects.{name}]", f'images = "{name}/images"']
    # Without leading zeros, so that the order of letters is not that of rows.
    files = [f"image{row}.png" for row in range(len(codes))]
    if ids:
        files.reverse()
        listed = "".join(f"{file},{code + 7}\n" for file, code in zip(files, codes, strict=True))
        home.mkdir(parents=True)
        (home / "stimuli.csv").write_text(f"file,id\n{listed}")
        lines.append(f'stimuli = "{name}/stimuli.csv"')
    for file, code in zip(files, codes, strict=True):
        write_picture(home / "images" / file, code)
    for hemisphere, n_voxels in N_VOXELS.items():
        voxels = np.arange(n_voxels) + (100 if hemisphere == "rh" else 0)
        responses = respond(np.array(codes)[:, None], voxels[None])
        np.save(home / f"{hemisphere}.npy", responses.astype(np.float32))
        lines.append(f'responses.{hemisphere} = "{name}/{hemisphere}.npy"')
        if labels:
            np.save(home / f"{hemisphere}_rois.npy", np.array(labels_of(hemisphere)))
            lines.append(f'labels.{hemisphere} = "{name}/{hemisphere}_rois.npy"')
        if ncsnr:
            np.save(home / f"{hemisphere}_ncsnr.npy", np.linspace(0, 2, n_voxels))
            lines.append(f'ncsnr.{hemisphere} = "{name}/{hemisphere}_ncsnr.npy"')
    if ncsnr:
        np.save(home / "repeats.npy", np.arange(len(codes)) % 3 + 1)
        lines.append(f'repeats = "{name}/repeats.npy"')
    return lines


MINIMAL = """
name = "mylab"
[subjects.anna]
images = "photos"
responses.lh = "anna.npy"
"""


def write_minimal(root: Path, text: str, n_stimuli: int = 40, dtype: Any = np.float32) -> Path:
    """The images and responses that `MINIMAL` names, and any description."""
    for row in range(n_stimuli):
        write_picture(root / f"photos/{row}.png", row)
    np.save(root / "anna.npy", signal(np.arange(n_stimuli)[:, None], np.arange(5)[None]).astype(dtype))
    (root / "dataset.toml").write_text(text)
    return root
