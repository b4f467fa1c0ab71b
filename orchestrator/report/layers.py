"""Sections about where in a network the responses are found: layers by ROI, and networks read at other ROIs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from orchestrator.report.drawing import draw
from orchestrator.report.grouping import difference, grouped, is_own, mean, methods_of, rois_of, tuned_for
from orchestrator.report.heat import around_zero, heat_height, heat_width, paint_heat, spanning
from orchestrator.report.parts import Column, Picture, Section, Table
from orchestrator.report.results import Results

Row = Mapping[str, Any]


def layers_section(results: Results) -> Section:
    """Every readout layer at every ROI."""
    title = "Layer × ROI"
    rows = results.rows("layers")
    if not rows:
        return Section("layers", title, missing=(results.command("layers"),))
    own = [row for row in results.of_whole_pools(rows) if is_own(row)]
    pictures = [_layer_picture(own, method) for method in methods_of(own)]
    tables = [_layer_table(results, own)]
    abroad = _abroad(rows)
    if abroad:
        pictures.append(_abroad_picture(abroad))
        tables.append(_abroad_table(results, abroad))
    over = f"hemispheres of {results.only_subject}" if results.only_subject else "subjects and hemispheres"
    lead = (
        f"Test r of each readout layer, means over {over}. Tuned networks are read at the ROI that "
        "they were tuned for; the last matrix reads them at the others as well."
    )
    return Section("layers", title, lead, tuple(pictures), tuple(tables))


def matrix(
    rows: Sequence[Row], field: str, row_key: Callable[[Row], str], column_key: Callable[[Row], str]
) -> Callable[[Sequence[str], Sequence[str]], NDArray[np.float64]]:
    """Means of ``field`` as a matrix of given rows and columns, NaN where there is none."""
    cells = grouped(rows, lambda row: (row_key(row), column_key(row)))

    def values(row_names: Sequence[str], column_names: Sequence[str]) -> NDArray[np.float64]:
        found = [[mean(cells.get((r, c), ()), field) for c in column_names] for r in row_names]
        return np.array([[np.nan if cell is None else cell for cell in line] for line in found])

    return values


def _layer_picture(own: Sequence[Row], method: str) -> Picture:
    rois = rois_of(own)
    layers = list(dict.fromkeys(str(row["layer"]) for row in own))
    chosen = [row for row in own if row["method"] == method]
    values = matrix(chosen, "test_r", lambda row: str(row["roi"]), lambda row: str(row["layer"]))(rois, layers)
    limits = spanning(np.array([np.nan if row["test_r"] is None else row["test_r"] for row in own]))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        paint_heat(figure, axes, values, rois, layers, unit="test r", form=".2f", limits=limits)
        axes.set_title(method)

    caption = f"Test r of {method} networks by readout layer and ROI; one scale for all methods."
    height, width = heat_height(len(rois), layers), heat_width(rois, layers)
    return draw(f"layers_{method}", caption, height, paint, width)


def _layer_table(results: Results, own: Sequence[Row]) -> Table:
    groups = grouped(own, lambda row: (row["method"], row["roi_group"], row["roi"], row["layer"]))
    rows = tuple((*key, mean(group, "val_r"), mean(group, "test_r"), len(group)) for key, group in groups.items())
    columns = (
        Column("method"),
        Column("ROI group"),
        Column("ROI"),
        Column("layer"),
        Column("val r", ".4f"),
        Column("test r", ".4f"),
        Column("scores averaged"),
    )
    over = "hemispheres" if results.only_subject else "subjects and hemispheres"
    note = f"Means over {over}. Choosing the best layer by its test r would be optimistic."
    return Table("layers", "Layer × ROI", results.basis("layers"), columns, rows, note)


def _abroad(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Contrastive networks at each ROI of their subject, at the layer that validation prefers, less untuned."""
    best = {}
    for key, group in grouped(
        rows, lambda row: (row["network"], row["subject"], row["hemisphere"], row["roi"])
    ).items():
        scored = [row for row in group if row["val_r"] is not None and row["test_r"] is not None]
        if scored:  # without validation stimuli there is nothing to prefer a layer by
            best[key] = max(scored, key=lambda row: row["val_r"])
    found = []
    for (_, *place), row in best.items():
        untuned, home = best.get(("untuned", *place)), tuned_for(row)
        if row["method"] == "contrastive" and untuned is not None and home is not None:
            gain = difference(row["test_r"], untuned["test_r"])
            found.append({**row, "home": home[1], "same_hemisphere": home[0] == row["hemisphere"], "gain": gain})
    return found


def _abroad_picture(abroad: Sequence[Row]) -> Picture:
    rois = rois_of(abroad)
    homes = [roi for roi in (name.replace(":", "_") for name in rois) if roi in {row["home"] for row in abroad}]
    values = matrix(abroad, "gain", lambda row: str(row["home"]), lambda row: str(row["roi"]))(homes, rois)

    # The longer side goes down the page.
    lines, columns, shown = (homes, rois, values) if len(rois) <= 10 else (rois, homes, values.T)
    limits = around_zero(values)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        unit = "test r less untuned"
        paint_heat(figure, axes, shown, lines, columns, unit=unit, form="+.2f", limits=limits, diverging=True)
        names = ("read at", "tuned for") if columns is rois else ("tuned for", "read at")
        axes.set(xlabel=names[0], ylabel=names[1])

    caption = "What contrastive tuning for one ROI changes at the others, at the layer that validation prefers there."
    height, width = heat_height(len(lines), columns) + 0.3, heat_width(lines, columns)
    return draw("layers_other_rois", caption, height, paint, width)


def _abroad_table(results: Results, abroad: Sequence[Row]) -> Table:
    groups = grouped(abroad, lambda row: (row["home"], row["roi"], bool(row["same_hemisphere"])))
    rows = tuple((*key, mean(group, "test_r"), mean(group, "gain"), len(group)) for key, group in groups.items())
    columns = (
        Column("tuned for"),
        Column("read at"),
        Column("same hemisphere"),
        Column("test r", ".4f"),
        Column("less untuned", "+.4f"),
        Column("networks"),
    )
    return Table("other_rois", "Contrastive networks at other ROIs", results.basis("layers"), columns, rows)
