"""The contracts of pyproject.toml hold, each can fail, and what reading imports cannot see holds as well."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
STRANGERS_TO_SCIENCE = {"himalaya", "mlflow", "optuna", "ray"}
NOT_ROOMS = {"benchmarks", "docs", "tests"}

# A contract's name, the file that is planted, and the import in it that this contract alone must object to.
PLANTED = [
    ("Imports go one way", "trainables/planted.py", "import orchestrator"),
    ("Imports go one way", "trainables/planted.py", "from cluster import profiles"),
    ("Imports go one way", "search_spaces/planted.py", "import orchestrator.plan"),
    ("Imports go one way", "search_spaces/planted.py", "import cluster"),
    ("Imports go one way", "cluster/planted.py", "import search_spaces"),
    ("Nobody imports the command line", "orchestrator/planted.py", "import sweep"),
    ("Only orchestrator.tracking imports MLflow", "orchestrator/planted.py", "import mlflow.pyfunc"),
    ("Only orchestrator.tracking imports MLflow", "trainables/models/planted.py", "import mlflow"),
    ("In trainables only tuning.worker imports Ray", "trainables/tuning/planted.py", "from ray import train"),
    (
        "Only the orchestrator starts the Ray worker",
        "trainables/planted.py",
        "import trainables.tuning.worker",
    ),
    (
        "Trainables know neither the search nor another ridge",
        "trainables/planted.py",
        "import himalaya.ridge",
    ),
    ("Trainables know neither the search nor another ridge", "trainables/planted.py", "import optuna"),
]


def read_settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def find_packages(root: Path) -> set[str]:
    """Dotted names of the packages under the rooms, read off the tree."""
    rooms = [path.parent for path in root.glob("*/__init__.py") if path.parent.name not in NOT_ROOMS]
    folders = [init.parent for room in rooms for init in room.rglob("__init__.py")]
    return {".".join(folder.relative_to(root).parts) for folder in folders}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def modules_loaded_by(*names: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after importing `names`."""
    program = "import importlib, json, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    program += "; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def copied_rooms(tmp_path: Path) -> Path:
    """The sources of every room and of the command line, to plant something in."""
    for room in read_settings()["tool"]["importlinter"]["root_packages"]:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "sweep.py"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("contract, file, line", PLANTED)
def test_planted_import_breaks_its_contract_and_no_other(
    copied_rooms: Path, contract: str, file: str, line: str
) -> None:
    (copied_rooms / file).write_text(f"def late() -> None:\n    {line}\n", encoding="utf-8")

    done = lint_imports(copied_rooms)

    assert done.returncode == 1, done.stderr
    broken = [row for row in done.stdout.splitlines() if " BROKEN" in row]
    assert [row.partition(" BROKEN")[0] for row in broken] == [contract]
    assert file.removesuffix(".py").replace("/", ".") in done.stdout


def test_every_contract_has_a_planted_violation() -> None:
    contracts = read_settings()["tool"]["importlinter"]["contracts"]
    assert {contract["name"] for contract in contracts} == {name for name, _, _ in PLANTED}


def test_science_loads_no_stranger() -> None:
    """Also what reading imports cannot see: `importlib`, and libraries that import for us."""
    files = [file for file in (ROOT / "trainables").rglob("*.py") if file.name != "worker.py"]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]

    assert modules_loaded_by(*names) & STRANGERS_TO_SCIENCE == set()


def test_loading_check_sees_a_stranger() -> None:
    assert "ray" in modules_loaded_by("trainables.tuning.worker")


@pytest.mark.parametrize(
    ("modules", "strangers"),
    [
        (["orchestrator.printing", "orchestrator.status", "orchestrator.leaderboard"], {"torch", "ray", "mlflow"}),
        (["orchestrator.tracking.projector"], {"torch", "ray"}),
    ],
    ids=["status and leaderboard", "the process that writes to MLflow"],
)
def test_what_only_looks_waits_for_no_large_package(modules: list[str], strangers: set[str]) -> None:
    """Each takes seconds and some hundred megabytes."""
    assert modules_loaded_by(*modules) & strangers == set()


def test_settings_name_every_package() -> None:
    """A package that pyproject.toml forgets is neither installed nor held to the contracts."""
    settings = read_settings()
    packages = find_packages(ROOT)

    assert set(settings["tool"]["setuptools"]["packages"]) == packages
    assert set(settings["tool"]["importlinter"]["root_packages"]) == {name for name in packages if "." not in name}


def test_every_module_lies_in_a_package() -> None:
    """import-linter and setuptools pass over a folder without `__init__.py` in silence."""
    rooms = [ROOT / room for room in read_settings()["tool"]["importlinter"]["root_packages"]]
    homeless = [file for room in rooms for file in room.rglob("*.py") if not (file.parent / "__init__.py").exists()]

    assert homeless == []
