"""An exported model, used by a process that could not import this project if it tried."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from orchestrator.export import export_and_print, export_model
from orchestrator.selected import read_selection
from orchestrator.storage import SweepStorage
from tests.orchestrator.selected import LAYERS, TARGETS
from trainables.data.algonauts import AlgonautsDataset
from trainables.errors import ConfigError, CortexSweepError, StorageError
from trainables.predictor import ResponsePredictor

NAME = TARGETS[0].name

ALONE = """
import json, runpy, sys

class Refuse:
    ours = {"trainables", "orchestrator", "search_spaces", "cluster", "sweep"}
    names = ours | {"torchvision", "mlflow", "ray", "safetensors"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(name + " was asked for")

sys.meta_path.insert(0, Refuse())
import numpy as np
from importlib.util import module_from_spec, spec_from_file_location

folder, pictures, picture, out = sys.argv[1:]
spec = spec_from_file_location("predict", folder + "/predict.py")
module = module_from_spec(spec)
spec.loader.exec_module(module)
images = np.load(pictures)
model = module.load(folder)
np.savez(
    out,
    predicted=model.predict(images),
    features=model.features(images),
    own=module.predict(images[:1]),
    own_features=module.features(images[:1]),
    listed=model.predict([picture, images[0]]),
    none=model.predict(images[:0]),
    voxels=model.voxels,
)
for odd in (images[0], images / 255):
    try:
        model.predict(odd)
    except ValueError as error:
        print("refused:", error)
sys.argv = ["predict.py", picture]
runpy.run_path(folder + "/predict.py", run_name="__main__")
sys.argv = ["predict.py", picture, picture, "--save", out + ".npy"]
runpy.run_path(folder + "/predict.py", run_name="__main__")
"""


@dataclass(frozen=True)
class Used:
    folder: Path
    found: dict[str, Any]
    saved: np.ndarray
    lines: list[str]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """More than one batch holds, of a size that is not the network's."""
    return np.random.default_rng(2).integers(0, 256, (70, 60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def used(saved: SweepStorage, pictures: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Used:
    place = tmp_path_factory.mktemp("export")
    first = place / "made" / "model"
    export_model(NAME, first, "small", "contrastive", str(saved.base))
    folder = Path(shutil.move(first, place / "moved elsewhere"))
    np.save(place / "pictures.npy", pictures)
    Image.fromarray(pictures[0]).save(place / "picture.png")
    arguments = [folder, place / "pictures.npy", place / "picture.png", place / "found.npz"]
    command = [sys.executable, "-I", "-c", ALONE, *map(str, arguments)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with np.load(place / "found.npz") as arrays:
        found = dict(arrays)
    return Used(folder, found, np.load(place / "found.npz.npy"), done.stdout.splitlines())


@pytest.fixture(scope="module")
def own(saved: SweepStorage) -> ResponsePredictor:
    return ResponsePredictor.load(saved.model_dir(TARGETS[0], "contrastive"), "cpu")


def test_predicts_alone_what_the_project_predicts(used: Used, own: ResponsePredictor, pictures: np.ndarray) -> None:
    expected = own.predict(pictures)
    assert expected.std() > 0.01
    assert used.found["predicted"].dtype == np.float32
    np.testing.assert_allclose(used.found["predicted"], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(used.found["own"], expected[:1], rtol=0, atol=1e-5)
    np.testing.assert_allclose(used.found["listed"], expected[[0, 0]], rtol=0, atol=1e-5)
    assert used.found["none"].shape == (0, expected.shape[1])
    features = own.features(pictures)
    np.testing.assert_allclose(used.found["features"], features, rtol=0, atol=1e-5 * features.max())
    assert used.found["own_features"].shape == (1, features.shape[1])


@pytest.mark.parametrize(("given", "told"), [("gone.png", "gone.png"), ("README.md", "cannot identify image file")])
def test_what_is_no_picture_is_told_in_one_sentence(used: Used, given: str, told: str) -> None:
    command = [sys.executable, "predict.py", given]
    done = subprocess.run(command, cwd=used.folder, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_prints_a_line_for_each_voxel(
    used: Used, own: ResponsePredictor, pictures: np.ndarray, demo: AlgonautsDataset
) -> None:
    expected, voxels = own.predict(pictures[:1])[0], demo.subject("subj01").voxels("lh", "V1v")
    assert [line.split()[0] for line in used.lines[:2]] == ["refused:", "refused:"]
    assert "images are float64 (70, 60, 80, 3); expected uint8 [n, height, width, 3]" in used.lines[1]
    head, *rows = (line.split("\t") for line in used.lines[2:])
    assert head[0] == "voxel"
    assert Path(head[1]).name == "picture.png"
    assert [int(number) for number, _ in rows] == voxels.tolist() == used.found["voxels"].tolist()
    np.testing.assert_allclose([float(value) for _, value in rows], expected, atol=2e-5)
    np.testing.assert_allclose(used.saved, np.stack([expected, expected]), atol=1e-5)


def test_the_folder_holds_what_the_card_says_and_no_more(used: Used, saved: SweepStorage) -> None:
    names = {"predict.py", "network.npz", "encoding.npz", "model.json", "README.md"}
    assert {file.name for file in used.folder.iterdir()} - {"__pycache__"} == names
    with np.load(used.folder / "network.npz", allow_pickle=False) as weights:
        kept = load_file(str(saved.model_dir(TARGETS[0], "contrastive") / "model" / "model.safetensors"))
        assert set(weights.files) == {"features.0.weight", "features.0.bias"}, "nothing behind the readout layer"
        for name in weights.files:
            np.testing.assert_array_equal(weights[name], kept[f"backbone.{name}"])


def test_the_card_says_what_it_is(used: Used, saved: SweepStorage) -> None:
    card, about = (used.folder / "README.md").read_text(), json.loads((used.folder / "model.json").read_text())
    (winner,) = [selected for selected in read_selection(saved) if selected.method == "contrastive"]
    assert about["parameters"]["temperature"] == 0.3
    assert card.startswith("# V1v, left hemisphere, subj01 (demo)\n")
    for part in (
        f"| method | {winner.method} |",
        f"| readout layer | {LAYERS[0]} |",
        f"| layer cutoff | {LAYERS[1]} |",
        "| temperature | 0.3 |",
        "| learning rate | 0.0001 |",
        f"| protocol | nested, split {winner.split_digest} |",
        "| validation r | 0.200 |",
        "| test r | not evaluated |",
        "The responses are simulated",
        "began with random weights",
        "## Licence",
        "python predict.py picture.png",
    ):
        assert part in card
    assert str(saved.base) not in card + json.dumps(about), "paths of a machine are nobody else's"
    assert "untuned" not in card


def test_the_champion_is_exported_by_default(saved: SweepStorage, tmp_path: Path) -> None:
    (winner,) = [selected for selected in read_selection(saved) if selected.champion]
    (tmp_path / "empty").mkdir()
    about = export_model(TARGETS[0].slug, tmp_path / "empty", "small", None, str(saved.base))
    assert (about["method"], about["champion"], about["parameters"]) == (winner.method, True, {})
    assert "temperature" not in (tmp_path / "empty/README.md").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["empty"], "nothing unfinished stays"


def test_test_scores_come_with_an_interval_over_pictures(
    saved: SweepStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = _copied(saved, tmp_path / "results")
    (winner,) = [selected for selected in read_selection(saved) if selected.method == "contrastive"]
    generator = np.random.default_rng(3)
    measured = generator.normal(size=(40, 7))
    predicted = measured + generator.normal(size=(40, 7))
    row = {
        "slug": TARGETS[0].slug,
        "method": "contrastive",
        "trial": winner.trial,
        "network": "of-the-trial",
        "test_r": 0.712,
        "test_noise_normalised_r2": 0.55,
        "n_test_stimuli": 40,
        "readout_layer": LAYERS[0],
    }
    _write_scores(copy, row, predicted, measured)
    export_and_print(NAME, tmp_path / "scored", "small", "contrastive", str(copy.base), as_json=True)
    low, high = json.loads(capsys.readouterr().out)["test"]["r_interval"]
    rows = generator.integers(0, 40, (1500, 40))
    resampled = [_mean_r(predicted[drawn], measured[drawn]) for drawn in rows]
    assert (low, high) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.012)
    card = (tmp_path / "scored/README.md").read_text()
    assert f"| test r | 0.712 (95 % interval {low:.3f} to {high:.3f}), 40 pictures |" in card
    assert "| test r² / noise ceiling | 0.550, median over voxels |" in card
    _write_scores(copy, {**row, "trial": "another trial's"}, predicted, measured)
    about = export_model(NAME, tmp_path / "stale", "small", "contrastive", str(copy.base))
    assert about["test"] is None, "scores of a trial that is no longer selected are not this model's"


def _mean_r(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(predicted.T, measured.T, strict=True)]))


def _write_scores(storage: SweepStorage, row: dict[str, Any], predicted: np.ndarray, measured: np.ndarray) -> None:
    for network, name, array in (("of-the-trial", "predicted", predicted), ("untuned", "measured", measured)):
        cell = Path(str(storage.evaluation_dir / "cells" / network))
        cell.mkdir(parents=True, exist_ok=True)
        np.savez(cell / "subj01.npz", **{f"{name}|lh|V1v": array})  # type: ignore[arg-type] # a name with other signs
    storage.encoding_scores_file.write_text(json.dumps({"optimistic": "", "rows": [row]}))


def _copied(saved: SweepStorage, folder: Path, **changes: Any) -> SweepStorage:
    copy = SweepStorage(str(folder), "small")
    shutil.copytree(str(saved.root / "models"), str(copy.root / "models"))
    shutil.copy(str(saved.selection_file), str(copy.selection_file))
    plan = {**json.loads(saved.plan_file.read_text()), **changes}
    copy.plan_file.write_text(json.dumps(plan))
    return copy


def test_a_data_set_that_is_gone_costs_the_voxels_numbers_alone(
    saved: SweepStorage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = _copied(saved, tmp_path / "results", data=str(tmp_path / "gone"))
    export_and_print(NAME, tmp_path / "model", "small", None, str(copy.base), as_json=False)
    out = capsys.readouterr().out
    assert "Without the numbers of its voxels: the data set could not be read" in out
    assert f"python {tmp_path / 'model' / 'predict.py'} picture.png" in out
    with np.load(tmp_path / "model/encoding.npz") as arrays:
        assert set(arrays.files) == {"coef", "feature_mean", "response_mean"}
    assert "`encoding.npz` lacks the numbers of the voxels" in (tmp_path / "model/README.md").read_text()


@pytest.mark.parametrize(
    ("target", "folder", "sweep", "method", "kind", "sentence"),
    [
        (
            "subj01/lh/V1w",
            "new",
            "small",
            None,
            ConfigError,
            r"target is 'subj01/lh/V1w'; expected one such as subj01/",
        ),
        (NAME, "new", "small", "regression", ConfigError, r"method is 'regression'; subj01/lh/V1v has untuned, contr"),
        (NAME, "new", "other", None, StorageError, r"no sweep 'other' in .*; there are: small"),
        (NAME, "full", "small", None, ConfigError, r"full exists and is not an empty folder; name a new one"),
        (NAME, "full/file", "small", None, ConfigError, r"file exists and is not an empty folder"),
        (NAME, "full/file/below", "small", None, StorageError, r"below cannot be written \(.*\); free space or"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    saved: SweepStorage,
    tmp_path: Path,
    target: str,
    folder: str,
    sweep: str,
    method: str | None,
    kind: type[CortexSweepError],
    sentence: str,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("somebody's")
    with pytest.raises(kind, match=sentence):
        export_model(target, tmp_path / folder, sweep, method, str(saved.base))
    assert [file.name for file in tmp_path.iterdir()] == ["full"]
    assert [file.read_text() for file in (tmp_path / "full").iterdir()] == ["somebody's"]


def test_an_address_is_no_folder_of_this_machine(saved: SweepStorage) -> None:
    with pytest.raises(ConfigError, match=r"DIR is 's3:/bucket/model'; expected a folder of this machine"):
        export_model(NAME, Path("s3://bucket/model"), "small", None, str(saved.base))


def test_nothing_selected_says_which_command_is_missing(saved: SweepStorage, tmp_path: Path) -> None:
    copy = _copied(saved, tmp_path / "results")
    copy.selection_file.unlink()
    with pytest.raises(StorageError, match="nothing is selected in sweep small; run `sweep.py select small --storage"):
        export_model(NAME, tmp_path / "model", "small", None, str(copy.base))
