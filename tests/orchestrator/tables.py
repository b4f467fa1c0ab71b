"""Reads the report's tables."""

from __future__ import annotations

from typing import Any

from orchestrator.report.parts import Section, Table


def only_table(section: Section, name: str) -> Table:
    (table,) = [table for table in section.tables if table.name == name]
    return table


def records(table: Table) -> list[dict[str, Any]]:
    return [dict(zip([c.heading for c in table.columns], row, strict=True)) for row in table.rows]
