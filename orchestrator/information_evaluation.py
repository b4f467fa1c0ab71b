"""Information between pictures and responses as rows of a table, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.cells import Cell, CellKey
from orchestrator.plan import SweepPlan
from trainables.data.splits import PUBLISHED


def why_no_information(plan: SweepPlan) -> str:
    """One sentence about a sweep whose evaluation found no information to measure."""
    if plan.protocol in PUBLISHED:
        return (
            f"Not to be had under {plan.protocol}: its temperature is chosen on validation stimuli, and that protocol "
            "has none."
        )
    if not any(method == "contrastive" or method.startswith("pooled-") for method in plan.methods):
        return "Only contrastive and pooled networks embed responses beside pictures; this sweep tunes none."
    return "No selected network embeds responses beside pictures with a finite number of bits."


def information_rows(plan: SweepPlan, cells: Mapping[CellKey, Cell]) -> list[dict[str, Any]]:
    """A row for every network on each of its own subjects whose information was measured."""
    rows = []
    for key, cell in cells.items():
        found = cell.information
        if found is None or key.network.target is None:
            continue
        images, responses = found["retrieval"]["images"], found["retrieval"]["responses"]
        rows.append(
            {
                "network": key.network.name,
                "trial": key.network.trial,
                "method": key.network.method,
                "target": key.network.target.name,
                "subject": key.subject,
                "roi": key.network.target.roi,
                "roi_group": plan.roi_groups[key.network.target.roi],
                "bits": found["bits"],
                "limit_bits": found["upper_limit"],
                "beta": found["beta"],
                "n_stimuli": found["n_stimuli"],
                "image_top1": images["top1"],
                "image_top5": images["top5"],
                "response_top1": responses["top1"],
                "response_top5": responses["top5"],
                "chance_top1": images["chance_top1"],
                "chance_top5": images["chance_top5"],
            }
        )
    return rows
