"""How records are shown: as a titled table in a notebook (escaped) or a terminal, or as JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


def html_card(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """HTML of a titled two-column table."""
    body = "".join(
        f"<tr><th style='text-align:left;padding-right:1em'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<div class='interp-card'><strong>{escape(title)}</strong><table>{body}</table></div>"


def html_table(title: str, header: list[str], rows: Iterable[list[object]]) -> str:
    """HTML of a titled table with a header row."""
    head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in header)
    lines = ("".join(f"<td style='text-align:left'>{escape(str(cell))}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class='interp-card'><strong>{escape(title)}</strong><table><tr>{head}</tr>{body}</table></div>"


def print_values(as_json: bool, values: Mapping[str, Any]) -> None:
    """Print one line per value, or one JSON object."""
    if as_json:
        print(json.dumps(values, indent=2, sort_keys=True))
        return
    for name, value in values.items():
        print(f"{name}: {f'{value:.3g}' if isinstance(value, float) else value}")


def print_table(as_json: bool, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print a table of rows with the same keys, or one JSON list; without rows, only the title."""
    if as_json:
        print(json.dumps(rows, indent=2, sort_keys=True))
        return
    from rich.console import Console
    from rich.markup import escape as plain
    from rich.table import Table

    if not rows:
        print(title)
        return
    table = Table(*rows[0], title=plain(title))
    for row in rows:
        table.add_row(*(plain(f"{x:.3f}" if isinstance(x, float) else str(x)) for x in row.values()))
    Console().print(table)
