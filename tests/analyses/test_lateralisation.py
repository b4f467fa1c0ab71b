"""Indices by hand, and the demo set's contralateral receptive fields, with a random AlexNet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from trainables.analyses import lateralisation
from trainables.analyses.lateralisation import (
    VoxelLateralisation,
    encoder_lateralisation,
    lateralisation_index,
    lateralisation_test,
    mirrored,
    side_preference,
)
from trainables.analyses.salience import GRAD_CAM, HIRES_CAM, response_score, salience_maps
from trainables.data.algonauts import AlgonautsDataset
from trainables.data.responses import load_target
from trainables.encoding.encoder import RidgeEncoder
from trainables.encoding.features import extract_features
from trainables.errors import ConfigError
from trainables.models.backbone import Backbone, build_backbone
from trainables.models.weights import load_weights
from trainables.target import Target

LAYER = "features.5"


def _maps(n: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (n, 5, width)).astype(np.float32)


def test_index_by_hand() -> None:
    maps = np.zeros((4, 2, 5), np.float32)
    maps[0, 0, 0] = 3
    maps[1, 1, 4] = 2
    maps[2, :, 0], maps[2, :, 3], maps[2, :, 2] = 3, 1, 100  # the middle column counts for neither side
    np.testing.assert_allclose(lateralisation_index(maps), [1.0, -1.0, 0.5, np.nan])


def test_mirror_images_exchange_left_and_right() -> None:
    stimuli = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    flipped = mirrored(stimuli)
    for x in range(6):
        np.testing.assert_array_equal(flipped[:, :, x], stimuli[:, :, 5 - x])
    of_tensor = mirrored(torch.from_numpy(stimuli))
    assert isinstance(of_tensor, torch.Tensor)
    np.testing.assert_array_equal(of_tensor.numpy(), flipped)
    maps = _maps()
    np.testing.assert_allclose(lateralisation_index(maps[:, :, ::-1]), -lateralisation_index(maps))


def test_the_pictures_own_asymmetry_cancels_and_the_models_preference_stays() -> None:
    """A model that weighs places by a fixed window, on pictures of which each has its mass somewhere else."""
    pictures = _maps(50) * np.linspace(0.2, 1.8, 8, dtype=np.float32)
    mirror = pictures[:, :, ::-1]
    blind = side_preference(pictures, mirror)
    np.testing.assert_allclose(blind, 0, atol=1e-7)
    window = np.array([3, 3, 3, 3, 1, 1, 1, 1], np.float32)
    leftward = side_preference(pictures * window, mirror * window)
    # Of a picture of mass l and r: ((3l - r) / (3l + r) + (3r - l) / (3r + l)) / 2
    left, right = pictures[:, :, :4].sum((1, 2)), pictures[:, :, 4:].sum((1, 2))
    expected = ((3 * left - right) / (3 * left + right) + (3 * right - left) / (3 * right + left)) / 2
    np.testing.assert_allclose(leftward, expected, rtol=1e-5)
    assert (leftward > 0).all()
    assert lateralisation_index(pictures).max() < 0, "although every picture has its mass on the right"


def test_paired_over_stimuli_and_without_those_that_have_no_mass() -> None:
    window = np.linspace(2, 1, 8, dtype=np.float32)
    pictures = _maps(20)
    mirror = pictures[:, :, ::-1]
    right = pictures * window, mirror * window
    left = pictures * window[::-1], mirror * window[::-1]
    right[1][4] = 0
    found = lateralisation_test(left, right, protocol="nested, test stimuli")
    assert found.n_without_mass == 1
    assert found.comparison.n == 19
    assert found.comparison.protocol == "nested, test stimuli; pairs are stimuli"
    keep = np.delete(np.arange(20), 4)
    differences = side_preference(*right)[keep] - side_preference(*left)[keep]
    assert found.comparison.mean_difference == pytest.approx(differences.mean())
    assert found.right_model - found.left_model == pytest.approx(differences.mean())
    assert found.right_model > 0 > found.left_model
    assert found.comparison.p < 1e-6


def test_refusals() -> None:
    maps = _maps()
    with pytest.raises(ValueError, match="masses"):
        lateralisation_index(-maps)
    with pytest.raises(ValueError, match="two columns"):
        lateralisation_index(maps[:, :, :1])
    with pytest.raises(ValueError, match="same stimuli"):
        side_preference(maps, maps[:3])
    with pytest.raises(ValueError, match="same stimuli"):
        lateralisation_test((maps, maps), (maps[:3], maps[:3]), protocol="x")
    with pytest.raises(ValueError, match="none of 6 stimuli"):
        lateralisation_test((maps, maps), (0 * maps, maps), protocol="x")


@dataclass(frozen=True, eq=False)
class Planted:
    """V1v of the demo set: the left hemisphere's receptive fields lie in the right half of the pictures."""

    model: Backbone
    stimuli: np.ndarray
    left: RidgeEncoder
    right: RidgeEncoder
    unseen: np.ndarray

    def measure(self, left: RidgeEncoder, right: RidgeEncoder, n_exchanges: int = 99) -> VoxelLateralisation:
        return encoder_lateralisation(
            self.model, LAYER, left, right, self.stimuli, self.unseen, n_exchanges=n_exchanges
        )

    def maps(self, encoder: RidgeEncoder, kind: str) -> tuple[np.ndarray, np.ndarray]:
        score, chosen = response_score(encoder, LAYER), self.stimuli[self.unseen]
        first, second = (
            salience_maps(self.model, score, pictures, np.arange(len(chosen)), kind=kind).maps
            for pictures in (chosen, mirrored(chosen))
        )
        return first, second


@pytest.fixture(scope="module")
def planted(demo: AlgonautsDataset) -> Planted:
    model = build_backbone("alexnet", load_weights("random", "alexnet", 0).state, LAYER)
    parts = [load_target(demo, Target("demo", ("subj01",), side, "V1v")).train for side in ("lh", "rh")]
    stimuli, rows = np.asarray(parts[0].stimuli), parts[0].rows
    features = extract_features(model, stimuli, rows, [LAYER])[LAYER]
    left, right = (RidgeEncoder().fit(features, part.responses) for part in parts)
    return Planted(model, stimuli, left, right, np.setdiff1d(np.arange(len(stimuli)), rows))


def _dealt(planted: Planted, seed: int) -> tuple[RidgeEncoder, RidgeEncoder]:
    """Two encoding models, each with half of the voxels of either hemisphere."""
    generator, halves = np.random.default_rng(seed), (RidgeEncoder(), RidgeEncoder())
    columns: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for encoder in (planted.left, planted.right):
        order = generator.permutation(encoder.coef_.shape[1])
        for half, chosen in zip(columns, np.array_split(order, 2), strict=True):
            half.append(encoder.coef_[:, chosen])
    for half_encoder, parts in zip(halves, columns, strict=True):
        half_encoder.coef_ = np.concatenate(parts, axis=1)
    return halves


def test_finds_the_contralateral_field(planted: Planted) -> None:
    found = planted.measure(planted.left, planted.right)
    assert found.right_model > 0.2
    assert found.left_model < -0.2
    assert found.difference == pytest.approx(found.right_model - found.left_model)
    assert found.p_exchange == 0.01
    assert found.difference > 3 * found.exchanged_spread
    assert (found.n_stimuli, found.n_exchanges, found.layer) == (len(planted.unseen), 99, LAYER)
    assert found.n_voxels == (planted.left.coef_.shape[1], planted.right.coef_.shape[1])
    swapped = planted.measure(planted.right, planted.left, n_exchanges=0)
    assert swapped.difference == pytest.approx(-found.difference, abs=1e-6)


def test_finds_nothing_when_the_hemispheres_are_mixed(planted: Planted) -> None:
    contralateral = planted.measure(planted.left, planted.right, n_exchanges=0).difference
    mixed = [planted.measure(*_dealt(planted, seed), n_exchanges=39) for seed in range(3)]
    assert all(abs(each.difference) < contralateral / 2 for each in mixed)
    p = np.array([each.p_exchange for each in mixed])
    assert p.min() > 0.05


def test_maps_and_closed_form_agree_and_grad_cam_is_blind(planted: Planted) -> None:
    by_voxels = planted.measure(planted.left, planted.right, n_exchanges=0)
    hires, grad = (
        lateralisation_test(planted.maps(planted.left, kind), planted.maps(planted.right, kind), protocol="demo")
        for kind in (HIRES_CAM, GRAD_CAM)
    )
    # Enlarging the map moves mass over the middle: 13 columns become 224.
    assert hires.left_model == pytest.approx(by_voxels.left_model, abs=0.1)
    assert hires.right_model == pytest.approx(by_voxels.right_model, abs=0.1)
    assert hires.comparison.p < 1e-6
    assert abs(grad.comparison.mean_difference) < 0.03 * hires.comparison.mean_difference


def test_exchanges_are_those_of_a_naive_loop(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted.measure(planted.left, planted.right, n_exchanges=7)
    monkeypatch.setattr(lateralisation, "_DEALS_AT_A_TIME", 3)
    again = planted.measure(planted.left, planted.right, n_exchanges=7)
    assert again.exchanged_spread == pytest.approx(found.exchanged_spread, abs=1e-6), "however many at a time"
    assert again.p_exchange == found.p_exchange
    chosen = planted.stimuli[planted.unseen]
    images, mirror = (
        extract_features(planted.model, pixels, np.arange(len(chosen)), [LAYER])[LAYER].numpy().reshape(-1, 192, 13, 13)
        for pixels in (chosen, mirrored(chosen))
    )
    coefficients = np.concatenate([planted.left.coef_, planted.right.coef_], axis=1)
    is_left = np.arange(coefficients.shape[1]) < planted.left.coef_.shape[1]
    generator, differences = np.random.default_rng(0), []
    for number in range(8):
        group = generator.permutation(is_left) if number else is_left
        means = []
        for members in (group, ~group):
            gradient = coefficients[:, members].mean(axis=1).reshape(192, 13, 13)
            pair = [np.maximum((each * gradient).sum(axis=1), 0) for each in (images, mirror)]
            means.append(side_preference(*pair).mean())
        differences.append(means[1] - means[0])
    assert found.difference == pytest.approx(differences[0], abs=1e-4)
    assert found.exchanged_spread == pytest.approx(np.sqrt(np.mean(np.square(differences[1:]))), abs=1e-4)
    assert found.p_exchange == np.mean(np.abs(differences) >= abs(differences[0]) - 1e-6)


def test_a_layer_without_places(planted: Planted) -> None:
    with pytest.raises(ConfigError, match="cut at features.5"):
        encoder_lateralisation(
            planted.model, "classifier.2", planted.left, planted.right, planted.stimuli, planted.unseen
        )
    with pytest.raises(ValueError, match="no stimulus"):
        encoder_lateralisation(
            planted.model, LAYER, planted.left, planted.right, planted.stimuli, np.array([], np.int64)
        )
