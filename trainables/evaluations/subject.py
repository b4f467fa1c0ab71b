"""One network and one subject: features once, one factorisation a layer, and with it the scores of all ROIs.

Encoding (a network's own subject) and transfer (any other subject, of any data set) are both this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.dataset import Dataset
from trainables.data.responses import load_target, load_test
from trainables.data.splits import PUBLISHED_A, PUBLISHED_B
from trainables.encoding import _solvers
from trainables.encoding.cross_validation import N_FOLDS, CrossValidation, cross_validate
from trainables.encoding.encoder import fit_gram
from trainables.encoding.features import extract_features
from trainables.encoding.pls import fit_gram_pls
from trainables.encoding.scores import pearson_r
from trainables.errors import DataError
from trainables.models.backbone import Backbone
from trainables.target import Target

AT_ONCE_BYTES = 2 << 30
"""Features of several layers are held together up to this size; larger ones come a layer at a time."""

Place = tuple[str, str]
"""Hemisphere and ROI."""
Choice = tuple[str, float]
"""Readout layer and penalty."""


@dataclass(frozen=True, eq=False)
class SubjectParts:
    """All that a subject has for some ROIs: stimuli, and the voxels of one ROI after the other."""

    name: str
    stimuli: NDArray[np.uint8]
    """(n_stimuli, size, size, 3)."""
    rows: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
    """Of the training, validation and test part; the second is empty under a published protocol."""
    responses: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
    """Of the three parts, ``[n_rows, n_voxels]``, all ROIs side by side."""
    places: Mapping[Place, slice]
    """Columns of each ROI."""
    noise_ceiling: NDArray[np.float32] | None
    """Of the test part, ``[n_voxels]``; None without ncsnr."""


def load_parts(
    dataset: Dataset,
    subject: str,
    places: Iterable[Place],
    split_seed: int,
    protocol: str,
    cache_dir: Path | None = None,
) -> SubjectParts:
    """Read a subject, test responses included: for networks that are already chosen.

    Raises:
        DataError: no ROI is asked for, or a file is damaged.
    """
    trains, vals, tests, columns, start = [], [], [], {}, 0
    for hemisphere, roi in places:
        target = Target(dataset.name, (subject,), hemisphere, roi)
        data = load_target(dataset, target, split_seed, cache_dir, protocol=protocol)
        trains.append(data.train)
        vals.append(data.val)
        tests.append(load_test(dataset, target, split_seed, cache_dir, protocol=protocol))
        columns[hemisphere, roi] = slice(start, start + data.n_voxels)
        start += data.n_voxels
    if not trains:
        raise DataError(f"{subject} is to be scored in no ROI; expected at least one")
    folded = {PUBLISHED_A: trains[0].rows, PUBLISHED_B: tests[0].rows}.get(protocol)
    if folded is not None and len(folded) < 3 * N_FOLDS:
        raise DataError(
            f"{subject} leaves {len(folded)} stimuli to the {N_FOLDS} folds of {protocol}; it takes {3 * N_FOLDS}"
        )
    ceilings = [part.noise_ceiling for part in tests]
    known = [ceiling for ceiling in ceilings if ceiling is not None]
    return SubjectParts(
        name=subject,
        stimuli=trains[0].stimuli,
        rows=(trains[0].rows, vals[0].rows, tests[0].rows),
        responses=(
            np.hstack([part.responses for part in trains]),
            np.hstack([part.responses for part in vals]),
            np.hstack([part.responses for part in tests]),
        ),
        places=columns,
        noise_ceiling=np.concatenate(known) if len(known) == len(ceilings) else None,
    )


class FeatureBank:
    """Features of some stimuli, extracted once and shared by all evaluations of a task."""

    def __init__(self, network: Backbone, stimuli: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        self.network, self.stimuli, self.rows = network, stimuli, rows
        self._held: dict[str, Tensor] = {}

    def hold(self, layers: Sequence[str]) -> None:
        """Extract several layers in one pass, if they fit together."""
        widths = self.network.spec.readout_layers
        if 4 * len(self.rows) * sum(widths[layer] for layer in layers) <= AT_ONCE_BYTES:
            self._held |= extract_features(self.network, self.stimuli, self.rows, layers)

    def take(self, layer: str) -> Tensor:
        """Features ``[n_rows, n_features]``, which the bank no longer holds: they may be changed."""
        if layer in self._held:
            return self._held.pop(layer)
        return extract_features(self.network, self.stimuli, self.rows, [layer])[layer]


@dataclass(frozen=True, eq=False)
class SubjectScores:
    """Encoding accuracy of one network on one subject."""

    val: Mapping[str, NDArray[np.float64]]
    """Pearson r by layer on validation stimuli ``[n_voxels]``; empty under a published protocol."""
    test: Mapping[str, NDArray[np.float64]]
    """Pearson r by layer on held-out stimuli ``[n_voxels]``, NaN where a protocol has none for the layer."""
    predicted: Mapping[str, NDArray[np.float32]]
    """By layer, test responses as predicted ``[n_test, n_voxels]``; empty where folds are scored."""
    choices: Mapping[Place, Choice]
    """``published-a`` alone: readout layer and penalty of each ROI."""


def score_nested(network: Backbone, parts: SubjectParts, bank: FeatureBank, encoder: str = "ridge") -> SubjectScores:
    """Fit on the training part, score on the other two, at every readout layer.

    Args:
        network: on the device that is to compute.
        parts: of the subject.
        bank: features of the rows of the three parts, one after the other.
        encoder: ``ridge`` or ``pls``.
    """
    n_train, n_val = len(parts.rows[0]), len(parts.rows[1])
    val, test, predicted = {}, {}, {}
    bank.hold(network.readout_layers)
    for layer in network.readout_layers:
        features = bank.take(layer)
        products, tolerance = _products(features, n_train)
        y = torch.as_tensor(parts.responses[0], device=features.device)
        fit = (fit_gram_pls if encoder == "pls" else fit_gram)(products[:n_train], y, tolerance)
        both = fit.predict(products[n_train:]).cpu().numpy()
        val[layer] = pearson_r(both[:n_val], parts.responses[1])
        test[layer] = pearson_r(both[n_val:], parts.responses[2])
        predicted[layer] = both[n_val:].astype(np.float32)
    return SubjectScores(val, test, predicted, {})


def score_published_a(
    network: Backbone, parts: SubjectParts, bank: FeatureBank, choices: Mapping[Place, Choice] | None
) -> SubjectScores:
    """One readout layer and one penalty a ROI, those of the untuned network, for every method.

    Args:
        network: on the device that is to compute.
        parts: of the subject.
        bank: features of the rows of the training and the test part.
        choices: of the untuned network; None for that network itself, which makes them by cross-validation inside the
            training part.
    """
    n_train = len(parts.rows[0])
    bank.hold(network.readout_layers)
    folds = {} if choices else _cross_validated(network, parts, bank, n_train)
    chosen = dict(choices) if choices else {place: _best(folds, columns) for place, columns in parts.places.items()}
    n_voxels = parts.responses[0].shape[1]
    test = {layer: np.full(n_voxels, np.nan) for layer in network.readout_layers}
    predicted: dict[str, NDArray[np.float32]] = {}
    y = torch.as_tensor(parts.responses[0], dtype=torch.float64)
    for layer in dict.fromkeys(layer for place, (layer, _) in chosen.items() if place in parts.places):
        features = bank.take(layer)
        products, tolerance = _products(features, n_train)
        predicted[layer] = np.full((len(parts.rows[2]), n_voxels), np.nan, np.float32)
        for place, columns in parts.places.items():
            if chosen[place][0] == layer:
                own = y[:, columns].to(features.device)
                fit = fit_gram(products[:n_train], own, tolerance, alphas=(chosen[place][1],))
                found = fit.predict(products[n_train:]).cpu().numpy()
                test[layer][columns] = pearson_r(found, parts.responses[2][:, columns])
                predicted[layer][:, columns] = found
    return SubjectScores({}, test, predicted, chosen)


def score_published_b(network: Backbone, parts: SubjectParts, bank: FeatureBank) -> SubjectScores:
    """Cross-validation inside the held-out part, a penalty for each voxel, at every readout layer.

    Layer and penalties are chosen on the folds that are reported: optimistic, and to be said wherever it is shown.

    Args:
        network: on the device that is to compute.
        parts: of the subject.
        bank: features of the rows of the test part.
    """
    bank.hold(network.readout_layers)
    test = {
        layer: cross_validate(bank.take(layer), parts.responses[2]).r_at_best_alphas for layer in network.readout_layers
    }
    return SubjectScores({}, test, {}, {})


def score_subject(
    network: Backbone,
    parts: SubjectParts,
    protocol: str,
    *,
    encoder: str = "ridge",
    choices: Mapping[Place, Choice] | None = None,
) -> tuple[SubjectScores, FeatureBank]:
    """Scores by the protocol, and the bank for further evaluations of the same network and stimuli.

    Raises:
        ConfigError: a layer that the network lacks.
        ValueError: too few stimuli for the folds of a published protocol.
    """
    rows = parts.rows[2] if protocol == PUBLISHED_B else np.concatenate(parts.rows)
    bank = FeatureBank(network, parts.stimuli, rows)
    if protocol == PUBLISHED_B:
        return score_published_b(network, parts, bank), bank
    if protocol == PUBLISHED_A:
        return score_published_a(network, parts, bank, choices), bank
    return score_nested(network, parts, bank, encoder), bank


def _products(features: Tensor, n_train: int) -> tuple[Tensor, float]:
    return _solvers.centred_cross_gram(features, n_train), _solvers.RELATIVE_TOLERANCE[features.dtype]


def _cross_validated(
    network: Backbone, parts: SubjectParts, bank: FeatureBank, n_train: int
) -> dict[str, CrossValidation]:
    return {layer: cross_validate(bank.take(layer)[:n_train], parts.responses[0]) for layer in network.readout_layers}


def _best(folds: Mapping[str, CrossValidation], columns: slice) -> Choice:
    """Layer and penalty with the highest mean r over the ROI's voxels; the earlier one on a tie."""
    scores = {
        (layer, float(alpha)): float(r[columns].mean())
        for layer, found in folds.items()
        for alpha, r in zip(found.alphas, found.r, strict=True)
    }
    return max(scores, key=scores.__getitem__)
