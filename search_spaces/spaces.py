"""The named spaces."""

from __future__ import annotations

from search_spaces.methods import mixed, objectives, recipe
from search_spaces.space import Space
from trainables.errors import ConfigError

SPACES = {
    "smoke": Space(
        "minutes on a workstation: is everything wired up?",
        rois=("V1v", "hV4", "FFA-1"),
        trials=3,
        epochs=3,
        batch_size=32,
        deepest_cutoff="convolutional",
    ),
    "early_visual": Space("the seven early visual ROIs, a first real search"),
    "full": Space("every ROI of the data set", rois=("all",), trials=20),
    "contrastive": Space("contrastive tuning alone, with its untuned baseline", methods=("contrastive", "untuned")),
    "regression": Space("regression alone, with its untuned baseline", methods=("regression", "untuned")),
    "untuned": Space("the pretrained network alone", methods=("untuned",), rois=("all",)),
    "pooled": Space(
        "one network for several subjects, beside those of single subjects",
        methods=("contrastive", "pooled-avg", "pooled-const", "untuned"),
    ),
    "objectives": Space(
        "contrastive tuning, the objective itself searched",
        methods=("contrastive", "untuned"),
        trials=40,
        suggest={"contrastive": objectives},
        first={"contrastive": {"objective": "info_nce"}},
    ),
    "mixed": Space(
        "contrastive tuning plus a weighted squared error",
        methods=("contrastive", "regression", "untuned"),
        suggest={"contrastive": mixed},
        first={"contrastive": {"mse_weight": 1.0}},
    ),
    "published": Space(
        "the fixed recipe of arXiv 2410.06067 with both baselines, no search",
        rois=("all",),
        trials=1,
        suggest={"contrastive": recipe, "regression": recipe, "pooled-avg": recipe, "pooled-const": recipe},
        epoch_factors={"regression": 2.5},  # 75 epochs beside 30
        searched=False,
    ),
}


def space_named(name: str) -> Space:
    """The space called ``name``.

    Raises:
        ConfigError: no space has that name.
    """
    if name not in SPACES:
        raise ConfigError(f"--space is {name!r}; expected one of {', '.join(SPACES)}, or a .py file with a SPACE")
    return SPACES[name]
