"""Distances against a naive double loop, the embedding against its definition and planted paths."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import spearmanr

from trainables.analyses.landscape import (
    SMALLEST_COEFFICIENT,
    InPCA,
    bhattacharyya_distances,
    inpca,
    oracle_probabilities,
)

Distances = NDArray[np.float64]


def random_networks(m: int, n: int = 40, c: int = 6, seed: int = 0) -> NDArray[np.float64]:
    logits = np.random.default_rng(seed).normal(size=(m, n, c))
    return np.asarray(softmax(2.0 * logits, axis=2))


def path_of_networks(steps: Sequence[float], n: int = 60, c: int = 5) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Networks that go from ignorance to the truth, one logit scale each, with a little noise of their own."""
    generator = np.random.default_rng(3)
    labels = generator.integers(0, c, n)
    direction = 4.0 * np.eye(c)[labels] + generator.normal(size=(n, c))
    networks = [softmax(step * direction + 0.05 * generator.normal(size=(n, c)), axis=1) for step in steps]
    return np.array(networks), labels


def naive_distances(probabilities: NDArray[np.float64]) -> Distances:
    m, n, _ = probabilities.shape
    distances = np.zeros((m, m))
    for u in range(m):
        for v in range(m):
            for image in range(n):
                pairs = zip(probabilities[u, image], probabilities[v, image], strict=True)
                coefficient = sum(np.sqrt(p * q) for p, q in pairs)
                distances[u, v] -= np.log(coefficient) / n
    return distances


def rebuilt(result: InPCA) -> Distances:
    """Signed squared distances between the coordinates, by a double loop."""
    m = len(result.coordinates)
    signs = np.where(result.imaginary, -1.0, 1.0)
    distances = np.zeros((m, m))
    for u in range(m):
        for v in range(m):
            distances[u, v] = np.sum(signs * (result.coordinates[u] - result.coordinates[v]) ** 2)
    return distances


class Counted:
    """Rows of one network that remember how many were asked for at a time."""

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._rows = rows
        self.shape = rows.shape
        self.most = 0

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        self.most = max(self.most, len(self._rows[rows]))
        return self._rows[rows]


def test_distances_are_the_naive_ones() -> None:
    networks = random_networks(5)
    distances = bhattacharyya_distances(networks)
    np.testing.assert_allclose(distances, naive_distances(networks), atol=1e-12)
    assert distances.dtype == np.float64
    assert np.array_equal(distances, distances.T)
    assert not np.diag(distances).any()
    assert distances[~np.eye(5, dtype=bool)].min() > 0.1


@pytest.mark.parametrize("images_at_a_time", [1, 7, 40, 1000])
def test_the_block_changes_nothing(images_at_a_time: int) -> None:
    networks = random_networks(4)
    whole = bhattacharyya_distances(networks)
    np.testing.assert_allclose(
        bhattacharyya_distances(networks, images_at_a_time=images_at_a_time), whole, rtol=1e-13, atol=1e-15
    )


def test_no_more_than_a_block_is_read(tmp_path: Path) -> None:
    networks = random_networks(3).astype(np.float32)
    lazy = [Counted(rows) for rows in networks]
    distances = bhattacharyya_distances(lazy, images_at_a_time=9)
    assert [rows.most for rows in lazy] == [9, 9, 9]
    maps = []
    for index, rows in enumerate(networks):
        np.save(tmp_path / f"{index}.npy", rows)
        maps.append(np.load(tmp_path / f"{index}.npy", mmap_mode="r"))
    np.testing.assert_array_equal(bhattacharyya_distances(maps, images_at_a_time=9), distances)


def test_rounding_to_float32_makes_no_distance() -> None:
    network = random_networks(1, n=200, c=50)[0].astype(np.float32)
    slightly_off = (network * np.float32(1 + 1e-6)).astype(np.float32)
    distances = bhattacharyya_distances([network, slightly_off])
    assert abs(distances[0, 1]) < 1e-12


def test_one_certain_and_wrong_answer_stays_finite(caplog: pytest.LogCaptureFixture) -> None:
    labels = np.array([0, 1, 2, 0])
    right, wrong = oracle_probabilities(labels, 3), oracle_probabilities(np.array([0, 1, 1, 0]), 3)
    with caplog.at_level(logging.WARNING):
        distances = bhattacharyya_distances([right, wrong])
    assert distances[0, 1] == pytest.approx(-np.log(SMALLEST_COEFFICIENT) / 4)
    assert "1 of 4 coefficients" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        bhattacharyya_distances(random_networks(3))
    assert not caplog.records


@pytest.mark.parametrize(
    "probabilities, message",
    [
        ([], "expected one"),
        ([np.ones((2, 1)), np.ones((3, 1))], "shapes"),
        (np.ones((2, 0, 1)), "at least one image"),
        (np.full((2, 3, 4), 0.5), "sum to 1"),
        (np.array([[[1.5, -0.5]], [[0.5, 0.5]]]), "from -0.5"),
        (np.full((2, 1, 2), np.nan), "expected values of at least 0"),
    ],
)
def test_what_is_no_distribution_is_refused(probabilities: list[NDArray[np.float64]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bhattacharyya_distances(probabilities)


def test_the_oracle_is_one_hot() -> None:
    oracle = oracle_probabilities([2, 0], 3)
    assert oracle.dtype == np.float32
    assert oracle.tolist() == [[0, 0, 1], [1, 0, 0]]
    # Its distance from a network is half the mean log loss of that network.
    network = random_networks(1, n=2, c=3)[0]
    expected = -0.5 * np.mean([np.log(network[0, 2]), np.log(network[1, 0])])
    assert bhattacharyya_distances([oracle, network])[0, 1] == pytest.approx(expected)
    for labels in ([3], [-1], [0.5], [[0]]):
        with pytest.raises(ValueError, match="expected integers"):
            oracle_probabilities(labels, 3)


def test_coordinates_rebuild_the_distances() -> None:
    distances = bhattacharyya_distances(random_networks(12, n=3, c=3))
    result = inpca(distances)
    assert result.imaginary.any(), "the distance is not Euclidean"
    assert not result.imaginary.all()
    np.testing.assert_allclose(rebuilt(result), distances, atol=1e-12)


def test_eigenvalues_and_stress_follow_the_formulas() -> None:
    distances = bhattacharyya_distances(random_networks(9, n=3, c=3))
    m = len(distances)
    centring = np.eye(m) - np.ones((m, m)) / m
    W = -0.5 * centring @ distances @ centring
    eigenvalues = np.linalg.eigvalsh(W)
    expected = eigenvalues[np.argsort(-np.abs(eigenvalues))]
    result = inpca(distances)
    np.testing.assert_allclose(result.eigenvalues, expected, atol=1e-13)
    np.testing.assert_array_equal(result.imaginary[:-1], expected[:-1] < 0)
    assert not result.imaginary[-1], "the constant vector is nobody's axis"
    assert not result.coordinates[:, -1].any()
    for k in range(1, m + 1):
        left = 1.0 - np.sum(expected[:k] ** 2) / np.linalg.norm(W) ** 2
        assert result.explained_stress[k - 1] == pytest.approx(1.0 - np.sqrt(max(left, 0.0)), abs=1e-7)
    assert result.explained_stress[-1] == 1.0
    assert (np.diff(result.explained_stress) >= 0).all()
    # Each column is sqrt|λ| times an eigenvector of W.
    np.testing.assert_allclose(W @ result.coordinates, result.coordinates * result.eigenvalues, atol=1e-12)
    np.testing.assert_allclose((result.coordinates**2).sum(axis=0), np.abs(result.eigenvalues), atol=1e-12)


def test_points_of_a_plane_come_back() -> None:
    points = np.random.default_rng(1).normal(size=(10, 2))
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    result = inpca(distances)
    assert result.explained_stress[1] == pytest.approx(1.0, abs=1e-7)
    assert not result.imaginary.any()
    assert (result.eigenvalues[2:] < 1e-12).all()
    found = result.coordinates[:, :2]
    np.testing.assert_allclose(((found[:, None] - found[None]) ** 2).sum(axis=2), distances, atol=1e-12)


def test_a_negative_direction_is_marked() -> None:
    # Two pairs whose points are near within and, squared, far "negatively" along a second direction.
    space, time = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.3, -0.4, 0.2, 0.0])
    distances = (space[:, None] - space) ** 2 - (time[:, None] - time) ** 2
    result = inpca(distances)
    assert result.imaginary[:2].tolist() == [False, True]
    np.testing.assert_allclose(rebuilt(result), distances, atol=1e-12)


def test_a_path_of_networks_is_ordered_along_the_first_axis() -> None:
    steps = np.random.default_rng(2).permutation(np.linspace(0.0, 1.5, 15))
    networks, labels = path_of_networks(steps.tolist())
    oracle = oracle_probabilities(labels, networks.shape[2])
    result = inpca(bhattacharyya_distances([*networks, oracle]))
    first = result.coordinates[:, 0]
    rank = spearmanr(steps, first[:-1]).statistic
    assert abs(rank) > 0.99
    assert (first[-1] > first[:-1].max()) if rank > 0 else (first[-1] < first[:-1].min())
    assert result.explained_stress[0] > 0.5


def test_the_picture_does_not_flip() -> None:
    distances = bhattacharyya_distances(random_networks(8))
    order = np.random.default_rng(0).permutation(8)
    one, other = inpca(distances, n_axes=3), inpca(distances[np.ix_(order, order)], n_axes=3)
    assert one.coordinates.shape == (8, 3)
    assert len(one.eigenvalues) == len(one.imaginary) == len(one.explained_stress) == 3
    np.testing.assert_allclose(other.coordinates, one.coordinates[order], atol=1e-10)
    full = inpca(distances)
    np.testing.assert_array_equal(one.explained_stress, full.explained_stress[:3])


@pytest.mark.parametrize(
    "distances, n_axes, message",
    [
        (np.zeros((3, 3)), None, "all 0"),
        (np.ones((2, 3)), None, "shape"),
        (np.ones((1, 1)), None, "two or more"),
        (np.ones((2, 2)), None, "diagonal"),
        (np.array([[0.0, 1.0], [2.0, 0.0]]), None, "symmetric"),
        (np.array([[0.0, np.nan], [np.nan, 0.0]]), None, "finite"),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), 3, "expected 1 to 2"),
    ],
)
def test_what_are_no_distances_is_refused(distances: Distances, n_axes: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inpca(distances, n_axes)
