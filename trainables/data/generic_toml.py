"""Reads ``dataset.toml``, in which a laboratory says where its images and responses lie (docs/data.md)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from upath import UPath

from trainables.data.files import FaultyFileError, read_bytes
from trainables.data.rois import ALL
from trainables.remote import is_local
from trainables.target import HEMISPHERES

DESCRIPTION_FILE = "dataset.toml"

WHOLE = "whole"
"""The one ROI of a data set without labels: every voxel."""
UNGROUPED = "ungrouped"
"""The group of ROIs that no group lists."""

_KEYS = ("name", "rois", "groups", "subjects")
_SUBJECT_KEYS = ("images", "stimuli", "responses", "labels", "ncsnr", "repeats")
# Names end up in file names, in addresses and, separated by commas, on the command line.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class GenericFiles:
    """Where one subject's files lie; all of them under the root, none of them needs to exist."""

    root: UPath
    """The data set's, which links must not leave."""
    name: str
    images: UPath
    stimuli: UPath | None
    """List of the images in the order of the responses' rows; None: all images of the folder."""
    responses: Mapping[str, UPath]
    """By hemisphere: float array (n_stimuli, n_voxels)."""
    labels: Mapping[str, UPath]
    """By hemisphere: integer array (n_voxels,); empty where the data set names no ROIs."""
    ncsnr: Mapping[str, UPath]
    """By hemisphere: float array (n_voxels,)."""
    repeats: UPath | None
    """Integer array (n_stimuli,)."""


@dataclass(frozen=True)
class Description:
    """What ``dataset.toml`` says."""

    name: str
    labels: Mapping[str, int] | None
    """The number of each ROI in the label arrays; None: the one ROI `WHOLE`."""
    groups: Mapping[str, str]
    """The group of each ROI."""
    subjects: Mapping[str, GenericFiles]


def read_description(root: UPath) -> Description:
    """The description in ``root``.

    Raises:
        FaultyFileError: it is missing, no TOML, or says something that cannot be meant.
    """
    path = root / DESCRIPTION_FILE
    try:
        values = tomllib.loads(read_bytes(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FaultyFileError(path, f"not valid TOML ({error})", "see docs/data.md for an example") from error
    return _Reader(root, path).read(values)


class _Reader:
    """Reads one description; every complaint names the file."""

    def __init__(self, root: UPath, path: UPath) -> None:
        self.root, self.path = root, path

    def read(self, values: dict[str, Any]) -> Description:
        self._known(values, _KEYS, "the file")
        name = self._name(values.get("name"), "the data set")
        labels = self._labels(values.get("rois", ALL))
        tables = values.get("subjects")
        if not isinstance(tables, dict) or not tables:
            raise self._fault("it names no subject", "write a table such as [subjects.subj01]")
        subjects = {self._name(key, "a subject"): self._subject(key, table, labels) for key, table in tables.items()}
        return Description(name, labels, self._groups(values.get("groups", {}), labels), subjects)

    def _labels(self, rois: Any) -> dict[str, int] | None:
        if rois == ALL:
            return None
        if not isinstance(rois, dict) or not rois:
            remedy = 'write rois = "all", or a table of names and numbers such as V1 = 1'
            raise self._fault(f"rois is {rois!r}; expected a table of ROIs", remedy)
        for name, number in rois.items():
            if self._name(name, "an ROI") == ALL:
                raise self._fault(f"an ROI is called {ALL!r}, which means all ROIs", "give it another name")
            if type(number) is not int or number < 1:
                problem = f"the label of the ROI {name} is {number!r}; expected a whole number of at least 1"
                raise self._fault(problem, "write its number in the label arrays; 0 means no ROI")
        if len(set(rois.values())) < len(rois):
            raise self._fault(f"two ROIs have the same label in {rois}", "give every ROI its own label")
        return dict(rois)

    def _groups(self, groups: Any, labels: Mapping[str, int] | None) -> dict[str, str]:
        """The group of each ROI, in the order of ROIs."""
        if not isinstance(groups, dict) or not all(isinstance(members, list) for members in groups.values()):
            raise self._fault(
                f"groups is {groups!r}; expected lists of ROIs", 'write, for example, early = ["V1", "V2"]'
            )
        rois = list(labels) if labels is not None else [WHOLE]
        group_of: dict[str, str] = {}
        for group, members in groups.items():
            if self._name(group, "a group") in (ALL, *rois):
                raise self._fault(f"a group is called {group!r}, which means something else", "give it another name")
            for roi in members:
                if roi not in rois or roi in group_of:
                    problem = f"the group {group} lists {roi!r}; expected one of {', '.join(rois)}, each in one group"
                    raise self._fault(problem, "correct the list")
                group_of[roi] = group
        return {roi: group_of.get(roi, UNGROUPED) for roi in rois}

    def _subject(self, name: str, table: Any, labels: Mapping[str, int] | None) -> GenericFiles:
        where = f"subject {name}"
        if not isinstance(table, dict):
            raise self._fault(f"{where} is {table!r}; expected a table", f"write [subjects.{name}]")
        self._known(table, _SUBJECT_KEYS, where)
        responses = self._hemispheres(table, "responses", where)
        if "images" not in table or not responses:
            raise self._fault(f"{where} lacks images or responses", 'write images = "…" and responses.lh = "…"')
        found = {key: self._hemispheres(table, key, where) for key in ("labels", "ncsnr")}
        if labels is not None and set(found["labels"]) != set(responses):
            problem = f"{where} has responses of {_list(responses)} and labels of {_list(found['labels'])}"
            raise self._fault(problem, "give a label array for each hemisphere, since rois names labels")
        if labels is None and found["labels"]:
            raise self._fault(f"{where} has labels without names", "write their names and numbers in the table rois")
        optional = {key: self._path(table[key], where) for key in ("stimuli", "repeats") if key in table}
        return GenericFiles(
            root=self.root,
            name=name,
            images=self._path(table["images"], where),
            stimuli=optional.get("stimuli"),
            responses=responses,
            labels=found["labels"],
            ncsnr=found["ncsnr"],
            repeats=optional.get("repeats"),
        )

    def _hemispheres(self, table: dict[str, Any], key: str, where: str) -> dict[str, UPath]:
        values = table.get(key, {})
        if not isinstance(values, dict) or not set(values) <= set(HEMISPHERES):
            problem = f"{key} of {where} is {values!r}; expected a file for lh, rh or both"
            raise self._fault(problem, f'write {key}.lh = "…"; data without hemispheres are lh alone')
        return {hemisphere: self._path(values[hemisphere], where) for hemisphere in HEMISPHERES if hemisphere in values}

    def _path(self, text: Any, where: str) -> UPath:
        return inside(self.root, text, f"{where} in {self.path}")

    def _name(self, name: Any, what: str) -> str:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problem = f"the name of {what} is {name!r}; expected letters, digits, '_', '-' and '.'"
            raise self._fault(problem, "write such a name")
        return name

    def _known(self, table: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
        if unknown := [key for key in table if key not in keys]:
            problem = f"{where} has the key {unknown[0]!r}; expected some of {', '.join(keys)}"
            raise self._fault(problem, "correct or remove it")

    def _fault(self, problem: str, remedy: str) -> FaultyFileError:
        return FaultyFileError(self.path, problem, remedy)


def inside(root: UPath, text: object, where: str, folder: UPath | None = None) -> UPath:
    """The place that a description means by ``text``: a description from elsewhere must not reach other files.

    Args:
        root: of the data set.
        text: path relative to ``folder``.
        where: where it is written, for the message.
        folder: under the root; the root itself by default.

    Raises:
        FaultyFileError: an absolute path, one with ``..`` or with ``:`` (another address), or one that leaves the
            root through a link.
    """
    parts = PurePosixPath(text).parts if isinstance(text, str) else ()
    plain = isinstance(text, str) and text.isprintable() and not set(text) & {":", "\\"}
    base = root if folder is None else folder
    if not parts or not plain or parts[0] in ("/", "//") or parts[0].startswith("~") or ".." in parts:
        problem = f"the path {text!r} of {where} is not one below this folder"
        raise FaultyFileError(base, problem, "write it relative to this folder, with '/' and without '..' and ':'")
    path = base.joinpath(*parts)
    require_inside(root, path)
    return path


def require_inside(root: UPath, path: UPath) -> None:
    """Refuses a path that leaves the root through a symbolic link.

    Raises:
        FaultyFileError: it does.
    """
    if is_local(root):
        target = Path(path.path).resolve()
        if not target.is_relative_to(Path(root.path).resolve()):
            problem = f"it is a link to {target}, outside {root}"
            raise FaultyFileError(path, problem, "copy what it points to into the data set")


def _list(hemispheres: Mapping[str, UPath]) -> str:
    return ", ".join(hemispheres) or "none"
