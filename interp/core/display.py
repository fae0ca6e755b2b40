"""How a record shows itself in a notebook: a small titled table, escaped, readable in light and dark themes."""

from collections.abc import Iterable
from html import escape


def card(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """HTML of a titled two-column table."""
    body = "".join(
        f"<tr><th style='text-align:left;padding-right:1em'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<div class='interp-card'><strong>{escape(title)}</strong><table>{body}</table></div>"


def table(title: str, header: list[str], rows: Iterable[list[object]]) -> str:
    """HTML of a titled table with a header row."""
    head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<div class='interp-card'><strong>{escape(title)}</strong><table><tr>{head}</tr>{body}</table></div>"
