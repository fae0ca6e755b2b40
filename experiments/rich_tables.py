"""Rows of figures as a table for the console."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


def table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """A column for each key of the first row."""
    drawn = Table(*rows[0], title=title)
    for row in rows:
        drawn.add_row(*map(str, row.values()))
    return drawn
