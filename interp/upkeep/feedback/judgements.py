"""Judgements: which of two replies each rater chose, from preferences or from ratings.

A row of JSONL is one judgement, in one of two layouts; `rater` and `rater_group` (the people whom the rater stands for)
are optional in both:

- `{"prompt": …, "chosen": …, "rejected": …}`, a preference as TRL has it, with texts or conversations
- `{"prompt": …, "completion": …, "label": …}`, a rating: a number, or true and false as TRL's unpaired preferences
  have it; `reply` and `rating` are read too. A rater who rates two replies to a prompt differently prefers one.

The verdict on two replies is that of the most raters, or of an adjudication file, which overrules them.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from interp.core.display import Card, Displayed
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.core.inputs import numbered_lines, parse_object
from interp.data import Contrast, Turn, TurnPair

_REPLY, _RATING = ("completion", "reply"), ("label", "rating")


@dataclass(frozen=True)
class ComparedReplies(Displayed):
    """Two replies to a prompt, in an order that does not depend on who chose which.

    Attributes:
        first, second: The replies, each with its prompt.
        votes: By rater, whether the first was chosen.
    """

    first: Turn
    second: Turn
    votes: dict[str, bool] = field(default_factory=dict)

    def _card(self) -> Card:
        chosen = sum(self.votes.values())
        return "", [("for the first", chosen), ("for the second", len(self.votes) - chosen)]  # texts may be offensive

    def verdict(self, raters: Collection[str] | None = None) -> bool | None:
        """Whether most raters, or most of some, chose the first; None where there are as many for the second."""
        votes = [vote for rater, vote in self.votes.items() if raters is None or rater in raters]
        return None if 2 * sum(votes) == len(votes) else 2 * sum(votes) > len(votes)


@dataclass(frozen=True)
class Judgements(Displayed):
    """What raters said of replies.

    Attributes:
        name: The file.
        comparisons: Every two replies that someone compared, in the order of the file.
        groups: The group of each rater, by name; "" where none is named.
        ratings: By reply, each rater's rating; empty for preferences.
        verdicts: What an adjudication decided, by the number of the comparison.
    """

    name: str
    comparisons: tuple[ComparedReplies, ...]
    groups: Mapping[str, str]
    ratings: tuple[Mapping[str, float], ...] = ()
    verdicts: Mapping[int, bool] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path, adjudicated: str | Path | None = None) -> "Judgements":
        """Read judgements from JSONL.

        Args:
            path: The file; the module has the layouts of its rows.
            adjudicated: The adjudication file of an earlier `fit_feedback`, with verdicts filled in.

        Raises:
            InterpError: A row is broken, a rater judges the same twice or is of two groups, nobody compares anything,
                or a verdict is of other replies; the line is named.

        Example:
            >>> from interp.upkeep import Judgements
            >>> row = '{"prompt": "hello", "chosen": "Good day.", "rejected": "Go away.", "rater": "a"}'
            >>> _ = (tmp / "pairs.jsonl").write_text(row)
            >>> [pair.negative.answer for pair in Judgements.read(tmp / "pairs.jsonl").decided()]
            ['Good day.']
        """
        sides: dict[str, ComparedReplies] = {}
        rated: dict[str, dict[str, float]] = {}
        replies: dict[str, list[tuple[str, Turn]]] = defaultdict(list)
        groups: dict[str, str] = {}
        for place, line in numbered_lines(path, "judgements in JSONL"):
            row = parse_object(line, place)
            rater, group = (str(row[key]) if key in row else "" for key in ("rater", "rater_group"))
            if groups.setdefault(rater, group) != group:
                raise InterpError(
                    f"{place}: rater {rater!r} is of group {group!r}, and was of {groups[rater]!r} before"
                )
            if "chosen" in row:
                pair = _pair(row, place)
                _vote(sides, pair.positive, pair.negative, rater, place)
                continue
            turn, rating = _rating(row, place)
            key = _key(turn)
            if key not in rated:
                replies[turn.prompt].append((key, turn))
            if rater in rated.setdefault(key, {}):
                raise InterpError(f"{place}: rater {rater!r} rated this reply before; keep one of the rows")
            rated[key][rater] = rating
        for several in replies.values():
            for (key, turn), (other_key, other) in combinations(several, 2):
                for rater in rated[key]:
                    mine, others = rated[key][rater], rated[other_key].get(rater)
                    if others is not None and mine != others:
                        _vote(sides, *((turn, other) if mine > others else (other, turn)), rater, str(path))
        if not sides:
            raise InterpError(
                f"{path}: nobody compares two replies; expected chosen and rejected, or ratings of several"
            )
        verdicts = {} if adjudicated is None else _adjudicated(adjudicated, list(sides))
        return cls(str(path), tuple(sides.values()), groups, tuple(rated.values()), verdicts)

    @property
    def group_names(self) -> list[str]:
        """The groups that are named, in alphabetical order."""
        return sorted({group for group in self.groups.values() if group})

    def decided(self, group: str | None = None) -> Iterator[TurnPair]:
        """Each decided comparison as a pair: positive is the rejected reply, negative the chosen one.

        Args:
            group: Only by the raters of this group, whose verdict no adjudication changes.
        """
        raters = None if group is None else {rater for rater, name in self.groups.items() if name == group}
        for number, comparison in enumerate(self.comparisons):
            verdict = comparison.verdict(raters)
            if group is None:
                verdict = self.verdicts.get(number, verdict)
            if verdict is not None:
                chosen, rejected = (comparison.first, comparison.second)[:: 1 if verdict else -1]
                yield TurnPair(rejected, chosen, group=chosen.prompt)

    def undecided(self) -> list[dict[str, Any]]:
        """The rows of the adjudication file: comparisons on which raters differ, the closest first."""
        rows = []
        for number, comparison in enumerate(self.comparisons):
            first, second, votes = comparison.first, comparison.second, comparison.votes
            share = sum(votes.values()) / len(votes)
            if 0 < share < 1 and number not in self.verdicts:
                texts = {"prompt": first.prompt, "first": first.answer, "second": second.answer}
                said = {rater: "first" if vote else "second" for rater, vote in votes.items()}
                rows.append((abs(share - 0.5), {"key": _keys(comparison), **texts, "votes": said, "verdict": None}))
        return [row for _, row in sorted(rows, key=lambda each: each[0])]


def _pair(row: dict[str, Any], place: str) -> TurnPair:
    """The chosen and the rejected side; a contrast reads TRL's layouts."""
    known = {key: row[key] for key in ("prompt", "chosen", "rejected") if key in row}
    try:
        return Contrast.of([known]).pairs[0]
    except InterpError as problem:
        raise InterpError(f"{place}: {str(problem).replace('contrast, row 1: ', '')}") from None


def _rating(row: dict[str, Any], place: str) -> tuple[Turn, float]:
    reply, rating = (next((row[key] for key in keys if key in row), None) for keys in (_REPLY, _RATING))
    if not all(isinstance(text, str) and text.strip() for text in (row.get("prompt"), reply)):
        raise InterpError(f"{place}: expected prompt, chosen and rejected, or prompt, completion and label, as texts")
    if not isinstance(rating, int | float) or rating != rating:
        raise InterpError(f"{place}: the rating is {rating!r}; expected a number, or true or false")
    return Turn(str(row["prompt"]), str(reply)), float(rating)


def _key(turn: Turn) -> str:
    return json.dumps([turn.before, turn.prompt, turn.answer], ensure_ascii=False)


def _keys(comparison: ComparedReplies) -> str:
    return "\n".join(map(_key, (comparison.first, comparison.second)))


def _vote(sides: dict[str, ComparedReplies], chosen: Turn, rejected: Turn, rater: str, place: str) -> None:
    # By a digest: replies of one style would all come first in the order of their texts, and chance would look like 1.
    first, second = sorted((chosen, rejected), key=lambda turn: sha256_json(_key(turn)))
    comparison = ComparedReplies(first, second)
    comparison = sides.setdefault(_keys(comparison), comparison)
    if rater in comparison.votes:
        raise InterpError(f"{place}: rater {rater!r} compared these replies before; keep one of the rows")
    comparison.votes[rater] = chosen == first


def _adjudicated(path: str | Path, keys: Sequence[str]) -> dict[int, bool]:
    numbers, verdicts = {key: number for number, key in enumerate(keys)}, {}
    for place, line in numbered_lines(path, "verdicts in JSONL"):
        row = parse_object(line, place)
        if row.get("verdict") not in ("first", "second", None):
            raise InterpError(f"{place}: verdict is {row['verdict']!r}; expected first, second or null")
        if row.get("key") not in numbers:
            raise InterpError(
                f"{place}: nobody compared these replies; give the adjudication file of the same judgements"
            )
        if row.get("verdict") is not None:
            verdicts[numbers[row["key"]]] = row["verdict"] == "first"
    return verdicts
