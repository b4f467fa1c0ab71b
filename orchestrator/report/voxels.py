"""Section about single voxels: contrastive against untuned."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from orchestrator.report.drawing import GROUP_COLOURS, OTHER_COLOUR, cloud_look, draw
from orchestrator.report.grouping import groups_of, with_target_parts
from orchestrator.report.parts import Column, Picture, Section, Table
from orchestrator.report.results import Results

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def voxels_section(results: Results, method: str = "contrastive") -> Section:
    """A point for each voxel, above the diagonal where ``method`` predicts it better than the untuned network."""
    title = "Voxels"
    if results.files["encoding"] is None:
        return Section("voxels", title, missing=(results.command("encoding"),))
    rows = [row for row in results.rows("encoding") if row["method"] == method]
    if not rows:
        return Section("voxels", title, missing=(f"No {method} network is selected in this sweep.",))
    pairs, without = _pairs(results, with_target_parts(rows, results.plan.roi_groups))
    missing: tuple[str, ...] = ()
    if without:
        names = ", ".join(without[:5]) + (" and others" if len(without) > 5 else "")
        missing = (
            f"No r of single voxels of {method} and untuned networks for {names}. {results.command('encoding')}",
        )
    lead = "Test r of every voxel: contrastive (vertical) against untuned (horizontal), all subjects and hemispheres."
    pictures = tuple(_scatter(group, *pair) for group, pair in pairs.items())
    tables = (_table(results, pairs),) if pairs else ()
    return Section("voxels", title, lead, pictures, tables, missing)


def _pairs(results: Results, rows: list[dict[str, Any]]) -> tuple[dict[str, Pair], list[str]]:
    """By ROI group, r of the untuned network and r of the method, ``[n_voxels]`` each; and targets that lack them."""
    found: dict[str, list[Pair]] = {group: [] for group in groups_of(rows)}
    without = []
    for row in rows:
        untuned = results.voxel_r(row["slug"], "untuned")
        tuned = results.voxel_r(row["slug"], row["method"])
        if untuned is None or tuned is None or untuned.shape != tuned.shape:
            without.append(str(row["target"]))
        else:
            found[row["roi_group"]].append((untuned, tuned))
    joined = {
        group: (np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))
        for group, pairs in found.items()
        if pairs
    }
    return joined, without


def _scatter(group: str, untuned: NDArray[np.float64], tuned: NDArray[np.float64]) -> Picture:
    above = 100 * float(np.mean(tuned > untuned))
    low = min(0.0, float(min(untuned.min(), tuned.min()))) - 0.02
    high = float(max(untuned.max(), tuned.max())) + 0.02

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        size, alpha = cloud_look(len(untuned))
        axes.scatter(untuned, tuned, s=size, color=GROUP_COLOURS.get(group, OTHER_COLOUR), alpha=alpha, linewidths=0)
        axes.plot([low, high], [low, high], color="#222222", linewidth=0.9)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel="untuned r", ylabel="contrastive r")
        axes.set_title(f"{group}: {above:.1f} % of {len(untuned)} voxels above")

    caption = f"Voxels of {group} ROIs; the line is equality."
    return draw(f"voxels_{group}", caption, 4.4, paint)


def _table(results: Results, pairs: dict[str, Pair]) -> Table:
    rows = tuple(
        (group, len(a), float(a.mean()), float(b.mean()), float((b - a).mean()), 100 * float(np.mean(b > a)))
        for group, (a, b) in pairs.items()
    )
    columns = (
        Column("ROI group"),
        Column("voxels"),
        Column("untuned r", ".4f"),
        Column("contrastive r", ".4f"),
        Column("mean difference", "+.4f"),
        Column("% above untuned", ".1f"),
    )
    note = "Means over voxels. An ROI's voxels can belong to a stream as well and count in both groups."
    return Table("voxels", "Voxels by ROI group", results.basis("encoding"), columns, rows, note)
