"""What a search with several aims has to offer: trials that no other trial of their study beats in every score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from orchestrator.plan import StudyKey
from orchestrator.records import TrialRecord
from orchestrator.report.drawing import METHOD_COLOURS, METHOD_MARKERS, OTHER_COLOUR, draw
from orchestrator.report.parts import Cell, Column, Picture, Table, file_name
from orchestrator.report.results import Results

MOST_STUDIES = 12
"""Panels of a picture."""
COLUMNS = 2
PANEL_INCHES = 2.05
UNITS = {"encoding": "encoding (val r)", "transfer": "transfer (val r)", "classification": "classification (accuracy)"}


@dataclass(frozen=True)
class Front:
    """The complete trials of a study, and which of them are in its Pareto set."""

    study: StudyKey
    records: tuple[TrialRecord, ...]
    values: NDArray[np.float64]
    """Of each trial in each score that the search maximises, ``[n_trials, n_scores]``."""
    members: NDArray[np.bool_]
    """``[n_trials]``."""


def pareto_set(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows no other row beats: at least as good in every column and better in one.

    Args:
        values: ``[n, n_scores]``, more is better.

    Returns:
        ``[n]``; equal rows are in it together.
    """
    as_good = np.all(values[None] >= values[:, None], axis=2)  # [row, other]
    better = np.any(values[None] > values[:, None], axis=2)
    return np.asarray(~np.any(as_good & better, axis=1))


def fronts(results: Results) -> list[Front]:
    """Of every study that tunes and has a complete trial; none in a sweep with a single aim."""
    names = results.plan.optimise
    if len(names) < 2:
        return []
    found = []
    for key in results.plan.studies:
        records = tuple(r for r in results.ledger.study_records(key) if r.state == "complete")
        if key.method == "untuned" or not records:
            continue
        values = np.array([_values(record, names) for record in records])
        found.append(Front(key, records, values, pareto_set(values)))
    return found


def _values(record: TrialRecord, names: Sequence[str]) -> list[float]:
    further = [float(record.details["scores"][name]) for name in names[1:]]
    return [float("nan") if record.value is None else record.value, *further]


def pareto_parts(results: Results) -> tuple[list[Picture], list[Table]]:
    """A picture for each further aim, and the sets as a table; nothing in a sweep with a single aim."""
    found = fronts(results)
    if not found:
        return [], []
    pictures = [_picture(results, found, place) for place in range(1, len(results.plan.optimise))]
    return pictures, [_table(results, found)]


def _untuned(results: Results) -> dict[str, list[float]]:
    """Scores of the untuned network by target."""
    records = [r for key in results.plan.studies if key.method == "untuned" for r in results.ledger.study_records(key)]
    complete = [record for record in records if record.state == "complete"]
    return {record.study.target.name: _values(record, results.plan.optimise) for record in complete}


def _picture(results: Results, found: Sequence[Front], place: int) -> Picture:
    name = results.plan.optimise[place]
    shown, untuned = found[:MOST_STUDIES], _untuned(results)
    n_rows = -(-len(shown) // COLUMNS)

    def paint(figure: Figure) -> None:
        panels = list(figure.subplots(n_rows, COLUMNS, squeeze=False).flat)
        for axes, front in zip(panels, shown, strict=False):
            _paint(axes, front, place, untuned)
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        figure.supxlabel(UNITS["encoding"], fontsize=9.5)
        figure.supylabel(UNITS[name], fontsize=9.5)

    caption = (
        f"Complete trials by validation scores, encoding against {name}, a panel for each study. Joined marks: the "
        "Pareto set, trials that no other one beats in every score. Ringed: what select takes. Grey: untuned network."
    )
    if len(found) > len(shown):
        caption += f" The first {len(shown)} of {len(found)} studies; the table has all."
    return draw(f"search_pareto_{file_name(name)}", caption, 0.5 + PANEL_INCHES * n_rows, paint)


def _paint(axes: Axes, front: Front, place: int, untuned: Mapping[str, Sequence[float]]) -> None:
    method, members = front.study.method, front.members
    colour, marker = METHOD_COLOURS.get(method, OTHER_COLOUR), METHOD_MARKERS.get(method, "P")
    x, y = front.values[:, 0], front.values[:, place]
    axes.scatter(x[~members], y[~members], s=12, color=colour, marker=marker, alpha=0.4, linewidths=0)
    order = np.argsort(x[members], kind="stable")
    axes.plot(x[members][order], y[members][order], color=colour, linewidth=1.0, marker=marker, markersize=5.5)
    first = int(np.argmax(x))  # encoding is the first aim, by which the winner is chosen
    axes.scatter(x[first], y[first], s=110, facecolors="none", edgecolors=OTHER_COLOUR, linewidths=1.1)
    baseline = untuned.get(front.study.target.name)
    if baseline is not None:
        axes.scatter(
            baseline[0], baseline[place], s=34, color=METHOD_COLOURS["untuned"], marker=METHOD_MARKERS["untuned"]
        )
    axes.set_title(f"{front.study.target.label}\n{method}", fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.margins(0.12)
    axes.locator_params(nbins=4)


def _table(results: Results, found: Sequence[Front]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for front in found:
        first = int(np.argmax(front.values[:, 0]))
        for number in np.flatnonzero(front.members)[np.argsort(-front.values[front.members, 0], kind="stable")]:
            config = front.records[number].config
            rows.append(
                (
                    front.study.target.label,
                    front.study.method,
                    front.records[number].number,
                    *(float(value) for value in front.values[number]),
                    bool(number == first),
                    config["layer_cutoff"],
                    config["temperature"] if front.study.method != "regression" else None,
                    config["learning_rate"],
                    len(front.records),
                )
            )
    columns = (
        Column("target"),
        Column("method"),
        Column("trial"),
        *(Column(UNITS[name], ".4f") for name in results.plan.optimise),
        Column("selected"),
        Column("layer cutoff"),
        Column("temperature", ".3g"),
        Column("learning rate", ".2e"),
        Column("complete trials"),
    )
    note = "Trials that no other trial of their study beats in every score. `select` takes the best by encoding."
    return Table("pareto", "Pareto sets", results.validation_basis, columns, tuple(rows), note)
