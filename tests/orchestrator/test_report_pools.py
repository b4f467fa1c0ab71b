"""Pooled networks that leave a subject out do not enter the means of those that hold all subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.networks import network_name
from orchestrator.plan import StudyKey
from orchestrator.report import drawing, encoding, recognition, transfer
from orchestrator.report.encoding import leaderboard_section
from orchestrator.report.layers import layers_section
from orchestrator.report.recognition import information_section
from orchestrator.report.results import Results, read_results
from orchestrator.report.transfer import transfer_section
from tests.orchestrator.plans import CUTOFFS, complete
from tests.orchestrator.report_results import Maker, Size
from tests.orchestrator.tables import only_table, records
from trainables.target import Target

SUBJECTS = ("subj01", "subj02", "subj03")
WHOLE = Target("demo", SUBJECTS, "lh", "V1v")
PARTIAL = [Target("demo", tuple(s for s in SUBJECTS if s != out), "lh", "V1v") for out in SUBJECTS]
SCORES = {True: 0.3, False: 0.9}
"""By whether all subjects are in the pool."""


def _rows() -> list[dict[str, Any]]:
    """Pooled networks at each subject that they were tuned on, and each partial one at the one that it leaves out."""
    place = {"hemisphere": "lh", "roi": "V1v", "roi_group": "early", "method": "pooled-avg", "dataset": "demo"}
    return [
        {
            **place,
            "network": network_name(StudyKey(target, "pooled-avg")),
            "source": "+".join(target.subjects),
            "subject": subject,
            "left_out": subject not in target.subjects,
            "r": SCORES[target == WHOLE],
        }
        for target in (WHOLE, *PARTIAL)
        for subject in SUBJECTS
    ]


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder: Path = tmp_path_factory.mktemp("pools")
    targets = (*(WHOLE.of_subject(subject) for subject in SUBJECTS), WHOLE, *PARTIAL)
    maker = Maker(folder, Size(SUBJECTS, ("V1v",), trials=1), targets=targets, methods=("pooled-avg",))
    for key in maker.plan.studies:
        complete(maker.ledger, maker.ledger.ask(key), {9: SCORES[key.target == WHOLE]})
    return read_results("small", str(folder))


def _with(results: Results, evaluation: str, rows: Sequence[dict[str, Any]]) -> Results:
    head = {"protocol": "nested", "split": results.plan.split_digest}
    return replace(results, files={**results.files, evaluation: {**head, "rows": rows}})


def test_layer_matrix_holds_whole_pools_alone(pooled: Results) -> None:
    own = [row for row in _rows() if not row["left_out"]]
    rows = [{**row, "layer": layer, "val_r": row["r"], "test_r": row["r"]} for row in own for layer in CUTOFFS]
    table = records(only_table(layers_section(_with(pooled, "layers", rows)), "layers"))
    assert [(row["layer"], row["test r"], row["scores averaged"]) for row in table] == [
        (layer, pytest.approx(0.3), len(SUBJECTS)) for layer in CUTOFFS
    ]


def test_figures_hold_whole_pools_alone(pooled: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[float]] = []

    def remember(method: str, values: dict[str, list[float]], *_: object) -> object:
        drawn.append([value for group in values.values() for value in group])
        return original(method, values)

    original = drawing.method_series
    monkeypatch.setattr(encoding, "method_series", remember)
    monkeypatch.setattr(recognition, "method_series", remember)
    leaderboard_section(pooled)
    bits = dict.fromkeys((*recognition.RANKS, "limit_bits", "beta", "chance_top1", "chance_top5", "n_stimuli"), 0.1)
    rows = [{**row, **bits, "target": row["network"], "bits": row["r"]} for row in _rows() if not row["left_out"]]
    section = information_section(_with(pooled, "information", rows))
    assert drawn == [[0.3], [0.3] * len(SUBJECTS)]
    assert len(section.tables[0].rows) == len(rows)  # which names each network


def test_transfer_matrix_shows_partial_pools_where_they_leave_out(
    pooled: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[tuple[str, float]] = []
    original = transfer._matrices

    def remember(name: str, title: str, note: str, rows: Sequence[Any], kind: str, label: Any) -> Any:
        labels.extend((label(row), row["r"]) for row in rows)
        return original(name, title, note, rows, kind, label)

    monkeypatch.setattr(transfer, "_matrices", remember)
    measured = {"external": False, "untuned_r": 0.2, "mean_delta_r": 0.1, "fraction_above_untuned": 0.7, "n_voxels": 9}
    transfer_section(_with(pooled, "transfer", [{**row, **measured} for row in _rows()]))
    assert set(labels) == {("early", 0.3), ("early, left out", 0.9)}
