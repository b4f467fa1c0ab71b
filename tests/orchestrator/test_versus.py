"""Two sweeps against each other, with scores whose comparison scipy knows."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator.ledger import Ledger
from orchestrator.opening import write_plan
from orchestrator.storage import SweepStorage
from orchestrator.versus import compare_and_print, compare_sweeps
from tests.orchestrator.plans import complete, open_ledger, small_plan
from trainables.errors import ConfigError
from trainables.target import Target

TARGETS = tuple(Target("demo", (f"subj0{number}",), "lh", "V1v") for number in range(1, 7))


def sweep(
    folder: Path, name: str, scores: list[float], targets: tuple[Target, ...] = TARGETS, **changes: Any
) -> Ledger:
    storage = SweepStorage(str(folder), name)
    storage.create()
    plan = small_plan(
        Path(str(storage.root)),
        name=name,
        targets=targets,
        roi_groups={"V1v": "early"},
        ledger=str(storage.journal_file),
        **changes,
    )
    write_plan(storage, plan)
    ledger = open_ledger(plan)
    for key, score in zip(plan.studies, scores, strict=True):
        complete(ledger, ledger.ask(key), {9: score})
    return ledger


def test_difference_interval_and_p_are_those_of_a_paired_test(tmp_path: Path) -> None:
    a, b = [0.30, 0.32, 0.28, 0.35, 0.31, 0.29], [0.33, 0.33, 0.30, 0.34, 0.36, 0.33]
    sweep(tmp_path, "a", a)
    sweep(tmp_path, "b", b)
    measure, (line,) = compare_sweeps("a", "b", str(tmp_path))
    differences = np.subtract(b, a)
    interval = stats.t.interval(0.95, 5, loc=differences.mean(), scale=stats.sem(differences))
    flips = np.array(list(itertools.product((1, -1), repeat=6))) * differences
    exact = (np.abs(flips.mean(axis=1)) >= abs(differences.mean()) - 1e-12).mean()
    assert (measure, line.n_targets, line.better) == ("val_r", 6, 5)
    assert line.mean_difference == pytest.approx(differences.mean())
    assert line.interval == pytest.approx(interval)
    assert line.p == pytest.approx(exact)


def test_only_common_targets_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(tmp_path, "a", [0.30, 0.32, 0.28], TARGETS[:3])
    sweep(tmp_path, "b", [0.40, 0.10, 0.20], TARGETS[2:5])
    compare_and_print("a", "b", str(tmp_path), as_json=True)
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["n_targets"], row["mean_a"], row["mean_b"], row["interval"]) == (1, 0.28, 0.40, [None, None])
    compare_and_print("a", "b", str(tmp_path), as_json=False)
    assert "+0.1200" in capsys.readouterr().out


def test_what_does_not_compare_is_told(tmp_path: Path) -> None:
    sweep(tmp_path, "a", [0.30], TARGETS[:1])
    sweep(tmp_path, "other", [0.40], TARGETS[:1], split_digest="another")
    sweep(tmp_path, "elsewhere", [0.40], TARGETS[1:2])
    with pytest.raises(ConfigError, match="sweep other has another; scores of other stimuli"):
        compare_sweeps("a", "other", str(tmp_path))
    with pytest.raises(ConfigError, match="no target and method in common"):
        compare_sweeps("a", "elsewhere", str(tmp_path))
