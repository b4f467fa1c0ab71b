"""What the page says where a data set allows less: of one subject alone, and of responses without noise ceilings."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.encoding import methods_section
from orchestrator.report.page import facts, make_sections
from orchestrator.report.parts import Section
from orchestrator.report.results import Results, read_results
from tests.orchestrator.report_results import Maker, Size
from tests.orchestrator.tables import only_table, records
from trainables.target import Target

ALONE = "subj01"
METHODS = ("contrastive", "regression", "untuned")


def _without(content: dict[str, Any] | None, **fields: list[Any]) -> dict[str, Any]:
    return {**(content or {}), **fields}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Results:
    """Results of a single subject, as its evaluations leave them."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(empty_database, folder / "mlflow.db")
    size = Size((ALONE,), ("V1v",), trials=2)
    targets = tuple(Target("demo", (ALONE,), hemisphere, "V1v") for hemisphere in ("lh", "rh"))
    maker = Maker(folder, size, targets=targets, methods=METHODS).everything()
    results = read_results("small", str(maker.places.base))
    files = dict(results.files)
    files["statistics"] = _without(files["statistics"], over_subjects=[])
    files["salience"] = _without(files["salience"], lateralisation_subjects=[])
    transfers = [row for row in results.rows("transfer") if row["method"] == "contrastive" and not row["external"]]
    files["transfer"] = _without(files["transfer"], rows=transfers)
    encoding = [row for row in results.rows("encoding") if row["method"] in METHODS]
    files["encoding"] = _without(files["encoding"], rows=encoding)
    return replace(results, files=files)


@pytest.fixture(scope="module")
def of_one(alone: Results) -> dict[str, Section]:
    return {section.anchor: section for section in make_sections(alone)}


@pytest.mark.parametrize(
    "anchor, said",
    [
        ("methods", "with subj01 alone there is neither an interval nor a p over subjects"),
        ("transfer", "subj01 is the only one of this sweep, so there is no other to predict"),
        ("pooled", "it needs two subjects, and subj01 is the only one"),
        ("salience", "subj01 is the only one of this sweep, and one subject allows no interval or p over subjects"),
    ],
)
def test_a_single_subject_is_told_once_where_several_are_needed(
    of_one: dict[str, Section], anchor: str, said: str
) -> None:
    assert [said in sentence for sentence in of_one[anchor].missing].count(True) == 1


def test_nothing_else_speaks_of_several_subjects(alone: Results, of_one: dict[str, Section]) -> None:
    captions = [picture.caption for section in of_one.values() for picture in section.all_pictures]
    notes = [table.note for section in of_one.values() for table in section.tables]
    words = ("Student's t", "Small marks are subjects", "several subjects share", "comparison over subjects")
    assert not [text for text in (*captions, *notes) for word in words if word in text]
    assert not [text for text in (*captions, *notes) if "Means over subjects" in text or "(subjects and" in text]
    assert not of_one["transfer"].tables  # its own row is in the encoding table
    assert dict(facts(alone))["data set"] == "demo: 1 subject, 1 ROI, 2 targets"


def test_no_cell_is_nan(of_one: dict[str, Section]) -> None:
    tables = [table for section in of_one.values() for table in section.tables]
    assert not [cell for table in tables for row in table.rows for cell in table.shown(row) if "nan" in cell]


def _with_ceilings(results: Results, known: set[str]) -> Section:
    rows = results.rows("encoding")
    rows = [{**row, "test_noise_normalised_r2": 0.4 if row["hemisphere"] in known else None} for row in rows]
    files = {**results.files, "encoding": _without(results.files["encoding"], rows=rows)}
    return methods_section(replace(results, files=files))


@pytest.mark.parametrize("name", ["methods", "encoding"])
def test_noise_ceilings_that_are_not_there_are_told(alone: Results, name: str) -> None:
    bare = only_table(_with_ceilings(alone, set()), name)
    assert "no noise ceilings (ncsnr), so every r is raw" in bare.note
    assert "norm. r²" not in records(bare)[0]
    assert len(bare.rows[0]) == len(bare.columns)
    some = only_table(_with_ceilings(alone, {"lh"}), name)
    assert "of the targets that have noise ceilings" in some.note
    assert {0.4} <= {row["norm. r²"] for row in records(some)} <= {0.4, None}
    whole = only_table(_with_ceilings(alone, {"lh", "rh"}), name)
    assert "ncsnr" not in whole.note
    assert [row["norm. r²"] for row in records(whole)] == pytest.approx([0.4] * len(whole.rows))
