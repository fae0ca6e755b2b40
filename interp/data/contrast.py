"""Contrasts: pairs of prompts that differ in one thing, from which a direction is found.

A JSONL row is one pair, in one of three layouts:

- `{"positive": "…", "negative": "…"}`, where positive shows (or triggers) the behaviour; a side may also be
  `{"prompt": "…", "answer": "…"}`, whose answer begins the model's reply;
- `{"question": "…", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}`, the layout of
  contrastive activation addition (Rimsky et al. 2023) and of Anthropic's evals. The option's closing bracket is
  dropped, so that the last token is the letter;
- `{"prompt": "…", "correct": "(A)", "incorrect": "(B)"}`, right and wrong answers, the right one positive.

`group` (optional) names rows that are near-duplicates: a split never puts one group on both sides. Rows without it that
share a prompt are one group.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from interp.core.display import card
from interp.core.errors import InterpError
from interp.core.files import sha256_json


@dataclass(frozen=True)
class Turn:
    """A prompt and the beginning of its reply, which may be empty."""

    prompt: str
    answer: str = ""


@dataclass(frozen=True)
class Pair:
    """One pair of a contrast."""

    positive: Turn
    negative: Turn
    group: str | None = None


@dataclass(frozen=True)
class Contrast:
    """Pairs of turns. Raises for no pairs, an empty side, and two equal sides, by row."""

    pairs: tuple[Pair, ...]
    name: str = "contrast"

    def __post_init__(self) -> None:
        if not self.pairs:
            raise InterpError(f"{self.name}: no rows; a contrast needs at least 2, to fit and to hold out")
        for number, pair in enumerate(self.pairs, 1):
            if not pair.positive.prompt.strip() or not pair.negative.prompt.strip():
                raise InterpError(f"{self.name}, row {number}: an empty prompt; both sides need text")
            if pair.positive == pair.negative:
                raise InterpError(f"{self.name}, row {number}: both sides are equal, so nothing can be learned from it")

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def digest(self) -> str:
        """SHA-256 of the pairs."""
        return sha256_json(
            [[p.positive.prompt, p.positive.answer, p.negative.prompt, p.negative.answer] for p in self.pairs]
        )

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]], name: str = "contrast") -> "Contrast":
        """A contrast of (positive, negative) texts."""
        rows = tuple(tuple(pair) for pair in pairs)
        for number, row in enumerate(rows, 1):
            if len(row) != 2 or not all(isinstance(text, str) for text in row):
                shown = ", ".join(type(value).__name__ for value in row)
                raise InterpError(f"{name}, row {number}: got ({shown}); expected two texts, (positive, negative)")
        return cls(tuple(Pair(Turn(positive), Turn(negative)) for positive, negative in rows), name)

    @classmethod
    def read(cls, path: str | Path) -> "Contrast":
        """Read JSONL; a broken row is named by its line."""
        file = Path(path)
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as problem:
            raise InterpError(f"{file}: cannot be read as text ({problem}); expected a JSONL file of pairs") from None
        rows = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        return cls(tuple(_read_row(line, f"{file}, line {number}") for number, line in rows), str(file))

    def split(self, held_out: float = 0.3, seed: int = 0) -> tuple["Contrast", "Contrast"]:
        """Train and held-out parts, drawn by group, each with at least one pair."""
        test, train = self.deal({"held out": max(1, round(held_out * len(self))), "train": 1}, seed)
        return train, test

    def deal(self, sizes: Mapping[str, int], seed: int = 0) -> list["Contrast"]:
        """Disjoint parts of at least these sizes, whole groups dealt in random order; the last takes what is left."""
        groups = _grouped(self.pairs)
        left = list(groups)
        Random(seed).shuffle(left)
        parts: dict[str, list[Pair]] = {name: [] for name in sizes}
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

    def texts(self, render: Callable[[str], str]) -> tuple[list[str], list[str]]:
        """Positive and negative texts; `render` turns a prompt into model input, to which the answer is added."""

        def write(turn: Turn) -> str:
            return render(turn.prompt) + turn.answer

        return [write(pair.positive) for pair in self.pairs], [write(pair.negative) for pair in self.pairs]

    def _repr_html_(self) -> str:
        first = self.pairs[0]
        rows = [("pairs", len(self)), ("positive", first.positive.prompt), ("negative", first.negative.prompt)]
        return card(f"Contrast {self.name}", rows)


def _grouped(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Pairs joined that share their group's name or, where none is given, a prompt: connected components."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    keys = [_keys(pair) for pair in pairs]
    for first, *rest in keys:
        for other in rest:
            leader[find(other)] = find(first)
    groups: dict[str, list[Pair]] = {}
    for pair, (first, *_) in zip(pairs, keys, strict=True):
        groups.setdefault(find(first), []).append(pair)
    return list(groups.values())


def _keys(pair: Pair) -> list[str]:
    if pair.group is not None:
        return [f"group {pair.group}"]
    return [f"prompt {pair.positive.prompt}", f"prompt {pair.negative.prompt}"]


def _read_row(line: str, where: str) -> Pair:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise InterpError(f"{where}: not valid JSON ({problem}); expected one object a line") from None
    if not isinstance(row, dict):
        raise InterpError(f"{where}: expected an object with positive and negative, got {type(row).__name__}")
    group = str(row["group"]) if "group" in row else None
    if "answer_matching_behavior" in row:
        keys = ("answer_matching_behavior", "answer_not_matching_behavior")
        positive, negative = (_choice(row, "question", key, where) for key in keys)
    elif "correct" in row:
        positive, negative = (_choice(row, "prompt", key, where) for key in ("correct", "incorrect"))
    else:
        positive, negative = (_turn(row, key, where) for key in ("positive", "negative"))
    return Pair(positive, negative, group)


def _turn(row: dict[str, Any], key: str, where: str) -> Turn:
    value = row.get(key)
    if isinstance(value, str):
        return Turn(value)
    if isinstance(value, dict) and isinstance(value.get("prompt"), str) and isinstance(value.get("answer", ""), str):
        return Turn(value["prompt"], value.get("answer", ""))
    raise InterpError(f"{where}: {key!r} is {value!r}; expected a text, or an object with prompt and answer")


def _choice(row: dict[str, Any], prompt: str, key: str, where: str) -> Turn:
    for name in (prompt, key):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise InterpError(f"{where}: {name!r} is {row.get(name)!r}; expected a text, such as (A) for an answer")
    return Turn(row[prompt], row[key].strip().removesuffix(")"))
