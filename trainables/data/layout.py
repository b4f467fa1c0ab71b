"""Where each subject's files lie: the Algonauts 2023 challenge's layout and the authors' flattened one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from upath import UPath

from trainables.data.files import FaultyFileError
from trainables.errors import DataError
from trainables.target import HEMISPHERES

_SUBJECT = re.compile(r"subj0*(\d+)", re.IGNORECASE)
_STIMULUS = re.compile(r"(?:train|test)-(\d+)_nsd-(\d+)\.(?:png|jpe?g)", re.IGNORECASE)
_FLATTENED_FOLDERS = ("training_fmri", "training_images", "roi_masks")


@dataclass(frozen=True)
class SubjectFiles:
    """The paths of one subject's files; none of them needs to exist."""

    name: str
    training_images: UPath
    test_images: UPath
    training_fmri: UPath
    fmri_prefix: str
    """What stands before ``lh_training_fmri.npy`` in a file's name."""
    roi_masks: UPath
    noise_ceilings: UPath

    def responses(self, hemisphere: str) -> UPath:
        """float32 array (n_stimuli, n_vertices)."""
        return self.training_fmri / f"{self.fmri_prefix}{hemisphere}_training_fmri.npy"

    def mask(self, hemisphere: str, mask: str) -> UPath:
        """Labels (n_vertices,) of the challenge space."""
        return self.roi_masks / f"{hemisphere}.{mask}_challenge_space.npy"

    def fsaverage_mask(self, hemisphere: str, mask: str) -> UPath:
        """Labels (163842,) on FreeSurfer's average surface; optional."""
        return self.roi_masks / f"{hemisphere}.{mask}_fsaverage_space.npy"

    def mapping(self, mask: str) -> UPath:
        """Names of a mask's labels."""
        return self.roi_masks / f"mapping_{mask}.npy"

    def ncsnr(self, hemisphere: str) -> UPath:
        """Noise ceiling signal-to-noise ratio, float32 (n_vertices,); optional."""
        return self.noise_ceilings / f"{hemisphere}_ncsnr.npy"

    def repeats(self) -> UPath:
        """Presentations of each training stimulus, int (n_stimuli,); optional."""
        return self.noise_ceilings / "repeats.npy"

    def has_mask(self, mask: str) -> bool:
        """Whether any file of this mask exists: a mask that is wholly absent was left out on purpose."""
        parts = [self.mapping(mask), *(self.mask(hemisphere, mask) for hemisphere in HEMISPHERES)]
        return any(part.exists() for part in parts)


@dataclass(frozen=True)
class StimulusFile:
    """One image of a subject."""

    index: int
    """Its number in the split, from 1; the order of the responses' rows."""
    stimulus_id: int
    """Dataset-wide id."""
    path: UPath


def find_subjects(root: UPath) -> dict[str, SubjectFiles]:
    """The subjects under ``root`` by name (``subj01``...), in the order of their numbers.

    Raises:
        DataError: ``root`` does not exist or holds neither layout.
    """
    if not root.exists():
        raise DataError(f"data set {root} does not exist; expected a folder with subj01, subj02, ...")
    flattened = [root / folder for folder in _FLATTENED_FOLDERS if (root / folder).exists()]
    numbered = _numbered(root)
    if numbered:
        subjects = {_name(number): _challenge_files(number, folder) for number, folder in numbered.items()}
    else:
        found = {number: folder.name for parent in flattened for number, folder in _numbered(parent).items()}
        subjects = {_name(number): _flattened_files(number, root, folder) for number, folder in found.items()}
    if not subjects:
        inside = (root / "training_split").exists()
        expected = (
            "expected subj01/training_split/... or training_fmri/Subj1/... (Algonauts), dataset.toml (own data), or "
            "derivatives/ciftify (NOD)"
        )
        hint = "it is one subject's folder: pass the one above it" if inside else expected
        raise DataError(f"data set {root} holds no subject; {hint}")
    return dict(sorted(subjects.items()))


def list_stimuli(folder: UPath) -> list[StimulusFile]:
    """The images of a split in the order of the responses' rows.

    Raises:
        FaultyFileError: the folder is missing, or two images have the same number.
    """
    if not folder.exists():
        raise FaultyFileError(folder, "the folder of images is missing", "restore it from the original data set")
    found = []
    for path in folder.iterdir():
        if match := _STIMULUS.fullmatch(path.name):
            found.append(StimulusFile(int(match[1]), int(match[2]), path))
    found.sort(key=lambda stimulus: (stimulus.index, stimulus.path.name))
    for first, second in pairwise(found):
        if first.index == second.index:
            problem = f"has the same number as {first.path.name}, so its row of responses is ambiguous"
            raise FaultyFileError(second.path, problem, "remove one of the two")
    return found


def unnamed_files(folder: UPath) -> list[UPath]:
    """Files among the images whose names tell neither row nor stimulus; hidden ones are left out."""
    strangers = (path for path in folder.iterdir() if not _STIMULUS.fullmatch(path.name))
    return sorted((path for path in strangers if not path.name.startswith(".")), key=lambda path: path.name)


def _name(number: int) -> str:
    return f"subj{number:02d}"


def _numbered(folder: UPath) -> dict[int, UPath]:
    matches = ((_SUBJECT.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in matches if match}


def _challenge_files(number: int, folder: UPath) -> SubjectFiles:
    training = folder / "training_split"
    return SubjectFiles(
        name=_name(number),
        training_images=training / "training_images",
        test_images=folder / "test_split" / "test_images",
        training_fmri=training / "training_fmri",
        fmri_prefix="",
        roi_masks=folder / "roi_masks",
        noise_ceilings=folder / "noise_ceiling",
    )


def _flattened_files(number: int, root: UPath, folder: str) -> SubjectFiles:
    return SubjectFiles(
        name=_name(number),
        training_images=root / "training_images" / folder,
        test_images=root / "test_images" / folder,
        training_fmri=root / "training_fmri" / folder,
        fmri_prefix=f"subj{number}_",
        roi_masks=root / "roi_masks" / folder,
        noise_ceilings=root / "noise_ceiling" / folder,
    )
