"""A table of other trials than the selected ones is not shown as if it were theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.labelled_evaluation import classify_networks, landscapes
from orchestrator.networks import UNTUNED, Network
from orchestrator.report.results import EVALUATIONS, Results, read_results
from orchestrator.storage import read_json, write_json
from orchestrator.tasks import TaskRunner
from tests.orchestrator.report_results import Maker, Size
from trainables.errors import StorageError
from trainables.target import Target

Selection = list[dict[str, Any]]


def another_winner(selection: Selection) -> Selection:
    return [{**selection[0], "trial": "another"}, *selection[1:]]


def one_more_study(selection: Selection) -> Selection:
    return [*selection, {**selection[0], "trial": "of a study that ended later"}]


def one_study_less(selection: Selection) -> Selection:
    return selection[1:]


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path, Size(subjects=("subj01",), rois=("V1v",), trials=2)).everything()


def read(maker: Maker) -> Results:
    return read_results("small", str(maker.places.base))


@pytest.mark.parametrize("change", [another_winner, one_more_study, one_study_less])
def test_no_table_outlives_its_selection(maker: Maker, change: Callable[[Selection], Selection]) -> None:
    before = read(maker)
    assert [name for name in EVALUATIONS if before.files[name] is None] == []
    assert any(row.test_r is not None for row in before.leaderboard)
    selection = read_json(maker.places.selection_file)
    write_json(maker.places.selection_file, change(selection))
    after = read(maker)
    assert [name for name in EVALUATIONS if after.files[name] is not None] == []
    assert {row.test_r for row in after.leaderboard} == {None}
    write_json(maker.places.selection_file, selection)
    assert read(maker).files == before.files


def test_a_table_that_names_no_trials_is_not_taken_for_current(maker: Maker) -> None:
    for name in EVALUATIONS:
        file = maker.places.evaluation_file(name)
        write_json(file, {key: value for key, value in read_json(file).items() if key != "trials"})
    assert [name for name in EVALUATIONS if read(maker).files[name] is not None] == []


def test_classification_drops_former_trials_from_sets_that_it_is_not_asked_for(maker: Maker) -> None:
    """Their rows would otherwise stand under the trials that the new head names."""
    target = Target("demo", ("subj01",), "lh", "V1v")
    networks = [Network(UNTUNED, UNTUNED, None, "", None), Network("a", "contrastive", target, "a/1", "folder")]
    row = {"method": "contrastive", "accuracy": 0.5}
    rows = [{**row, "network": UNTUNED, "trial": ""}, {**row, "network": "a", "trial": "a/1"}]
    former = [*rows, {**row, "network": "a", "trial": "a/0"}, {**row, "network": "gone", "trial": "gone/0"}]
    file = maker.places.evaluation_file("classification")
    write_json(file, {"sets": {"caltech101": {"root": "/c", "digest": "x", "rows": former}}})
    # Asked for no set, so that nothing runs.
    classify_networks(maker.places, maker.plan, networks, (), TaskRunner(Console()), {"trials": {"a": "a/1"}})
    assert read_json(file)["sets"]["caltech101"]["rows"] == rows
    assert read_json(file)["sets"]["caltech101"]["complete"]


def test_a_set_that_lacks_a_selected_network_is_kept_and_not_shown(maker: Maker) -> None:
    """It spares the networks that it has, and would be taken for a table of all of them."""
    file = maker.places.evaluation_file("classification")
    head = {key: value for key, value in read_json(file).items() if key != "sets"}
    rows = [{"network": "a", "trial": "a/1", "method": "contrastive", "accuracy": 0.5}]
    write_json(file, {**head, "sets": {"caltech101": {"root": "/c", "digest": "x", "rows": rows}}})
    target = Target("demo", ("subj01",), "lh", "V1v")
    networks = [Network(name, "contrastive", target, f"{name}/1", "folder") for name in ("a", "new")]
    classify_networks(maker.places, maker.plan, networks, (), TaskRunner(Console()), head)
    assert read_json(file)["sets"]["caltech101"]["rows"] == rows
    assert read(maker).sets("classification") == {}
    with pytest.raises(StorageError, match="evaluate classification with --labelled first"):
        landscapes(maker.places, networks, head)
    classify_networks(maker.places, maker.plan, networks[:1], (), TaskRunner(Console()), head)
    assert set(read(maker).sets("classification")) == {"caltech101"}
