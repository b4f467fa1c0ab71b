"""The published study by one command: both protocols, no search, tables and report at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sweeps import sweep

pytestmark = pytest.mark.timeout(590)
OPTIONS = [
    "--space=published",
    "--subjects=1",
    "--hemispheres=lh",
    "--rois=V1v,hV4",
    "--cutoffs=features.2",
    "--epochs=1",
    "--weights=random",
    "--batch-size=32",
]


@pytest.mark.parametrize("protocol", ["published-a", "published-b"])
def test_one_command_reproduces_a_protocol(demo_root: Path, tmp_path: Path, protocol: str) -> None:
    words: list[str | Path] = ["--data", demo_root, "--name", "p", "--protocol", protocol, "--storage", tmp_path]
    done = sweep("run", *words, *OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"protocol {protocol}" in done.stdout
    assert (tmp_path / "p/report.html").exists()
    table = json.loads((tmp_path / "p/evaluation/encoding.json").read_text())
    assert table["protocol"] == protocol
    assert bool(table["optimistic"]) == (protocol == "published-b")
    assert ("optimistic" in " ".join(done.stdout.split())) == (protocol == "published-b")
    rows = {(row["target"], row["method"]): row for row in table["rows"]}
    methods = ("untuned", "contrastive", "regression")
    assert set(rows) == {(f"subj01/lh/{roi}", method) for roi in ("V1v", "hV4") for method in methods}
    assert {row["n_test_stimuli"] for row in rows.values()} == {12}  # 15 % of 80 by row
    if protocol == "published-a":
        for roi in ("V1v", "hV4"):
            assert len({rows[f"subj01/lh/{roi}", method]["readout_layer"] for method in methods}) == 1
