"""Multinomial logistic regression with an L2 penalty, fitted to its minimum.

The objective is that of scikit-learn's ``LogisticRegression(C=1.0)``: with n images, p features, k classes and
softmax probabilities ``P = softmax(X W + b)``,

    ``sum_i -log P[i, y_i] + penalty / 2 * ||W||²``,    penalty = 1 / C, intercepts b free.

Where there are more features than images, as at a convolutional layer, the weights at the minimum lie in the space of
the images: with the thin singular value decomposition ``X = U S Vᵀ``, ``W = V Z`` and ``||W|| = ||Z||``. So ``U S``,
with n columns at most, can stand for X, and the minimum is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

REDUCTION_LIMIT = 12_000
"""Images above which the eigendecomposition would cost more than the columns that it saves."""

# Up to this many entries the features are float64: L-BFGS then gets to its tolerance on small sets, too, where
# rounding does not average out.
_DOUBLE_UP_TO = 1 << 24
# Directions whose squared singular value is below this share of the largest are rounding of the float64 Gram matrix.
_RELATIVE_TOLERANCE = 1e-12
_FEATURES_AT_A_TIME = 4096
_LOGITS_AT_A_TIME = 1 << 24  # 64 MB of float32
_HISTORY = 10


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """A fitted classifier."""

    weights: Tensor
    """float32 ``[n_features, n_classes]``."""
    intercepts: Tensor
    """float32 ``[n_classes]``; minus infinity for a class that the fit never saw: its probability is 0."""
    converged: bool
    """Whether `gradient` reached the tolerance before the iterations ran out."""
    n_evaluations: int
    """Passes over the training features."""
    gradient: float
    """Largest absolute entry of the gradient of the mean objective, see `fit_logistic`."""

    def probabilities(self, features: Tensor) -> Tensor:
        """Class probabilities, float32 ``[n, n_classes]``, of features ``[n, n_features]``.

        Raises:
            ValueError: another number of features than in the fit.
        """
        if features.ndim != 2 or features.shape[1] != len(self.weights):
            raise ValueError(f"features have shape {tuple(features.shape)}; expected [n, {len(self.weights)}]")
        logits = torch.addmm(self.intercepts, features.float(), self.weights)
        return torch.softmax(logits, dim=1)


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    *,
    penalty: float = 1.0,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
    reduce: bool | None = None,
) -> LogisticFit:
    """Fit by L-BFGS over the whole training set.

    Small sets are computed in float64. In larger ones products are float32, and parameters, the objective and sums
    over blocks of images are float64.

    Args:
        features: standardised, ``[n, n_features]``, finite; computed with on their device.
        labels: int64 ``[n]``, each in 0..n_classes - 1.
        n_classes: of the labels; a class without images gets probability 0 everywhere.
        penalty: 1 / C of scikit-learn, > 0.
        tolerance: largest absolute entry of the gradient of the mean objective at which to stop; scikit-learn's is
            1e-4.
        max_iterations: of L-BFGS.
        reduce: whether to let ``U S`` stand for the features; by default where it pays. Changes the time that the
            fit takes, not its minimum.

    Raises:
        ValueError: shapes that do not match, values that are not finite, labels outside their range, fewer than two
            classes among them, or a penalty that is not above 0.
    """
    x = features.float()
    present, targets = _require_fit(x, labels, n_classes, penalty)
    n, p = x.shape
    if reduce is None:
        reduce = p > 2 * n and n <= REDUCTION_LIMIT
    reduction = _Reduction(x) if reduce else None
    inputs = x if reduction is None else reduction.inputs
    inputs = inputs.double() if inputs.numel() <= _DOUBLE_UP_TO else inputs.float()
    # scikit-learn fits one weight vector w to two classes; here they get w/2 and -w/2, of half its squared norm.
    problem = _Problem(inputs, targets, len(present), 2.0 * penalty if len(present) == 2 else penalty)
    solution, gradient = problem.minimise(tolerance, max_iterations)
    combined = solution[:-1] if reduction is None else reduction.weights(x, solution[:-1])
    weights = torch.zeros(p, n_classes, device=x.device)
    weights[:, present] = combined.float()
    intercepts = torch.full((n_classes,), -torch.inf, device=x.device)
    intercepts[present] = solution[-1].float()
    return LogisticFit(weights, intercepts, gradient <= tolerance, problem.n_evaluations, gradient)


class _Reduction:
    """``U S`` of features that outnumber the images, from the images' Gram matrix."""

    def __init__(self, x: Tensor) -> None:
        squares, vectors = torch.linalg.eigh(_gram(x))
        kept = squares > _RELATIVE_TOLERANCE * squares[-1].clamp_min(torch.finfo(torch.float64).tiny)
        singular = torch.sqrt(squares[kept])
        self.inputs = vectors[:, kept] * singular
        """float64 ``[n, rank]``."""
        self._basis = vectors[:, kept] / singular  # V = Xᵀ U / S

    def weights(self, x: Tensor, solution: Tensor) -> Tensor:
        """Weights of the features themselves, ``[n_features, n_classes]``."""
        of_images: Tensor = self._basis @ solution
        return x.T @ of_images.float()


class _Problem:
    """The mean objective and its gradient, over blocks of images so that no matrix of all logits is held."""

    def __init__(self, inputs: Tensor, targets: Tensor, n_classes: int, penalty: float) -> None:
        self.inputs, self.targets, self.n_classes, self.penalty = inputs, targets, n_classes, penalty
        self.n_evaluations = 0
        # The last row are the intercepts.
        self.parameters = torch.zeros(
            inputs.shape[1] + 1, n_classes, dtype=torch.float64, device=inputs.device, requires_grad=True
        )

    def minimise(self, tolerance: float, max_iterations: int) -> tuple[Tensor, float]:
        """Parameters at the minimum, float64 ``[n_inputs + 1, n_classes]``, and the gradient's largest entry."""
        solver = torch.optim.LBFGS(
            [self.parameters],
            max_iter=max_iterations,
            max_eval=2 * max_iterations,
            tolerance_grad=tolerance,
            tolerance_change=0.0,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )
        solver.step(self.evaluate)
        self.evaluate()
        assert self.parameters.grad is not None
        return self.parameters.detach(), float(self.parameters.grad.abs().max())

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean objective; its gradient goes where L-BFGS looks for it."""
        self.n_evaluations += 1
        weights = self.parameters[:-1]
        gradient = torch.zeros_like(self.parameters)
        loss = torch.zeros((), dtype=torch.float64, device=weights.device)
        cast = self.parameters.to(self.inputs.dtype)
        for rows in self._blocks():
            logs = torch.log_softmax(torch.addmm(cast[-1], self.inputs[rows], cast[:-1]), dim=1)
            truth = self.targets[rows, None]
            loss -= logs.gather(1, truth).sum(dtype=torch.float64)
            errors = logs.exp_().scatter_add_(1, truth, torch.full_like(truth, -1.0, dtype=logs.dtype))
            gradient[:-1] += self.inputs[rows].T @ errors
            gradient[-1] += errors.sum(dim=0, dtype=torch.float64)
        loss += 0.5 * self.penalty * weights.square().sum()
        gradient[:-1] += self.penalty * weights
        self.parameters.grad = gradient / len(self.inputs)
        return float(loss) / len(self.inputs)

    def _blocks(self) -> Iterator[slice]:
        step = max(1, _LOGITS_AT_A_TIME // self.n_classes)
        for start in range(0, len(self.inputs), step):
            yield slice(start, start + step)


def _gram(rows: Tensor) -> Tensor:
    """``rows @ rows.T`` in float64, for a few columns at a time."""
    product = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block in rows.split(_FEATURES_AT_A_TIME, dim=1):
        wide = block.double()
        product += wide @ wide.T
    return product


def _require_fit(features: Tensor, labels: Tensor, n_classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Classes that have images, and each image's place among them."""
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; expected "
            "[n, n_features] and [n]"
        )
    if not penalty > 0:
        raise ValueError(f"penalty is {penalty}; expected a number above 0")
    if not torch.isfinite(features).all():
        raise ValueError("features hold NaN or infinite values; expected finite ones")
    present, targets = labels.unique(return_inverse=True)
    if len(present) < 2 or present[0] < 0 or present[-1] >= n_classes:
        raise ValueError(
            f"labels hold {len(present)} classes from {labels.min()} to {labels.max()}; expected two or more, each in "
            f"0 to {n_classes - 1}"
        )
    return present, targets
