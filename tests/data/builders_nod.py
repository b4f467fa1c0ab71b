"""Small copies of the Natural Object Dataset in its true formats: CIFTI-2 files, tables of events, JPEG pictures."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from tests.data.builders_pictures import Respond, signal, write_picture

cifti2: Any = importlib.import_module("nibabel.cifti2")

N_MESH = 300
"""Vertices of a hemisphere's mesh; a tenth of them is the medial wall, which no file has."""
AREAS = {"V1": (1, range(20, 90)), "V2": (4, range(90, 150)), "V3": (5, range(150, 205)), "V4": (6, range(205, 235))}
"""Number and vertices of each area, the same in both hemispheres; V4 has fewer than fifty."""
STRUCTURES = {"lh": "CIFTI_STRUCTURE_CORTEX_LEFT", "rh": "CIFTI_STRUCTURE_CORTEX_RIGHT"}
N_SESSIONS, N_RUNS = 4, 10


def cortex_of(hemisphere: str) -> NDArray[np.int64]:
    """Vertices that are no medial wall: its place differs, so that equal columns are not equal vertices."""
    wall = range(30) if hemisphere == "rh" else range(260, 290)
    kept = [vertex for vertex in range(N_MESH) if vertex not in wall]
    return np.array(kept)


def voxel_number(hemisphere: str, vertices: NDArray[Any]) -> NDArray[Any]:
    """What ``respond`` knows a vertex by."""
    return vertices + (1000 if hemisphere == "rh" else 0)


def code_at(number: int, session: int, run: int, trial: int, trials: int) -> int:
    """The picture of a trial, counted through all subjects."""
    return ((number * N_SESSIONS + session - 1) * N_RUNS + run - 1) * trials + trial


def r2_of(number: int, hemisphere: str) -> NDArray[np.float64]:
    """R² in percent of every mesh vertex; one in nine has no fit."""
    values = np.random.default_rng([number, hemisphere == "rh"]).uniform(0.0, 100.0, N_MESH)
    values[::9] = np.nan
    return values


def betas_of(
    number: int, session: int, run: int, trials: int, hemisphere: str, respond: Respond = signal
) -> NDArray[np.float32]:
    """Raw betas (trials, n_cortex) of a run; runs differ in level and scale, as scanners drift."""
    codes = np.array([code_at(number, session, run, trial, trials) for trial in range(trials)])
    values = respond(codes[:, None], voxel_number(hemisphere, cortex_of(hemisphere))[None])
    return ((1 + 0.1 * run) * values + session).astype(np.float32)


def make_nod(
    root: Path,
    *,
    subjects: int = 2,
    trials: int = 3,
    parcellation: str = "mat",
    low_numbers: str = "rh",
    empty: tuple[str, str] | None = None,
    respond: Respond = signal,
) -> Path:
    """Forty runs of each subject ``sub-01``..., pRF maps and the parcellation.

    Args:
        root: folder to make.
        subjects: how many.
        trials: of each run.
        parcellation: ``mat``, ``dlabel`` or ``dscalar``.
        low_numbers: the hemisphere whose areas have the numbers 1 to 180.
        empty: hemisphere and area that the parcellation gives no vertex.
        respond: the responses to a picture.
    """
    write_parcellation(root, parcellation, low_numbers, empty)
    for number in range(1, subjects + 1):
        _write_prf_maps(root, number)
        for session in range(1, N_SESSIONS + 1):
            for run in range(1, N_RUNS + 1):
                _write_run(root, number, session, run, trials, respond)
    return root


def results_of(root: Path, number: int) -> Path:
    return root / f"derivatives/ciftify/sub-{number:02d}/results"


def beta_file(root: Path, number: int, session: int, run: int) -> Path:
    name = f"ses-imagenet{session:02d}_task-imagenet_run-{run}"
    return results_of(root, number) / name / f"{name}_beta.dscalar.nii"


def events_file(root: Path, number: int, session: int, run: int) -> Path:
    folder = root / f"sub-{number:02d}/ses-imagenet{session:02d}/func"
    return folder / f"sub-{number:02d}_ses-imagenet{session:02d}_task-imagenet_run-{run:02d}_events.tsv"


def prf_file(root: Path, number: int) -> Path:
    return results_of(root, number) / "ses-prf_task-prf/ses-prf_task-prf_params.dscalar.nii"


def write_maps(path: Path, rows: Any, by_hemisphere: dict[str, NDArray[Any]], *, subcortex: bool = False) -> None:
    """A CIFTI-2 file with the axis ``rows``; ``by_hemisphere`` holds (n_maps, n_cortex)."""
    models = [
        cifti2.BrainModelAxis.from_surface(cortex_of(hemisphere), N_MESH, name=STRUCTURES[hemisphere])
        for hemisphere in ("lh", "rh")
    ]
    values = [by_hemisphere[hemisphere] for hemisphere in ("lh", "rh")]
    if subcortex:
        voxels = np.ones((2, 2, 2), bool)
        models.append(cifti2.BrainModelAxis.from_mask(voxels, name="thalamus_left", affine=np.eye(4)))
        values.append(np.full((len(rows), 8), 1e6))
    grayordinates: Any = sum(models[1:], models[0])
    header = cifti2.Cifti2Header.from_axes((rows, grayordinates))
    path.parent.mkdir(parents=True, exist_ok=True)
    cifti2.Cifti2Image(np.concatenate(values, axis=1).astype(np.float32), header).to_filename(path)


def write_parcellation(
    root: Path, kind: str = "mat", low_numbers: str = "rh", empty: tuple[str, str] | None = None
) -> Path:
    labels = {}
    for hemisphere in ("lh", "rh"):
        mesh = np.full(N_MESH, 100)
        for area, (number, vertices) in AREAS.items():
            if (hemisphere, area) != empty:
                mesh[list(vertices)] = number
        labels[hemisphere] = mesh[cortex_of(hemisphere)] + (0 if hemisphere == low_numbers else 180)
    folder = root / "parcellation"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / {"mat": "MMP_mpmLR32k.mat"}.get(kind, f"MMP_mpmLR32k.{kind}.nii")
    if kind == "mat":
        scipy.io.savemat(path, {"glasser_MMP": np.concatenate([labels["lh"], labels["rh"]])[None].astype(float)})
        return path
    names = {0: ("???", (0.0, 0.0, 0.0, 0.0)), 100: ("R_p24_ROI", (1.0, 0.0, 0.0, 1.0))}
    for area, (number, _) in AREAS.items():
        names[number] = (f"{low_numbers[0].upper()}_{area}_ROI", (0.0, 1.0, 0.0, 1.0))
        names[number + 180] = (f"{'R' if low_numbers == 'lh' else 'L'}_{area}_ROI", (0.0, 0.0, 1.0, 1.0))
    label_axis = cifti2.LabelAxis(["MMP"], names)
    rows = label_axis if kind == "dlabel" else cifti2.ScalarAxis(["MMP"])
    write_maps(path, rows, {hemisphere: values[None] for hemisphere, values in labels.items()})
    return path


def _write_prf_maps(root: Path, number: int) -> None:
    values = {}
    for hemisphere in ("lh", "rh"):
        r2 = r2_of(number, hemisphere)[cortex_of(hemisphere)]
        # The other maps are larger where R² is smaller: reading another row shows.
        values[hemisphere] = np.stack([360 - r2, 200 - r2, 150 - r2, r2])
    rows = cifti2.ScalarAxis(["ang", "ecc", "rfsize", "R2"])
    write_maps(prf_file(root, number), rows, values, subcortex=True)


def _write_run(root: Path, number: int, session: int, run: int, trials: int, respond: Respond) -> None:
    pictures, lines = [], ["onset\tduration\ttrial_type\tstim_file"]
    for trial in range(trials):
        code = code_at(number, session, run, trial, trials)
        # Names that do not sort like trials.
        picture = f"imagenet/n{code * 7919 % 1000:08d}/n{code * 7919 % 1000:08d}_{code}.JPEG"
        write_picture(root / "stimuli" / picture, code)
        pictures.append(picture)
        lines.append(f"{4 * trial}\t0.5\t{code % 1000 + 1}\t{picture}")
    events = events_file(root, number, session, run)
    events.parent.mkdir(parents=True, exist_ok=True)
    events.write_text("\n".join(lines) + "\n")
    betas = {hemisphere: betas_of(number, session, run, trials, hemisphere, respond) for hemisphere in ("lh", "rh")}
    rows = cifti2.ScalarAxis([picture.rpartition("/")[2] for picture in pictures])
    write_maps(beta_file(root, number, session, run), rows, betas)
