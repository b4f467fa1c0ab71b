"""The Pareto sets of a search with several aims, against Optuna's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.report.pareto import pareto_set
from orchestrator.report.parts import Section
from orchestrator.report.results import read_results
from orchestrator.report.search import search_section
from tests.orchestrator.report_results import Maker, Size
from tests.orchestrator.tables import only_table, records


def test_pareto_sets_are_optunas(tmp_path: Path) -> None:
    aims = ("encoding", "classification")
    size = Size(rois=("V1v",), trials=10)
    maker = Maker(tmp_path, size, optimise=aims, scores=aims, labelled="pictures", methods=("contrastive", "untuned"))
    maker.run_trials()
    section = search_section(read_results("small", str(tmp_path)))
    assert section.pictures[0].name == "search_pareto_classification"
    table = records(only_table(section, "pareto"))
    tuned = [key for key in maker.plan.studies if key.method == "contrastive"]
    assert len(tuned) == 4
    for key in tuned:
        rows = [row for row in table if row["target"] == key.target.label]
        best = maker.ledger.study(key).best_trials
        assert {row["trial"] for row in rows} == {trial.number for trial in best}
        for row in rows:
            (trial,) = [trial for trial in best if trial.number == row["trial"]]
            assert [row["encoding (val r)"], row["classification (accuracy)"]] == trial.values
        (winner,) = maker.ledger.best(key)
        assert [row["trial"] for row in rows if row["selected"]] == [winner.number]
        assert {row["complete trials"] for row in rows} == {8}
    assert any(len([row for row in table if row["target"] == key.target.label]) > 1 for key in tuned)


def test_pareto_set_by_hand() -> None:
    values = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.4], [0.5, 0.5], [1.0, -1.0]])
    assert pareto_set(values).tolist() == [True, True, True, False, True, False]


def test_search_with_one_aim_has_no_pareto_set(sections: dict[str, Section]) -> None:
    assert "pareto" not in {table.name for table in sections["search"].tables}
