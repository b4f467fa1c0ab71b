"""Paired comparisons as tables and as intervals, whoever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.report.parts import Column, Table
from trainables.analyses.statistics import compare_paired

COLUMNS = (
    ("name", "comparison", ""),
    ("pair", "pair", ""),
    ("network", "network", ""),
    ("roi_group", "ROI group", ""),
    ("roi", "ROI", ""),
    ("hemisphere", "hemisphere", ""),
    ("subject", "subject", ""),
    ("method", "method", ""),
    ("mean_difference", "mean difference", "+.4f"),
    ("low", "95 % from", "+.4f"),
    ("high", "95 % to", "+.4f"),
    ("spread", "spread of exchanges", ".4f"),
    ("interval_over", "interval over", ""),
    ("t", "t", ".2f"),
    ("p", "p", ".3g"),
    ("p_sign_flip", "p sign flip", ".3g"),
    ("p_corrected", "p corrected", ".3g"),
    ("p_sign_flip_corrected", "p sign flip corrected", ".3g"),
    ("n", "n", ""),
    ("layer", "layer", ""),
    ("correction", "correction", ""),
    ("protocol", "protocol", ""),
)
"""Field, heading and format; a table has those that some row has."""


def comparison_table(name: str, title: str, basis: str, comparisons: Sequence[Mapping[str, Any]], note: str) -> Table:
    """Comparisons with their n, protocol and correction."""
    rows = []
    for row in comparisons:
        low, high = interval_of_row(row) or (None, None)
        rows.append({**row, "low": low, "high": high})
    shown = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    columns = tuple(Column(heading, form) for _, heading, form in shown)
    return Table(name, title, basis, columns, tuple(tuple(row.get(f) for f, _, _ in shown) for row in rows), note)


def interval_of_row(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """The interval of a comparison, if it has one."""
    low, high = row.get("interval") or (None, None)
    return None if low is None or high is None else (float(low), float(high))


def interval_of(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean, from Student's t; None for a single value."""
    if len(values) < 2:
        return None
    low, high = compare_paired(values, np.zeros(len(values)), protocol="", n_flips=1).interval
    return (low, high) if np.isfinite([low, high]).all() else None
