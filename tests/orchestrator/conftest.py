"""A tracking database that has its tables: making them takes seconds, copying them does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.plan import SweepPlan
from orchestrator.tracking.client import connect
from tests.orchestrator.plans import small_plan


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
