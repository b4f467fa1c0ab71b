"""Section about where networks look: a gallery of salience maps, and which side weighs more."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from orchestrator.report.drawing import WIDTH_INCHES, draw
from orchestrator.report.lateralisation import lateralisation_parts
from orchestrator.report.parts import Picture, Section, Tile
from orchestrator.report.results import Results
from trainables.config import METHODS

Row = Mapping[str, Any]
MOST_NETWORKS = 12
MOST_IMAGES = 4
THUMBNAIL_PIXELS = 192


def salience_section(results: Results) -> Section:
    """A gallery, and the three comparisons of the hemispheres."""
    title = "Salience"
    if results.files["salience"] is None:
        return Section("salience", title, missing=(results.command("salience"),))
    entries = _side_by_side(results.rows("salience", "gallery"), [target.roi for target in results.plan.targets])
    classes = results.rows("salience", "class_gallery")
    shown = [_response_tile(entry) for entry in entries[:MOST_NETWORKS]]
    shown += [_class_tile(entry) for entry in classes[:MOST_NETWORKS]]
    gallery, lost = _gallery(results, shown)
    pictures, tables, lacking = lateralisation_parts(results)
    sheet = _sheet(gallery) if gallery else None
    missing = [f"{place} is missing in the evaluation folder. {results.command('salience')}" for place in lost[:3]]
    if not classes:
        missing.append(f"No maps for classes. {results.command('salience', ' --labelled DIR')}")
    missing += lacking
    layer = (results.files["salience"] or {})["layer"]
    layers = layer if isinstance(layer, str) else ", ".join(layer)
    lead = f"Salience maps at {layers}: a picture stays bright where what the network predicts comes from."
    if classes:
        lead += " Grad-CAM for the true class: where the logit of a classifier on the network's features comes from."
    if max(len(entries), len(classes)) > MOST_NETWORKS:
        counts = f"{len(entries)} of responses and {len(classes)} of classes"
        lead += f" {MOST_NETWORKS} of each are shown, of {counts}; all are in evaluation/salience."
    return Section("salience", title, lead, tuple(pictures), tuple(tables), tuple(missing), tuple(gallery), sheet)


def _response_tile(entry: Row) -> tuple[str, str, Row]:
    """Name, caption and entry of a line of the gallery."""
    return str(entry["network"]), str(entry["network"]), entry


def _class_tile(entry: Row) -> tuple[str, str, Row]:
    what = f"Grad-CAM at {entry['layer']} for {', '.join(entry['classes'])} ({entry['set']})"
    return f"class_{entry['set']}_{entry['network']}", f"{entry['network']}: {what}", entry


def _side_by_side(entries: Sequence[Row], rois: Sequence[str]) -> list[Row]:
    """Subject by subject and ROI by ROI, methods below one another, left hemisphere before right."""
    order = {roi: place for place, roi in enumerate(dict.fromkeys(rois))}

    def place(entry: Row) -> tuple[str, int, int, str]:
        method = str(entry.get("method") or str(entry["network"]).rsplit(".", 1)[-1])
        rank = METHODS.index(method) if method in METHODS else len(METHODS)
        return str(entry.get("subject", "")), order.get(entry["roi"], len(order)), rank, str(entry["hemisphere"])

    return sorted(entries, key=place)


def _gallery(results: Results, lines: Sequence[tuple[str, str, Row]]) -> tuple[list[Tile], list[str]]:
    """Small images of each line, and those that are not there."""
    tiles, lost = [], []
    for name, caption, entry in lines:
        found = []
        for number, place in enumerate(entry["images"][:MOST_IMAGES]):
            content = results.image(place)
            if content is None:
                lost.append(str(place))
            else:
                what = f"{caption}, picture {number + 1}"
                found.append(Picture(f"salience_{name}_{number}", what, _thumbnail(content)))
        tiles.append(Tile(caption, tuple(found)))
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
