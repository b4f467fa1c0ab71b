"""An evaluation that has nothing to compute says why."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.evaluation import EvaluationOptions, _further, table_head
from orchestrator.storage import SweepStorage
from tests.orchestrator.inline import InlineTasks
from tests.orchestrator.plans import small_plan

ASKED = EvaluationOptions(("information",))
PUBLISHED: dict[str, Any] = {"space": "published", "trials": 1}


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({**PUBLISHED, "protocol": "published-a"}, "Not to be had under published-a: .* validation stimuli"),
        ({**PUBLISHED, "protocol": "published-b"}, "Not to be had under published-b: .* validation stimuli"),
        ({"methods": ("regression", "untuned")}, "Only contrastive and pooled networks embed"),
        ({}, "No selected network embeds"),
    ],
)
def test_information_without_a_row_is_told_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    plan, storage, tasks = small_plan(tmp_path, **changes), SweepStorage(str(tmp_path), "small"), InlineTasks()
    assert _further("information", storage, plan, (), {}, tasks, ASKED, table_head(plan, ())) == [[]]
    assert isinstance(tasks.console.file, io.StringIO)
    (line,) = tasks.console.file.getvalue().splitlines()
    assert re.fullmatch(rf"information: nothing to compute\. {reason}.*", line)
    assert not storage.evaluation_file("information").exists()
