"""The score of a network for several subjects against the scores of each, layer by layer."""

import numpy as np
import pytest

from tests.synthetic import TINY, planted_data, planted_pair, tiny_weights
from trainables.encoding.pooled import score_pooled
from trainables.encoding.validation import score_readout_layers
from trainables.models.backbone import Backbone, build_backbone


@pytest.fixture
def tiny() -> Backbone:
    return build_backbone("tiny", tiny_weights().state, "output")


@pytest.mark.parametrize("encoder", ["ridge", "pls"])
def test_is_the_mean_over_subjects_at_one_layer_for_all(tiny: Backbone, encoder: str) -> None:
    pair = planted_pair()
    score = score_pooled(tiny, pair, n_components=9, encoder=encoder)
    layers = list(TINY.readout_layers)
    alone = [
        [score_readout_layers(tiny, data, [layer], n_components=9, encoder=encoder) for layer in layers]
        for data in pair
    ]
    expected = [(alone[0][k].r + alone[1][k].r) / 2 for k in range(len(layers))]
    best = int(np.argmax(expected))
    assert list(score.r_by_layer) == layers
    np.testing.assert_allclose(list(score.r_by_layer.values()), expected, atol=1e-6)
    assert (score.best_layer, score.r) == (layers[best], score.r_by_layer[layers[best]])
    np.testing.assert_allclose(
        score.r_per_voxel, np.concatenate([of_subject[best].r_per_voxel for of_subject in alone]), atol=1e-6
    )


def test_subjects_that_would_choose_different_layers_share_one(tiny: Backbone) -> None:
    """The case in which a subject is read a second time; seeds are searched for it, so it is sure to occur."""
    for seed in range(6, 40):
        pair = [planted_data(), planted_data(n_voxels=17, seed=seed)]
        own = [score_readout_layers(tiny, data) for data in pair]
        if own[0].best_layer != own[1].best_layer:
            break
    else:
        pytest.fail("no two subjects chose different layers; the test needs other data")
    score = score_pooled(tiny, pair)
    at_best = [score_readout_layers(tiny, data, [score.best_layer]).r_per_voxel for data in pair]
    np.testing.assert_allclose(score.r_per_voxel, np.concatenate(at_best), atol=1e-6)
    # A subject counts once, not once a voxel.
    assert score.r == pytest.approx((at_best[0].mean() + at_best[1].mean()) / 2, abs=1e-6)
    assert abs(score.r - score.r_per_voxel.mean()) > 1e-4


def test_one_subject_is_the_plain_score(tiny: Backbone) -> None:
    data = planted_data()
    pooled, plain = score_pooled(tiny, [data], stimuli=[data.train.stimuli]), score_readout_layers(tiny, data)
    assert (pooled.r, pooled.best_layer, pooled.r_by_layer) == (plain.r, plain.best_layer, plain.r_by_layer)
    np.testing.assert_array_equal(pooled.r_per_voxel, plain.r_per_voxel)


def test_no_subject_has_no_score(tiny: Backbone) -> None:
    with pytest.raises(ValueError, match="at least one"):
        score_pooled(tiny, [])
