from __future__ import annotations

from typing import Any

import pytest
from upath import UPath

from orchestrator.networks import Network
from orchestrator.storage import SweepStorage, write_json
from orchestrator.transfer_evaluation import counterpart, former_external_rows
from tests.orchestrator.plans import V1


@pytest.mark.parametrize(
    ("roi", "sizes", "found"),
    [
        ("V1v", {"V1v": 40}, "V1v"),
        ("V1v", {"V1": 50}, "V1"),
        ("V3d", {"V3": 50, "V1": 50}, "V3"),
        ("hV4", {"V4": 50}, "V4"),
        ("V1v", {"V1": 0}, None),
        ("FFA-1", {"V1": 50}, None),
    ],
)
def test_areas_of_two_data_sets_correspond(roi: str, sizes: dict[str, int], found: str | None) -> None:
    assert counterpart(("rh", roi), sizes) == (None if found is None else ("rh", found))


def test_rows_of_other_data_sets_stay_as_long_as_their_trials_are_selected(tmp_path: Any) -> None:
    storage = SweepStorage(str(tmp_path), "x")
    row = {"network": "a", "trial": "a/1", "dataset": "nod", "external": True}
    rows = [row, {**row, "external": False}, {**row, "trial": "a/0"}, {**row, "dataset": "new"}]
    networks = [Network("a", "contrastive", V1, "a/1", None)]
    assert former_external_rows(storage, networks, []) == []
    write_json(UPath(storage.evaluation_file("transfer")), {"rows": rows})
    assert former_external_rows(storage, networks, [{**row, "dataset": "new"}]) == [row]
