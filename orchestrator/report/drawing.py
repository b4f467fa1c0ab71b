"""How figures look, and the few kinds that most sections use. Matplotlib's objects, none of pyplot's global state.

A figure is as wide as a telephone, so that its letters stay readable there; wide pages put several side by side. A
matrix of many columns is wider (`orchestrator.report.heat`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray
from PIL import Image

from orchestrator.report.parts import Picture, file_name

WIDTH_INCHES = 4.8
DOTS_PER_INCH = 200
MOST_DOTS = 60_000
"""Along a side; Matplotlib draws none of 65 536."""
ROW_INCHES = 0.34
LONG_NAME = 14
"""Letters."""
FRAME_INCHES = 1.15
"""Axis labels and the legend, above and below the rows of a figure."""
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "text.parse_math": False,  # a name with two dollar signs is a name
}
# Okabe & Ito's colours, which people with any kind of colour vision tell apart; markers say the same once more.
METHOD_COLOURS = {
    "untuned": "#6b6b6b",
    "contrastive": "#0072B2",
    "regression": "#D55E00",
    "pooled-avg": "#009E73",
    "pooled-const": "#CC79A7",
}
METHOD_MARKERS = {"untuned": "o", "contrastive": "s", "regression": "^", "pooled-avg": "D", "pooled-const": "v"}
GROUP_COLOURS = {
    "early": "#0072B2",
    "bodies": "#D55E00",
    "faces": "#CC79A7",
    "places": "#009E73",
    "words": "#E69F00",
    "streams": "#56B4E9",
}
OTHER_COLOUR = "#222222"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b6b6b")
MARKERS = ("s", "^", "D", "v", "o", "P", "X")
SEQUENTIAL = "cividis"
DIVERGING = "PuOr"


def draw(
    name: str, caption: str, height: float, paint: Callable[[Figure], object], width: float = WIDTH_INCHES
) -> Picture:
    """A picture of ``height`` × ``width`` inches, drawn by ``paint``."""
    dots = min(DOTS_PER_INCH, MOST_DOTS / max(height, width))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=dots, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
        paint(figure)
        canvas.draw()
        return Picture(file_name(name), caption, _png(np.asarray(canvas.buffer_rgba())), width / WIDTH_INCHES)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file with at most 256 colours, which is a third of the size and looks the same."""
    file = io.BytesIO()
    reduced = Image.fromarray(pixels).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    reduced.save(file, format="PNG", optimize=True)
    return file.getvalue()


@dataclass(frozen=True)
class Series:
    """One method of a dot plot."""

    name: str
    values: Mapping[str, Sequence[float]]
    """Points by row label; their mean is the large mark."""
    intervals: Mapping[str, tuple[float, float] | None]
    """95 % interval of the mean by row label, where there is one."""
    colour: str
    marker: str


def method_series(
    method: str,
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
) -> Series:
    """A series in the method's own colour."""
    colour, marker = METHOD_COLOURS.get(method, OTHER_COLOUR), METHOD_MARKERS.get(method, "P")
    return Series(method, values, intervals or {}, colour, marker)


def other_series(
    place: int,
    name: str,
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
) -> Series:
    """The series at ``place`` among those that are no methods."""
    return Series(name, values, intervals or {}, PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])


def dots_height(n_labels: int, n_series: int) -> float:
    """Inches that `paint_dots` needs."""
    return FRAME_INCHES + n_labels * max(ROW_INCHES, 0.14 * n_series + 0.1)


def paint_dots(
    figure: Figure, labels: Sequence[str], series: Sequence[Series], unit: str, zero: str = "", legend: bool = True
) -> Axes:
    """Horizontal dot plot: a row for each label, in it a line for each series.

    Args:
        figure: empty.
        labels: rows, the first on top.
        series: what is compared.
        unit: label of the horizontal axis.
        zero: if given, 0 is marked and so called.
        legend: whether series are named above.
    """
    axes = figure.subplots()
    for place, one in enumerate(series):
        offset = (place - (len(series) - 1) / 2) * 0.7 / max(1, len(series))
        for row, label in enumerate(labels):
            _paint_row(axes, row + offset, one, label)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.grid(axis="y", visible=False)
    for edge in range(1, len(labels)):
        axes.axhline(edge - 0.5, color="#efefef", linewidth=0.8, zorder=0)
    axes.set_xlabel(unit)
    if zero:
        mark_value(axes, 0, zero, zorder=1)
    if legend:
        name_methods(figure, [(one.name, one.colour, one.marker) for one in series])
    return axes


def cloud_look(n: int, largest: float = 40) -> tuple[float, float]:
    """Size in points² and opacity of each of ``n`` marks: few can be seen one by one, many do not run together.

    The ink grows with the square root of ``n``, up to ``largest`` for each.
    """
    size = float(np.clip(180 / np.sqrt(max(n, 1)), 2.5, largest))
    alpha = float(np.clip(2.2 / max(n, 1) ** 0.25, 0.25, 0.85))
    return size, alpha


def mark_value(axes: Axes, value: float, word: str, linestyle: str = "-", zorder: float = 2) -> None:
    """A vertical line with a word above it."""
    axes.axvline(value, color="#222222", linewidth=0.9, linestyle=linestyle, zorder=zorder)
    axes.annotate(word, (value, 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8)


def _paint_row(axes: Axes, height: float, one: Series, label: str) -> None:
    values = np.asarray(one.values.get(label, ()), dtype=float)
    if not len(values):
        return
    if len(values) > 1:
        size, alpha = cloud_look(len(values), largest=11)
        heights = np.full(len(values), height)
        axes.scatter(values, heights, s=size, color=one.colour, alpha=alpha / 2, linewidths=0, marker=one.marker)
    interval = one.intervals.get(label)
    if interval is not None:
        axes.plot(interval, [height, height], color=one.colour, linewidth=1.6, solid_capstyle="butt")
    axes.scatter(
        [values.mean()],
        [height],
        s=34,
        color=one.colour,
        edgecolors="white",
        linewidths=0.6,
        marker=one.marker,
        zorder=3,
    )


def name_methods(figure: Figure, marks: Sequence[tuple[str, str, str]]) -> None:
    """A legend above the figure, of ``(name, colour, marker)``."""
    handles = [
        mpl.lines.Line2D([], [], color=colour, marker=marker, linestyle="", markersize=5.5, label=name)
        for name, colour, marker in marks
    ]
    # Three names of two methods each, "regression - contrastive", do not fit side by side.
    columns = 2 if any(len(name) > LONG_NAME for name, _, _ in marks) else 3
    figure.legend(handles=handles, loc="outside upper center", ncols=min(columns, len(handles)))


def plain_numbers(axis: Axis) -> None:
    """Plain numbers at the ticks of a logarithmic axis."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
