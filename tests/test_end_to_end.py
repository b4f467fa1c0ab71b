"""One small sweep from the first command, through Ctrl-C, to a model that predicts without this program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from orchestrator.opening import open_sweep
from orchestrator.storage import SweepStorage
from tests.sweeps import SMALL, SmallSweep, Watched, assert_went_on, at_once
from trainables.data.algonauts import open_algonauts
from trainables.data.responses import load_test
from trainables.encoding.scores import pearson_r
from trainables.models.weights import load_weights
from trainables.predictor import ResponsePredictor
from trainables.target import Target

pytestmark = pytest.mark.timeout(590)
TARGET = Target("demo", ("subj01",), "lh", "V1v")
METHODS = ("contrastive", "regression", "untuned")


@pytest.fixture(scope="module")
def storage(small_sweep: SmallSweep) -> Path:
    return small_sweep.storage


@pytest.fixture(scope="module")
def finished(small_sweep: SmallSweep) -> str:
    """A finished sweep; what its command printed."""
    return small_sweep.printed


@pytest.fixture(scope="module")
def selected(finished: str, shared_ray: None, storage: Path) -> list[dict[str, Any]]:
    done = at_once("select", "small", "--storage", storage, "--json")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.fixture(scope="module")
def evaluated(selected: list[dict[str, Any]], storage: Path) -> dict[str, Any]:
    done = at_once("evaluate", "small", "--storage", storage, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_interrupted_sweep_says_how_to_go_on_and_does(small_sweep: SmallSweep) -> None:
    assert small_sweep.code == 130, small_sweep.said
    command = f"sweep.py resume small --storage {small_sweep.storage}"
    assert command in small_sweep.said.replace("--storage=", "--storage ")
    assert "Traceback" not in small_sweep.said
    states = {uid: record.state for uid, record in small_sweep.before.items()}
    running = {uid for uid, state in states.items() if state == "running"}
    assert running, states
    assert len(running) < len(states)
    assert {uid for uid, status in small_sweep.statuses.items() if status == "KILLED"} == running
    assert set(small_sweep.statuses.values()) <= {"KILLED", "FINISHED"}
    assert_went_on(small_sweep.before, Watched(small_sweep.storage, "small").records())


def test_sweep_says_what_to_do_next(finished: str, storage: Path) -> None:
    assert f"select small --storage {storage}" in finished
    assert "subj01/lh/V1v" in finished


def test_sweep_writes_these_files_and_no_others(finished: str, storage: Path) -> None:
    written = {name for name in files(storage) if not name.startswith(("small/scratch/", "small/artifacts/"))}
    written -= {name for name in written if name.startswith(("small/models/", "small/evaluation/"))}
    _, ledger = open_sweep("small", str(storage))
    kept = set()
    for key in ledger.plan.studies:
        (best,) = ledger.best(key)
        kept |= {
            f"small/trials/subj01-lh-V1v/{key.method}/{best.number:05d}/{file}"
            for file in ("model.json", "model.safetensors")
        }
    expected = {"mlflow.db", *(f"small/{file}" for file in ("plan.json", "ledger.journal", "weights.safetensors"))}
    assert written - {"small/selection.json", "small/driver.lock"} == expected | kept


def test_ledger_holds_every_trial_once(finished: str, storage: Path) -> None:
    _, ledger = open_sweep("small", str(storage))
    assert ledger.trials_left() == 0
    for key, budget in ledger.plan.studies.items():
        records = ledger.study_records(key)
        assert [record.number for record in records] == list(range(budget))
        assert {record.state for record in records} <= {"complete", "pruned"}
        assert records[0].state == "complete"
        first = records[0].config
        assert first["layer_cutoff"] == "features.5"
        if key.method == "contrastive":
            assert (first["temperature"], first["learning_rate"]) == (0.3, 1e-4)
        for record in records:
            if record.state == "complete":
                assert set(record.scores) == ({0} if key.method == "untuned" else {1, 2})
                assert record.value == max(record.scores.values())


def test_small_roi_is_reported_and_not_tuned(finished: str, storage: Path) -> None:
    done = at_once("status", "small", "--storage", storage)
    assert "skipped subj01/lh/RSC: 9 voxels, fewer than 20" in done.stdout
    assert "sweep small is finished; `" in done.stdout
    assert f"sweep.py leaderboard small --storage {storage}`" in done.stdout
    content = json.loads(at_once("status", "small", "--storage", storage, "--json").stdout)
    assert (content["sweep"], content["left"], content["seconds_left"]) == ("small", 0, 0)
    assert list(content["targets"]) == ["subj01/lh/V1v"]
    counts = content["targets"]["subj01/lh/V1v"]
    assert counts["complete"] + counts["pruned"] == counts["planned"] == 5
    assert (counts["failed"], counts["running"]) == (0, 0)


def test_leaderboard_is_that_of_the_ledger(finished: str, storage: Path) -> None:
    done = at_once("leaderboard", "small", "--storage", storage, "--json")
    assert done.returncode == 0, done.stderr
    board = json.loads(done.stdout)
    _, ledger = open_sweep("small", str(storage))
    assert (board["sweep"], board["protocol"], board["split"]) == ("small", "nested", ledger.plan.split_digest)
    rows = {row["method"]: row for row in board["rows"]}
    assert set(rows) == set(METHODS)
    for key in ledger.plan.studies:
        values = [record.value or 0 for record in ledger.study_records(key) if record.state == "complete"]
        assert rows[key.method]["val_r"] == max(values)
        assert rows[key.method]["trials"] == rows[key.method]["planned"] == ledger.plan.studies[key]
    assert [row["val_r"] for row in board["rows"]] == sorted((row["val_r"] for row in rows.values()), reverse=True)
    assert [row["best_of_target"] for row in board["rows"]] == [True, False, False]


def test_mlflow_shows_what_the_ledger_holds(finished: str, storage: Path) -> None:
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = {run.data.tags["sweep.trial"]: run for run in client.search_runs([experiment.experiment_id])}
    _, ledger = open_sweep("small", str(storage))
    records = {record.uid: record for key in ledger.plan.studies for record in ledger.study_records(key)}
    assert set(runs) == set(records) | {key.name for key in ledger.plan.studies}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for uid, record in records.items():
        run = runs[uid]
        assert run.data.tags["state"] == record.state
        if record.state == "complete":
            assert run.data.metrics["val/encoding_r"] == record.value
        if record.study.method != "untuned":
            assert "train/loss" in run.data.metrics
            assert float(run.data.params["learning_rate"]) == record.config["learning_rate"]


def test_same_options_again_start_nothing(finished: str, storage: Path, demo_root: Path) -> None:
    journal = (storage / "small/ledger.journal").read_bytes()
    before = {name for name in files(storage) if "scratch" in name}
    done = at_once("run", "--data", demo_root, "--storage", storage, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "Starting Ray" not in done.stdout
    assert (storage / "small/ledger.journal").read_bytes() == journal
    assert {name for name in files(storage) if "scratch" in name} == before


@pytest.mark.parametrize(
    ("option", "field"),
    [("--epochs=3", "epochs"), ("--seed=3", "seed")],
)
def test_other_options_are_refused_by_name(
    finished: str, storage: Path, demo_root: Path, option: str, field: str
) -> None:
    before = (storage / "small/plan.json").read_bytes()
    done = at_once("run", "--data", demo_root, "--storage", storage, *SMALL, option)
    assert done.returncode == 1
    assert done.stderr.count("Error") == 1
    assert f"sweep 'small' exists with another {field}" in done.stderr
    assert (storage / "small/plan.json").read_bytes() == before


def test_selection_follows_validation_scores(selected: list[dict[str, Any]], storage: Path) -> None:
    _, ledger = open_sweep("small", str(storage))
    assert {entry["method"] for entry in selected} == set(METHODS)
    for entry in selected:
        (key,) = [key for key in ledger.plan.studies if key.method == entry["method"]]
        complete = [record for record in ledger.study_records(key) if record.state == "complete"]
        assert entry["val_r"] == max(record.value or 0 for record in complete)
        assert entry["trial"] in {record.uid for record in complete if record.value == entry["val_r"]}
    (champion,) = [entry for entry in selected if entry["champion"]]
    assert champion["val_r"] == max(entry["val_r"] for entry in selected)
    assert json.loads((storage / "small/selection.json").read_text()) == selected


def test_registry_has_a_version_per_method_and_a_champion(selected: list[dict[str, Any]], storage: Path) -> None:
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    name = "demo.subj01-lh-V1v"
    versions = {version.tags["sweep.trial"]: version for version in client.search_model_versions(f"name='{name}'")}
    assert set(versions) == {entry["trial"] for entry in selected}
    for entry in selected:
        version = versions[entry["trial"]]
        assert client.get_model_version_by_alias(name, entry["method"]).version == version.version
        assert version.run_id is not None
        assert client.get_run(version.run_id).data.tags["sweep.trial"] == entry["trial"]
        if entry["champion"]:
            assert client.get_model_version_by_alias(name, "champion").version == version.version


def test_selecting_again_registers_nothing(selected: list[dict[str, Any]], storage: Path) -> None:
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    before = len(client.search_model_versions("name='demo.subj01-lh-V1v'"))
    done = at_once("select", "small", "--storage", storage, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == selected
    assert len(client.search_model_versions("name='demo.subj01-lh-V1v'")) == before == 3


def test_evaluation_is_pearson_r_on_test_stimuli(
    evaluated: dict[str, Any], storage: Path, demo_root: Path, cache_dir: Path
) -> None:
    part = load_test(open_algonauts(demo_root), TARGET, 0, cache_dir)
    places = SweepStorage(str(storage), "small")
    rows = {row["method"]: row for row in evaluated["rows"]}
    assert set(rows) == set(METHODS)
    r = {}
    for method in METHODS:
        predicted = ResponsePredictor.load(places.model_dir(TARGET, method)).predict(part.stimuli[part.rows])
        # Independent of the program's own score: NumPy's correlation matrix, a voxel at a time.
        pairs = zip(predicted.T.astype(np.float64), part.responses.T.astype(np.float64), strict=True)
        r[method] = np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])
        np.testing.assert_allclose(pearson_r(predicted, part.responses), r[method], atol=1e-5)
        assert rows[method]["test_r"] == pytest.approx(r[method].mean(), abs=2e-3)
        assert rows[method]["n_voxels"] == part.responses.shape[1]
        assert rows[method]["n_test_stimuli"] == len(part.rows)
    for method in ("contrastive", "regression"):
        better = 100 * np.mean(r[method] > r["untuned"])
        assert rows[method]["voxels_improved_percent"] == pytest.approx(better, abs=100 * 2 / len(r[method]))
    better = 100 * np.mean(r["contrastive"] > r["regression"])
    found = rows["contrastive"]["voxels_above_regression_percent"]
    assert found == pytest.approx(better, abs=100 * 2 / len(r["contrastive"]))
    for method in ("untuned", "regression"):
        assert rows[method]["voxels_above_regression_percent"] is None
    assert rows["untuned"]["voxels_improved_percent"] is None


def test_evaluating_again_scores_nothing_and_says_the_same(evaluated: dict[str, Any], storage: Path) -> None:
    cells = [path for path in (storage / "small/evaluation/cells").rglob("*") if path.is_file()]
    assert {path.relative_to(storage / "small/evaluation/cells").as_posix() for path in cells} == {
        f"{network}/subj01.{ending}"
        for network in ("untuned", "subj01-lh-V1v.contrastive", "subj01-lh-V1v.regression")
        for ending in ("json", "npz")
    }
    before = {path: path.stat().st_mtime_ns for path in cells}
    done = at_once("evaluate", "small", "--storage", storage, "--json")
    assert json.loads(done.stdout) == evaluated
    assert {path: path.stat().st_mtime_ns for path in cells} == before
    board = json.loads(at_once("leaderboard", "small", "--storage", storage, "--json").stdout)
    scores = {row["trial"]: row["test_r"] for row in evaluated["rows"]}
    assert {row["best_trial"]: row["test_r"] for row in board["rows"]} == scores


PREDICT = """
import importlib.util, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "").lower()
                    and "editable" not in getattr(finder, "__name__", "").lower()]
sys.path[:] = [entry for entry in sys.path if entry not in ("", {root!r})]
for package in ("trainables", "orchestrator", "search_spaces", "cluster", "sweep"):
    assert importlib.util.find_spec(package) is None, package
import mlflow.pyfunc, numpy as np
mlflow.set_tracking_uri({uri!r})
mlflow.set_registry_uri({uri!r})
model = mlflow.pyfunc.load_model("models:/demo.subj01-lh-V1v@champion")
np.save({out!r}, model.predict(np.load({images!r})))
import trainables
assert not trainables.__file__.startswith({root!r}), trainables.__file__
"""


def test_registered_model_predicts_without_this_program(
    selected: list[dict[str, Any]], storage: Path, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 97, 130, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = PREDICT.format(
        root=str(Path(__file__).parents[1]),
        uri=f"sqlite:///{storage / 'mlflow.db'}",
        images=str(tmp_path / "images.npy"),
        out=str(tmp_path / "out.npy"),
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    predicted = np.load(tmp_path / "out.npy")
    (champion,) = [entry for entry in selected if entry["champion"]]
    here = ResponsePredictor.load(SweepStorage(str(storage), "small").model_dir(TARGET, champion["method"]))
    assert predicted.shape == (5, 40)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, here.predict(images), rtol=1e-4, atol=1e-5)
    assert np.ptp(predicted, axis=0).min() > 0


def test_registered_model_holds_no_pickle(selected: list[dict[str, Any]], storage: Path) -> None:
    endings = {Path(name).suffix for name in files(storage / "small/artifacts")}
    assert endings <= {".safetensors", ".json", ".py", ".yaml", ".txt", ""}
    assert {".safetensors", ".json", ".py"} <= endings


def test_weights_of_the_sweep_are_those_that_were_asked_for(finished: str, storage: Path) -> None:
    kept, asked = load_weights(str(storage / "small/weights.safetensors")), load_weights("random")
    assert kept.state.keys() == asked.state.keys()
    assert all((kept.state[name] == asked.state[name]).all() for name in asked.state)
