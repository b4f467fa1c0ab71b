"""Sections about what networks know of pictures: classification kept, and information shared with responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from orchestrator.information_evaluation import why_no_information
from orchestrator.report.drawing import dots_height, draw, mark_value, method_series, other_series, paint_dots
from orchestrator.report.grouping import difference, groups_of, mean, methods_of, values_by
from orchestrator.report.parts import Cell, Column, Picture, Section, Table
from orchestrator.report.results import Results

Row = Mapping[str, Any]
RANKS = ("image_top1", "image_top5", "response_top1", "response_top5")


def classification_section(results: Results) -> Section:
    """How much of recognising objects and places is left after tuning."""
    title = "Classification kept"
    sets = results.sets("classification")
    if not sets:
        return Section("classification", title, missing=(results.command("classification"),))
    pictures, tables = [], []
    for name, content in sets.items():
        drawn = {**content, "rows": results.of_whole_pools(content["rows"])}
        if _grouped_rows(drawn)[0]:
            pictures.append(_accuracy_picture(name, drawn))
        tables.append(_accuracy_table(results, name, content))
    lead = "Accuracy of a logistic regression on each network's features, beside the untuned network's."
    return Section("classification", title, lead, tuple(pictures), tuple(tables))


def _grouped_rows(content: Mapping[str, Any]) -> tuple[list[Row], float | None]:
    rows = [row for row in content["rows"] if row["method"] != "untuned"]
    return rows, mean([row for row in content["rows"] if row["method"] == "untuned"], "accuracy")


def _accuracy_picture(name: str, content: Mapping[str, Any]) -> Picture:
    rows, untuned = _grouped_rows(content)
    groups, methods = groups_of(rows), methods_of(rows)
    series = [method_series(method, values_by(rows, method, "accuracy", "roi_group")) for method in methods]

    def paint(figure: Figure) -> None:
        axes = paint_dots(figure, groups, series, f"accuracy on {name}")
        for value, word in ((content["chance"], "chance"), (untuned, "untuned")):
            if value is not None:
                mark_value(axes, value, word, "-" if word == "untuned" else ":")

    caption = (
        f"Accuracy on {name} ({content['n_classes']} classes): a small mark for each network, large ones are means."
    )
    return draw(f"classification_{name}", caption, dots_height(len(groups), len(methods)), paint)


def _accuracy_table(results: Results, name: str, content: Mapping[str, Any]) -> Table:
    _, untuned = _grouped_rows(content)
    cells = tuple(
        (
            row["network"],
            row["method"],
            row.get("target"),
            row.get("roi_group"),
            row["layer"],
            row["accuracy"],
            None if row["method"] == "untuned" else difference(row["accuracy"], untuned),
            content["chance"],
            row["n_test"],
        )
        for row in content["rows"]
    )
    columns = (
        Column("network"),
        Column("method"),
        Column("tuned for"),
        Column("ROI group"),
        Column("layer"),
        Column("accuracy", ".4f"),
        Column("less untuned", "+.4f"),
        Column("chance", ".4f"),
        Column("test pictures"),
    )
    note = (
        f"Fitted to {content['n_train']} pictures of {content['n_classes']} classes, scored on others of the same set."
    )
    what = f"pictures of {name}; the split named is the sweep's, these pictures have their own"
    return Table(
        f"classification_{name}", f"Accuracy on {name}", results.basis("classification", what), columns, cells, note
    )


def information_section(results: Results) -> Section:
    """Bits that embeddings of pictures and responses share, and how often one finds the other."""
    title = "Information and retrieval"
    rows = results.rows("information")
    if not rows:
        embeds = any(method == "contrastive" or method.startswith("pooled-") for method in results.plan.methods)
        reason = results.command("information") if embeds else why_no_information(results.plan)
        return Section("information", title, missing=(reason,))
    lead = (
        "A lower bound of the information that a network's embedding of a picture and of the response to it share, and "
        "how often the right picture (or response) is the nearest, or among the five nearest, of all test stimuli."
    )
    drawn = results.of_whole_pools(rows)
    pictures = (_bits_picture(drawn), *(_retrieval_picture(drawn, rank) for rank in (1, 5))) if drawn else ()
    return Section("information", title, lead, pictures, (_information_table(results, rows),))


def _bits_picture(rows: Sequence[Row]) -> Picture:
    groups, methods = groups_of(rows), methods_of(rows)
    series = [method_series(method, values_by(rows, method, "bits", "roi_group")) for method in methods]
    limits = sorted({round(float(row["limit_bits"]), 2) for row in rows if row.get("limit_bits") is not None})
    most = f"{limits[0]:g}" if len(limits) == 1 else f"{limits[0]:g} to {limits[-1]:g}" if limits else "unknown"
    caption = f"Bits per ROI group; this estimate cannot exceed log2 of the number of test stimuli ({most} bits)."
    return draw(
        "information_bits",
        caption,
        dots_height(len(groups), len(methods)),
        lambda figure: paint_dots(figure, groups, series, "information (bits)", zero="none"),
    )


def _retrieval_picture(rows: Sequence[Row], rank: int) -> Picture:
    groups, methods = groups_of(rows), methods_of(rows)
    labels = [f"{group} {method}" for group in groups for method in methods]
    series = []
    for place, (way, words) in enumerate((("image", "picture from response"), ("response", "response from picture"))):
        values = {
            f"{group} {method}": found
            for method in methods
            for group, found in values_by(rows, method, f"{way}_top{rank}", "roi_group").items()
        }
        series.append(other_series(place, words, values))
    labels = [label for label in labels if any(label in one.values for one in series)]
    chance = mean(rows, f"chance_top{rank}")

    def paint(figure: Figure) -> None:
        axes = paint_dots(
            figure, labels, series, f"share found among the nearest {rank}" if rank > 1 else "share found first"
        )
        if chance is not None:
            mark_value(axes, chance, "chance", ":")
        axes.set_xlim(left=0)

    caption = f"Retrieval, top {rank}: a small mark for each network, large ones are means, the dotted line is chance."
    return draw(f"information_top{rank}", caption, dots_height(len(labels), 2), paint)


def _information_table(results: Results, rows: Sequence[Row]) -> Table:
    identity = ("network", "method", "target", "subject", "roi_group", "bits", "limit_bits", "beta")
    names = (*identity, *RANKS, "chance_top1", "chance_top5", "n_stimuli")
    forms = {"bits": ".3f", "limit_bits": ".2f", "beta": ".3g"} | dict.fromkeys(
        (*RANKS, "chance_top1", "chance_top5"), ".4f"
    )
    columns = tuple(Column(name.replace("_", " "), forms.get(name, "")) for name in names)
    cells: tuple[tuple[Cell, ...], ...] = tuple(tuple(row.get(name) for name in names) for row in rows)
    note = "beta scales the temperature, chosen on validation stimuli. image top: the picture found from the response."
    return Table("information", "Information and retrieval", results.basis("information"), columns, cells, note)
