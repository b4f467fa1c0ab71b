"""What all objectives share: their interface, cosine similarities and the refusal of bad input."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Objective(Protocol):
    """How badly the embeddings of responses and images go together."""

    def __call__(
        self,
        response_embeddings: Tensor,
        image_embeddings: Tensor,
        temperature: float,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            response_embeddings: float ``[n_stimuli, n_dimensions]``, of any norm.
            image_embeddings: float ``[n_stimuli, n_dimensions]``, row ``i`` of the same stimulus.
            temperature: divides the cosine similarities; dimensionless, finite, > 0.
            generator: of the CPU; the one source of random numbers, read only by objectives that draw some.
                Every data-parallel worker passes one in the same state.

        Returns:
            The loss, float32 (float64 for float64 embeddings), scalar.

        Raises:
            ValueError: embeddings of different or wrong shapes, fewer than two stimuli, a temperature out of
                range, or no generator for an objective that draws.
        """


def scaled_similarity(response_embeddings: Tensor, image_embeddings: Tensor, temperature: float) -> Tensor:
    """Cosine similarities over the temperature, responses in rows and images in columns, ``[n, n]``.

    Raises:
        ValueError: see `Objective`.
    """
    require_pairs(response_embeddings, image_embeddings)
    require_temperature(temperature)
    return unit(response_embeddings) @ unit(image_embeddings).T / temperature


def unit(embeddings: Tensor) -> Tensor:
    """Rows of norm 1. Half-precision embeddings are widened: 1/T magnifies rounding."""
    return functional.normalize(embeddings if embeddings.dtype == torch.float64 else embeddings.float(), dim=1)


def require_pairs(response_embeddings: Tensor, image_embeddings: Tensor) -> None:
    """Refuse what are not two embeddings of each stimulus.

    Raises:
        ValueError: embeddings of different or wrong shapes, or fewer than two stimuli.
    """
    if response_embeddings.ndim != 2 or response_embeddings.shape != image_embeddings.shape:
        raise ValueError(
            f"embeddings have shapes {tuple(response_embeddings.shape)} and {tuple(image_embeddings.shape)}; "
            "expected one shape [n_stimuli, n_dimensions] for both"
        )
    if len(response_embeddings) < 2:
        raise ValueError(f"the batch holds {len(response_embeddings)} stimuli; a contrast needs at least 2")


def require_temperature(temperature: float) -> None:
    """Refuse a temperature that is not finite and above 0.

    Raises:
        ValueError: it is not.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}; expected a finite number above 0")
