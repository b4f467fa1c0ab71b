from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.builders_generic import make_generic
from tests.data.helpers import write_challenge
from trainables.data.algonauts import AlgonautsDataset
from trainables.data.generic import GenericDataset
from trainables.data.nod import NodDataset
from trainables.data.open import open_dataset
from trainables.errors import DataError


def test_the_folder_tells_the_layout(tmp_path: Path) -> None:
    (tmp_path / "nod/derivatives/ciftify/sub-04").mkdir(parents=True)
    assert isinstance(open_dataset(tmp_path / "nod"), NodDataset)
    assert isinstance(open_dataset(str(write_challenge(tmp_path / "challenge"))), AlgonautsDataset)
    assert isinstance(open_dataset(make_generic(tmp_path / "own", subjects=1, stimuli=1)), GenericDataset)


def test_a_description_goes_before_what_else_the_folder_holds(tmp_path: Path) -> None:
    assert isinstance(open_dataset(make_generic(write_challenge(tmp_path), stimuli=1)), GenericDataset)


def test_a_folder_of_no_layout_is_told_all_three(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"subj01/training_split.*dataset\.toml.*derivatives/ciftify"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_generic(tmp_path / "own", subjects=1, stimuli=5))
    assert open_dataset(".").root.is_absolute()
