"""What each protocol lets a trial see, and what pooled targets may be tuned on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trainables.data.algonauts import AlgonautsDataset
from trainables.data.responses import load_subjects, load_target, load_test, require_split, split_digest
from trainables.data.splits import PUBLISHED, published_a_split
from trainables.errors import DataError
from trainables.target import Target

SINGLE = Target("demo", ("subj01",), "lh", "V1v")
BOTH = Target("demo", ("subj01", "subj02"), "lh", "V1v")


@pytest.mark.parametrize("protocol", PUBLISHED)
def test_published_protocols_split_by_row_and_have_no_validation_part(
    demo: AlgonautsDataset, cache_dir: Path, protocol: str
) -> None:
    split = published_a_split(len(demo.subject("subj01").stimulus_ids))
    data = load_target(demo, SINGLE, 0, cache_dir, protocol=protocol)
    test = load_test(demo, SINGLE, 0, cache_dir, protocol=protocol)
    np.testing.assert_array_equal(data.train.rows, split.train)
    np.testing.assert_array_equal(test.rows, split.test)
    assert data.val.responses.shape == (0, data.n_voxels)
    assert data.digest == split_digest(demo, 0, protocol) != split_digest(demo, 0)


def test_pooled_nested_target_is_its_subjects_side_by_side(demo: AlgonautsDataset, cache_dir: Path) -> None:
    pooled = load_subjects(demo, BOTH, 0, cache_dir)
    for part, name in zip(pooled, BOTH.subjects, strict=True):
        alone = load_target(demo, BOTH.of_subject(name), 0, cache_dir)
        np.testing.assert_array_equal(part.train.rows, alone.train.rows)
        np.testing.assert_array_equal(part.val.responses, alone.val.responses)
    held_out = {
        stimulus
        for name in BOTH.subjects
        for stimulus in load_test(demo, BOTH.of_subject(name), 0, cache_dir).stimulus_ids
    }
    assert not held_out & {stimulus for part in pooled for stimulus in part.train.stimulus_ids}


def test_pooled_target_is_tuned_on_no_stimulus_that_any_subject_holds_out(
    demo: AlgonautsDataset, cache_dir: Path
) -> None:
    held_out = set()
    for name in demo.subjects:
        held_out |= set(load_test(demo, BOTH.of_subject(name), 0, cache_dir, protocol="published-a").stimulus_ids)
    pooled = load_subjects(demo, BOTH, 0, cache_dir, protocol="published-a")
    alone = [load_target(demo, part.target, 0, cache_dir, protocol="published-a") for part in pooled]
    leaked = [set(part.train.stimulus_ids) & held_out for part in alone]
    assert any(leaked), "the subjects share no stimulus, so this test could not fail"
    for part, single, leak in zip(pooled, alone, leaked, strict=True):
        assert not set(part.train.stimulus_ids) & held_out
        assert set(part.train.stimulus_ids) == set(single.train.stimulus_ids) - leak


def test_digest_of_one_protocol_is_refused_by_another(demo: AlgonautsDataset) -> None:
    digest = split_digest(demo, 0, "published-a")
    require_split(demo, 0, digest, "published-b")  # the same rows
    with pytest.raises(DataError, match=digest):
        require_split(demo, 0, digest)
