"""The published study by one command: both protocols, no search, tables and report at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sweeps import at_once
from trainables.data.demo import make_demo

pytestmark = [pytest.mark.long, pytest.mark.timeout(590), pytest.mark.usefixtures("shared_ray")]
OPTIONS = [
    "--space=published",
    "--hemispheres=lh",
    "--rois=V1v",
    "--cutoffs=features.2",
    "--epochs=1",
    "--weights=random",
    "--batch-size=32",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects with 110 stimuli: 15 % are enough for five folds."""
    return make_demo(tmp_path_factory.mktemp("published") / "demo", subjects=2, stimuli=110)


@pytest.mark.parametrize(
    ("protocol", "methods", "subjects"),
    [
        ("published-a", ("untuned", "contrastive", "regression"), ("subj01", "subj02")),
        ("published-b", ("untuned", "contrastive"), ("subj02",)),
    ],
)
def test_one_command_reproduces_a_protocol(
    data: Path, tmp_path: Path, protocol: str, methods: tuple[str, ...], subjects: tuple[str, ...]
) -> None:
    words: list[str | Path] = ["--data", data, "--name", "p", "--protocol", protocol, "--storage", tmp_path]
    if protocol == "published-b":  # the other protocol tries what is there without asking for less
        words += ["--methods", ",".join(methods), "--subjects", ",".join(subjects)]
    done = at_once("run", *words, *OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"protocol {protocol}" in done.stdout
    assert (tmp_path / "p/report.html").exists()
    table = json.loads((tmp_path / "p/evaluation/encoding.json").read_text())
    assert table["protocol"] == protocol
    assert bool(table["optimistic"]) == (protocol == "published-b")
    assert ("optimistic" in " ".join(done.stdout.split())) == (protocol == "published-b")
    rows = {(row["target"], row["method"]): row for row in table["rows"]}
    targets = [f"{subject}/lh/V1v" for subject in subjects]
    assert set(rows) == {(target, method) for target in targets for method in methods}
    assert {row["n_test_stimuli"] for row in rows.values()} == {17}  # 15 % of 110 by row
    assert not any(row["champion"] for row in rows.values()), "chosen by stimuli that it was tuned on"
    if protocol == "published-a":
        for target in targets:
            assert len({rows[target, method]["readout_layer"] for method in methods}) == 1
    transfer = json.loads((tmp_path / "p/evaluation/transfer.json").read_text())
    assert "pictures that other subjects hold out" in transfer["optimistic"]
    assert {(row["method"], row["source"], row["subject"]) for row in transfer["rows"]} == {
        (method, source, subject) for method in methods[1:] for source in subjects for subject in subjects
    }
