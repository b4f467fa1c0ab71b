"""Matrices as colours with their numbers, in figures that grow with their labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from orchestrator.report.drawing import DIVERGING, SEQUENTIAL, WIDTH_INCHES

SLANT = 40
"""Degrees of the names of columns."""
ROW_INCHES = 0.3
DIGIT_INCHES = 0.062
"""Of a letter of the numbers in a matrix of many columns."""
LETTER_INCHES = 0.075
"""Of a name at a tick."""


def heat_width(rows: Sequence[str], columns: Sequence[str], letters: int = 5) -> float:
    """Inches that `paint_heat` needs beside the names of its rows, for numbers of so many ``letters``."""
    longest = max(map(len, rows), default=0)
    return max(WIDTH_INCHES, 1.05 + LETTER_INCHES * longest + DIGIT_INCHES * letters * len(columns))


def heat_height(n_rows: int, columns: Sequence[str] = ()) -> float:
    """Inches that one `paint_heat` needs above the names of its columns."""
    longest = max(map(len, columns), default=0)
    return 1.25 + ROW_INCHES * n_rows + max(0.0, LETTER_INCHES * (longest - 12) * math.sin(math.radians(SLANT)))


def paint_heat(
    figure: Figure,
    axes: Axes,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    unit: str,
    form: str,
    limits: tuple[float, float],
    diverging: bool = False,
) -> None:
    """A matrix as colours with its numbers.

    Args:
        figure: that of ``axes``.
        axes: empty.
        values: ``[n_rows, n_columns]``, NaN where there is none.
        rows: labels.
        columns: labels.
        unit: of the colour bar.
        form: format of the numbers.
        limits: of the colours.
        diverging: colours that part at the middle of the limits.
    """
    colours = mpl.colormaps[DIVERGING if diverging else SEQUENTIAL].with_extremes(bad="#ffffff")
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), columns, rotation=SLANT, ha="right", rotation_mode="anchor", fontsize=8.5)
    axes.set_yticks(range(len(rows)), rows, fontsize=8.5)
    axes.tick_params(length=0)
    size = 8 if len(columns) <= 6 else 6.5
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            share = float((value - limits[0]) / (limits[1] - limits[0]))
            dark = sum(colours(share)[:3]) < 1.5
            ink = "white" if dark else "black"
            axes.text(column, row, format(value, form), ha="center", va="center", fontsize=size, color=ink)
    figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, label=unit)


def around_zero(values: NDArray[np.float64]) -> tuple[float, float]:
    """Limits that lie as far below 0 as above."""
    largest = float(np.nanmax(np.abs(values), initial=1e-6))
    return -largest, largest


def spanning(values: NDArray[np.float64]) -> tuple[float, float]:
    """Limits from the least to the largest value."""
    return float(np.nanmin(values)), max(float(np.nanmax(values)), float(np.nanmin(values)) + 1e-6)
