"""Rows of public evaluation sets: found, read, checked by file and line, and sampled by seed.

The sets are JSONL files in a folder, one sub-folder per set; docs/results/public_suite.md lists files and columns.
The folder is the one that the user names, or that of the environment variable INTERP_DATA, or `../shared/data`
relative to the working directory. Nothing is downloaded.

Items are sampled regardless of their content: shuffled by seed, then dealt from each stratum in turn, so that strata
(which letter is right, which paradigm) are as balanced as possible. Some sets hold offensive or harmful text, so
errors name a row by its place and never quote it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from interp.core.errors import InterpError
from interp.core.inputs import numbered_lines, parse_object

VARIABLE = "INTERP_DATA"
DEFAULT_FOLDER = Path("..", "shared", "data")


@dataclass(frozen=True)
class PublicItem:
    """A prompt, its answers, the numbers of the gold (or matching) ones, and where it belongs.

    `group` is the cluster of similar items; sampling balances the `stratum`. `other` is a variant of the prompt, where
    a behaviour compares two.
    """

    prompt: str
    answers: tuple[str, ...] = ()
    gold: tuple[int, ...] = (0,)
    group: str = ""
    stratum: str = ""
    other: str = ""


@dataclass(frozen=True)
class PublicRow:
    """One object of a file, with its place. Its methods check a column and return its value."""

    values: Mapping[str, Any]
    place: str

    def text(self, column: str) -> str:
        """A column that holds text that is not empty."""
        value = self.values.get(column)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(column, "text")
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """A column that holds a list of texts, at least two of them different."""
        value = self.values.get(column)
        listed = value if isinstance(value, list) else []
        texts = tuple(text.strip() for text in listed if isinstance(text, str) and text.strip())
        if len(texts) < len(listed) or len(set(texts)) < 2:
            raise self.wrong(column, "a list of at least two different texts")
        return texts

    def number(self, column: str, below: int) -> int:
        """A column that holds a whole number from 0 to `below` - 1."""
        value = self.values.get(column)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
            raise self.wrong(column, f"a whole number from 0 to {below - 1}")
        return value

    def one_of(self, column: str, names: Sequence[str]) -> str:
        """A column that holds one of some words, ignoring spaces around it."""
        value = self.values.get(column)
        if not isinstance(value, str) or value.strip() not in names:
            raise self.wrong(column, " or ".join(map(repr, names)))
        return value.strip()

    def wrong(self, column: str, expected: str) -> InterpError:
        """The error for a column, which does not quote the row."""
        value = self.values.get(column)
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        if isinstance(value, str) and not value.strip():
            kind = "empty text"
        return InterpError(f"{self.place}: column {column!r} has {kind}; expected {expected}")


def data_folder(data: Path | None, files: Sequence[str]) -> Path:
    """The folder of the sets. Raises if it lacks any of the files, and names them."""
    named = os.environ.get(VARIABLE)
    root = data or (Path(named) if named else DEFAULT_FOLDER)
    hint = f"give the folder of the sets (--data DIR, or the environment variable {VARIABLE})"
    if not root.is_dir():
        raise InterpError(f"{root}: no such folder of evaluation sets; {hint}")
    missing = sorted({file for file in files if not (root / file).is_file()})
    if missing:
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise InterpError(f"{root} lacks {len(missing)} files of the public suite: {shown}; add them, or {hint}")
    return root


def read_rows(root: Path, *files: str) -> list[PublicRow]:
    """The rows of files, in order. Raises for a row that is not a JSON object, by file and line."""
    rows: list[PublicRow] = []
    for file in files:
        lines = numbered_lines(root / file)
        new = [PublicRow(parse_object(line, place), place) for place, line in lines]
        if not new:
            raise InterpError(f"{root / file}: has no rows; expected one JSON object per line")
        rows += new
    return rows


def sample_items(items: Sequence[PublicItem], count: int, seed: int, even: bool = False) -> list[PublicItem]:
    """About `count` distinct items, from each stratum in turn; strata that ran out leave room to the others.

    `even`: exactly equal numbers from each stratum, which may sum to fewer than `count`, or to a few more.
    """
    unique = {(item.prompt, item.answers): item for item in reversed(items)}
    strata: dict[str, list[PublicItem]] = {}
    for item in reversed(unique.values()):
        strata.setdefault(item.stratum, []).append(item)
    order = sorted(strata)
    for stratum in order:
        Random(f"{seed} {stratum}").shuffle(strata[stratum])
    Random(seed).shuffle(order)  # which strata come first if not all are reached
    sizes = [len(strata[stratum]) for stratum in order]
    turns = min([*sizes, -(-count // max(1, len(order)))]) if even else max(sizes, default=0)
    dealt = [strata[stratum][turn] for turn in range(turns) for stratum in order if turn < len(strata[stratum])]
    return dealt if even else dealt[:count]


def item_groups(items: Sequence[PublicItem]) -> tuple[str, ...]:
    """The clusters, or () where each item is its own cluster."""
    groups = tuple(item.group for item in items)
    return groups if all(groups) and len(set(groups)) < len(groups) else ()
