"""Sections about how well responses are predicted: leaderboard, methods per ROI, layers, single voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.leaderboard import Row, improvement_lines
from orchestrator.report.comparisons import comparison_table, interval_of, interval_of_row
from orchestrator.report.drawing import dots_height, draw, method_series, other_series, paint_dots
from orchestrator.report.grouping import (
    difference,
    grouped,
    mean,
    methods_of,
    rois_of,
    total,
    values_by,
    with_target_parts,
)
from orchestrator.report.parts import Column, Picture, Section, Table
from orchestrator.report.results import Results

NORMALISED = "norm. r²"
LEADERBOARD = (
    ("target", "target", ""),
    ("method", "method", ""),
    ("val_r", "val r", ".4f"),
    ("untuned_r", "untuned val r at that layer", ".4f"),
    ("test_r", "test r", ".4f"),
    ("best_of_target", "best of target", ""),
    ("readout_layer", "readout layer", ""),
    ("layer_cutoff", "layer cutoff", ""),
    ("objective", "objective", ""),
    ("temperature", "temperature", ".3g"),
    ("learning_rate", "learning rate", ".2e"),
    ("epoch", "epoch", ""),
    ("trials", "trials", ""),
    ("planned", "planned", ""),
    ("pruned", "pruned", ""),
    ("failed", "failed", ""),
    ("best_trial", "best trial", ""),
)
"""Field of a row, heading and format."""
ENCODING = (
    ("target", "target", ""),
    ("method", "method", ""),
    ("test_r", "test r", ".4f"),
    ("test_noise_normalised_r2", NORMALISED, ".3f"),
    ("voxels_improved_percent", "% voxels above untuned", ".1f"),
    ("voxels_above_regression_percent", "% voxels above regression", ".1f"),
    ("val_r", "val r", ".4f"),
    ("readout_layer", "readout layer", ""),
    ("champion", "champion", ""),
    ("n_voxels", "voxels", ""),
    ("n_test_stimuli", "test stimuli", ""),
    ("trial", "trial", ""),
)


def leaderboard_section(results: Results) -> Section:
    """The best trial of every study."""
    rows = results.leaderboard
    table = Table(
        "leaderboard",
        "Best trial of every target and method",
        results.validation_basis + (" test r: " + results.basis("encoding") if results.files["encoding"] else ""),
        tuple(Column(heading, form) for _, heading, form in LEADERBOARD),
        tuple(tuple(getattr(row, field) for field, _, _ in LEADERBOARD) for row in rows),
        "val r: mean Pearson r over voxels. Rows of a target are sorted by it.",
    )
    scored = [row for row in rows if row.val_r is not None]
    if not scored:
        return Section(
            "leaderboard",
            "Leaderboard",
            missing=(f"No trial came to a score yet: {results.resume} goes on.",),
            tables=(table,),
        )
    lead = " ".join(f"{line[0].upper()}{line[1:]}." for line in improvement_lines(list(rows)))
    return Section("leaderboard", "Leaderboard", lead, (_validation_picture(results, scored),), (table,))


def _validation_picture(results: Results, scored: Sequence[Row]) -> Picture:
    partial = {key.name for key in results.partial_pools.values()}
    whole = [row for row in scored if f"{row.target}/{row.method}" not in partial]
    plain = [{"target": row.target, "method": row.method, "r": row.val_r} for row in whole]
    rows = with_target_parts(plain, results.plan.roi_groups)
    labels, methods = rois_of(rows), methods_of(rows)
    series = [method_series(method, values_by(rows, method, "r", "roi")) for method in methods]
    caption = (
        "Validation r of the best trial: a small mark for each target (subject and hemisphere), the large one is "
        "their mean. Higher than on new stimuli, as trials were chosen by it."
    )
    return draw(
        "leaderboard_validation_r",
        caption,
        dots_height(len(labels), len(methods)),
        lambda figure: paint_dots(figure, labels, series, "validation r (mean over voxels)"),
    )


def _roi(row: Mapping[str, Any]) -> str:
    return str(row["roi"])


def methods_section(results: Results) -> Section:
    """Methods against each other on test stimuli, ROI by ROI, with intervals."""
    title = "Methods per ROI"
    missing = [results.command(name) for name in ("encoding", "statistics") if results.files[name] is None]
    pictures: list[Picture] = []
    tables: list[Table] = []
    if results.rows("encoding"):
        rows = with_target_parts(results.rows("encoding"), results.plan.roi_groups)
        pictures.append(_test_picture(rows))
        tables += [_methods_table(results, rows), _encoding_table(results)]
    for kind, pairs in (("over_subjects", "subjects"), ("over_voxels", "stimuli")):
        comparisons = results.rows("statistics", kind)
        if comparisons:
            pictures.append(comparison_picture(kind, comparisons, pairs))
            tables.append(_differences_table(results, kind, comparisons))
    missing += _no_subjects(results)
    lead = "Encoding accuracy on test stimuli, and paired differences between methods with 95 % intervals."
    return Section("methods", title, lead if tables else "", tuple(pictures), tuple(tables), tuple(missing))


def _differences_table(results: Results, kind: str, comparisons: Sequence[Mapping[str, Any]]) -> Table:
    title = {"over_subjects": "Differences over subjects", "over_voxels": "Differences within each target"}[kind]
    note = "Test r of the first method less that of the second."
    if kind == "over_voxels":
        better = ", and the comparison over subjects," if results.rows("statistics", "over_subjects") else ""
        note += (
            " p takes the voxels of a target for independent, which neighbours are not: trust the interval over "
            f"stimuli{better} before it."
        )
    return comparison_table(f"differences_{kind}", title, results.basis("statistics"), comparisons, note)


def _no_subjects(results: Results) -> list[str]:
    """Why methods are not compared over subjects, where they are compared at all."""
    if not results.rows("statistics", "over_voxels") or results.rows("statistics", "over_subjects"):
        return []
    reason = "no ROI was scored with two methods in two subjects."
    if results.only_subject:
        reason = (
            f"with {results.only_subject} alone there is neither an interval nor a p over subjects, and what differs "
            "within its targets need not differ in other brains."
        )
    return [f"Nothing is said over subjects: {reason}"]


def _test_picture(rows: Sequence[Mapping[str, Any]]) -> Picture:
    labels, methods = rois_of(rows), methods_of(rows)
    series = [
        method_series(method, _by_subject(rows, method), {roi: interval_of(v) for roi, v in of_roi.items()})
        for method in methods
        for of_roi in [_by_subject(rows, method)]
    ]
    alone = not any(len(values) > 1 for one in series for values in one.values.values())
    caption = (
        "Test r per ROI, mean over hemispheres; with a single subject there is no interval over subjects."
        if alone
        else "Test r per ROI: a small mark for each subject (mean of its hemispheres), the large one is their mean, "
        "the line its 95 % interval over subjects (Student's t)."
    )
    return draw(
        "methods_test_r",
        caption,
        dots_height(len(labels), len(methods)),
        lambda figure: paint_dots(figure, labels, series, "test r (mean over voxels)"),
    )


def _by_subject(rows: Sequence[Mapping[str, Any]], method: str) -> dict[str, list[float]]:
    """Mean over hemispheres, for each ROI and subject."""
    chosen = [row for row in rows if row["method"] == method]
    found: dict[str, list[float]] = {}
    for (roi, _), group in grouped(chosen, lambda row: (str(row["roi"]), row["subject"])).items():
        value = mean(group, "test_r")
        if value is not None:
            found.setdefault(roi, []).append(value)
    return found


def _methods_table(results: Results, rows: Sequence[Mapping[str, Any]]) -> Table:
    cells = []
    by_roi = grouped(rows, _roi)
    for roi in rois_of(rows):
        untuned = mean([row for row in by_roi[roi] if row["method"] == "untuned"], "test_r")
        for method in methods_of(by_roi[roi]):
            group = [row for row in by_roi[roi] if row["method"] == method]
            r, gain = mean(group, "test_r"), mean(group, "voxels_improved_percent")
            less = None if method == "untuned" else difference(r, untuned)
            ceiling = mean(group, "test_noise_normalised_r2")
            cells.append(
                (group[0]["roi_group"], roi, method, r, less, ceiling, gain, len(group), total(group, "n_voxels"))
            )
    columns = (
        Column("ROI group"),
        Column("ROI"),
        Column("method"),
        Column("test r", ".4f"),
        Column("less untuned", "+.4f"),
        Column(NORMALISED, ".3f"),
        Column("% voxels above untuned", ".1f"),
        Column("targets"),
        Column("voxels"),
    )
    over = "hemispheres" if results.only_subject else "subjects and hemispheres"
    note = f"Means over targets ({over}), each counting once. {_ceilings(rows)}"
    return _without_empty_r2(
        Table("methods", "Methods per ROI", results.basis("encoding"), columns, tuple(cells), note)
    )


def _ceilings(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the tables say of r² over the noise ceiling."""
    known = [row.get("test_noise_normalised_r2") is not None for row in rows]
    if not any(known):
        return "This data set has no noise ceilings (ncsnr), so every r is raw and none is normalised by them."
    return f"{NORMALISED}: median share of the noise ceiling" + (
        "." if all(known) else ", of the targets that have noise ceilings (ncsnr); the others' r is raw."
    )


def _without_empty_r2(table: Table) -> Table:
    """``table`` without the column of normalised r² where no row has one."""
    places = [
        place
        for place, column in enumerate(table.columns)
        if column.heading != NORMALISED or any(row[place] is not None for row in table.rows)
    ]
    rows = tuple(tuple(row[place] for place in places) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in places), rows=rows)


def _encoding_table(results: Results) -> Table:
    rows = tuple(tuple(row.get(field) for field, _, _ in ENCODING) for row in results.rows("encoding"))
    columns = tuple(Column(heading, form) for _, heading, form in ENCODING)
    note = "champion: the best method of its target by validation r. " + results.validation_basis.replace(
        "Protocol", "val r: protocol", 1
    )
    note += f" {_ceilings(results.rows('encoding'))}"
    return _without_empty_r2(Table("encoding", "Every selected model", results.basis("encoding"), columns, rows, note))


def comparison_picture(kind: str, comparisons: Sequence[Mapping[str, Any]], pairs: str) -> Picture:
    """Mean differences with their intervals."""
    names = list(dict.fromkeys(str(row["name"]) for row in comparisons))
    by_label = grouped(comparisons, lambda row: f"{row['roi']} {row['hemisphere'] or ''}".strip())
    labels = list(by_label)
    series = []
    for place, name in enumerate(names):
        values = {
            label: [float(row["mean_difference"]) for row in rows if row["name"] == name]
            for label, rows in by_label.items()
        }
        single = {label: _single([row for row in rows if row["name"] == name]) for label, rows in by_label.items()}
        series.append(other_series(place, name, values, single))
    if kind == "over_voxels" and any(row["interval_over"] == "voxels" for row in comparisons):
        pairs = "voxels (Student's t: protocols in folds keep no predictions to resample), which are not independent"
    caption = f"Paired differences of test r; the lines are 95 % intervals over {pairs}." + (
        " Where several subjects share a row, each is a small mark, the large one is their mean, and their intervals "
        "are in the table."
        if kind == "over_voxels" and len({row["subject"] for row in comparisons}) > 1
        else ""
    )
    return draw(
        f"methods_{kind}",
        caption,
        dots_height(len(labels), len(series)),
        lambda figure: paint_dots(figure, labels, series, "difference of test r", zero="no difference"),
    )


def _single(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    return interval_of_row(rows[0]) if len(rows) == 1 else None
