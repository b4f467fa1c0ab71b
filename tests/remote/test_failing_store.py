"""A store that begins to fail in the middle of a sweep: what had finished stays, a resume goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.opening import open_sweep
from orchestrator.records import TrialRecord
from tests.remote.fault_proxy import ALWAYS, FaultProxy
from tests.remote.s3 import BUCKET, names, upload
from tests.sweeps import driver

pytestmark = pytest.mark.timeout(400)

STORAGE = f"s3://{BUCKET}/results"


def records() -> dict[str, TrialRecord]:
    _, ledger = open_sweep("shaken", STORAGE)
    return {record.uid: record for key in ledger.plan.studies for record in ledger.study_records(key)}


@pytest.mark.long
def test_a_store_that_begins_to_fail_stops_the_sweep_and_loses_nothing(
    proxy: FaultProxy, client: Any, demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a sweep with remote storage keeps its driver's lock
    command = [
        "run",
        f"--data={upload(client, demo_root)}",
        f"--storage={STORAGE}",
        f"--ledger={tmp_path / 'ledger.journal'}",
        f"--tracking-uri=sqlite:///{tmp_path / 'mlflow.db'}",
        *[
            "--name=shaken",
            "--weights=random",
            "--subjects=1",
            "--hemispheres=lh",
            "--rois=V1v,V2v,V3v",
            "--cutoffs=features.2",
        ],
        *["--methods=untuned", "--trials=1"],
    ]
    # The credentials expire once one model is whole.
    proxy.fail("expired", method="PUT", path=r"trials/\S*/model\.json", times=ALWAYS, after=1)
    with driver(tmp_path / "run.log", *command, cwd=tmp_path) as run:
        assert run.wait() == 1, run.log.read_text()
        said = run.log.read_text()
    assert "Traceback" not in said
    assert "The provided token has expired" in said.replace("\n", " ")
    assert "renew the credentials, then go on" in said.replace("\n", " ")
    before = records()
    complete = {uid: record for uid, record in before.items() if record.state == "complete"}
    assert len(complete) == 1
    assert {record.state for record in before.values()} <= {"complete", "running"}
    proxy.heal()
    with driver(tmp_path / "resume.log", "resume", "shaken", f"--storage={STORAGE}", cwd=tmp_path) as resumed:
        assert resumed.wait() == 0, resumed.log.read_text()
    after = records()
    assert {record.state for record in after.values()} == {"complete"}
    assert len(after) == 3
    assert {uid: after[uid] for uid in complete} == complete, "what had finished did not run again"
    assert len([name for name in names(client, "results/shaken/trials") if name.endswith("model.json")]) == 3
