"""Which side of the picture the hemispheres' models weigh: over pictures, over voxels and over subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.comparisons import comparison_table, interval_of, interval_of_row
from orchestrator.report.drawing import dots_height, draw, method_series, paint_dots
from orchestrator.report.grouping import grouped, methods_of, rois_of
from orchestrator.report.parts import Picture, Table
from orchestrator.report.results import Results

Row = Mapping[str, Any]
Interval = Callable[[Sequence[Row]], tuple[float, float] | None]


@dataclass(frozen=True)
class Unit:
    """A table by what its comparisons rest on."""

    key: str
    """In the file of the evaluation, and the table's name."""
    title: str
    says: str
    """What the table can say."""
    lacking: str
    """What an empty table would need."""


UNITS = (
    Unit(
        "lateralisation",
        "Lateralisation over pictures",
        "Says that these two models differ, on pictures in general; any two models do, given enough pictures: read "
        "the size of the difference, not its p.",
        "No lateralisation over pictures: it needs networks of both hemispheres of a subject and ROI.",
    ),
    Unit(
        "lateralisation_voxels",
        "Lateralisation over voxels",
        "Says that the hemispheres differ more than their voxels dealt out at random, read from one network; it finds "
        "too much where voxels are few and close, since neighbours share noise and receptive fields.",
        "No lateralisation over voxels: it needs both hemispheres of a subject and ROI, evaluated with this release.",
    ),
    Unit(
        "lateralisation_subjects",
        "Lateralisation over subjects",
        "Speaks of brains in general, as the other two cannot: one pair of mean preferences a subject.",
        "No lateralisation over subjects: it needs two subjects with both hemispheres of an ROI.",
    ),
)


def lateralisation_parts(results: Results) -> tuple[list[Picture], list[Table], list[str]]:
    """Pictures, a table for each unit of inference, and what is missing."""
    rows = {unit.key: results.rows("salience", unit.key) for unit in UNITS}
    basis = results.basis("salience")
    note = "Preference for the left visual field, right hemisphere's model less left hemisphere's. "
    tables = [
        comparison_table(unit.key, unit.title, basis, rows[unit.key], note + unit.says)
        for unit in UNITS
        if rows[unit.key]
    ]
    pictures = [_sides_picture(rows["lateralisation"])] if rows["lateralisation"] else []
    dealt = [row for row in rows["lateralisation_voxels"] if row["mean_difference"] is not None]
    pictures += [_exchange_picture(dealt)] if dealt else []
    lacking = {unit.key: unit.lacking for unit in UNITS if not rows[unit.key]}
    if results.only_subject and "lateralisation_subjects" in lacking:
        lacking["lateralisation_subjects"] = (
            f"No lateralisation over subjects: {results.only_subject} is the only one of this sweep, and one subject "
            "allows no interval or p over subjects."
        )
    return pictures, tables, list(lacking.values())


def _sides_picture(sides: Sequence[Row]) -> Picture:
    several = len({row["subject"] for row in sides}) > 1
    marks = (
        "Small marks are subjects; lines are 95 % intervals, over subjects where there are several, else over pictures."
        if several
        else "Lines are 95 % intervals over pictures: a single subject allows none over subjects."
    )
    caption = (
        "How much more the right hemisphere's model weighs the left visual field than the left hemisphere's does: "
        f"above 0 is contralateral. {marks} Any two models differ given enough pictures: only several subjects speak "
        "of brains."
    )
    return _dots("salience_lateralisation", caption, sides, _interval)


def _exchange_picture(rows: Sequence[Row]) -> Picture:
    caption = (
        "The same of both hemispheres' encoding models on one network. Small marks are networks; a line around 0 is "
        "what chance amounts to: 1.96 standard deviations of the differences after exchanges of voxels, of the "
        "network with the widest."
    )

    def by_chance(group: Sequence[Row]) -> tuple[float, float]:
        widest = 1.96 * max(float(row["spread"]) for row in group)
        return -widest, widest

    return _dots("salience_exchange", caption, rows, by_chance)


def _dots(name: str, caption: str, rows: Sequence[Row], interval: Interval) -> Picture:
    rois, methods = rois_of(rows), methods_of(rows)
    series = []
    for method in methods:
        by_roi = grouped([row for row in rows if row["method"] == method], lambda row: str(row["roi"]))
        values = {roi: [float(row["mean_difference"]) for row in group] for roi, group in by_roi.items()}
        series.append(method_series(method, values, {roi: interval(group) for roi, group in by_roi.items()}))
    height = dots_height(len(rois), len(methods))
    return draw(name, caption, height, lambda figure: paint_dots(figure, rois, series, "right less left", zero="none"))


def _interval(rows: Sequence[Row]) -> tuple[float, float] | None:
    if len(rows) == 1:
        return interval_of_row(rows[0])
    different = len({row["subject"] for row in rows}) == len(rows)
    return interval_of([float(row["mean_difference"]) for row in rows]) if different else None
