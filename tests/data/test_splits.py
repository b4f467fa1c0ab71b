from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.utils.data import random_split

from trainables.data.splits import nested_digest, nested_split, published_a_split
from trainables.errors import DataError


def part_by_hand(stimulus: int, seed: int) -> str:
    """The definition in exact arithmetic: the hash as a number in [0, 1)."""
    digest = hashlib.sha256(f"{seed}:{stimulus}".encode()).hexdigest()
    uniform = Fraction(int(digest[:16], 16), 16**16)
    if uniform < Fraction(75, 100):
        return "train"
    return "val" if uniform < Fraction(85, 100) else "test"


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_parts_follow_the_hash_of_the_id(seed: int) -> None:
    ids = np.random.default_rng(0).permutation(73000)[:500]
    split = nested_split(ids, seed)
    for part in ("train", "val", "test"):
        rows = getattr(split, part)
        assert rows.dtype == np.int64
        assert rows.tolist() == [row for row, i in enumerate(ids.tolist()) if part_by_hand(i, seed) == part]


def test_assignment_is_pinned() -> None:
    # Written down once: published results depend on it, whatever becomes of the code.
    split = nested_split(np.arange(40))
    assert split.val.tolist() == [5, 11, 13, 16, 22, 38]
    assert split.test.tolist() == [1, 30, 32, 39]
    assert split.digest == "72b75549a0007953"


def test_shares_are_75_10_15_on_average() -> None:
    n = 73000
    split = nested_split(np.arange(n))
    for rows, share in ((split.train, 0.75), (split.val, 0.10), (split.test, 0.15)):
        # Five standard deviations of a binomial share.
        assert abs(len(rows) / n - share) < 5 * np.sqrt(share * (1 - share) / n)


def test_subjects_agree_on_shared_stimuli_and_repeats_stay_together() -> None:
    first = np.concatenate([np.arange(100), np.arange(50)])
    second = np.arange(140)[::-1].copy()
    parts = [
        {part: set(ids[getattr(nested_split(ids), part)].tolist()) for part in ("train", "val", "test")}
        for ids in (first, second)
    ]
    for part in ("train", "val", "test"):
        others = {"train", "val", "test"} - {part}
        assert not any(parts[0][part] & parts[1][other] for other in others)
        assert not any(parts[0][part] & parts[0][other] for other in others)


def test_parts_are_disjoint_and_complete() -> None:
    split = nested_split(np.arange(1000), seed=3)
    assert sorted([*split.train, *split.val, *split.test]) == list(range(1000))


def test_digest_tells_assignments_apart_and_nothing_else() -> None:
    ids = list(range(200))
    assert nested_digest(ids) == nested_digest(ids[::-1] + ids)
    assert nested_digest(np.array(ids)) == nested_digest(ids)
    assert len({nested_digest(ids), nested_digest(ids, seed=1), nested_digest(ids[:-1])}) == 3
    assert nested_split(np.array(ids)).digest == nested_digest(ids)


@pytest.mark.parametrize("n", [1, 6, 12])
def test_too_few_stimuli(n: int) -> None:
    with pytest.raises(DataError, match=f"^{n} stimuli leave .* expected at least 3"):
        nested_split(np.arange(n))


def test_repeats_of_one_stimulus_are_one_stimulus() -> None:
    val = next(i for i in range(1000) if part_by_hand(i, 0) == "val")
    others = [i for i in range(1000) if part_by_hand(i, 0) != "val"]
    with pytest.raises(DataError, match="for val"):
        nested_split(np.array(others + [val] * 10))


@pytest.mark.parametrize("n", [20, 1200, 9841])
def test_published_split_is_the_released_scripts(n: int) -> None:
    state = torch.random.get_rng_state()
    split = published_a_split(n)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was disturbed"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        n_train = int(0.85 * n)
        train, test = random_split(torch.utils.data.TensorDataset(torch.zeros(n)), [n_train, n - n_train])
    assert split.train.tolist() == list(train.indices)
    assert split.test.tolist() == list(test.indices)
    assert len(split.val) == 0
    assert split.protocol == "published-a"
    assert split.digest == published_a_split(n).digest != published_a_split(n + 1).digest


def test_published_split_of_too_few() -> None:
    with pytest.raises(DataError, match="expected at least 3 in each"):
        published_a_split(12)
