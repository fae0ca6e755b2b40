"""Contrasts: pairs of prompts that differ in one thing, from which a direction is found.

They are read from JSONL, one pair per row; docs/howto/own_harm.md lists the layouts. The optional key `group` marks
rows that are near-duplicates: a split never puts one group on both sides. Rows without it that share a prompt, apart
from case and spaces, form a group. Rows of two groups that share a prompt raise at the split, which would otherwise put
that prompt on both sides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from interp.core.calls import checked_class
from interp.core.display import Card, Displayed, displayed, plural
from interp.core.errors import InterpError, note
from interp.core.files import sha256_json
from interp.core.inputs import numbered_lines, parse_object
from interp.data._pairs import Columns, Turn, TurnPair, named_columns, pair_of, read_pair, table_rows
from interp.models.tokens import RenderedText

Render = Callable[[str], str]
RenderChat = Callable[[list[dict[str, str]]], str]


@checked_class("interp.Contrast.of(pairs) makes one")
@dataclass(frozen=True)
class Contrast(Displayed):
    """Pairs of turns, of which one shows a behaviour and the other does not.

    Args:
        pairs: The pairs, at least one.
        name: Its name in errors and records, such as the file's.

    Raises:
        InterpError: There are no pairs, or a pair has an empty prompt or two equal sides; the row is named.

    Example:
        >>> contrast = interp.Contrast.of([("I hate you.", "I like you."), ("Go away!", "Come in!")])
        >>> len(contrast), contrast.pairs[0].positive.prompt
        (2, 'I hate you.')
    """

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
        """Hex SHA-256 of the pairs."""
        turns = [(pair.positive, pair.negative) for pair in self.pairs]
        earlier = [[turn.before for turn in sides] for sides in turns]
        texts = [[text for turn in sides for text in (turn.prompt, turn.answer)] for sides in turns]
        return sha256_json([texts, earlier] if any(map(any, earlier)) else texts)

    @property
    def groups(self) -> tuple[int, ...]:
        """The number of each pair's group, from 0: pairs that share a prompt or a group's name are connected."""
        leader: dict[str, str] = {}

        def find(key: str) -> str:
            while leader.setdefault(key, key) != key:
                key = leader[key]
            return key

        named = [[] if pair.group is None else [f"group {pair.group}"] for pair in self.pairs]
        keys = [_prompts(pair) + name for pair, name in zip(self.pairs, named, strict=True)]
        for first, *rest in keys:
            for other in rest:
                leader[find(other)] = find(first)
        numbers: dict[str, int] = {}
        return tuple(numbers.setdefault(find(first), len(numbers)) for first, *_ in keys)

    @classmethod
    def of(cls, pairs: Any, name: str = "contrast", columns: Columns | None = None) -> "Contrast":
        """A contrast of pairs in memory.

        Args:
            pairs: (positive, negative) texts; two columns of texts, as a mapping of lists or a data frame (pandas,
                polars); rows by column, as a list of dicts or a `datasets.Dataset`; or a path, for `read`.
            name: Its name in errors and records; that of a file is its path.
            columns: The columns of the positive and the negative side, such as `("rude", "polite")`, or a mapping as in
                `read`. Default: the names of a layout, such as positive and negative, chosen and rejected, or harmful
                and harmless; docs/howto/own_harm.md lists them.

        Raises:
            InterpError: A row is not two texts, or the columns are not there; the error lists those that are.

        Example:
            >>> contrast = interp.Contrast.of([("I hate you.", "I like you."), ("Go away!", "Come in!")])
            >>> table = {"rude": ["I hate you.", "Go away!"], "polite": ["I like you.", "Come in!"], "id": [1, 2]}
            >>> interp.Contrast.of(table, columns=("rude", "polite")) == contrast
            True
        """
        if isinstance(pairs, str | Path):
            return cls.read(pairs, columns)
        named = named_columns(columns)
        rows = enumerate(table_rows(pairs, name), 1)
        return cls(tuple(pair_of(row, f"{name}, row {number}", named) for number, row in rows), name)

    @classmethod
    def read(cls, path: str | Path, columns: Columns | None = None, skip_bad: bool = False) -> "Contrast":
        """Read a contrast from JSONL.

        Args:
            path: The file; docs/howto/own_harm.md lists the layouts of its rows.
            columns: The file's names for a layout's keys, such as `{"positive": "rude", "negative": "polite"}`, or the
                names of the two sides, `("rude", "polite")`.
            skip_bad: Ignore rows that are not pairs, and print how many there were.

        Raises:
            InterpError: The file cannot be read, or a row is broken; the line is named.

        Example:
            >>> row = '{"rude": "I hate you.", "polite": "I like you."}'
            >>> _ = (tmp / "pairs.jsonl").write_text(row)
            >>> interp.Contrast.read(tmp / "pairs.jsonl", columns=("rude", "polite")).pairs[0].negative.prompt
            'I like you.'
        """
        file, named = Path(path), named_columns(columns)
        if file.suffix in (".csv", ".tsv", ".parquet"):
            raise InterpError(f"{file}: pairs are read from JSONL; give Contrast.of a data frame of this file instead")
        pairs, ignored = [], 0
        for place, line in numbered_lines(file, "pairs in JSONL"):
            try:
                pair = read_pair(parse_object(line, place), place, named)
                _require(pair, place)
            except InterpError:
                if not skip_bad:
                    raise
                ignored += 1
            else:
                pairs.append(pair)
        if ignored:
            note(f"ignored {plural(ignored, 'bad row')}")
        return cls(tuple(pairs), str(file))

    def split(self, held_out: float = 0.3, seed: int = 0) -> tuple["Contrast", "Contrast"]:
        """Training and held-out parts, drawn by group, each with at least one pair.

        >>> train, test = contrast.split(held_out=0.25)
        >>> len(train), len(test)
        (24, 8)
        """
        test, train = self.deal({"held out": max(1, round(held_out * len(self))), "train": 1}, seed)
        return displayed((train, test))

    def deal(self, sizes: Mapping[str, int], seed: int = 0) -> list["Contrast"]:
        """Disjoint parts of at least these sizes.

        Args:
            sizes: The least number of pairs of each part, by its name. The last part takes all that is left.
            seed: Seed of the random order in which whole groups are dealt.

        Raises:
            InterpError: There are too few pairs or groups, or rows of two groups share a prompt.

        Example:
            >>> [len(part) for part in contrast.deal({"test": 8, "train": 1})]
            [8, 24]
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
                    f"{self.name}: {plural(len(self), 'pair')} in {plural(len(groups), 'group')} can't be dealt into "
                    f"parts of {dict(sizes)}; give more rows, or rows of more groups"
                )
        return displayed([Contrast(tuple(pairs), f"{self.name} ({part})") for part, pairs in parts.items()])

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

    def texts(self, render: Render, chat: RenderChat | None = None) -> tuple[list[str], list[str]]:
        """Positive and negative texts: rendered prompts followed by the answers.

        Args:
            render: Turns a prompt into model input.
            chat: Renders messages, for prompts that have earlier messages.

        Raises:
            InterpError: A prompt has earlier messages and there is no `chat`.
        """

        def answered(turn: Turn) -> str:
            prompt = self._prompt(turn, render, chat)
            if turn.answer and isinstance(prompt, RenderedText):
                return prompt.answered([turn.answer])[1][0]
            return prompt + turn.answer

        return self._sides(answered)

    def prompts(self, render: Render, chat: RenderChat | None = None) -> tuple[list[str], list[str]]:
        """The same texts without the answers."""
        return self._sides(lambda turn: self._prompt(turn, render, chat))

    def _sides(self, text: Callable[[Turn], str]) -> tuple[list[str], list[str]]:
        return [text(pair.positive) for pair in self.pairs], [text(pair.negative) for pair in self.pairs]

    def _prompt(self, turn: Turn, render: Render, chat: RenderChat | None) -> str:
        if not turn.before:
            return render(turn.prompt)
        if chat is None:
            raise InterpError(
                f"{self.name}: {turn.prompt[:40]!r} has earlier messages; pass a chat renderer too, such as model.chat"
            )
        return chat(turn.messages)

    def __repr__(self) -> str:
        return f"Contrast({self.name!r}: {plural(len(self), 'pair')})"  # prompts may be offensive

    def _card(self) -> Card:
        first = self.pairs[0]
        sides = [("first positive", first.positive.prompt), ("first negative", first.negative.prompt)]
        return self.name, [("pairs", len(self)), ("groups", len(set(self.groups))), *sides]


def _prompts(pair: TurnPair) -> list[str]:
    """The prompt of each side with its earlier messages, apart from case and spaces."""
    prompts = (f"prompt {turn.before or ''}{turn.prompt}" for turn in (pair.positive, pair.negative))
    return [" ".join(text.casefold().split()) for text in prompts]


def _require(pair: TurnPair, where: str) -> None:
    if not pair.positive.prompt.strip() or not pair.negative.prompt.strip():
        raise InterpError(f"{where}: an empty prompt; both sides need text (skip_bad ignores such rows)")
    if pair.positive == pair.negative:
        raise InterpError(f"{where}: both sides are equal, so it teaches nothing (skip_bad ignores such rows)")
