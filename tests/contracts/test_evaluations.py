"""What every evaluation promises; one that is added to `EVALUATIONS` is tested here without another line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

import sweep
from orchestrator.cells import cell_place
from orchestrator.evaluation import DEFAULT, EVALUATIONS, EvaluationOptions, evaluate, own_keys
from orchestrator.ledger import Ledger
from orchestrator.networks import UNTUNED, networks_of
from orchestrator.report.results import EVALUATIONS as REPORTED
from orchestrator.report.results import Results, read_results
from orchestrator.selected import read_selection
from orchestrator.storage import SweepStorage
from orchestrator.tracking.client import connect
from orchestrator.tracking.projection import Projection
from orchestrator.tracking.scores import METRICS
from orchestrator.transfer_evaluation import external_keys, transfer_keys
from tests.data.builders_pictures import write_colours
from tests.orchestrator.inline import InlineTasks
from tests.orchestrator.selected import TARGETS, selected_sweep
from trainables.data.algonauts import AlgonautsDataset
from trainables.errors import ConfigError

pytestmark = pytest.mark.long
Content = dict[str, Any]
Row = dict[str, Any]
Metrics = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Evaluated:
    """A sweep after two evaluations of everything, neither of which knew of the other."""

    storage: SweepStorage
    ledger: Ledger
    labelled: str
    files: dict[str, str]
    """Text of each evaluation's file, when all were asked for at once."""
    alone: dict[str, str]
    """When each was asked for by itself, the last one first."""
    metrics: Metrics
    """After the first evaluation: of each trial, every value that its run ever had."""

    def content(self, name: str) -> Content:
        return dict(json.loads(self.files[name], parse_constant=_refuse))


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON: other readers refuse the file")


def _evaluate(storage: SweepStorage, labelled: str, *names: str) -> dict[str, int]:
    """Evaluate; what was computed for it, by title."""
    tasks = InlineTasks()
    options = EvaluationOptions(names, () if set(names) <= set(DEFAULT) else (labelled,))
    evaluate(storage.name, str(storage.base), tasks, options)
    return tasks.counts


def _texts(storage: SweepStorage) -> dict[str, str]:
    return {file.stem: file.read_text() for file in sorted(storage.evaluation_dir.glob("*.json"))}


def _metrics(ledger: Ledger, storage: SweepStorage) -> Metrics:
    projection, found = Projection(ledger, storage.artifacts_uri), {}
    for trial in (record.uid for key in ledger.plan.studies for record in ledger.study_records(key)):
        run_id = projection.run_id(trial)
        assert run_id is not None
        client = projection.client
        names = client.get_run(run_id).data.metrics
        found[trial] = {name: [m.value for m in client.get_metric_history(run_id, name)] for name in names}
    return found


@pytest.fixture(scope="module")
def evaluated(demo: AlgonautsDataset, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("evaluated")
    connect(f"sqlite:///{folder / 'mlflow.db'}")
    labelled = str(write_colours(folder / "colours", 15))
    storage, ledger = selected_sweep(demo, folder)
    _evaluate(storage, labelled, *EVALUATIONS)
    files, metrics = _texts(storage), _metrics(ledger, storage)
    Path(str(storage.evaluation_dir)).rename(folder / "first")
    for name in reversed(EVALUATIONS):
        _evaluate(storage, labelled, name)
    return Evaluated(storage, ledger, labelled, files, _texts(storage), metrics)


@pytest.fixture(scope="module")
def results(evaluated: Evaluated) -> Results:
    return read_results(evaluated.storage.name, str(evaluated.storage.base))


def tables(content: Content) -> Iterator[tuple[str, list[Row]]]:
    """Every list of rows in a file, under its name."""
    for name, value in content.items():
        if name == "sets":
            for labelled, table in value.items():
                yield f"{name}/{labelled}", table.get("rows", [])
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield name, value


def identity(row: Row) -> str:
    """All of a row that is not a measurement."""
    return json.dumps({name: value for name, value in row.items() if not isinstance(value, float)}, sort_keys=True)


@pytest.mark.parametrize("name", EVALUATIONS)
class TestEveryEvaluation:
    def test_leaves_a_file_of_its_name_that_says_what_it_rests_on(self, evaluated: Evaluated, name: str) -> None:
        content, plan = evaluated.content(name), evaluated.ledger.plan
        selection = {winner.key.name: winner.trial for winner in read_selection(evaluated.storage)}
        assert len(selection) == 2 * len(TARGETS)
        head = {key: content[key] for key in ("protocol", "split", "trials")}
        assert head == {"protocol": "nested", "split": plan.split_digest, "trials": selection}

    def test_has_rows_and_no_two_of_the_same(self, evaluated: Evaluated, name: str) -> None:
        content = evaluated.content(name)
        assert any(rows for _, rows in tables(content)) or content.get("sets")
        for table, rows in tables(content):
            found = [identity(row) for row in rows]
            assert len(set(found)) == len(found), table

    def test_rows_are_of_selected_trials(self, evaluated: Evaluated, name: str) -> None:
        trials = {winner.trial for winner in read_selection(evaluated.storage)}
        for table, rows in tables(evaluated.content(name)):
            for row in rows:
                if set(row) & set(METRICS):  # MLflow shows it, at that trial's run
                    assert row["trial"] in trials or row["network"] == UNTUNED, table
                if "network" in row and row["network"].partition(".")[0] != UNTUNED:
                    assert row["method"] == row["network"].rpartition(".")[2] == "contrastive", table

    def test_says_the_same_alone_and_in_company(self, evaluated: Evaluated, name: str) -> None:
        """Nothing of it depends on what was evaluated before, and computing it again gives it again."""
        assert evaluated.alone[name] == evaluated.files[name]

    def test_once_more_computes_nothing_and_changes_nothing(self, evaluated: Evaluated, name: str) -> None:
        before = _texts(evaluated.storage)
        assert _evaluate(evaluated.storage, evaluated.labelled, name) == {}
        assert _texts(evaluated.storage) == before
        assert _metrics(evaluated.ledger, evaluated.storage) == evaluated.metrics

    def test_the_report_knows_it(self, results: Results, name: str) -> None:
        assert name in REPORTED
        assert results.files[name] is not None
        assert f"split {results.plan.split_digest}" in results.basis(name)
        assert f"--evaluations {name}" in results.command(name)

    def test_the_command_line_names_and_takes_it(self, name: str) -> None:
        (option,) = [param for param in sweep.cli.commands["evaluate"].params if param.name == "evaluations"]
        assert isinstance(option, click.Option)
        *named, everything = str(option.help).rstrip(".").split(", ")
        assert (name in named, everything) == (True, "or all")
        assert str(option.default).split(",") == list(DEFAULT)
        assert EvaluationOptions((name,), ("labelled",)).evaluations == (name,)
        with pytest.raises(ConfigError, match=f"'{name}s'; expected all or some of .*{name}"):
            EvaluationOptions((f"{name}s",))


def test_nothing_else_is_named_on_the_command_line_or_left_behind(evaluated: Evaluated) -> None:
    (option,) = [param for param in sweep.cli.commands["evaluate"].params if param.name == "evaluations"]
    assert isinstance(option, click.Option)
    assert str(option.help) == ", ".join([*EVALUATIONS, "or all."])
    assert set(evaluated.files) == set(REPORTED), "each file is an evaluation's, or comes with one"


def test_cells_have_keys_and_places_of_their_own_that_stay(evaluated: Evaluated) -> None:
    storage, ledger = evaluated.storage, evaluated.ledger
    selection = read_selection(storage)

    def keys() -> list[Any]:
        networks = networks_of(storage, ledger, selection)
        inside = own_keys(ledger.plan, networks, selection) + transfer_keys(ledger.plan, networks)
        return inside + external_keys(networks, ledger.plan.data)

    found = keys()
    assert len(found) == 5 + 2 + 8, "own subjects; the other subject's lh; all networks on both subjects elsewhere"
    assert found == keys()
    assert len(set(found)) == len({str(cell_place(storage, key)) for key in found}) == len(found)
    scored = {str(cell_place(storage, key)) for key in found if not key.external}
    assert {str(file).removesuffix(".json") for file in storage.evaluation_dir.rglob("cells/*/*.json")} == scored


def test_metrics_are_those_of_the_rows(evaluated: Evaluated) -> None:
    logged = {
        (trial, name.split("/")[0])
        for trial, metrics in evaluated.metrics.items()
        for name, values in metrics.items()
        if values and not name.startswith(("val/", "train/"))
    }
    trials = {winner.trial for winner in read_selection(evaluated.storage) if winner.method != UNTUNED}
    expected = {"test", "transfer", "information", "classification"}
    assert {(trial, name) for trial, name in logged if trial in trials and name in expected} == {
        (trial, name) for trial in trials for name in expected
    }
