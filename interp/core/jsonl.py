"""JSONL: one JSON object per line, and errors that name the file and the line."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError


def numbered_lines(file: str | Path, content: str = "JSONL") -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, each with its place, `FILE, line N`.

    Args:
        file: A UTF-8 file, with or without a byte-order mark. It is read at once.
        content: What the file should hold, for the error message.

    Raises:
        InterpError: The file cannot be read, or is not UTF-8.

    Example:
        >>> from interp.core.jsonl import numbered_lines, parse_object
        >>> _ = (tmp / "rows.jsonl").write_text('{"text": "a"}\\n\\n{"text": "b"}\\n')
        >>> [(place[-6:], parse_object(line, place)) for place, line in numbered_lines(tmp / "rows.jsonl")]
        [('line 1', {'text': 'a'}), ('line 3', {'text': 'b'})]
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise InterpError(f"{file}: cannot be read as text ({problem}); expected a file of {content}") from None
    return ((f"{file}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip())


def parse_object(line: str, place: str, hint: str = "", unique: bool = False) -> dict[str, Any]:
    """The JSON object that a line holds.

    Args:
        line: The text.
        place: Where the line is; errors begin with it.
        hint: What to do about a line that is not JSON, appended to the error.
        unique: Refuse an object that has a key twice, of which JSON keeps the last.

    Raises:
        InterpError: The line is not JSON, or not an object.

    Example:
        >>> from interp.core.jsonl import parse_object
        >>> parse_object('["a"]', "x.jsonl, line 1")
        Traceback (most recent call last):
        interp.core.errors.InterpError: x.jsonl, line 1: expected a JSON object, got list
    """
    try:
        values = json.loads(line, object_pairs_hook=_unique_keys if unique else None)
    except (ValueError, RecursionError) as problem:  # broken, nested too deeply, or a number of too many digits
        raise InterpError(f"{place}: not valid JSON ({problem}); expected one object per line{hint}") from None
    if not isinstance(values, dict):
        raise InterpError(f"{place}: expected a JSON object, got {type(values).__name__}")
    return values


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (key := repeated_key(pairs)) is not None:
        raise ValueError(f"key {key!r} is there twice")
    return dict(pairs)


def repeated_key(pairs: list[tuple[str, Any]]) -> str | None:
    """The first key that is there twice, of which JSON keeps the last; None if there is none."""
    return next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None)
