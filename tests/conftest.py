"""Data sets that several rooms' tests read; none of them may be written to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from threadpoolctl import threadpool_limits
from xdist.scheduler import LoadScopeScheduling

from orchestrator.tuning import ray_running
from tests.sweeps import PATIENT, SmallSweep, interrupted_and_resumed
from trainables.data.algonauts import AlgonautsDataset, open_algonauts
from trainables.data.demo import make_demo

STARTS_RAY = (
    "test_docs_run.py",
    "test_end_to_end.py",
    "test_failing_store.py",
    "test_faults.py",
    "test_published.py",
    "test_reclaim.py",
    "test_science.py",
    "test_slot.py",
    "test_spot_watcher.py",
    "test_tracking_server.py",
    "test_nodes.py",
)
"""Files whose tests start Ray: two clusters at once on two cores starve each other's workers."""


def starts_ray(nodeid: str) -> bool:
    return nodeid.split("::")[0].endswith(STARTS_RAY)


class OneRay(LoadScopeScheduling):
    """A file stays in one process; in the same one all files that start Ray, and all that read the one report."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "ray" if starts_ray(nodeid) else "report" if "/test_report" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRay:
    return OneRay(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest starts first, so that the rest runs beside it."""
    items.sort(key=lambda item: not starts_ray(item.nodeid))


_settled = False


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Processes that began without Ray stand back: the tests that start it follow each other and end last."""
    global _settled
    if not _settled and "PYTEST_XDIST_WORKER" in os.environ and not starts_ray(item.nodeid):
        os.nice(10)
    _settled = True


def pytest_configure() -> None:
    """Share the cores among the processes that test at the same time; more threads than cores are slower than one."""
    at_once = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    os.environ.update(PATIENT)
    threads = max(1, joblib.cpu_count() // at_once)
    torch.set_num_threads(threads)
    threadpool_limits(threads)  # those of NumPy's algebra


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


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[None]:
    """Ray for all commands that a file runs `at_once`: each would start its own, which takes longer than its work."""
    with ray_running(None, cpus=2):
        yield


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo set: 2 subjects with 80 stimuli each."""
    return make_demo(tmp_path_factory.mktemp("sets") / "small", subjects=2, stimuli=80)


@pytest.fixture(scope="session")
def demo(demo_root: Path) -> AlgonautsDataset:
    """The small demo set, open."""
    return open_algonauts(demo_root)


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory: pytest.TempPathFactory, demo_root: Path) -> SmallSweep:
    """A sweep on this machine alone. It takes a minute."""
    log = tmp_path_factory.mktemp("log") / "run.log"
    return interrupted_and_resumed(
        tmp_path_factory.mktemp("storage"), log, f"--data={demo_root}", "--profile=cpu,max_slots=1"
    )


@pytest.fixture(scope="session")
def large_demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One subject with 400 stimuli, for what needs statistics: about 5 s to make."""
    return make_demo(tmp_path_factory.mktemp("sets") / "large", subjects=1, stimuli=400)


@pytest.fixture
def demo_copy(demo_root: Path, tmp_path: Path) -> Path:
    """A copy of the small demo set that a test may damage."""
    return Path(shutil.copytree(demo_root, tmp_path / "demo"))
