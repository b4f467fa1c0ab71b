"""How well a network's features still tell object or scene classes apart.

Features of all images at one readout layer, standardised, and a multinomial logistic regression on 85 % of them; what
is kept are accuracy and class probabilities on the other 15 %. The 15 % are the same images for every network, so
probabilities of many networks can be compared (`trainables.analyses.landscape`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from trainables.encoding.features import extract_features
from trainables.evaluations.logistic import LogisticFit, fit_logistic
from trainables.models.backbone import Backbone
from trainables.models.images import Stimuli

Part = Literal["test", "val"]

READOUT_LAYER = "classifier.5"
"""The layer before the class outputs of AlexNet, 4096 features."""

_TEST_FROM, _VAL_FROM = 0.85, 0.70
"""Shares of the shuffled images at which the test and the validation part begin."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """What was fitted: standardisation and logistic regression of the features at one readout layer."""

    layer: str
    """The readout layer."""
    mean: Tensor
    """Of each feature over the fitted images, float32 ``[n_features]``."""
    scale: Tensor
    """What each centred feature is divided by, float32 ``[n_features]``."""
    fit: LogisticFit

    def logits(self, features: Tensor) -> Tensor:
        """Logit of each class, ``[n, n_classes]``, differentiable in the features ``[n, n_features]``; minus infinity
        for a class that the fit never saw.
        """
        fit, device = self.fit, features.device
        standardised = (features.float() - self.mean.to(device)) / self.scale.to(device)
        return torch.addmm(fit.intercepts.to(device), standardised, fit.weights.to(device))


@dataclass(frozen=True, eq=False)
class ClassificationScores:
    """How well a classifier on one network's features names the classes of images that it was not fitted to."""

    accuracy: float
    """Share of the scored images whose most probable class is the true one, 0 to 1."""
    chance: float
    """Accuracy to expect of naming the most frequent class every time; 1 / n_classes where all are as frequent."""
    layer: str
    """The readout layer that the features were taken from."""
    part: Part
    """Which images were scored."""
    n_train: int
    """Images that the classifier was fitted to."""
    n_test: int
    """Images that were scored."""
    n_classes: int
    """Classes of the labelled set."""
    probabilities: NDArray[np.float32]
    """Of each class for each scored image, ``[n_test, n_classes]``; a class without a fitted image has 0."""
    test_rows: NDArray[np.int64]
    """The scored images' places in the set, ascending, ``[n_test]``."""
    labels: NDArray[np.int64]
    """Their true classes, ``[n_test]``."""
    converged: bool
    """Whether the classifier's fit reached its minimum."""
    classifier: Classifier
    """What the scores are of."""


def classify(
    model: Backbone,
    images: Stimuli,
    labels: ArrayLike,
    *,
    n_classes: int | None = None,
    part: Part = "test",
    layer: str = READOUT_LAYER,
    seed: int = 0,
    precision: str = "float32",
) -> ClassificationScores:
    """Fit a classifier to the features of one part of a labelled set and score it on another.

    ``part="test"`` fits on 85 % of the images and scores the rest, as published. ``part="val"`` is for what must be
    chosen: it fits on 70 % and scores 15 % of the images, all taken from the 85 %; the test images are not looked at.

    Args:
        model: network on the device that is to compute.
        images: RGB, uint8 ``[n, size, size, 3]``, of the backbone's size (`trainables.data.labelled`).
        labels: class of each image, int ``[n]``.
        n_classes: classes of the set; by default one more than the largest label.
        part: the images to score.
        layer: readout layer; where the network is cut before it, its deepest one is taken, and the result says so.
        seed: of the split.
        precision: of the network's pass.

    Raises:
        ConfigError: images of another type or size.
        ValueError: labels that do not match the images or lie outside their range, too few images, images of one
            class alone, or features that are not finite.
    """
    truth, n_classes = _require_labels(labels, len(images), n_classes)
    fitted_rows, scored_rows = split_rows(len(truth), part, seed)
    chosen = layer if layer in model.readout_layers else model.readout_layers[-1]
    rows = np.concatenate([fitted_rows, scored_rows])
    features = extract_features(model, images, rows, [chosen], precision=precision)[chosen]
    mean, scale = standardise(features, len(fitted_rows))
    fit = _fit(features[: len(fitted_rows)], truth[fitted_rows], n_classes)
    probabilities = fit.probabilities(features[len(fitted_rows) :]).cpu().numpy()
    seen = truth[rows]
    return ClassificationScores(
        accuracy=float(np.mean(probabilities.argmax(axis=1) == truth[scored_rows])),
        chance=float(np.bincount(seen).max() / len(seen)),
        layer=chosen,
        part=part,
        n_train=len(fitted_rows),
        n_test=len(scored_rows),
        n_classes=n_classes,
        probabilities=probabilities,
        test_rows=scored_rows,
        labels=truth[scored_rows],
        converged=fit.converged,
        classifier=Classifier(chosen, mean, scale, fit),
    )


def split_rows(n: int, part: Part = "test", seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to fit and rows to score, each ascending.

    The test part is that of ``torch.utils.data.random_split`` with ``int(0.85 n)`` images for training and a generator
    of this seed; classes are not balanced.

    Raises:
        ValueError: so few images that a part is empty, or another word than test or val.
    """
    if part not in ("test", "val"):
        raise ValueError(f"part is {part!r}; expected 'test' or 'val'")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    val_from, test_from = int(_VAL_FROM * n), int(_TEST_FROM * n)
    fitted, scored = (
        (order[:test_from], order[test_from:]) if part == "test" else np.split(order[:test_from], [val_from])
    )
    if not len(fitted) or not len(scored):
        raise ValueError(f"the set holds {n} images; 70 %, 15 % and 15 % of them must each be at least one")
    return np.sort(fitted), np.sort(scored)


def standardise(features: Tensor, n_fitted: int) -> tuple[Tensor, Tensor]:
    """Shift and scale in place to mean 0 and standard deviation 1 over the first ``n_fitted`` rows.

    A feature that does not vary over them is only shifted, as by scikit-learn's ``StandardScaler``.

    Returns:
        What was subtracted from each feature and what it was then divided by, ``[n_features]`` each.
    """
    fitted = features[:n_fitted]
    deviation, mean = torch.std_mean(fitted, dim=0, correction=0)
    varies = fitted.amax(dim=0) > fitted.amin(dim=0)
    scale = torch.where(varies, deviation, 1.0)
    features.sub_(mean).div_(scale)
    return mean, scale


def _fit(features: Tensor, labels: NDArray[np.int64], n_classes: int) -> LogisticFit:
    return fit_logistic(features, torch.from_numpy(labels).to(features.device), n_classes)


def _require_labels(labels: ArrayLike, n_images: int, n_classes: int | None) -> tuple[NDArray[np.int64], int]:
    given = np.asarray(labels)
    if given.shape != (n_images,) or given.dtype.kind not in "iu":
        raise ValueError(f"labels are {given.dtype} of shape {given.shape}; expected integers of shape ({n_images},)")
    truth = given.astype(np.int64)
    highest = int(truth.max(initial=-1))
    n_classes = highest + 1 if n_classes is None else n_classes
    if truth.min(initial=0) < 0 or highest >= n_classes:
        raise ValueError(f"labels run from {truth.min(initial=0)} to {highest}; expected 0 to {n_classes - 1}")
    return truth, n_classes
