"""Means over rows, and the order in which things are shown."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from trainables.config import METHODS
from trainables.data.rois import GROUPS

Key = TypeVar("Key", bound=Hashable)
Row = Mapping[str, Any]


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Rows by ``key``, in the order of their first appearance."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def mean(rows: Iterable[Row], field: str) -> float | None:
    """Mean of the values that there are; None where there is none."""
    values = [float(row[field]) for row in rows if row.get(field) is not None]
    return sum(values) / len(values) if values else None


def values_by(rows: Iterable[Row], method: str, field: str, place: str) -> dict[str, list[float]]:
    """Values of one method that there are, by the ``roi`` or ``roi_group`` of their rows."""
    chosen = [row for row in rows if row["method"] == method and row.get(field) is not None]
    by_place = grouped(chosen, lambda row: str(row[place]))
    return {name: [float(row[field]) for row in same] for name, same in by_place.items()}


def total(rows: Iterable[Row], field: str) -> int:
    """Sum of whole numbers."""
    return sum(int(row[field]) for row in rows)


def difference(a: float | None, b: float | None) -> float | None:
    """``a - b``, if both are there."""
    return None if a is None or b is None else a - b


def by_known(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Different ``names``: the ``known`` ones in their order, then the others as they come."""
    different = list(dict.fromkeys(names))
    return [name for name in known if name in different] + [name for name in different if name not in known]


def methods_of(rows: Iterable[Row]) -> list[str]:
    """The methods of ``rows``, baseline first."""
    return by_known((row["method"] for row in rows), METHODS)


def groups_of(rows: Iterable[Row]) -> list[str]:
    """The ROI groups of ``rows``, from early to late."""
    return by_known((row["roi_group"] for row in rows), GROUPS)


def rois_of(rows: Sequence[Row]) -> list[str]:
    """The ROIs of ``rows``, group by group."""
    by_group = grouped(rows, lambda row: str(row["roi_group"]))
    return list(dict.fromkeys(row["roi"] for group in groups_of(rows) for row in by_group[group]))


def with_target_parts(rows: Iterable[Row], roi_groups: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows that name a target (``subj01/lh/V1v``), with its subject, hemisphere, ROI and ROI group as fields."""
    whole = []
    for row in rows:
        subject, hemisphere, roi = str(row["target"]).split("/", 2)
        parts = {"subject": subject, "hemisphere": hemisphere, "roi": roi, "roi_group": roi_groups.get(roi, "other")}
        whole.append({**parts, **row})
    return whole


def tuned_for(row: Row) -> tuple[str, str] | None:
    """Hemisphere and ROI slug of the network of ``row``; None for the untuned network."""
    slug = str(row["network"]).removesuffix(f".{row['method']}")
    for hemisphere in ("lh", "rh"):
        _, found, roi = slug.partition(f"-{hemisphere}-")
        if found:
            return hemisphere, roi
    return None


def is_own(row: Row) -> bool:
    """Whether a network is looked at where it was tuned; the untuned network is at home everywhere."""
    home = tuned_for(row)
    return home is None or home == (row["hemisphere"], str(row["roi"]).replace(":", "_"))
