"""Section about networks that were tuned for several subjects together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.drawing import dots_height, draw, method_series, paint_dots
from orchestrator.report.grouping import difference, grouped, mean, methods_of, rois_of, values_by, with_target_parts
from orchestrator.report.parts import Cell, Column, Picture, Section, Table
from orchestrator.report.results import Results
from orchestrator.report.transfer import source_name

Row = Mapping[str, Any]
SPECIFIC = ("untuned", "contrastive")


def pooled_section(results: Results) -> Section:
    """Pooled networks beside those of each subject alone, and on subjects that they never saw."""
    title = "Pooled subjects"
    rows = with_target_parts(results.rows("encoding"), results.plan.roi_groups)
    pooled = [row for row in rows if _is_pooled(row)]
    left_out = [row for row in results.rows("transfer") if _is_pooled(row) and row["left_out"]]
    pictures, tables = [], []
    if pooled:
        matched = _matched(pooled, rows)
        pictures.append(_picture(matched))
        tables.append(_table(results, matched))
    if left_out:
        tables.append(_left_out_table(results, left_out))
    lead = (
        "One network for several subjects, beside the networks that were tuned for each of them alone, on the same "
        "targets."
    )
    return Section(
        "pooled",
        title,
        lead if tables else "",
        tuple(pictures),
        tuple(tables),
        _missing(results, bool(pooled), left_out),
    )


def _is_pooled(row: Row) -> bool:
    return str(row["method"]).startswith("pooled-")


def _missing(results: Results, scored: bool, left_out: Sequence[Row]) -> tuple[str, ...]:
    planned = any(method.startswith("pooled-") for method in results.plan.methods)
    if results.only_subject and not planned:
        return (f"No pooled network: it needs two subjects, and {results.only_subject} is the only one of this sweep.",)
    if not scored and not planned and results.files["encoding"] is not None:
        methods = "--methods pooled-avg,pooled-const,contrastive,untuned"
        sentence = f"This sweep tunes no pooled method; one with `python sweep.py run {methods} …` does."
        return (sentence,)
    missing = []
    if not scored:
        missing.append(results.command("encoding"))
    if not left_out and results.files["transfer"] is None:
        missing.append(f"On subjects that were left out of tuning: {_lower(results.command('transfer'))}")
    elif not left_out:
        missing.append("No subject was left out of tuning: the pooled networks were tuned on all that were evaluated.")
    return tuple(missing)


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _matched(pooled: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The pooled rows, and those of the specific networks for the same subjects, hemispheres and ROIs."""
    places = {(row["subject"], row["hemisphere"], row["roi"]) for row in pooled}
    specific = [row for row in rows if row["method"] in SPECIFIC]
    return [*(row for row in specific if (row["subject"], row["hemisphere"], row["roi"]) in places), *pooled]


def _picture(rows: Sequence[Row]) -> Picture:
    rois, methods = rois_of(rows), methods_of(rows)
    series = [method_series(method, values_by(rows, method, "test_r", "roi")) for method in methods]
    caption = "Test r of pooled and of specific networks: a small mark for each target, the large one is their mean."
    return draw(
        "pooled_test_r",
        caption,
        dots_height(len(rois), len(methods)),
        lambda figure: paint_dots(figure, rois, series, "test r (mean over voxels)"),
    )


def _table(results: Results, rows: Sequence[Row]) -> Table:
    cells: list[tuple[Cell, ...]] = []
    for (group_name, roi), group in grouped(rows, lambda row: (row["roi_group"], str(row["roi"]))).items():
        specific = mean([row for row in group if row["method"] == "contrastive"], "test_r")
        for method in methods_of(group):
            same = [row for row in group if row["method"] == method]
            r = mean(same, "test_r")
            less = None if method == "contrastive" else difference(r, specific)
            cells.append((group_name, roi, method, r, less, len(same)))
    columns = (
        Column("ROI group"),
        Column("ROI"),
        Column("method"),
        Column("test r", ".4f"),
        Column("less specific contrastive", "+.4f"),
        Column("targets"),
    )
    return Table("pooled", "Pooled and specific networks", results.basis("encoding"), columns, tuple(cells))


def _left_out_table(results: Results, rows: Sequence[Row]) -> Table:
    groups = grouped(
        rows, lambda row: (row["method"], row["roi_group"], source_name(row), row["dataset"], row["subject"])
    )
    cells = tuple(
        (*key, mean(group, "r"), mean(group, "mean_delta_r"), mean(group, "fraction_above_untuned"), len(group))
        for key, group in groups.items()
    )
    columns = (
        Column("method"),
        Column("ROI group"),
        Column("tuned on"),
        Column("data set"),
        Column("predicts"),
        Column("r", ".4f"),
        Column("mean Δr", "+.4f"),
        Column("share of voxels above untuned", ".3f"),
        Column("ROIs"),
    )
    title = "Pooled networks on subjects left out of tuning"
    return Table("pooled_left_out", title, results.basis("transfer"), columns, cells)
