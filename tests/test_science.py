"""Every method, score and evaluation of a small sweep, from its command to its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from orchestrator.opening import open_sweep
from tests.sweeps import at_once
from trainables.analyses.landscape import bhattacharyya_distances, oracle_probabilities

pytestmark = [pytest.mark.long, pytest.mark.timeout(590)]
OPTIONS = [
    "--rois=V1v",
    "--cutoffs=features.2",
    "--methods=untuned,contrastive,pooled-avg",
    "--trials=1",
    "--epochs=1",
    "--weights=random",
    "--batch-size=32",
    "--scores=encoding,transfer,classification",
    "--optimise=encoding,classification",
    "--name=all",
]
NETWORKS = {"untuned", *(f"subj0{s}-{h}-V1v.contrastive" for s in (1, 2) for h in ("lh", "rh"))}
POOLED = {f"subj01+subj02-{h}-V1v.pooled-avg" for h in ("lh", "rh")}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that colour tells apart, 20 pictures each."""
    root = tmp_path_factory.mktemp("labelled") / "colours"
    rng = np.random.default_rng(0)
    for label, colour in enumerate(("red", "green", "blue")):
        (root / colour).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 90, (260, 270, 3), dtype=np.uint8)
            pixels[..., label] += 120
            Image.fromarray(pixels).save(root / colour / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def evaluation(storage: Path, demo_root: Path, labelled: Path, shared_ray: None) -> Path:
    """Folder with the results of all evaluations."""
    commands: list[list[str | Path]] = [
        ["run", "--data", demo_root, *OPTIONS, "--labelled", labelled],
        ["select", "all"],
        ["evaluate", "all", "--evaluations=all", "--labelled", labelled, "--external", demo_root],
    ]
    for words in commands:
        done = at_once(*words, "--storage", storage)
        assert done.returncode == 0, done.stdout + done.stderr
    return storage / "all/evaluation"


def table(evaluation: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((evaluation / f"{name}.json").read_text())
    assert (content["protocol"], len(content["split"])) == ("nested", 16)
    return content


def test_every_trial_records_all_scores_and_the_search_has_two_aims(evaluation: Path, storage: Path) -> None:
    _, ledger = open_sweep("all", str(storage))
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("all")
    assert experiment is not None
    runs = {run.data.tags["sweep.trial"]: run for run in client.search_runs([experiment.experiment_id])}
    for key in ledger.plan.studies:
        (record,) = ledger.study_records(key)
        assert record.state == "complete", record.error
        scores = record.details["scores"]
        assert set(scores) == {"classification"} | ({"transfer"} if not key.target.is_pooled else set())
        assert ledger.study(key).trials[0].values == [record.value, scores["classification"]]
        assert runs[record.uid].data.metrics["val/classification_accuracy"] == scores["classification"]
        if key.target.is_pooled:
            assert np.mean(list(record.details["r_by_subject"].values())) == pytest.approx(record.value)


def test_encoding_has_a_row_for_every_subject_and_method(evaluation: Path) -> None:
    rows = table(evaluation, "encoding")["rows"]
    assert {(row["subject"], row["hemisphere"], row["method"]) for row in rows} == {
        (subject, hemisphere, method)
        for subject in ("subj01", "subj02")
        for hemisphere in ("lh", "rh")
        for method in ("untuned", "contrastive", "pooled-avg")
    }
    assert len(rows) == 12
    layers = table(evaluation, "layers")["rows"]
    assert {row["network"] for row in layers} == NETWORKS | POOLED


def test_transfer_matrix_is_complete_and_external_data_are_scored_alike(evaluation: Path) -> None:
    rows = table(evaluation, "transfer")["rows"]
    inside = {(row["network"], row["subject"]): row for row in rows if not row["external"]}
    tuned = NETWORKS - {"untuned"} | POOLED
    assert set(inside) == {(network, subject) for network in tuned for subject in ("subj01", "subj02")}
    # The same data set as an external one: another way to the same numbers.
    for row in rows:
        if row["external"]:
            twin = inside[row["network"], row["subject"]]
            assert row["r"] == pytest.approx(twin["r"], abs=1e-6)
            assert row["mean_delta_r"] == pytest.approx(row["r"] - row["untuned_r"], abs=1e-9)
    assert sum(row["external"] for row in rows) == len(inside)


def test_information_is_below_its_limit_and_beside_chance(evaluation: Path) -> None:
    rows = table(evaluation, "information")["rows"]
    assert {row["network"] for row in rows} == NETWORKS - {"untuned"} | POOLED
    for row in rows:
        assert row["bits"] <= row["limit_bits"] == pytest.approx(np.log2(row["n_stimuli"]))
        assert row["chance_top1"] == pytest.approx(1 / row["n_stimuli"])


def test_colours_are_told_apart_and_the_landscape_is_that_of_the_probabilities(evaluation: Path) -> None:
    kept = table(evaluation, "classification")["sets"]["colours"]
    assert {row["network"] for row in kept["rows"]} == NETWORKS | POOLED
    assert {row["layer"] for row in kept["rows"]} == {"features.2"}
    assert all(row["accuracy"] > 0.9 > kept["chance"] for row in kept["rows"])
    found = table(evaluation, "landscape")["sets"]["colours"]
    folder = evaluation / "classification/colours"
    oracle = oracle_probabilities(np.load(folder / "untuned.labels.npy"), 3)
    distances = bhattacharyya_distances([*(np.load(folder / f"{name}.npy") for name in found["names"][:-1]), oracle])
    points, signs = np.array(found["coordinates"]), np.where(found["imaginary"], -1, 1)
    rebuilt = ((points[:, None] - points[None]) ** 2 * signs).sum(-1)
    np.testing.assert_allclose(rebuilt, distances, atol=1e-6)


def test_salience_has_maps_and_compares_the_hemispheres(evaluation: Path) -> None:
    content = table(evaluation, "salience")
    assert len(content["gallery"]) == 8
    for entry in content["gallery"]:
        assert entry["images"]
        assert all((evaluation / image).exists() for image in entry["images"])
    assert {(row["subject"], row["method"]) for row in content["lateralisation"]} == {
        (subject, method) for subject in ("subj01", "subj02") for method in ("untuned", "contrastive")
    }


def test_comparisons_say_what_they_rest_on(evaluation: Path) -> None:
    content = table(evaluation, "statistics")
    assert len(content["over_voxels"]) == 12
    assert len(content["over_subjects"]) == 6
    for row in [*content["over_voxels"], *content["over_subjects"]]:
        assert row["protocol"].startswith("nested")
        assert row["n"] >= 2
        assert "Benjamini" in row["correction"]
    assert {row["n"] for row in content["over_subjects"]} == {2}


def test_evaluating_again_computes_nothing(evaluation: Path, storage: Path, labelled: Path, demo_root: Path) -> None:
    def computed() -> dict[Path, int]:
        folders = ("cells", "classification", "salience")
        files = [path for folder in folders for path in (evaluation / folder).rglob("*.np[yz]")]
        return {path: path.stat().st_mtime_ns for path in files}

    before = computed()
    words: list[str | Path] = ["--evaluations=all", "--labelled", labelled, "--external", demo_root]
    done = at_once("evaluate", "all", *words, "--storage", storage)
    assert done.returncode == 0, done.stderr
    assert computed() == before
