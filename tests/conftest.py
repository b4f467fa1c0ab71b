"""Data sets that several rooms' tests read; none of them may be written to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainables.data.algonauts import AlgonautsDataset, open_algonauts
from trainables.data.demo import make_demo


def pytest_configure() -> None:
    """Share the cores among the processes that test at the same time; more threads than cores are slower than one."""
    at_once = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // at_once))


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of decoded stimuli for the whole run; the user's own stays untouched."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("SWEEP_CACHE_DIR")
    os.environ["SWEEP_CACHE_DIR"] = str(folder)
    yield folder
    if before is None:
        del os.environ["SWEEP_CACHE_DIR"]
    else:
        os.environ["SWEEP_CACHE_DIR"] = before


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo set: 2 subjects with 80 stimuli each."""
    return make_demo(tmp_path_factory.mktemp("sets") / "small", subjects=2, stimuli=80)


@pytest.fixture(scope="session")
def demo(demo_root: Path) -> AlgonautsDataset:
    """The small demo set, open."""
    return open_algonauts(demo_root)


@pytest.fixture(scope="session")
def large_demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject with 400 stimuli, for what needs statistics: about 5 s to make."""
    return make_demo(tmp_path_factory.mktemp("sets") / "large", subjects=1, stimuli=400)


@pytest.fixture
def demo_copy(demo_root: Path, tmp_path: Path) -> Path:
    """A copy of the small demo set that a test may damage."""
    return Path(shutil.copytree(demo_root, tmp_path / "demo"))
