"""The classifier against scikit-learn's, and its shortcuts against the long way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from trainables.evaluations import logistic
from trainables.evaluations.logistic import fit_logistic


def clusters(n: int, p: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standardised, correlated features of overlapping classes."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % k
    latent = generator.normal(size=(k, 8))[labels] + generator.normal(size=(n, 8))
    x = latent @ generator.normal(size=(8, p)) + generator.normal(size=(n, p))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels)


def scikit_learn(x: Tensor, y: Tensor, unseen: Tensor, C: float = 1.0) -> np.ndarray:
    classifier = LogisticRegression(C=C, tol=1e-9, max_iter=10_000).fit(x.double().numpy(), y.numpy())
    assert classifier.n_iter_.max() < 10_000
    return np.asarray(classifier.predict_proba(unseen.double().numpy()))


@pytest.mark.parametrize("n, p, k", [(200, 12, 4), (150, 10, 2), (60, 300, 5)])
@pytest.mark.parametrize("double", [True, False])
def test_is_scikit_learns(n: int, p: int, k: int, double: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not double:
        monkeypatch.setattr(logistic, "_DOUBLE_UP_TO", 0)
    x, y = clusters(n + 40, p, k)
    fit = fit_logistic(x[:n], y[:n], k)
    found = fit.probabilities(x[n:]).numpy()
    np.testing.assert_allclose(found, scikit_learn(x[:n], y[:n], x[n:]), atol=1e-3)
    # Float32 is for large sets, in which rounding averages out; here it keeps L-BFGS from the last digit.
    assert fit.gradient <= (1e-6 if double else 1e-4)
    assert fit.converged == (fit.gradient <= 1e-6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-6)


def test_penalty_is_one_over_c() -> None:
    x, y = clusters(120, 6, 3)
    fit = fit_logistic(x, y, 3, penalty=20.0)
    np.testing.assert_allclose(fit.probabilities(x), scikit_learn(x, y, x, C=0.05), atol=1e-4)
    assert np.abs(fit.probabilities(x).numpy() - scikit_learn(x, y, x)).max() > 0.05, "the penalty matters here"


@pytest.mark.parametrize("n, p", [(40, 300), (120, 15)])
def test_reduction_does_not_change_the_minimum(n: int, p: int) -> None:
    x, y = clusters(n + 20, p, 4, seed=1)
    # A repeated image and a feature that never varies make both matrices singular.
    x[1], y[1], x[:, 3] = x[0], y[0], 0.0
    long, short = (fit_logistic(x[:n], y[:n], 4, reduce=reduce, tolerance=1e-8) for reduce in (False, True))
    assert long.converged
    assert short.converged
    np.testing.assert_allclose(short.weights, long.weights, atol=1e-5)
    np.testing.assert_allclose(short.probabilities(x[n:]), long.probabilities(x[n:]), atol=1e-5)


def test_wide_features_are_reduced_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clusters(20, 60, 2)
    sizes: list[int] = []
    problem = logistic._Problem.__init__

    def spy(self: logistic._Problem, inputs: Tensor, *rest: object) -> None:
        sizes.append(inputs.shape[1])
        problem(self, inputs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(logistic._Problem, "__init__", spy)
    fit_logistic(x, y, 2)
    fit_logistic(x[:, :30], y, 2)
    monkeypatch.setattr(logistic, "REDUCTION_LIMIT", 19)
    fit_logistic(x, y, 2)
    assert sizes[0] <= 20
    assert sizes[1:] == [30, 60]


def test_gradient_is_that_of_the_written_objective() -> None:
    x, y = clusters(30, 5, 3)
    problem = logistic._Problem(x.double(), y, 3, 1.7)
    torch.manual_seed(0)
    with torch.no_grad():
        problem.parameters.normal_()
    value = problem.evaluate()
    parameters = problem.parameters.detach().clone().requires_grad_()
    logits = x.double() @ parameters[:-1] + parameters[-1]
    loss = torch.nn.functional.cross_entropy(logits, y, reduction="sum") + 1.7 / 2 * parameters[:-1].square().sum()
    (loss / 30).backward()
    assert problem.parameters.grad is not None
    assert parameters.grad is not None
    assert value == pytest.approx(float(loss.detach()) / 30, rel=1e-12)
    torch.testing.assert_close(problem.parameters.grad, parameters.grad)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clusters(50, 5, 3)
    whole = fit_logistic(x, y, 3)
    monkeypatch.setattr(logistic, "_LOGITS_AT_A_TIME", 21)
    monkeypatch.setattr(logistic, "_FEATURES_AT_A_TIME", 2)
    np.testing.assert_allclose(fit_logistic(x, y, 3).weights, whole.weights, atol=1e-6)
    np.testing.assert_allclose(logistic._gram(x), x.double() @ x.double().T, atol=1e-12)


def test_a_class_without_images_has_probability_zero() -> None:
    x, y = clusters(60, 5, 3)
    labels = torch.tensor([0, 2, 4])[y]
    found = fit_logistic(x, labels, 6).probabilities(x).numpy()
    assert not found[:, [1, 3, 5]].any()
    np.testing.assert_allclose(found[:, [0, 2, 4]], fit_logistic(x, y, 3).probabilities(x), atol=1e-5)


def test_a_fit_that_is_stopped_says_so() -> None:
    x, y = clusters(60, 5, 3)
    fit = fit_logistic(x, y, 3, max_iterations=2)
    assert not fit.converged
    assert fit.gradient > 1e-6
    assert fit.n_evaluations <= 10


def test_what_cannot_be_fitted_is_refused() -> None:
    x, y = clusters(10, 4, 2)
    with pytest.raises(ValueError, match="expected \\[n, n_features\\]"):
        fit_logistic(x, y[1:], 2)
    with pytest.raises(ValueError, match="penalty is 0"):
        fit_logistic(x, y, 2, penalty=0)
    with pytest.raises(ValueError, match="NaN"):
        fit_logistic(x * torch.nan, y, 2)
    for labels in (torch.zeros_like(y), y + 1, y - 1):
        with pytest.raises(ValueError, match="two or more"):
            fit_logistic(x, labels, 2)
    with pytest.raises(ValueError, match="expected \\[n, 4\\]"):
        fit_logistic(x, y, 2).probabilities(x[:, 1:])
