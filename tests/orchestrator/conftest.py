"""What takes seconds to make and no test changes: a tracking database with its tables, a sweep with every result."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.plan import SweepPlan
from orchestrator.tracking.client import connect
from tests.orchestrator.plans import small_plan

if TYPE_CHECKING:
    from orchestrator.report.parts import Section
    from orchestrator.report.results import Results
    from orchestrator.storage import SweepStorage
    from tests.orchestrator.report_results import Maker
    from trainables.data.algonauts import AlgonautsDataset


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def tracked_plan(tmp_path: Path, empty_database: Path) -> SweepPlan:
    """A plan whose tracking database exists and is empty."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return small_plan(tmp_path, methods=("contrastive", "untuned"), trials=3)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, demo: AlgonautsDataset) -> SweepStorage:
    """A sweep of one target whose two models, untuned and contrastive, are selected and registered."""
    from tests.orchestrator.selected import saved_sweep

    folder = tmp_path_factory.mktemp("saved")
    shutil.copy(empty_database, folder / "mlflow.db")
    return saved_sweep(demo, folder)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Maker:
    """A sweep with every result."""
    from tests.orchestrator.report_results import Maker, Size

    storage = tmp_path_factory.mktemp("complete")
    shutil.copy(empty_database, storage / "mlflow.db")
    return Maker(storage, Size()).everything()


@pytest.fixture(scope="session")
def results(made: Maker) -> Results:
    from orchestrator.report.results import read_results

    return read_results("small", str(made.places.base))


@pytest.fixture(scope="session")
def sections(results: Results) -> dict[str, Section]:
    """By anchor."""
    from orchestrator.report.page import make_sections  # not above: the other tests of this room draw nothing

    return {section.anchor: section for section in make_sections(results)}
