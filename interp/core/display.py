"""How records are shown: as a line of text, as a card or table in a notebook (escaped), or as JSON.

`Displayed` is the base of records. A record lists its rows once, in `_card`; its line of text and its card follow from
them. A row is a name, a value and, where needed, how to read the value: what is good, and against which bound.
Cards have no colours of their own, so they are legible on light and on dark pages.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from html import escape
from reprlib import Repr
from typing import Any, TextIO, TypeVar, cast

from interp.core.errors import printable

Row = tuple[object, ...]  # a name, a value, and where needed how to read the value
Card = tuple[str, Sequence[Row]]  # what follows the name of the class in the title, and the rows
Several = TypeVar("Several", bound=Sequence[Any])
_LINE, _CELL, _FACT = 600, 300, 60  # characters of a record's text, of a cell, of a fact in a text
_ITEMS, _ROWS = 8, 50  # items of a list and rows of a table that are shown
_FIGURE = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( ?(%|nats|[kMGT]?B|s))?\*?( \[[^]]*\])?|–|")
_LEFT = "text-align:left;min-width:6em;padding:1px 12px 1px 0"
_RIGHT = "text-align:right;padding:1px 12px 1px 0;white-space:nowrap;font-variant-numeric:tabular-nums"


def plural(count: int, noun: str, many: str = "") -> str:
    """A number with its noun, such as "1 prompt" or "2,048 prompts"; `many` is the noun of other numbers than 1."""
    return f"{count:,} {noun if count == 1 else many or f'{noun}s'}"


def escaped(text: object) -> str:
    """A text for HTML, without characters that change the direction of what follows."""
    return escape(printable(str(text)))


def markdown(text: object) -> str:
    """A text for Markdown, each line of it on its own, that shows as it is: no links, images, tables, headings or HTML.

    >>> markdown("# ![x](http://x) | <b>")
    '\\\\# !\\\\[x\\\\](http://x) \\\\| &lt;b>'
    """
    plain = printable(str(text)).replace("&", "&amp;").replace("<", "&lt;")
    lines = re.sub(r"([\\`\[\]|])", r"\\\1", plain).splitlines()
    return "\n".join(re.sub(r"^\s*([#>+=~-])", r"\\\1", line) for line in lines)


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print lines to the screen, without terminal escapes and bidirectional controls."""
    print(*(printable(str(line)) for line in lines), sep="\n", file=file, flush=True)


def clipped(text: str, limit: int) -> str:
    """The text, or its beginning and an ellipsis where it is longer than the limit."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def brief(value: object, limit: int = _CELL) -> str:
    """A value in a few words: a float to three digits, a tensor by its shape, a long list by its first items."""
    if value is None or isinstance(value, bool):
        return "–" if value is None else "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"tensor{list(value.shape)}"
    if isinstance(value, Mapping):
        value = [f"{name} {brief(item, _FACT)}" for name, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        more = [f"and {len(value) - _ITEMS:,} more"] if len(value) > _ITEMS else []
        value = ", ".join([*(brief(item, _FACT) for item in [*value][:_ITEMS]), *more]) or "–"
    return clipped(printable(str(value)), limit)


class Displayed:
    """Base of records: `repr` is a bounded line, and a notebook shows a card of the same rows.

    Example:
        >>> from dataclasses import dataclass
        >>> from interp.core.display import Displayed
        >>> @dataclass(frozen=True)
        ... class Reading(Displayed):
        ...     site: str
        ...     values: torch.Tensor
        >>> Reading("resid_post.3", torch.zeros(512, 192))
        Reading(site='resid_post.3', values=tensor[512, 192])
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__repr__ = cls.__repr__  # type: ignore[method-assign]  # `dataclass` keeps what the class itself has

    def _card(self) -> Card:
        """What follows the name of the class in the title, and the rows; by default the fields."""
        return "", list(_values(self).items())

    def __repr__(self) -> str:
        if type(self)._card is Displayed._card:
            return fields_text(self)
        subject, rows = self._card()
        facts = ", ".join(f"{row[0]} {brief(row[1], _FACT)}" for row in rows)
        words = printable(f"{type(self).__name__}({': '.join(filter(None, (subject, facts)))}").split()
        return clipped(" ".join(words), _LINE) + ")"

    def _repr_html_(self) -> str:
        subject, rows = self._card()
        return html_table(": ".join(filter(None, (type(self).__name__, subject))), [], rows)


class _Brief(Repr):
    """Python's own text of values, with tensors by their shapes."""

    maxtuple = maxlist = maxdict = maxset = 4
    maxstring = maxother = 80

    def repr_Tensor(self, x: Any, level: int) -> str:
        return f"tensor{list(x.shape)}"

    repr_Parameter = repr_Tensor

    def repr_instance(self, x: Any, level: int) -> str:
        return clipped(repr(x), self.maxother)


def fields_text(record: object) -> str:
    """A record as `Name(field=value, …)`, with long values cut short."""
    values = ", ".join(f"{name}={_Brief().repr(value)}" for name, value in _values(record).items())
    return clipped(f"{type(record).__name__}({values}", _LINE) + ")"


def _values(record: Any) -> dict[str, object]:
    names = [f.name for f in fields(record) if f.repr] if is_dataclass(record) else type(record).model_fields
    return {name: getattr(record, name) for name in names}


def displayed(values: Several) -> Several:
    """The same list or tuple, shown as a table in a notebook and one item per line as text."""
    return cast(Several, (_ShownTuple if isinstance(values, tuple) else _ShownList)(values))


class _Shown:
    """The display of several values, as a base before `list` or `tuple`."""

    def __repr__(self) -> str:
        items, text = cast(Sequence[Any], self), super().__repr__()
        if len(text) <= 100:
            return text
        lines = [clipped(repr(item), 100) for item in items[:_ITEMS]]
        more = [f"… and {len(items) - _ITEMS:,} more"] if len(items) > _ITEMS else []
        return text[0] + ",\n ".join([*lines, *more]) + text[-1]

    def _repr_html_(self) -> str:
        items = list(cast(Sequence[Any], self))
        if not items or len({type(item) for item in items}) > 1:
            return "".join(map(_html, items[:_ROWS])) or _html(self)
        title = plural(len(items), type(items[0]).__name__)
        if isinstance(items[0], Displayed):
            items = [{"": card[0]} | {row[0]: row[1] for row in card[1]} for card in (item._card() for item in items)]
        if isinstance(items[0], Mapping):
            names = list(dict.fromkeys(name for item in items for name in item))
            return html_table(title, list(map(str, names)), [[item.get(name, "") for name in names] for item in items])
        rows = [list(item) if isinstance(item, tuple) else [item] for item in items]
        return html_table(title, [], rows)


class _ShownList(_Shown, list[Any]):
    pass


class _ShownTuple(_Shown, tuple[Any, ...]):
    pass


def _html(value: Any) -> str:
    if hasattr(value, "_repr_html_") and not isinstance(value, _Shown):
        return str(value._repr_html_())
    if isinstance(value, Mapping) and all(isinstance(item, Displayed) for item in value.values()):
        return "".join(f"<div>{escaped(name)}</div>{_html(item)}" for name, item in value.items())
    return f"<div>{escaped(brief(value))}</div>"


def html_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """HTML of a titled table: columns of figures are aligned right, and the end of a long table is left out."""
    cells = [[brief(value) for value in row] for row in rows]
    width = max(map(len, [header, *cells]))
    cells = [[*row, *[""] * (width - len(row))] for row in cells]
    figures = [all(_FIGURE.fullmatch(row[column]) for row in cells) for column in range(width)]
    styles = [_LEFT, *(_RIGHT if right else _LEFT for right in figures[1:])]

    def line(row: Sequence[str], names: int) -> str:
        """A row of the table, of which the first cells are names."""
        tags = ["th"] * names + ["td"] * (width - names)
        parts = zip(tags, styles, row, strict=True)
        return "".join(["<tr>", *(f"<{t} style='{style}'>{escaped(x)}</{t}>" for t, style, x in parts), "</tr>"])

    body = [line(list(header), width)] if header else []
    body += [line(row, 0 if header else 1) for row in cells[:_ROWS]]
    more = f"<div>and {len(cells) - _ROWS:,} more</div>" if len(cells) > _ROWS else ""
    table = f"<strong>{escaped(title)}</strong><table>{''.join(body)}</table>{more}"
    return f"<div class='interp-card' style='overflow-x:auto'>{table}</div>"


def heat_html(tokens: Sequence[str], values: Sequence[float], top: float, peak: int = -1) -> str:
    """HTML of tokens, each shaded by its value: orange above zero, blue below, none where it is NaN.

    Hovering shows the value. Tokens are isolated from each other, so that text from right to left stays in place.

    Args:
        tokens: The tokens.
        values: A value for each.
        top: The size of a value that is shaded fully.
        peak: The token that is underlined.

    >>> heat_html(["a", "<b>"], [0.0, 2.0], top=2.0).count("&lt;b&gt;")
    1
    """
    spans = []
    for index, (token, value) in enumerate(zip(tokens, values, strict=True)):
        share = 0.0 if math.isnan(value) else 0.6 * min(1.0, abs(value) / (top or 1.0))
        colour = f"rgba({'255,140,0' if value > 0 else '0,114,178'},{share:.2f})"
        style = f"unicode-bidi:isolate;background:{colour}" + ";text-decoration:underline" * (index == peak)
        hover = "" if math.isnan(value) else f" title='{value:.3g}'"
        spans.append(f"<span{hover} style='{style}'>{escaped(token.replace(chr(10), '↵'))}</span>")
    style = "margin:4px 0;white-space:pre-wrap;font-family:monospace;overflow-wrap:anywhere"
    return f"<div style='{style}'>{''.join(spans)}</div>"


def print_values(as_json: bool, values: Mapping[str, Any]) -> None:
    """Print one line per value, or one JSON object."""
    if as_json:
        print(json.dumps(values, indent=2, sort_keys=True))
        return
    for name, value in values.items():
        say(f"{name}: {f'{value:.3g}' if isinstance(value, float) else value}")


def print_table(as_json: bool, rows: Sequence[Mapping[str, Any]], title: str, narrow: bool = False) -> None:
    """Print a table of rows with the same keys, or one JSON list; without rows, only the title.

    A `narrow` table has few lines, and its names are wrapped rather than cut.
    """
    if as_json:
        print(json.dumps(rows, indent=2, sort_keys=True))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape as plain
    from rich.table import Table

    if not rows:
        say(title)
        return
    look: dict[str, Any] = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)} if narrow else {}
    table = Table(title=plain(printable(title)), **look)
    for name in rows[0]:
        overflow: Any = "fold" if narrow else "ellipsis"
        table.add_column(plain(printable(name)), overflow=overflow, no_wrap=narrow and name == "site")
    for row in rows:
        words = ("–" if x is None else f"{x:z.3f}" if isinstance(x, float) else printable(str(x)) for x in row.values())
        table.add_row(*map(plain, words))
    Console(emoji=False).print(table)  # a label such as :bread: is text
