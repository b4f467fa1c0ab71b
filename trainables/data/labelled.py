"""Labelled image sets in the layouts that torchvision reads."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from botocore.exceptions import BotoCoreError
from numpy.typing import NDArray
from PIL import Image
from upath import UPath

from trainables.data.decoding import DECODER_VERSION, Progress, decode_once
from trainables.data.files import FaultyFileError, read_bytes
from trainables.errors import ConfigError, DataError
from trainables.remote import StoreError, is_local

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of the files that are images, in any case; other files of a class's folder are passed over."""

SHORTER_SIDE = 256
"""Pixels to which the shorter side is resized before the crop."""

# Where each known set keeps its class folders, and the name it goes by. Torchvision unpacks into the first of two.
_CLASS_FOLDERS = {
    "caltech256/256_ObjectCategories": "caltech256",
    "256_ObjectCategories": "caltech256",
    "caltech101/101_ObjectCategories": "caltech101",
    "101_ObjectCategories": "caltech101",
}
_IMAGENET_FOLDER, _WORDNET_ID = "val", re.compile(r"n\d{8}")
_PLACES_LIST, _PLACES_CATEGORIES, _PLACES_IMAGES = "places365_val.txt", "categories_places365.txt", "val_256"
# Caltech101 holds a class of clutter that torchvision leaves out; Caltech256's own is its 257th class.
_NO_CLASS = {"caltech101": frozenset({"BACKGROUND_Google"})}

_Picture = tuple[UPath, int]
"""A file and the number of its class."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The files of one labelled set, in a fixed order; nothing is decoded yet."""

    name: str
    """``imagenet``, ``places365``, ``caltech256``, ``caltech101``, or the folder's name."""
    paths: tuple[UPath, ...]
    """One file for each image, sorted by class, then by name; Places365 in the order of its list."""
    labels: NDArray[np.int64]
    """Place in `class_names`, ``[n_images]``."""
    class_names: tuple[str, ...]
    """Names of the class folders, sorted; for ImageNet that is the order of a pretrained network's outputs."""


def open_labelled(root: str | os.PathLike[str], *, limit_per_class: int | None = None) -> LabelledImages:
    """Finds the images of a labelled set and their classes; the layout is told by what the folder holds.

    - Places365, validation part, 256 pixels: ``places365_val.txt``, ``categories_places365.txt``, ``val_256/``.
    - Caltech256, Caltech101: ``256_ObjectCategories/`` or ``101_ObjectCategories/``, or the folder above it.
    - ImageNet, validation part: ``val/`` with a folder for each WordNet id.
    - Anything else: a folder for each class, with its images directly in it.

    Args:
        root: a folder on disk or at an ``s3://`` address.
        limit_per_class: images kept of each class at most. Which ones follows from their names alone, and a lower
            limit takes some of those that a higher one takes.

    Raises:
        ConfigError: a limit below 1.
        DataError: the folder does not exist, cannot be reached, or holds no such layout; a class without images; a
            list that cannot be read.
    """
    if limit_per_class is not None and limit_per_class < 1:
        raise ConfigError(f"limit_per_class is {limit_per_class}; expected at least 1, or none")
    place = UPath(root)
    if is_local(place):
        place = UPath(place.expanduser().absolute())
    try:
        if not place.is_dir():
            raise DataError(f"labelled images {place} are no folder; give the folder that holds the classes")
        name, pictures, class_names = _find(place)
    except StoreError as error:
        raise DataError(f"labelled images {place} cannot be reached ({error.reason}); {error.remedy}") from error
    except (OSError, BotoCoreError) as error:
        problem = f"labelled images {place} cannot be reached ({error})"
        raise DataError(f"{problem}; check the address, the network and the credentials") from error
    if len(class_names) < 2:
        raise DataError(f"{place} holds {len(class_names)} class folders; expected two or more, each with its images")
    if limit_per_class is not None:
        pictures = _limited(pictures, limit_per_class)
    labels = np.array([label for _, label in pictures], dtype=np.int64)
    return LabelledImages(name, tuple(path for path, _ in pictures), labels, class_names)


def decode_labelled(
    images: LabelledImages,
    cache_dir: Path,
    *,
    size: int = 224,
    shorter_side: int = SHORTER_SIDE,
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Images as a read-only memory map, uint8 (n, size, size, 3), RGB; built once by `decode_once`.

    Each image is resized, bilinearly with antialiasing, until its shorter side has ``shorter_side`` pixels, and
    cropped to its centre: torchvision's ``Resize(256)`` and ``CenterCrop(224)``.

    Raises:
        ConfigError: a crop larger than the resized image.
        FaultyFileError: an image is missing, truncated or of a kind that does not decode to 8-bit RGB.
        StorageError: ``cache_dir`` cannot be written, as when the disk is full; nothing is left behind.
    """
    if not 0 < size <= shorter_side:
        raise ConfigError(f"size is {size}; expected 1 to {shorter_side}, the shorter side that is cropped")

    def shrink(image: Image.Image) -> Image.Image:
        return centre_crop(image, shorter_side, size)

    recipe = f"centre-crop:{DECODER_VERSION}:{shorter_side}:{size}"
    return decode_once(images.paths, cache_dir, "labelled", recipe, shrink, size, progress)


def centre_crop(image: Image.Image, shorter_side: int, size: int) -> Image.Image:
    """What torchvision's ``Resize(shorter_side)`` and ``CenterCrop(size)`` make of an image of any shape."""
    width, height = image.size
    short = min(width, height)
    # Torchvision cuts the longer side's fraction off and rounds the crop's corner.
    width, height = int(shorter_side * width / short), int(shorter_side * height / short)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


def _find(root: UPath) -> tuple[str, list[_Picture], tuple[str, ...]]:
    """Name of the set, its images and its classes."""
    if (root / _PLACES_LIST).exists():
        return "places365", *_listed_places(root)
    for folder, name in _CLASS_FOLDERS.items():
        if (root / folder).is_dir():
            return name, *_class_folders(root / folder, _NO_CLASS.get(name, frozenset()))
    validation = root / _IMAGENET_FOLDER
    ids = _folders(validation) if validation.is_dir() else []
    if ids and all(_WORDNET_ID.fullmatch(folder.name) for folder in ids):
        return "imagenet", *_class_folders(validation, frozenset())
    return root.name or root.parent.name, *_class_folders(root, frozenset())


def _folders(root: UPath) -> list[UPath]:
    entries = (entry for entry in root.iterdir() if not entry.name.startswith("."))
    return [entry for entry in sorted(entries, key=lambda entry: entry.name) if entry.is_dir()]


def _class_folders(root: UPath, left_out: frozenset[str]) -> tuple[list[_Picture], tuple[str, ...]]:
    folders = [folder for folder in _folders(root) if folder.name not in left_out]
    pictures: list[_Picture] = []
    for label, folder in enumerate(folders):
        files = sorted((file for file in folder.iterdir() if _is_image(file)), key=lambda file: file.name)
        if not files:
            problem = "the folder of a class holds no image"
            raise FaultyFileError(folder, problem, f"put its images ({', '.join(SUFFIXES)}) into it or remove it")
        pictures.extend((file, label) for file in files)
    return pictures, tuple(folder.name for folder in folders)


def _is_image(file: UPath) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _listed_places(root: UPath) -> tuple[list[_Picture], tuple[str, ...]]:
    """Places365 names the class of each image in a list and the classes in another."""
    categories = _pairs(root / _PLACES_CATEGORIES)
    if sorted(number for _, number in categories) != list(range(len(categories))):
        problem = f"its numbers are not 0 to {len(categories) - 1}, each once"
        raise FaultyFileError(root / _PLACES_CATEGORIES, problem, "restore it from the original data set")
    class_names = tuple(name for name, _ in sorted(categories, key=lambda pair: pair[1]))
    pictures = [(root / _PLACES_IMAGES / file.lstrip("/"), label) for file, label in _pairs(root / _PLACES_LIST)]
    unknown = next((label for _, label in pictures if not 0 <= label < len(class_names)), None)
    if unknown is not None:
        problem = f"class {unknown} is none of the {len(class_names)} in {_PLACES_CATEGORIES}"
        raise FaultyFileError(root / _PLACES_LIST, problem, "restore both from the original data set")
    return pictures, class_names


def _pairs(path: UPath) -> list[tuple[str, int]]:
    """Lines of a name and a number."""
    try:
        lines = [line.split() for line in read_bytes(path).decode().splitlines() if line.strip()]
        return [(name, int(number)) for name, number in lines]
    except ValueError as error:
        problem = f"its lines are not a name and a number ({error})"
        raise FaultyFileError(path, problem, "restore it from the original data set") from error


def _limited(pictures: Iterable[_Picture], limit: int) -> list[_Picture]:
    """The first images of each class in the order of a hash of their names, which no folder's order biases."""
    by_class: dict[int, list[int]] = {}
    listed = list(pictures)
    for index, (_, label) in enumerate(listed):
        by_class.setdefault(label, []).append(index)

    def key(index: int) -> bytes:
        return hashlib.sha256(listed[index][0].name.encode()).digest()

    kept = sorted(index for indices in by_class.values() for index in sorted(indices, key=key)[:limit])
    return [listed[index] for index in kept]
