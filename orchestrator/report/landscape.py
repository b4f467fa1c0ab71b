"""Section about the landscape of networks: how far apart their class probabilities lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from orchestrator.report.drawing import GROUP_COLOURS, METHOD_MARKERS, SEQUENTIAL, draw, name_methods
from orchestrator.report.figures_landscape import axis_name, interactive_landscape
from orchestrator.report.grouping import by_known
from orchestrator.report.parts import Column, Picture, Section, Table
from orchestrator.report.results import Results
from trainables.config import METHODS
from trainables.data.rois import GROUPS

ORACLE = "true labels"
"""The one-hot labels, as a network that is always certain and right."""


def landscape_section(results: Results) -> Section:
    """Static and interactive pictures of every labelled set."""
    title = "Landscape"
    sets = results.sets("landscape")
    if not sets:
        return Section("landscape", title, missing=(results.command("landscape"),))
    pictures, tables, interactive = [], [], ""
    for name, content in sets.items():
        pictures += [_by_accuracy(name, content), _by_group(name, content), _stress(name, content)]
        tables.append(_table(results, name, content))
        interactive += interactive_landscape(name, content, ORACLE)
    lead = (
        "Each point is a network; the distance of two tells how far their class probabilities for the same pictures "
        "lie apart (Bhattacharyya, embedded by InPCA). Along an imaginary axis squared differences count negatively: "
        "points that lie apart there are nearer to each other than they look. The star is the true labels."
    )
    return Section("landscape", title, lead, tuple(pictures), tuple(tables), interactive=interactive)


def _points(content: Mapping[str, Any]) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[bool]]:
    """Coordinates on two axes at least, ``[m, n_axes]``, and which is the oracle."""
    coordinates = np.asarray(content["coordinates"], dtype=float)
    return coordinates, [name == ORACLE for name in content["names"]]


def _axes_named(axes: Axes, content: Mapping[str, Any], title: str) -> None:
    axes.set(xlabel=axis_name(content, 0), ylabel=axis_name(content, 1), title=title)
    axes.margins(0.08)


def _marks(content: Mapping[str, Any]) -> dict[str, str]:
    methods = by_known((m for m in content["methods"] if m and m != ORACLE), METHODS)
    return {method: METHOD_MARKERS.get(method, "P") for method in methods}


def _by_accuracy(name: str, content: Mapping[str, Any]) -> Picture:
    coordinates, oracle = _points(content)
    accuracies = np.array([np.nan if a is None else a for a in content["accuracies"]], dtype=float)
    networks = ~np.array(oracle)
    low, high = (float(f(accuracies[networks])) for f in (np.nanmin, np.nanmax))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for method, marker in _marks(content).items():
            rows = networks & np.array([m == method for m in content["methods"]])
            shown = axes.scatter(
                coordinates[rows, 0],
                coordinates[rows, 1],
                c=accuracies[rows],
                cmap=SEQUENTIAL,
                norm=Normalize(low, max(high, low + 1e-6)),
                marker=marker,
                s=34,
                edgecolors="#222222",
                linewidths=0.4,
            )
        _star(axes, coordinates, oracle)
        _axes_named(axes, content, f"{name}, by accuracy")
        figure.colorbar(shown, ax=axes, label="accuracy", fraction=0.05, pad=0.02)
        name_methods(figure, [(method, "#555555", marker) for method, marker in _marks(content).items()])

    return draw(
        f"landscape_{name}_accuracy", f"Landscape on {name}, coloured by accuracy; marks tell methods.", 4.4, paint
    )


def _star(axes: Axes, coordinates: np.ndarray[Any, np.dtype[np.float64]], oracle: Sequence[bool]) -> None:
    for x, y in coordinates[np.array(oracle), :2]:
        axes.scatter([x], [y], marker="*", s=190, color="#222222", zorder=4)
        left = x > np.mean(axes.get_xlim())
        axes.annotate(
            ORACLE,
            (x, y),
            (-8 if left else 8, 8),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8.5,
        )


def _by_group(name: str, content: Mapping[str, Any]) -> Picture:
    coordinates, oracle = _points(content)
    kinds = [
        group or method or "other" for group, method in zip(content["roi_groups"], content["methods"], strict=True)
    ]
    groups = by_known((kind for kind, star in zip(kinds, oracle, strict=True) if not star), GROUPS)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for group in groups:
            for method, marker in _marks(content).items():
                rows = [k == group and m == method for k, m in zip(kinds, content["methods"], strict=True)]
                colour = GROUP_COLOURS.get(group, "#6b6b6b")
                axes.scatter(
                    coordinates[np.array(rows), 0],
                    coordinates[np.array(rows), 1],
                    color=colour,
                    marker=marker,
                    s=30,
                    alpha=0.8,
                    linewidths=0,
                )
        _star(axes, coordinates, oracle)
        _axes_named(axes, content, f"{name}, by ROI group")
        name_methods(figure, [(group, GROUP_COLOURS.get(group, "#6b6b6b"), "o") for group in groups])

    return draw(
        f"landscape_{name}_roi_group", "The same, coloured by the ROI group that a network was tuned for.", 4.4, paint
    )


def _stress(name: str, content: Mapping[str, Any]) -> Picture:
    stress, imaginary = (
        np.asarray(content["explained_stress"], dtype=float),
        np.asarray(content["imaginary"], dtype=bool),
    )
    places = np.arange(1, len(stress) + 1)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(places, stress, color="#0072B2", linewidth=1.2)
        axes.scatter(places[~imaginary], stress[~imaginary], color="#0072B2", s=34, zorder=3, label="real axis")
        axes.scatter(
            places[imaginary],
            stress[imaginary],
            facecolors="white",
            edgecolors="#D55E00",
            marker="D",
            s=34,
            zorder=3,
            label="imaginary axis",
        )
        axes.set(xlabel="axes", ylabel="explained stress", ylim=(0, 1.03), xticks=places)
        axes.legend(loc="lower right")

    return draw(
        f"landscape_{name}_stress", f"Share of the distances on {name} that the first axes explain.", 3.0, paint
    )


def _table(results: Results, name: str, content: Mapping[str, Any]) -> Table:
    n_axes = min(3, len(content["imaginary"]))
    rows = tuple(
        (network, method or None, group or None, accuracy, *(float(x) for x in coordinates[:n_axes]))
        for network, method, group, accuracy, coordinates in zip(
            content["names"],
            content["methods"],
            content["roi_groups"],
            content["accuracies"],
            content["coordinates"],
            strict=True,
        )
    )
    columns = (
        Column("network"),
        Column("method"),
        Column("ROI group"),
        Column("accuracy", ".4f"),
        *(Column(axis_name(content, axis), ".4f") for axis in range(n_axes)),
    )
    shares = [content["explained_stress"][axis] for axis in range(n_axes)]
    parts = [f"{axis_name(content, n)} {share:.3f}" for n, share in enumerate(shares) if share is not None]
    what = f"pictures of {name} that no classifier was fitted to; the split named is the sweep's"
    note = f"Explained stress up to {', up to '.join(parts)}. Signs of axes are arbitrary."
    return Table(f"landscape_{name}", f"Landscape on {name}", results.basis("landscape", what), columns, rows, note)
