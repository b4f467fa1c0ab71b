"""Which differences between methods are more than chance: over voxels of a target, and over subjects of an ROI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.cells import Cell
from orchestrator.networks import UNTUNED
from orchestrator.plan import SweepPlan
from trainables.config import METHODS

RESAMPLES = 1000
Voxels = Mapping[tuple[str, str], NDArray[np.float64]]
"""r of every voxel by slug and method."""


def compare_methods(
    plan: SweepPlan, rows: Sequence[dict[str, Any]], voxel_r: Voxels, cells: Mapping[tuple[str, str], Cell]
) -> dict[str, list[dict[str, Any]]]:
    """Every pair of methods, compared over the voxels of each target and over the subjects of each ROI.

    Over voxels the interval comes from resampling stimuli, where predictions of single stimuli exist (not in folds).
    p-values are corrected over the targets, or ROIs, of one pair of methods (Benjamini-Hochberg).
    """
    present = sorted({row["method"] for row in rows}, key=METHODS.index)
    over_voxels, over_subjects = [], []
    for less, more in combinations(present, 2):
        over_voxels += _over_voxels(plan, rows, voxel_r, cells, more, less)
        over_subjects += _over_subjects(plan, rows, more, less)
    return {"over_voxels": over_voxels, "over_subjects": over_subjects}


def _over_voxels(
    plan: SweepPlan,
    rows: Sequence[dict[str, Any]],
    voxel_r: Voxels,
    cells: Mapping[tuple[str, str], Cell],
    more: str,
    less: str,
) -> list[dict[str, Any]]:
    from trainables.analyses.statistics import bootstrap_stimuli, compare_over

    by_slug: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_slug.setdefault(row["slug"], {})[row["method"]] = row
    pairs = {slug: found for slug, found in by_slug.items() if more in found and less in found}
    if not pairs:
        return []
    scores = {slug: (voxel_r[slug, more], voxel_r[slug, less]) for slug in pairs}
    compared = compare_over(scores, protocol=plan.protocol)
    result = []
    for slug, found in pairs.items():
        line = _line(plan, found[more], f"{more} - {less}", found[more]["subject"], asdict(compared[slug]))
        place = (line["hemisphere"], line["roi"])
        predictions = [cells[found[m]["network"], line["subject"]].predicted(place) for m in (more, less)]
        measured = cells[UNTUNED, line["subject"]].measured(place)
        line["interval_over"] = "voxels"
        if predictions[0] is not None and predictions[1] is not None and measured is not None:
            boot = bootstrap_stimuli(
                predictions[0], predictions[1], measured, protocol=plan.protocol, n_resamples=RESAMPLES
            )
            line |= {"interval": list(boot.interval), "interval_over": f"{boot.n_stimuli} stimuli"}
        result.append(line)
    return result


def _over_subjects(plan: SweepPlan, rows: Sequence[dict[str, Any]], more: str, less: str) -> list[dict[str, Any]]:
    from trainables.analyses.statistics import compare_over

    by_roi: dict[tuple[str, str], dict[str, dict[str, dict[str, Any]]]] = {}
    for row in rows:
        by_roi.setdefault((row["hemisphere"], row["roi"]), {}).setdefault(row["subject"], {})[row["method"]] = row
    scores, samples = {}, {}
    for place, subjects in by_roi.items():
        both = [found for found in subjects.values() if more in found and less in found]
        if len(both) >= 2:
            name = "/".join(place)
            scores[name] = tuple([found[m]["test_r"] for found in both] for m in (more, less))
            samples[name] = both[0][more]
    if not scores:
        return []
    compared = compare_over({name: (a, b) for name, (a, b) in scores.items()}, protocol=plan.protocol)
    return [
        _line(plan, samples[name], f"{more} - {less}", None, asdict(found)) | {"interval_over": f"{found.n} subjects"}
        for name, found in compared.items()
    ]


def _line(
    plan: SweepPlan, row: dict[str, Any], name: str, subject: str | None, comparison: dict[str, Any]
) -> dict[str, Any]:
    """A comparison as plain values: NaN, which JSON lacks, becomes None."""
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in comparison.items()}
    return {
        "name": name,
        "roi": row["roi"],
        "roi_group": plan.roi_groups[row["roi"]],
        "hemisphere": row["hemisphere"],
        "subject": subject,
        **{key: finite(value) for key, value in plain.items()},
    }


def finite(value: Any) -> Any:
    """``value`` with None for every number that is not finite."""
    if isinstance(value, list):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
