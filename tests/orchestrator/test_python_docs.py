"""The code of docs/python.md and docs/python.ipynb, run on a small sweep that stands for the demo's."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from click.testing import CliRunner

import sweep
from orchestrator.storage import SweepStorage
from tests.orchestrator.selected import TARGETS
from trainables.predictor import ResponsePredictor

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def demo_sweep(saved: SweepStorage, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which `make sweep` leaves `results` and `demo-data`."""
    shutil.copytree(str(saved.root), tmp_path / "results/demo")
    shutil.copy(str(saved.base / "mlflow.db"), tmp_path / "results")
    (tmp_path / "demo-data").symlink_to(demo_root)
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "predict", raising=False)
    return tmp_path


def expected(saved: SweepStorage, names: dict[str, Any]) -> np.ndarray:
    model = ResponsePredictor.load(saved.model_dir(TARGETS[0], names["champion"].method), "cpu")
    return model.predict(names["pictures"])


def test_the_page_s_code_runs_from_top_to_bottom(saved: SweepStorage, demo_sweep: Path) -> None:
    names: dict[str, Any] = {}
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("python") == 5
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, "python.md", "exec"), names)
        elif "sweep.py" in text:
            prompt, python, script, *words = shlex.split(text)
            assert (prompt, python, script) == ("$", "python", "sweep.py")
            done = CliRunner().invoke(sweep.cli, words, catch_exceptions=False)
            assert done.exit_code == 0, done.output
    try:
        np.testing.assert_array_equal(names["predicted"], expected(saved, names))
        np.testing.assert_allclose(names["responses"], expected(saved, names), rtol=0, atol=1e-5)
        assert names["same"].provenance == names["champion"].provenance
        assert names["again"].shape == (10, names["champion"].n_voxels)
        assert len(names["places"]) == names["champion"].n_voxels
    finally:
        sys.modules.pop("predict", None)


def test_the_notebook_runs_cell_by_cell(
    saved: SweepStorage, demo_sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = json.loads((DOCS / "python.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    mpl.use("Agg")
    monkeypatch.chdir(demo_sweep / "docs")
    names: dict[str, Any] = {}
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, text in enumerate(code):
        exec(compile(text, f"cell {number}", "exec"), names)
    names["plt"].close("all")
    np.testing.assert_array_equal(names["predicted"], expected(saved, names))
    out = capsys.readouterr().out
    assert f"mean r {names['r'].mean():.3f} over {names['champion'].n_voxels} voxels" in out
    assert "# V1v, left hemisphere, subj01 (demo)" in out
    assert (demo_sweep / "v1v-model/predict.py").exists()
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
