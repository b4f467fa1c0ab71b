"""Section about networks that predict other subjects and other data sets than those they were tuned on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from orchestrator.report.drawing import dots_height, draw, method_series, paint_dots
from orchestrator.report.grouping import grouped, groups_of, mean, methods_of, total
from orchestrator.report.heat import around_zero, heat_height, heat_width, paint_heat
from orchestrator.report.layers import matrix
from orchestrator.report.parts import Column, Picture, Section, Table
from orchestrator.report.results import Results

Row = Mapping[str, Any]


def transfer_section(results: Results) -> Section:
    """Source by subject, both metrics, per ROI group; then other data sets."""
    title = "Transfer"
    rows = [row for row in results.rows("transfer") if row["method"] != "untuned"]
    if not rows:
        return Section("transfer", title, missing=(results.command("transfer"),))
    inside = [row for row in rows if not row["external"] and not results.only_subject]
    outside = [row for row in rows if row["external"]]
    whole = {row["network"] for row in results.of_whole_pools(rows)}
    pictures = _pictures([row for row in inside if row["left_out"] or row["network"] in whole])
    tables = [_table(results, "transfer", "Transfer between subjects", inside)] if inside else []
    missing = []
    if results.only_subject:
        missing.append(
            f"No transfer between subjects: {results.only_subject} is the only one of this sweep, so there is no other "
            "to predict."
        )
    if outside:
        pictures.append(_external_picture([row for row in outside if row["network"] in whole]))
        tables.append(_table(results, "transfer_external", "Transfer to other data sets", outside, external=True))
    else:
        missing.append("No external data set was evaluated; `python sweep.py evaluate --help` tells how to name one.")
    lead = (
        "The network is tuned on one subject (rows), its encoding model is fitted again to another's training stimuli "
        "(columns) and scored on that one's test stimuli. Two measures: the share of voxels that it predicts better "
        "than the untuned network does, and the mean difference in r."
    )
    return Section("transfer", title, lead if tables else "", tuple(pictures), tuple(tables), tuple(missing))


def source_name(row: Row) -> str:
    """``subj01``, or how many subjects a pooled network was tuned on."""
    subjects = str(row["source"]).split("+")
    return subjects[0] if len(subjects) == 1 else f"{len(subjects)} pooled"


def _pictures(inside: Sequence[Row]) -> list[Picture]:
    pictures = []
    for method in methods_of(inside):
        rows = [row for row in inside if row["method"] == method]
        if any("+" in str(row["source"]) for row in rows):
            title, note = method, "pooled networks, a row for each ROI group; left out: not tuned on that subject"
            pictures.append(_matrices(f"transfer_{method}", title, note, rows, "ROI group", _pooled_label))
            continue
        for group in groups_of(rows):
            members = [row for row in rows if row["roi_group"] == group]
            title, note = f"{method}, {group}", f"{method} networks, {group} ROIs"
            pictures.append(_matrices(f"transfer_{method}_{group}", title, note, members, "tuned on", source_name))
    return pictures


def _pooled_label(row: Row) -> str:
    return str(row["roi_group"]) + (", left out" if row["left_out"] else "")


def _matrices(name: str, title: str, note: str, rows: Sequence[Row], kind: str, label: Callable[[Row], str]) -> Picture:
    """Both metrics, a row for each ``label`` and a column for each subject that is predicted."""
    labels = list(dict.fromkeys(label(row) for row in rows))
    subjects = sorted({str(row["subject"]) for row in rows})
    share, gain = (
        matrix(rows, field, label, lambda row: str(row["subject"]))(labels, subjects)
        for field in ("fraction_above_untuned", "mean_delta_r")
    )

    def paint(figure: Figure) -> None:
        above, below = figure.subplots(2)
        paint_heat(
            figure,
            above,
            100 * share,
            labels,
            subjects,
            unit="% voxels above",
            form=".0f",
            limits=(0, 100),
            diverging=True,
        )
        limits = around_zero(gain)
        paint_heat(figure, below, gain, labels, subjects, unit="mean Δr", form="+.3f", limits=limits, diverging=True)
        above.set_title(title)
        for axes in (above, below):
            axes.set(ylabel=kind, xlabel="predicts")

    caption = f"Transfer of {note}: means over ROIs and hemispheres."
    height, width = 2 * heat_height(len(labels), subjects) + 0.6, heat_width(labels, subjects, letters=6)
    return draw(name, caption, height, paint, width)


def _external_picture(rows: Sequence[Row]) -> Picture:
    methods, groups = methods_of(rows), groups_of(rows)
    series = []
    for method in methods:
        values: dict[str, list[float]] = {}
        chosen = [row for row in rows if row["method"] == method]
        for (group, _, _), found in grouped(
            chosen, lambda row: (row["roi_group"], row["source"], row["subject"])
        ).items():
            value = mean(found, "mean_delta_r")
            if value is not None:
                values.setdefault(group, []).append(value)
        series.append(method_series(method, values))
    names = ", ".join(dict.fromkeys(str(row["dataset"]) for row in rows))
    caption = f"Transfer to {names}: a small mark for each pair of source and subject, the large one is their mean."
    return draw(
        "transfer_external",
        caption,
        dots_height(len(groups), len(methods)),
        lambda figure: paint_dots(figure, groups, series, "mean Δr over voxels", zero="untuned"),
    )


def _table(results: Results, name: str, title: str, rows: Sequence[Row], external: bool = False) -> Table:
    groups = grouped(
        rows,
        lambda row: (row["method"], row["roi_group"], row["source"], row["dataset"], row["subject"], row["left_out"]),
    )
    cells = tuple(
        (
            *key,
            mean(group, "r"),
            mean(group, "untuned_r"),
            mean(group, "mean_delta_r"),
            mean(group, "fraction_above_untuned"),
            len(group),
            total(group, "n_voxels"),
        )
        for key, group in groups.items()
    )
    columns = (
        Column("method"),
        Column("ROI group"),
        Column("tuned on"),
        Column("data set"),
        Column("predicts"),
        Column("left out of tuning"),
        Column("r", ".4f"),
        Column("untuned r", ".4f"),
        Column("mean Δr", "+.4f"),
        Column("share of voxels above untuned", ".3f"),
        Column("ROIs"),
        Column("voxels"),
    )
    note = "Means over ROIs and hemispheres, each counting once; each single one is in evaluation/transfer.json."
    return Table(name, title, results.basis("transfer", other_data=external), columns, cells, note)
