"""Section about where networks look: a gallery of salience maps, and which side weighs more."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from orchestrator.report.comparisons import comparison_table, interval_of, interval_of_row
from orchestrator.report.drawing import WIDTH_INCHES, dots_height, draw, method_series, paint_dots
from orchestrator.report.grouping import grouped, methods_of, rois_of
from orchestrator.report.parts import Picture, Section, Tile
from orchestrator.report.results import Results
from trainables.config import METHODS

Row = Mapping[str, Any]
MOST_NETWORKS = 12
MOST_IMAGES = 4
THUMBNAIL_PIXELS = 192


def salience_section(results: Results) -> Section:
    """A gallery, and the lateralisation of left- and right-hemisphere networks."""
    title = "Salience"
    if results.files["salience"] is None:
        return Section("salience", title, missing=(results.command("salience"),))
    entries = _side_by_side(results.rows("salience", "gallery"), [target.roi for target in results.plan.targets])
    gallery, lost = _gallery(results, entries[:MOST_NETWORKS])
    sides = results.rows("salience", "lateralisation")
    pictures = (_sides_picture(sides),) if sides else ()
    sheet = _sheet(gallery) if gallery else None
    missing = [f"{place} is missing in the evaluation folder. {results.command('salience')}" for place in lost[:3]]
    if not sides:
        missing.append("No lateralisation: it needs networks of both hemispheres of a subject and ROI.")
    layer = (results.files["salience"] or {})["layer"]
    layers = layer if isinstance(layer, str) else ", ".join(layer)
    lead = f"Salience maps at {layers}: a picture stays bright where what the network predicts comes from."
    if len(entries) > MOST_NETWORKS:
        lead += f" {MOST_NETWORKS} of {len(entries)} networks are shown; all are in evaluation/salience."
    note = "Preference for the left visual field: of the right hemisphere's model less that of the left hemisphere's."
    basis = results.basis("salience")
    tables = (comparison_table("lateralisation", "Lateralisation", basis, sides, note),) if sides else ()
    return Section("salience", title, lead, pictures, tables, tuple(missing), tuple(gallery), sheet)


def _side_by_side(entries: Sequence[Row], rois: Sequence[str]) -> list[Row]:
    """Subject by subject and ROI by ROI, methods below one another, left hemisphere before right."""
    order = {roi: place for place, roi in enumerate(dict.fromkeys(rois))}

    def place(entry: Row) -> tuple[str, int, int, str]:
        method = str(entry.get("method") or str(entry["network"]).rsplit(".", 1)[-1])
        rank = METHODS.index(method) if method in METHODS else len(METHODS)
        return str(entry.get("subject", "")), order.get(entry["roi"], len(order)), rank, str(entry["hemisphere"])

    return sorted(entries, key=place)


def _gallery(results: Results, entries: Sequence[Row]) -> tuple[list[Tile], list[str]]:
    """Small images of each network, and those that are not there."""
    tiles, lost = [], []
    for entry in entries:
        name, found = str(entry["network"]), []
        for number, place in enumerate(entry["images"][:MOST_IMAGES]):
            content = results.image(place)
            if content is None:
                lost.append(str(place))
            else:
                found.append(Picture(f"salience_{name}_{number}", f"{name}, picture {number + 1}", _thumbnail(content)))
        tiles.append(Tile(name, tuple(found)))
    return [tile for tile in tiles if tile.pictures], lost


def _thumbnail(content: bytes) -> bytes:
    small = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        copy = image.convert("RGB")
    copy.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    copy.quantize(128).save(small, format="PNG", optimize=True)
    return small.getvalue()


def _sheet(gallery: Sequence[Tile]) -> Picture:
    """The gallery as one picture, a line for each network."""

    def paint(figure: Figure) -> None:
        all_axes = figure.subplots(len(gallery), MOST_IMAGES, squeeze=False)
        for axes_of_line, tile in zip(all_axes, gallery, strict=True):
            for axes in axes_of_line:
                axes.set_axis_off()
            for axes, picture in zip(axes_of_line, tile.pictures, strict=False):
                axes.imshow(Image.open(io.BytesIO(picture.png)).convert("RGB"))
            axes_of_line[0].set_title(tile.caption, loc="left", fontsize=7.5)

    height = len(gallery) * (WIDTH_INCHES / MOST_IMAGES + 0.25)
    return draw(
        "salience_gallery", "Salience maps, a line for each network and a column for each picture.", height, paint
    )


def _sides_picture(sides: Sequence[Row]) -> Picture:
    rois, methods = rois_of(sides), methods_of(sides)
    series = []
    for method in methods:
        by_roi = grouped([row for row in sides if row["method"] == method], lambda row: str(row["roi"]))
        values = {roi: [float(row["mean_difference"]) for row in group] for roi, group in by_roi.items()}
        intervals = {roi: _interval(group) for roi, group in by_roi.items()}
        series.append(method_series(method, values, intervals))
    caption = (
        "How much more the right hemisphere's model weighs the left visual field than the left hemisphere's does: "
        "above 0 is contralateral. Small marks are subjects; lines are 95 % intervals, over subjects where there are "
        "several, else over pictures. Any two models differ given enough pictures: only several subjects speak of "
        "brains."
    )
    return draw(
        "salience_lateralisation",
        caption,
        dots_height(len(rois), len(methods)),
        lambda figure: paint_dots(figure, rois, series, "right less left model", zero="no side"),
    )


def _interval(rows: Sequence[Row]) -> tuple[float, float] | None:
    if len(rows) == 1:
        return interval_of_row(rows[0])
    different = len({row["subject"] for row in rows}) == len(rows)
    return interval_of([float(row["mean_difference"]) for row in rows]) if different else None
