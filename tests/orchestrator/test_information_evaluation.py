"""Information as an evaluation wires it: which voxels, stimuli and head, against the formulas written out in NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from orchestrator.cell_scoring import CellJob, score_cell
from orchestrator.cells import Cell, CellKey, cell_place, read_cell
from orchestrator.networks import UNTUNED, Building, Network
from orchestrator.storage import SweepStorage
from tests.synthetic import POOLED_TARGET, TARGET, planted_data, tiny_config, tiny_weights
from trainables.evaluations.subject import SubjectParts
from trainables.models.backbone import OUTPUT
from trainables.models.images import normalised_batch
from trainables.models.tuned_model import TunedModel
from trainables.models.weights import save_weights
from trainables.tuning.loop import TrialRun

OWN, OTHER = ("lh", "V1v"), ("rh", "V1v")
N_TRAIN, N_VAL, N_TEST, N_VOXELS = 150, 40, 100, 20
BETAS = np.logspace(-2, 2, 1000)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Planted:
    """A subject whose responses follow the pictures, and a network that was tuned on most of them.

    It knows the pictures of the test part and not those of the validation part, so the two want different
    temperatures.
    """

    parts: SubjectParts
    model: TunedModel

    def with_head(self, method: str, **head: torch.Tensor) -> TunedModel:
        return replace(self.model, method=method, head=head)


@pytest.fixture(scope="module")
def planted() -> Planted:
    data = planted_data(N_TRAIN + N_TEST, N_VAL, N_VOXELS, noise=0.05)
    run = TrialRun(tiny_config(epochs=12, batch_size=50, learning_rate=2e-3), data, tiny_weights(), device="cpu")
    for _ in run:
        pass
    noise = np.random.default_rng(0)
    train, test = slice(0, N_TRAIN), slice(N_TRAIN, None)
    rows = (data.train.rows[train], data.val.rows, data.train.rows[test])
    own = (data.train.responses[train], data.val.responses, data.train.responses[test])
    # An ROI that the network was not tuned for comes first.
    both = [np.hstack([noise.normal(size=(len(r), 7)).astype(np.float32), r]) for r in own]
    places = {OTHER: slice(0, 7), OWN: slice(7, 7 + N_VOXELS)}
    parts = SubjectParts("subj01", data.train.stimuli, rows, (both[0], both[1], both[2]), places, None)
    return Planted(parts, run.best_model())


@pytest.fixture
def storage(tmp_path: Path) -> SweepStorage:
    storage = SweepStorage(str(tmp_path), "small")
    storage.create()
    save_weights(tiny_weights(), storage.weights_file)
    return storage


def scored(
    storage: SweepStorage,
    parts: SubjectParts,
    model: TunedModel | None,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str = "nested",
    **changes: Any,
) -> Cell:
    """The cell of ``model`` on the planted subject, or of the untuned network; ``changes`` are of its key."""
    folder = storage.root / "model"
    if model is not None:
        model.save(folder)
    target = POOLED_TARGET if model is not None and model.method.startswith("pooled") else TARGET
    network = Network(UNTUNED, UNTUNED, None, "", None)
    if model is not None:
        network = Network("a", model.method, target, "a/1", str(folder), "features.3")
    values: dict[str, Any] = {"subject": "subj01", "external": False, "places": (OTHER, OWN), **changes}
    key = CellKey(network, "", "synthetic", **values)
    building = Building(str(storage.weights_file), "tiny", OUTPUT, network.tuned)
    job = CellJob(key, 0, "", protocol, "ridge", building, None, str(cell_place(storage, key)))
    monkeypatch.setattr("orchestrator.cell_scoring._same_data", lambda job: None)
    monkeypatch.setattr("trainables.evaluations.subject.load_parts", lambda *_: parts)
    score_cell(job, device="cpu")
    cell = read_cell(storage, key)
    assert cell is not None
    return cell


def embeddings(planted: Planted, part: int) -> tuple[Array, Array]:
    """Of a part's responses and images, by the saved head, in NumPy."""
    state = {name: tensor.double().numpy() for name, tensor in planted.model.head.items()}

    def normalised(values: Array, layer: int) -> Array:
        spread = np.sqrt(values.var(axis=0) + 1e-5)
        centred: Array = (values - values.mean(axis=0)) / spread
        return np.asarray(centred * state[f"shared.{layer}.weight"] + state[f"shared.{layer}.bias"])

    def embedded(projected: Array) -> Array:
        for linear, norm in ((0, 1), (3, 4)):
            projected = projected @ state[f"shared.{linear}.weight"].T + state[f"shared.{linear}.bias"]
            projected = np.maximum(normalised(projected, norm), 0)
        values = projected @ state["shared.6.weight"].T
        return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True))

    network, parts = planted.model.build(), planted.parts
    with torch.inference_mode():
        images = network(normalised_batch(parts.stimuli, parts.rows[part], network.spec, torch.device("cpu")))
    responses = parts.responses[part][:, 7:].astype(float)
    return (
        embedded(responses @ state["response_projection.weight"].T),
        embedded(images.double().numpy() @ state["image_projection.weight"].T),
    )


def bits_at(similarity: Array, beta: float) -> float:
    weights = np.exp(similarity / (0.3 * beta))
    return float(np.mean(np.log2(np.diag(weights) / weights.mean(axis=1))))


def best_beta(similarity: Array) -> int:
    return int(np.argmax([bits_at(similarity, beta) for beta in BETAS]))


def test_beta_is_of_validation_and_bits_are_of_test_stimuli(
    planted: Planted, storage: SweepStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scored(storage, planted.parts, planted.model, monkeypatch).information
    assert found is not None
    val, test = (responses @ images.T for responses, images in (embeddings(planted, part) for part in (1, 2)))
    chosen = best_beta(val)
    assert abs(chosen - best_beta(test)) > 20, "or a β of the test stimuli would pass"
    assert found["beta"] == pytest.approx(BETAS[chosen], rel=0.02)  # a candidate or two: the bound is flat there
    assert found["bits"] == pytest.approx(bits_at(test, found["beta"]), rel=1e-4)
    assert 0.1 < found["bits"] < bits_at(test, BETAS[best_beta(test)]) - 0.1
    assert (found["n_stimuli"], found["n_validation"]) == (N_TEST, N_VAL)
    assert found["upper_limit"] == pytest.approx(np.log2(N_TEST))


def test_retrieval_is_of_the_same_test_stimuli_both_ways(
    planted: Planted, storage: SweepStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scored(storage, planted.parts, planted.model, monkeypatch).information
    assert found is not None
    responses, images = embeddings(planted, 2)
    for direction, similarity in (("images", responses @ images.T), ("responses", images @ responses.T)):
        rank = (similarity > np.diag(similarity)[:, None]).sum(axis=1)
        assert found["retrieval"][direction]["top1"] == pytest.approx((rank < 1).mean())
        assert found["retrieval"][direction]["top5"] == pytest.approx((rank < 5).mean())
        assert found["retrieval"][direction]["chance_top5"] == 5 / N_TEST
    assert found["retrieval"]["images"] != found["retrieval"]["responses"], "or exchanged directions would pass"


def test_a_pooled_network_is_asked_by_its_subjects_own_projection(
    planted: Planted, storage: SweepStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = dict(planted.model.head)
    own = head.pop("response_projection.weight")
    head |= {"response_projections.0.weight": torch.zeros(len(own), 9), "response_projections.1.weight": own}
    pooled = scored(
        storage, planted.parts, planted.with_head("pooled-avg", **head), monkeypatch, subject=POOLED_TARGET.subjects[1]
    )
    single = scored(storage, planted.parts, planted.model, monkeypatch)
    assert pooled.information == single.information is not None


def test_networks_without_an_embedding_of_the_subject_have_none(
    planted: Planted, storage: SweepStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    regression = planted.with_head("regression")
    assert scored(storage, planted.parts, regression, monkeypatch).information is None
    assert scored(storage, planted.parts, None, monkeypatch).information is None
    for changes in ({"subject": "subj09"}, {"external": True}):
        assert scored(storage, planted.parts, planted.model, monkeypatch, **changes).information is None


def test_embeddings_that_are_not_finite_have_none(
    planted: Planted, storage: SweepStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {name: value * torch.nan for name, value in planted.model.head.items()}
    found = scored(storage, planted.parts, planted.with_head("contrastive", **broken), monkeypatch)
    assert found.information is None


def test_no_temperature_is_chosen_without_validation_stimuli(
    planted: Planted, storage: SweepStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = scored(storage, planted.parts, planted.model, monkeypatch, protocol="published-b")
    assert folds.information is None
