"""What a page is made of: sections with tables, pictures and sentences; no HTML, no drawing."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass


def file_name(name: str) -> str:
    """``name`` with nothing in it that a file's name should not hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


Cell = str | int | float | bool | None
"""None is shown as a dash and left empty in a CSV."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    heading: str
    form: str = ""
    """Format of a number on the page, such as ``.3f``; the CSV holds all digits."""


@dataclass(frozen=True)
class Table:
    """Numbers, with what they rest on."""

    name: str
    """Unique on the page."""
    title: str
    basis: str
    """Protocol, split and what the numbers are optimistic about."""
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def csv_text(self) -> str:
        """The table as comma-separated values, every number with all its digits."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.heading for column in self.columns])
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return text.getvalue()

    @property
    def csv_name(self) -> str:
        """Name of the file that it downloads as."""
        return f"{file_name(self.name)}.csv"

    @property
    def csv_uri(self) -> str:
        """`csv_text` as a link that needs no server."""
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(self.csv_text().encode()).decode()

    def shown(self, row: Sequence[Cell]) -> list[str]:
        """The cells of ``row`` as the page shows them."""
        return [_shown(cell, column.form) for cell, column in zip(row, self.columns, strict=True)]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, by their cells."""
        return [any(_is_number(row[place]) for row in self.rows) for place in range(len(self.columns))]


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _shown(cell: Cell, form: str) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return format(cell, form) if form and not isinstance(cell, str) else str(cell)


@dataclass(frozen=True)
class Picture:
    """A static figure; the same bytes go to the page and to MLflow."""

    name: str
    """Of its file, without ``.png``; unique on the page."""
    caption: str
    png: bytes
    scale: float = 1
    """How many telephones wide; where more than one, the page gives it a line of its own and scrolls it."""

    @property
    def uri(self) -> str:
        """The picture as a link that needs no server."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Tile:
    """Small pictures side by side; the page's alone, a picture of `Section.pictures` holds them all for MLflow."""

    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Section:
    """One chapter of the page; what it lacks is said in `missing`."""

    anchor: str
    title: str
    lead: str = ""
    """What is shown, in a sentence or two."""
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    missing: tuple[str, ...] = ()
    """What is not there, and what makes it: one sentence each."""
    gallery: tuple[Tile, ...] = ()
    sheet: Picture | None = None
    """The gallery in one picture."""
    interactive: str = ""
    """Trusted HTML of an interactive figure."""

    @property
    def all_pictures(self) -> tuple[Picture, ...]:
        """What MLflow gets."""
        return (*self.pictures, *([self.sheet] if self.sheet else []))
