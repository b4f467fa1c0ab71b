"""Contrastive objectives: how well the embeddings of images and of their responses find each other.

One objective a file, by name in `OBJECTIVES`; all have the interface `Objective`. A new one is a file here and
its name in `OBJECTIVES`; ``tests/contracts/test_objectives.py`` holds it to what all objectives promise. One that
wants mixed responses is in `MIXED_OBJECTIVES` too: the tuning loop then draws a `Mixing` for every batch, mixes the
responses before the head and hands the mixing over.
"""

from __future__ import annotations

from trainables.tuning.objectives._pairs import Objective
from trainables.tuning.objectives.clip import symmetric_info_nce
from trainables.tuning.objectives.dcl import decoupled
from trainables.tuning.objectives.infonce import info_nce
from trainables.tuning.objectives.mindeye import MixedObjective, Mixing, bimixco, draw_mixing
from trainables.tuning.objectives.mochi import hard_negatives
from trainables.tuning.objectives.siglip import sigmoid

OBJECTIVES: dict[str, Objective] = {
    "info_nce": info_nce,
    "symmetric_info_nce": symmetric_info_nce,
    "decoupled": decoupled,
    "sigmoid": sigmoid,
    "hard_negatives": hard_negatives,
    "bimixco": bimixco,
}

MIXED_OBJECTIVES: dict[str, MixedObjective] = {"bimixco": bimixco}

__all__ = [
    "MIXED_OBJECTIVES",
    "OBJECTIVES",
    "MixedObjective",
    "Mixing",
    "Objective",
    "bimixco",
    "decoupled",
    "draw_mixing",
    "hard_negatives",
    "info_nce",
    "sigmoid",
    "symmetric_info_nce",
]
