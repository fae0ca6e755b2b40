"""Rows of public evaluation sets: found, read, checked by file and line, and drawn by seed.

The folder has a set a folder, as JSONL; docs/results/public_suite.md lists files and columns. It is the one that was
named, or else that of the environment variable INTERP_DATA, or else `../shared/data`, from the working directory.
Nothing is downloaded.

Items are drawn without regard to what they say: shuffled by seed, then dealt from each stratum in turn, so that
strata (which letter is right, which paradigm) are as even as can be. Some sets hold offensive or harmful text: an error
names a row by its place and never quotes it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from interp.core.errors import InterpError
from interp.core.jsonl import numbered_lines, parse_object

VARIABLE = "INTERP_DATA"
BESIDE = Path("..", "shared", "data")


@dataclass(frozen=True)
class PublicItem:
    """A question as it is asked, its answers, which of them is gold (or matches), and what it belongs to.

    `group` is the cluster of items that say much the same; `stratum` is what drawing balances. `other` is the same
    question put another way, where a behaviour compares two.
    """

    prompt: str
    answers: tuple[str, ...] = ()
    gold: tuple[int, ...] = (0,)
    group: str = ""
    stratum: str = ""
    other: str = ""


@dataclass(frozen=True)
class PublicRow:
    """One object of a file, with its place. Its methods check a column, and give it."""

    values: Mapping[str, Any]
    place: str

    def text(self, column: str) -> str:
        """A column that is text, not empty."""
        value = self.values.get(column)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(column, "text")
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """A column that lists texts, two of them different at least."""
        value = self.values.get(column)
        if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
            raise self.wrong(column, "a list of texts")
        texts = tuple(one.strip() for one in value)
        if len(set(texts)) < 2:
            raise self.wrong(column, "a list of two different texts or more")
        return texts

    def number(self, column: str, below: int) -> int:
        """A column that is the number of one of so many things, from 0."""
        value = self.values.get(column)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
            raise self.wrong(column, f"a whole number from 0 to {below - 1}")
        return value

    def one_of(self, column: str, names: Sequence[str]) -> str:
        """A column that has one of some words, spaces around it aside."""
        value = self.values.get(column)
        if not isinstance(value, str) or value.strip() not in names:
            raise self.wrong(column, " or ".join(map(repr, names)))
        return value.strip()

    def wrong(self, column: str, expected: str) -> InterpError:
        """What is wrong here, without a word of the row itself."""
        found = self.values.get(column)
        kind = "nothing" if found is None else f"a {type(found).__name__}"
        if isinstance(found, str) and not found.strip():
            kind = "empty text"
        return InterpError(f"{self.place}: column {column!r} has {kind}; expected {expected}")


def folder_of(data: Path | None, files: Sequence[str]) -> Path:
    """The folder that holds these files. Raises for one that lacks any, by name."""
    named = os.environ.get(VARIABLE)
    root = data or (Path(named) if named else BESIDE)
    how = f"give the sets' folder (--data DIR, or the environment variable {VARIABLE})"
    if not root.is_dir():
        raise InterpError(f"{root}: no such folder of evaluation sets; {how}")
    missing = sorted({file for file in files if not (root / file).is_file()})
    if missing:
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        raise InterpError(f"{root} lacks {len(missing)} files of the public suite: {shown}; add them, or {how}")
    return root


def read_rows(root: Path, *files: str) -> list[PublicRow]:
    """The rows of files, in order. Raises for one that is no JSON object, by file and line."""
    rows: list[PublicRow] = []
    for file in files:
        lines = numbered_lines(root / file)
        new = [PublicRow(parse_object(line, place), place) for place, line in lines]
        if not new:
            raise InterpError(f"{root / file}: has no rows; expected one JSON object per line")
        rows += new
    return rows


def sample_items(items: Sequence[PublicItem], count: int, seed: int, even: bool = False) -> list[PublicItem]:
    """About `count` items, from each stratum in turn; what is asked twice is taken once.

    `even`: as many of each stratum exactly, which may be fewer than `count` altogether, or a few more.
    """
    unique = {(item.prompt, item.answers): item for item in reversed(items)}
    strata: dict[str, list[PublicItem]] = {}
    for item in reversed(unique.values()):
        strata.setdefault(item.stratum, []).append(item)
    for stratum in sorted(strata):
        Random(f"{seed} {stratum}").shuffle(strata[stratum])
    order = sorted(strata)
    Random(seed).shuffle(order)  # which strata come first where not all are reached
    rounds = min(map(len, strata.values()), default=0) if even else max(map(len, strata.values()), default=0)
    rounds = min(rounds, -(-count // max(1, len(order))))
    dealt = [strata[stratum][turn] for turn in range(rounds) for stratum in order if turn < len(strata[stratum])]
    return dealt if even else _filled(dealt, strata, order, count)


def _filled(
    dealt: list[PublicItem], strata: Mapping[str, list[PublicItem]], order: list[str], count: int
) -> list[PublicItem]:
    """Strata that ran out leave room, which the others fill."""
    turn = 0
    used = set(map(id, dealt))
    while len(dealt) < count and turn < max(map(len, strata.values()), default=0):
        left = [strata[name][turn] for name in order if turn < len(strata[name])]
        fresh = [item for item in left if id(item) not in used]
        dealt, turn = dealt + fresh, turn + 1
    return dealt[:count]


def groups_of(items: Sequence[PublicItem]) -> tuple[str, ...]:
    """The clusters, or none where each item is its own."""
    groups = tuple(item.group for item in items)
    return groups if all(groups) and len(set(groups)) < len(groups) else ()
