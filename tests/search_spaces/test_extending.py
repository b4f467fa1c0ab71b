"""What docs/extending.md says of search spaces, and the names and files that it sends people to."""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import optuna
import pytest

from orchestrator.plan import SweepPlan
from orchestrator.suggestions import require_suggestions, trial_config
from search_spaces import Space, read_space
from tests.orchestrator.plans import V1, small_plan
from trainables.errors import ConfigError
from trainables.tuning.objectives import OBJECTIVES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def planned(folder: Path, text: str) -> SweepPlan:
    """What `sweep.py run --space` plans of a file."""
    file = folder / "cold.py"
    file.write_text(text)
    kept, space = read_space(str(file))
    changes = {"trials": space.trials, "epochs": space.epochs, "batch_size": space.batch_size}
    return small_plan(folder, space=str(file), space_text=kept, methods=space.methods, targets=(V1,), **changes)


def test_the_example_is_a_space_whose_trials_can_run(tmp_path: Path) -> None:
    plan = planned(tmp_path, EXAMPLE)
    require_suggestions(plan)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(plan.search_space.starting_point("contrastive", plan.cutoffs))
    first, *drawn = (trial_config(plan, "contrastive", V1, study.ask()) for _ in range(30))
    assert (first.temperature, first.learning_rate, first.layer_cutoff) == (0.3, 1e-4, plan.cutoffs[-1])
    assert (first.objective, first.weight_decay, first.epochs, first.batch_size) == ("info_nce", 1e-6, 20, 512)
    assert {config.objective for config in drawn} == {"info_nce", "sigmoid"} < set(OBJECTIVES)
    assert min(config.temperature for config in drawn) < 0.02, "lower than the named spaces go"
    assert {key.method: (n, plan.search_space.epochs_of(key.method, 20)) for key, n in plan.studies.items()} == {
        "untuned": (1, 20),
        "contrastive": (16, 20),
        "regression": (8, 40),
    }


def test_the_example_uses_every_field_but_one() -> None:
    (call,) = [node for node in ast.walk(ast.parse(EXAMPLE)) if isinstance(node, ast.Call) and _name(node) == "Space"]
    used = {keyword.arg for keyword in call.keywords} | {"description"}
    assert {field.name for field in fields(Space)} - used == {"searched"}


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def test_a_mistake_in_the_example_is_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    wrong = EXAMPLE.replace('"temperature": trial', '"temprature": trial')
    assert wrong != EXAMPLE
    with pytest.raises(ConfigError, match=r"what contrastive explores .*temprature"):
        require_suggestions(planned(tmp_path, wrong))


def test_the_table_names_the_fields_of_a_space_and_their_defaults() -> None:
    _, _, behind = TEXT.partition("| field | kind | default | meaning |\n| --- | --- | --- | --- |\n")
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in behind.split("\n\n")[0].splitlines()]
    assert {len(row) for row in rows} == {4}
    assert all(all(row) for row in rows)
    assert [row[0] for row in rows] == [f"`{field.name}`" for field in fields(Space)]
    for field, (_, _, default, _) in zip(fields(Space), rows, strict=True):
        told = MISSING if default == "required" else ast.literal_eval(default.strip("`"))
        assert told == _default(field), field.name


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()


def test_files_and_names_that_it_sends_people_to_are_there() -> None:
    files = {path for path in re.findall(r"`([\w/.]+\.(?:py|md))`", TEXT) if "/" in path}
    assert len(files) > 20
    assert [path for path in sorted(files) if not (ROOT / path).is_file()] == []
    named = re.findall(r"`(\w+)` of `([\w/.]+\.py)`", TEXT) + re.findall(r"`(\w+)` in `([\w/.]+\.py)`", TEXT)
    assert len(named) > 10
    absent = [(name, path) for name, path in named if not re.search(rf"\b{name}\b", (ROOT / path).read_text())]
    assert absent == []
    for path, anchor in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", TEXT):
        headings = re.findall(r"^#+ (.*)", (ROOT / "docs" / (path or "extending.md")).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
