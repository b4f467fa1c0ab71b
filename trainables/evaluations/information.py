"""Information that responses and images of a tuned model share, from their embeddings (METHOD: lower bound in bits).

With K stimuli and the cosine similarity ``s_ij`` of response i and image j,

    ``I >= (1/K) Σ_i log2[ exp(s_ii / T) / ((1/K) Σ_j exp(s_ij / T)) ]``,    T = 0.3 β.

The bound never exceeds ``log2 K``: K stimuli cannot tell more than which of them was shown.

Source: arXiv 2410.06067; the bound is that of van den Oord et al. 2018 (arXiv 1807.03748).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trainables.errors import ConfigError
from trainables.models.heads import ContrastiveHead, PooledHead, saved_contrastive_head
from trainables.models.tuned_model import TunedModel

TEMPERATURE = 0.3
"""What β multiplies: the temperature of the published recipe."""

BETAS = tuple(float(beta) for beta in np.logspace(-2, 2, 1000))


@dataclass(frozen=True)
class InformationScore:
    """Mutual information between the responses of one target and the images that evoked them."""

    bits: float
    """Lower bound on test stimuli, bits a stimulus; below 0 where the embeddings mislead."""
    beta: float
    """Chosen on validation stimuli; the temperature is 0.3 times as high."""
    n_stimuli: int
    """Test stimuli."""
    n_validation: int
    """Stimuli that ``beta`` was chosen on."""
    upper_limit: float
    """log2 of ``n_stimuli``, bits: a bound near it says that the stimuli, not the model, are the limit."""


def measure_information(
    response_embeddings: Tensor,
    image_embeddings: Tensor,
    validation_response_embeddings: Tensor,
    validation_image_embeddings: Tensor,
) -> InformationScore:
    """The lower bound on test stimuli, at the temperature that suits the validation stimuli best.

    Arguments are pairs of embeddings as `information_bits` takes them, the first pair of test stimuli.

    Raises:
        ValueError: see `information_bits`.
    """
    beta = choose_beta(validation_response_embeddings, validation_image_embeddings)
    n_stimuli = len(response_embeddings)
    return InformationScore(
        bits=information_bits(response_embeddings, image_embeddings, TEMPERATURE * beta),
        beta=beta,
        n_stimuli=n_stimuli,
        n_validation=len(validation_response_embeddings),
        upper_limit=math.log2(n_stimuli),
    )


def information_bits(response_embeddings: Tensor, image_embeddings: Tensor, temperature: float) -> float:
    """The lower bound at one temperature, normalised over the images for each response.

    The other direction, normalised over the responses for each image as in the tuning objective, is a bound too:
    exchange the two arguments.

    Args:
        response_embeddings: ``[K, n_dimensions]``, finite, of any norm; K >= 2.
        image_embeddings: ``[K, n_dimensions]``, row i of the same stimulus.
        temperature: divides the cosine similarities; > 0.

    Returns:
        Bits a stimulus, at most log2 K; 0 when all embeddings are the same.

    Raises:
        ValueError: shapes that differ, fewer than two stimuli, values that are not finite, or a temperature that is
            not finite and above 0.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}; expected a finite number above 0")
    return _bits(cosine_similarities(response_embeddings, image_embeddings), temperature)


def choose_beta(response_embeddings: Tensor, image_embeddings: Tensor, betas: Sequence[float] = BETAS) -> float:
    """The β with the highest bound on validation stimuli.

    Never choose it on test stimuli: the maximum of many bounds on the same sample is no bound. Chance similarities
    would be fitted by one of the temperatures, and shuffled pairs would seem to share information.

    The bound is concave in 1/T (a linear term less a mean of log-sum-exps), so it rises and then falls along the
    candidates, and bisection finds the best of them with a dozen evaluations.

    Args:
        response_embeddings: of validation stimuli, see `information_bits`.
        image_embeddings: likewise.
        betas: candidates in ascending order, each > 0.

    Raises:
        ValueError: see `information_bits`; or no candidate, or candidates out of order.
    """
    if not betas or betas[0] <= 0 or any(low >= high for low, high in itertools.pairwise(betas)):
        raise ValueError(f"betas are {len(betas)} numbers; expected one or more, each above 0, in ascending order")
    similarity = cosine_similarities(response_embeddings, image_embeddings)
    first, last = 0, len(betas) - 1
    while first < last:
        middle = (first + last) // 2
        here, next_one = (_bits(similarity, TEMPERATURE * beta) for beta in betas[middle : middle + 2])
        if here < next_one:
            first = middle + 1
        else:
            last = middle
    return betas[first]


def cosine_similarities(response_embeddings: Tensor, image_embeddings: Tensor) -> Tensor:
    """Responses in rows and images in columns, float64 ``[K, K]``.

    Raises:
        ValueError: shapes that differ, fewer than two stimuli, or values that are not finite.
    """
    if response_embeddings.ndim != 2 or response_embeddings.shape != image_embeddings.shape:
        raise ValueError(
            f"embeddings have shapes {tuple(response_embeddings.shape)} and {tuple(image_embeddings.shape)}; "
            "expected one shape [n_stimuli, n_dimensions] for both"
        )
    if len(response_embeddings) < 2:
        raise ValueError(f"there are embeddings of {len(response_embeddings)} stimuli; expected at least 2")
    pair = response_embeddings.double(), image_embeddings.double()
    if not all(torch.isfinite(each).all() for each in pair):
        raise ValueError("embeddings hold NaN or infinite values; expected finite ones")
    of_responses, of_images = (functional.normalize(each, dim=1) for each in pair)
    return of_responses @ of_images.T


@torch.inference_mode()
def embed(
    head: ContrastiveHead | PooledHead,
    responses: Tensor | NDArray[np.float32],
    image_features: Tensor,
    subject: int = 0,
) -> tuple[Tensor, Tensor]:
    """Embeddings of a whole set of stimuli, each branch normalised by its own statistics over that set.

    The head's batch normalisation serves both branches (and, pooled, all subjects), but while it was tuned each
    branch of each batch was normalised by itself. Its running statistics are a mixture of what both branches and all
    subjects had: a distribution that neither of them has, so evaluation mode would shift and scale all embeddings as
    they never were in training (a third of the bits were left on stimuli that a small network was tuned on). The set's
    own statistics are what the head was tuned with. They depend on which stimuli are in the set, not on which response
    belongs to which image, so they cannot make pairs look alike.

    Args:
        head: left as it was, running statistics included.
        responses: ``[n_stimuli, n_voxels]``; n_stimuli >= 2, and not much fewer than in a training batch.
        image_features: of the same stimuli at the layer cutoff, ``[n_stimuli, n_features]``.
        subject: whose responses they are, position among the subjects of a pooled head.

    Returns:
        Response embeddings and image embeddings, each float32 ``[n_stimuli, z]`` on the head's device.

    Raises:
        ValueError: other shapes than the head's, or fewer than two stimuli.
    """
    device = next(head.parameters()).device
    x = torch.as_tensor(responses, dtype=torch.float32, device=device)
    features = image_features.to(device)
    projection = head.response_projections[subject] if isinstance(head, PooledHead) else head.response_projection
    assert isinstance(projection, nn.Linear)
    expected = projection.in_features, head.image_projection.in_features
    if x.ndim != 2 or features.ndim != 2 or len(x) != len(features) or (x.shape[1], features.shape[1]) != expected:
        raise ValueError(
            f"responses have shape {tuple(x.shape)} and image features {tuple(features.shape)}; expected "
            f"[n_stimuli, {expected[0]}] and [n_stimuli, {expected[1]}]"
        )
    if len(x) < 2:
        raise ValueError(f"there are {len(x)} stimuli; batch statistics need at least 2")
    with _batch_statistics(head):
        projected = head.project_images(features)
        pair: tuple[Tensor, Tensor] = head(x, projected, *((subject,) if isinstance(head, PooledHead) else ()))
        return pair


def embed_pairs(
    tuned: TunedModel,
    responses: Tensor | NDArray[np.float32],
    image_features: Tensor,
    subject: int = 0,
) -> tuple[Tensor, Tensor]:
    """Embeddings by the saved head of a contrastive or pooled model, where the image features lie.

    Args:
        tuned: with its head.
        responses: see `embed`.
        image_features: of the tuned network at its layer cutoff (its last readout layer), see `embed`.
        subject: position among the subjects that the model was tuned for.

    Raises:
        ConfigError: the model was not tuned by a contrastive method, not for that subject, or saved without its head.
        ValueError: see `embed`.
    """
    if not tuned.head:
        raise ConfigError(f"the {tuned.method} model was saved without a head; choose a contrastive one, with its head")
    head = saved_contrastive_head(tuned.head, subject).to(image_features.device)
    return embed(head, responses, image_features)


def _bits(similarity: Tensor, temperature: float) -> float:
    scaled = similarity / temperature
    # Each term is at most 0, in floating point too, so the sum never exceeds log2 K.
    terms = scaled.diagonal() - torch.logsumexp(scaled, dim=1)
    return math.log2(len(similarity)) + float(terms.mean()) / math.log(2)


@contextmanager
def _batch_statistics(head: nn.Module) -> Iterator[None]:
    """Batch normalisation by the batch's own statistics, without a trace in the running ones."""
    layers = [module for module in head.modules() if isinstance(module, nn.BatchNorm1d)]
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, (training, tracking) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracking
