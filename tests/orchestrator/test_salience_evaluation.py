"""Salience on the demo set, whose hemispheres see opposite sides, and where that is hidden or reversed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orchestrator.cells import Cell, CellKey
from orchestrator.labelled_evaluation import classify_networks
from orchestrator.lateralisation_evaluation import lateralisation_tables
from orchestrator.networks import UNTUNED, Network
from orchestrator.plan import SweepPlan
from orchestrator.salience_evaluation import salience_of_networks
from orchestrator.storage import SweepStorage, read_json, reading_arrays
from tests.data.builders_pictures import write_colours
from tests.orchestrator.inline import InlineTasks
from tests.orchestrator.plans import small_plan
from trainables.analyses.lateralisation import encoder_lateralisation
from trainables.analyses.statistics import compare_paired
from trainables.data.algonauts import open_algonauts
from trainables.data.responses import load_target, load_test, split_digest
from trainables.encoding.encoder import RidgeEncoder
from trainables.encoding.features import extract_features
from trainables.errors import DataError
from trainables.models.backbone import build_backbone
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import load_weights, save_weights
from trainables.target import Target

LAYER, DEEPER = "features.5", "features.7"
SUBJECTS = ("subj01", "subj02")
PLACES = (("lh", "V1v"), ("rh", "V1v"))


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of the untuned network, and of one that was tuned for the left hemisphere."""

    root: Path
    storage: SweepStorage
    plan: SweepPlan
    cells: dict[CellKey, Cell]

    def run(self) -> tuple[dict[str, Any], dict[str, int]]:
        """The file that the report reads, and how much was computed for it."""
        tasks = InlineTasks()
        assert salience_of_networks(self.storage, self.plan, self.cells, tasks, {"protocol": "nested"}) == []
        return read_json(self.storage.evaluation_file("salience")), tasks.counts


def _cell(layers: dict[str, str]) -> Cell:
    """As the encoding evaluation leaves it, with these readout layers by hemisphere."""
    summary = {
        "protocol": "nested",
        "layers": [LAYER, DEEPER],
        "n_test": 0,
        "information": None,
        "places": [{"place": list(place), "columns": [0, 1], "choice": None} for place in PLACES],
        "kept": [[[hemisphere, "V1v"], layer] for hemisphere, layer in layers.items()],
    }
    return Cell(summary, {})


def _evaluated(root: Path, folder: Path, subjects: tuple[str, ...] = SUBJECTS) -> Evaluated:
    storage = SweepStorage(str(folder), "small")
    storage.create()
    weights = load_weights("random", "alexnet", 0)
    save_weights(weights, storage.weights_file)
    targets = tuple(Target("demo", (subject,), *place) for subject in subjects for place in PLACES)
    digest = split_digest(open_algonauts(root))
    plan = small_plan(folder, data=str(root), targets=targets, split_digest=digest, cutoffs=(DEEPER,))
    plan = replace(plan, roi_groups={"V1v": "early"})
    untuned = Network(UNTUNED, UNTUNED, None, "", None)
    tuned_place = storage.trial_dir(targets[0], "contrastive", 3)
    state = build_backbone("alexnet", load_weights("random", "alexnet", 1).state, LAYER).state_dict()
    TunedModel("alexnet", LAYER, "contrastive", LAYER, state).save(tuned_place)
    name = f"{targets[0].slug}.contrastive"
    tuned = Network(name, "contrastive", targets[0], f"{name}/00003", str(tuned_place), LAYER)
    own = [(untuned, subject) for subject in subjects] + [(tuned, subjects[0])]
    cells = {
        CellKey(network, str(root), "demo", subject, False, PLACES): _cell({"lh": LAYER, "rh": DEEPER})
        if network is untuned and subject == "subj02"
        else _cell({"lh": LAYER, "rh": LAYER})
        for network, subject in own
    }
    return Evaluated(root, storage, plan, cells)


def _responses(root: Path, subject: str, hemisphere: str) -> Path:
    return root / subject / f"training_split/training_fmri/{hemisphere}_training_fmri.npy"


def _exchanged(root: Path, copy: Path, share: float) -> Path:
    """The demo set with a share of V1v's voxels of the smaller hemisphere exchanged for voxels of the other one."""
    shutil.copytree(root, copy)
    dataset = open_algonauts(copy)
    for subject in SUBJECTS:
        generator = np.random.default_rng(0)
        voxels = [generator.permutation(dataset.subject(subject).voxels(h, "V1v")) for h, _ in PLACES]
        n = round(share * min(map(len, voxels)))
        files = [_responses(copy, subject, hemisphere) for hemisphere, _ in PLACES]
        left, right = (np.load(file) for file in files)
        kept = left[:, voxels[0][:n]].copy()
        left[:, voxels[0][:n]], right[:, voxels[1][:n]] = right[:, voxels[1][:n]], kept
        for file, responses in zip(files, (left, right), strict=True):
            np.save(file, responses)
    return copy


@pytest.fixture(scope="module")
def real(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    return _evaluated(demo_root, tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def content(real: Evaluated) -> dict[str, Any]:
    return real.run()[0]


def test_real_hemispheres_differ_by_all_three_units(content: dict[str, Any]) -> None:
    voxels = content["lateralisation_voxels"]
    assert {(row["network"], row["subject"]) for row in voxels} == {
        ("untuned", "subj01"),
        ("untuned", "subj02"),
        ("subj01-lh-V1v.contrastive", "subj01"),
    }
    for row in voxels:
        assert row["mean_difference"] > 3 * row["spread"] > 0, row
        assert row["right_model"] > 0 > row["left_model"]
        assert row["p"] == row["p_corrected"] == 1 / 200
        assert row["correction"] == "Benjamini-Hochberg over 3 comparisons"
        assert row["layer"] == LAYER, "the shallower of both"
        assert "199 exchanges of voxels" in row["protocol"]
    stimuli = content["lateralisation"]
    assert {(row["subject"], row["method"]) for row in stimuli} == {("subj01", "untuned"), ("subj02", "untuned")}
    assert all(row["mean_difference"] > 0.2 and row["p_corrected"] < 1e-3 for row in stimuli)
    (subjects,) = content["lateralisation_subjects"]
    assert (subjects["n"], subjects["subject"], subjects["method"]) == (2, None, "untuned")
    assert subjects["mean_difference"] > 0.2
    assert subjects["p_sign_flip"] == 0.5, "two subjects cannot say more"


def test_comparison_over_subjects_is_that_of_their_means(content: dict[str, Any], real: Evaluated) -> None:
    means = {}
    for subject in SUBJECTS:
        for hemisphere in ("lh", "rh"):
            folder = real.storage.evaluation_dir / "salience" / f"untuned.{subject}-{hemisphere}-V1v"
            (file,) = folder.glob("*.npz")
            with reading_arrays(file) as archive:
                means[subject, hemisphere] = float(archive["preference"].mean())
    right, left = ([means[subject, h] for subject in SUBJECTS] for h in ("rh", "lh"))
    expected = compare_paired(right, left, protocol="")
    (row,) = content["lateralisation_subjects"]
    assert row["mean_difference"] == pytest.approx(expected.mean_difference)
    assert row["interval"] == pytest.approx(expected.interval)
    assert row["p"] == pytest.approx(expected.p)
    assert row["protocol"] == "nested; pairs are subjects"


def test_exchange_is_that_of_encoders_fitted_to_train_and_mapped_on_test(
    content: dict[str, Any], demo_root: Path
) -> None:
    dataset = open_algonauts(demo_root)
    model = build_backbone("alexnet", load_weights("random", "alexnet", 0).state, LAYER)
    encoders = []
    for place in PLACES:
        train = load_target(dataset, Target("demo", ("subj02",), *place)).train
        features = extract_features(model, train.stimuli, train.rows, [LAYER])[LAYER]
        encoders.append(RidgeEncoder().fit(features, train.responses))
    test = load_test(dataset, Target("demo", ("subj02",), "rh", "V1v"))
    expected = encoder_lateralisation(model, LAYER, encoders[0], encoders[1], test.stimuli, test.rows, n_exchanges=0)
    (row,) = [r for r in content["lateralisation_voxels"] if (r["network"], r["subject"]) == ("untuned", "subj02")]
    assert row["mean_difference"] == pytest.approx(expected.difference, abs=1e-5)
    assert row["n"] == sum(expected.n_voxels)


def test_evaluating_again_computes_nothing(content: dict[str, Any], real: Evaluated) -> None:
    again, computed = real.run()
    assert computed == {}
    assert again == content


def test_stimuli_that_changed_since_are_refused(real: Evaluated, tmp_path: Path) -> None:
    changed = replace(
        real, plan=replace(real.plan, split_digest="0" * 16), storage=SweepStorage(str(tmp_path), "small")
    )
    with pytest.raises(DataError, match="the sweep was made with 0000000000000000"):
        changed.run()


@pytest.mark.parametrize(("share", "sign"), [(0.5, 0), (1.0, -1)], ids=["mixed", "swapped"])
def test_exchange_finds_nothing_in_mixed_hemispheres_and_the_reverse_in_swapped_ones(
    content: dict[str, Any], demo_root: Path, tmp_path: Path, share: float, sign: int
) -> None:
    changed = _evaluated(_exchanged(demo_root, tmp_path / "demo", share), tmp_path / "results")
    found = lateralisation_tables(changed.storage, changed.plan, changed.cells, [], InlineTasks())
    contralateral = {(r["network"], r["subject"]): r["mean_difference"] for r in content["lateralisation_voxels"]}
    for row in found["lateralisation_voxels"]:
        real_difference = contralateral[row["network"], row["subject"]]
        if sign:
            assert row["mean_difference"] < -real_difference / 2
            assert row["p_corrected"] < 0.05
        else:
            assert abs(row["mean_difference"]) < real_difference / 2
            assert row["p"] > 0.05


def test_a_single_subject_is_no_comparison_over_subjects(content: dict[str, Any], real: Evaluated) -> None:
    first = {key: cell for key, cell in real.cells.items() if key.subject == "subj01"}
    found, computed = replace(real, cells=first).run()
    assert computed == {}
    assert found["lateralisation_subjects"] == []
    assert len(found["lateralisation_voxels"]) == 2


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that colour tells apart."""
    return write_colours(tmp_path_factory.mktemp("labelled") / "colours", 15)


def test_classes_of_labelled_pictures_have_maps_of_each_network(
    content: dict[str, Any], real: Evaluated, labelled: Path
) -> None:
    assert content["class_gallery"] == [], "nothing was classified then"
    networks = list(dict.fromkeys(key.network for key in real.cells))

    def classified() -> dict[str, int]:
        tasks = InlineTasks()
        classify_networks(real.storage, real.plan, networks, [str(labelled)], tasks, {}, maps=True)
        return tasks.counts

    assert classified() == {"classification of colours": 2}
    found, _ = real.run()
    assert {entry["network"]: entry["layer"] for entry in found["class_gallery"]} == {
        "untuned": DEEPER,  # the deepest that these weights were cut at
        "subj01-lh-V1v.contrastive": LAYER,
    }
    for entry in found["class_gallery"]:
        assert set(entry["classes"]) == {"blue", "red"}
        assert len(entry["images"]) == len(entry["classes"]) == 4
        for place, colour in zip(entry["images"], entry["classes"], strict=True):
            with Image.open(Path(str(real.storage.evaluation_dir)) / place) as image:
                mean = np.asarray(image, float).mean(axis=(0, 1))
            assert mean.argmax() == ("red", "green", "blue").index(colour)
    assert classified() == {}
    lost = Path(str(real.storage.evaluation_dir)) / found["class_gallery"][0]["images"][0]
    lost.unlink()
    assert len(real.run()[0]["class_gallery"]) == 1, "maps that are gone are not shown"
    assert classified() == {"classification of colours": 1}
    assert lost.exists()
