"""Contrasts: pairs of prompts that differ in one thing, from which a direction is found.

They are read from JSONL, a pair a row; `pairs` lists the layouts. `group` (optional) names rows that are
near-duplicates: a split never puts one group on both sides. Rows without it that share a prompt, but for case and
spaces, are one group. Rows of
two groups that share a prompt are refused at the split, which would leave that prompt on both sides.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from interp.core.display import html_card
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.core.jsonl import numbered_lines, parse_object
from interp.data._pairs import Message, Turn, TurnPair, read_pair, require_columns


@dataclass(frozen=True)
class Contrast:
    """Pairs of turns. Raises for no pairs, an empty side, and two equal sides, by row."""

    pairs: tuple[TurnPair, ...]
    name: str = "contrast"

    def __post_init__(self) -> None:
        if not self.pairs:
            raise InterpError(f"{self.name}: no rows; a contrast needs at least 2, to fit and to hold out")
        for number, pair in enumerate(self.pairs, 1):
            _require(pair, f"{self.name}, row {number}")

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def digest(self) -> str:
        """SHA-256 of the pairs."""
        turns = [(p.positive, p.negative) for p in self.pairs]
        before = [[turn.before for turn in pair] for pair in turns]
        texts = [[text for turn in pair for text in (turn.prompt, turn.answer)] for pair in turns]
        return sha256_json([texts, before] if any(map(any, before)) else texts)

    @property
    def groups(self) -> tuple[int, ...]:
        """The number of each pair's group, from 0."""
        return _groups(self.pairs)

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]], name: str = "contrast") -> "Contrast":
        """A contrast of (positive, negative) texts."""
        rows = tuple(tuple(pair) for pair in pairs)
        for number, row in enumerate(rows, 1):
            if len(row) != 2 or not all(isinstance(text, str) for text in row):
                shown = ", ".join(type(value).__name__ for value in row)
                raise InterpError(f"{name}, row {number}: got ({shown}); expected two texts, (positive, negative)")
        return cls(tuple(TurnPair(Turn(positive), Turn(negative)) for positive, negative in rows), name)

    @classmethod
    def read(cls, path: str | Path, columns: Mapping[str, str] | None = None, skip_bad: bool = False) -> "Contrast":
        """Read JSONL; a broken row is named by its line.

        `columns` gives the file's own names: `{"positive": "toxic", "negative": "neutral"}`. `skip_bad` passes over
        rows that are no pairs, and tells on the console how many there were.
        """
        file = Path(path)
        if columns is not None:
            require_columns(columns)
        lines = numbered_lines(file, "pairs in JSONL")
        read = [_read_row(line, place, columns, skip_bad) for place, line in lines]
        pairs = tuple(pair for pair in read if pair is not None)
        if len(pairs) < len(read):
            print(f"interp: passed over {len(read) - len(pairs)} bad rows", file=sys.stderr)
        return cls(pairs, str(file))

    def split(self, held_out: float = 0.3, seed: int = 0) -> tuple["Contrast", "Contrast"]:
        """Train and held-out parts, drawn by group, each with at least one pair."""
        test, train = self.deal({"held out": max(1, round(held_out * len(self))), "train": 1}, seed)
        return train, test

    def deal(self, sizes: Mapping[str, int], seed: int = 0) -> list["Contrast"]:
        """Disjoint parts of at least these sizes, whole groups dealt in random order; the last takes what is left.

        Raises where that can't be, and for a prompt that rows of two groups share.
        """
        self._refuse_leaks()
        groups: dict[int, list[TurnPair]] = {}
        for number, pair in zip(self.groups, self.pairs, strict=True):
            groups.setdefault(number, []).append(pair)
        left = list(groups.values())
        Random(seed).shuffle(left)
        parts: dict[str, list[TurnPair]] = {name: [] for name in sizes}
        last = list(sizes)[-1]
        for part, size in sizes.items():
            while left and (part == last or len(parts[part]) < size):
                parts[part] += left.pop()
            if len(parts[part]) < size:
                raise InterpError(
                    f"{self.name}: {len(self)} pairs in {len(groups)} groups can't be dealt into parts of "
                    f"{dict(sizes)}; "
                    "give more rows, or rows of more groups"
                )
        return [Contrast(tuple(pairs), f"{self.name} ({part})") for part, pairs in parts.items()]

    def _refuse_leaks(self) -> None:
        seen: dict[str, tuple[int, str]] = {}
        for number, pair in enumerate(self.pairs, 1):
            for key in _prompts(pair) if pair.group is not None else ():
                row, group = seen.setdefault(key, (number, str(pair.group)))
                if group != pair.group:
                    raise InterpError(
                        f"{self.name}, rows {row} and {number}: groups {group!r} and {pair.group!r} share a prompt, "
                        "which a split could put on both sides; give the rows one group"
                    )

    def texts(
        self, render: Callable[[str], str], chat: Callable[[list[dict[str, str]]], str] | None = None
    ) -> tuple[list[str], list[str]]:
        """Positive and negative texts: prompts as `render` makes them model input, then the answers.

        A prompt that has messages before it is rendered by `chat`, with them.
        """
        positive, negative = self.prompts(render, chat)
        return (
            [prompt + pair.positive.answer for prompt, pair in zip(positive, self.pairs, strict=True)],
            [prompt + pair.negative.answer for prompt, pair in zip(negative, self.pairs, strict=True)],
        )

    def prompts(
        self, render: Callable[[str], str], chat: Callable[[list[dict[str, str]]], str] | None = None
    ) -> tuple[list[str], list[str]]:
        """The same without the answers."""
        sides = [pair.positive for pair in self.pairs], [pair.negative for pair in self.pairs]
        positive, negative = ([self._prompt(turn, render, chat) for turn in side] for side in sides)
        return positive, negative

    def _prompt(
        self, turn: Turn, render: Callable[[str], str], chat: Callable[[list[dict[str, str]]], str] | None
    ) -> str:
        if not turn.before:
            return render(turn.prompt)
        if chat is None:
            raise InterpError(
                f"{self.name}: {turn.prompt[:40]!r} has messages before it; pass a chat renderer too, such as "
                "model.chat"
            )
        return chat([message._asdict() for message in (*turn.before, Message("user", turn.prompt))])

    def _repr_html_(self) -> str:
        first = self.pairs[0]
        rows = [("pairs", len(self)), ("positive", first.positive.prompt), ("negative", first.negative.prompt)]
        return html_card(f"Contrast {self.name}", rows)


def _groups(pairs: Sequence[TurnPair]) -> tuple[int, ...]:
    """Pairs joined that share a prompt or a group's name: connected components, numbered as they come."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    keys = [_keys(pair) for pair in pairs]
    for first, *rest in keys:
        for other in rest:
            leader[find(other)] = find(first)
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(find(first), len(numbers)) for first, *_ in keys)


def _keys(pair: TurnPair) -> list[str]:
    return _prompts(pair) + ([] if pair.group is None else [f"group {pair.group}"])


def _prompts(pair: TurnPair) -> list[str]:
    """What each side asks, with all that came before it; case and spaces do not make another prompt of it."""
    asked = (f"prompt {turn.before or ''}{turn.prompt}" for turn in (pair.positive, pair.negative))
    return [" ".join(text.casefold().split()) for text in asked]


def _read_row(line: str, where: str, columns: Mapping[str, str] | None, skip_bad: bool) -> TurnPair | None:
    try:
        pair = read_pair(parse_object(line, where), where, columns)
        _require(pair, where)
    except InterpError:
        if skip_bad:
            return None
        raise
    return pair


def _require(pair: TurnPair, where: str) -> None:
    if not pair.positive.prompt.strip() or not pair.negative.prompt.strip():
        raise InterpError(f"{where}: an empty prompt; both sides need text (skip_bad passes over such rows)")
    if pair.positive == pair.negative:
        raise InterpError(
            f"{where}: both sides are equal, so nothing can be learned from it (skip_bad passes over such rows)"
        )
