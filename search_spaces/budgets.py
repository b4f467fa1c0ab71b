"""Named budgets: how much of the space a sweep explores, unless an option says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """Defaults of ``sweep.py run --space NAME``."""

    rois: tuple[str, ...]
    """ROI labels and groups."""
    trials: int
    """Trials of each tuned (target, method); ``untuned`` always takes one."""
    epochs: int
    """Passes over the training stimuli of a trial that is not pruned."""
    batch_size: int
    """Stimuli in one optimiser step."""
    deepest_cutoff: str
    """Layers behind it are not explored; ``output`` sets no limit."""
    description: str
    """One line for ``--help``."""


BUDGETS = {
    "smoke": Budget(
        ("V1v", "hV4", "FFA-1"), 3, 3, 32, "features.12", "minutes on a workstation: is everything wired up?"
    ),
    "early_visual": Budget(("early",), 12, 30, 1024, "output", "the seven early visual ROIs, a first real search"),
    "full": Budget(("all",), 20, 30, 1024, "output", "every ROI of the data set"),
}


def budget_named(name: str) -> Budget:
    """The budget called ``name``.

    Raises:
        ConfigError: no budget has that name.
    """
    if name not in BUDGETS:
        raise ConfigError(f"--space is {name!r}; expected one of {', '.join(BUDGETS)}")
    return BUDGETS[name]
