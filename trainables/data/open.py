"""Opens a data set of any layout; what the folder holds tells which."""

from __future__ import annotations

import os

from trainables.data.algonauts import open_algonauts
from trainables.data.dataset import Dataset, locate, reaching
from trainables.data.generic import open_generic
from trainables.data.generic_toml import DESCRIPTION_FILE
from trainables.data.nod import open_nod
from trainables.data.nod_layout import CIFTIFY
from trainables.errors import DataError
from trainables.remote import is_local


def open_dataset(root: str | os.PathLike[str]) -> Dataset:
    """Opens a folder on disk or at an ``s3://`` address: own data, NOD or Algonauts, looked for in this order.

    Args:
        root: the folder that holds ``dataset.toml`` (own data), ``derivatives/ciftify`` (NOD), or ``subj01``,
            ``subj02``... or ``training_fmri`` and its like (Algonauts).

    Raises:
        DataError: the folder does not exist, cannot be reached, or holds none of these layouts.
    """
    place = locate(root)
    with reaching(place):
        if is_local(place) and place.is_file():
            raise DataError(f"data set {place} is a file; expected the folder that holds a data set")
        if (place / DESCRIPTION_FILE).exists():
            return open_generic(str(place))
        if (place / CIFTIFY).exists():
            return open_nod(str(place))
        return open_algonauts(str(place))
