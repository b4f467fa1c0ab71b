"""Which stimuli a model is fitted on, chosen on, and scored on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.errors import DataError

NESTED = "nested"
PUBLISHED_A = "published-a"
PUBLISHED_B = "published-b"
PUBLISHED = (PUBLISHED_A, PUBLISHED_B)
"""Protocols that split by row and have no validation part; they differ in how the held-out rows are scored."""

TRAIN_SHARE = 0.75
VAL_SHARE = 0.10
PUBLISHED_TRAIN_SHARE = 0.85

MIN_STIMULI = 3
"""Fewest stimuli in a part: over two, every correlation is 1 or -1."""


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one subject's stimuli, int64, without overlap and together complete."""

    protocol: str
    """``nested`` or ``published-a``; results of two protocols never stand in one table."""
    seed: int
    train: NDArray[np.int64]
    """Rows that tuning and encoding models are fitted on."""
    val: NDArray[np.int64]
    """Rows that choose the readout layer and the winner; empty under ``published-a``."""
    test: NDArray[np.int64]
    """Rows that are scored once, for models already chosen."""
    digest: str
    """Equal for two splits exactly when they assign the same stimuli to the same parts."""


def nested_split(stimulus_ids: NDArray[np.int64], seed: int = 0) -> Split:
    """Train 75, val 10, test 15 % by stimulus id.

    An id's part follows from a hash of the id alone: subjects that share a stimulus agree on it, a repeated
    stimulus never sits in two parts, and adding a subject moves nothing. The shares hold on average only.

    Args:
        stimulus_ids: (n_stimuli,) dataset-wide ids, in the order of the responses' rows.
        seed: chooses another assignment.

    Raises:
        DataError: a part has too few stimuli.
    """
    parts = np.array([_nested_part(stimulus, seed) for stimulus in stimulus_ids.tolist()], dtype="<U5")
    rows = {part: np.flatnonzero(parts == part) for part in ("train", "val", "test")}
    for part, members in rows.items():
        if len(np.unique(stimulus_ids[members])) < MIN_STIMULI:
            raise DataError(
                f"{len(stimulus_ids)} stimuli leave {len(members)} for {part} with split seed {seed}; "
                f"expected at least {MIN_STIMULI} different ones: use more stimuli or another seed"
            )
    digest = nested_digest(stimulus_ids.tolist(), seed)
    return Split(NESTED, seed, rows["train"], rows["val"], rows["test"], digest)


def nested_digest(all_ids: Iterable[int], seed: int = 0) -> str:
    """What identifies a nested split in results: 16 hexadecimal digits.

    Args:
        all_ids: ids in any order, with or without repeats; usually those of the whole data set, so that
            results of all its subjects carry the same digest.
        seed: seed of the split.
    """
    assignment = [(stimulus, _nested_part(stimulus, seed)) for stimulus in sorted({int(i) for i in all_ids})]
    return _digest(NESTED, assignment)


def published_a_split(n: int) -> Split:
    """85/15 by row, as the published study drew it (arXiv 2410.06067); there is no validation part.

    By row means that a repeated picture can sit on both sides, and that subjects disagree about shared ones.

    Args:
        n: number of rows.

    Raises:
        DataError: a part has too few stimuli.
    """
    n_train = int(PUBLISHED_TRAIN_SHARE * n)
    if min(n_train, n - n_train) < MIN_STIMULI:
        raise DataError(
            f"{n} stimuli leave {n_train} to train and {n - n_train} to test under {PUBLISHED_A}; "
            f"expected at least {MIN_STIMULI} in each"
        )
    import torch  # takes seconds and 300 MB, which no other split needs
    from torch.utils.data import Subset, random_split

    # Its own generator draws what the global one draws after torch.manual_seed(0), and leaves that one alone.
    generator = torch.Generator().manual_seed(0)
    train: Subset[int]
    test: Subset[int]
    train, test = random_split(range(n), [n_train, n - n_train], generator=generator)  # type: ignore[arg-type]
    digest = _digest(PUBLISHED_A, [list(train.indices), list(test.indices)])
    train_rows, test_rows = np.array(train.indices, np.int64), np.array(test.indices, np.int64)
    return Split(PUBLISHED_A, 0, train_rows, np.empty(0, np.int64), test_rows, digest)


def _nested_part(stimulus: int, seed: int) -> str:
    # 53 bits fill a double exactly, so the comparison is the same on every machine.
    draw = int.from_bytes(hashlib.sha256(f"{seed}:{stimulus}".encode()).digest()[:8]) >> 11
    uniform = draw / (1 << 53)
    if uniform < TRAIN_SHARE:
        return "train"
    return "val" if uniform < TRAIN_SHARE + VAL_SHARE else "test"


def _digest(protocol: str, assignment: object) -> str:
    return hashlib.sha256(json.dumps([protocol, assignment]).encode()).hexdigest()[:16]
