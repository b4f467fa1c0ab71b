"""Tells torchvision's own weights file by its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torchvision
from torch.hub import HASH_REGEX


def is_published(path: Path, backbone: str) -> bool:
    """Whether torchvision's hash check takes the file for its recommended ImageNet weights, whatever it is called.

    The published name ends in the start of the file's SHA-256. Weights that were converted are not known again.
    """
    if path.suffix not in (".pth", ".pt") or backbone not in torchvision.models.list_models():
        return False
    published = HASH_REGEX.search(torchvision.models.get_model_weights(backbone).DEFAULT.url)
    if published is None:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(published[1])
