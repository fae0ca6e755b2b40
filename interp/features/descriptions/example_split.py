"""Which examples of a latent a machine is shown, and which are held out for the tests of what it says.

Examples are taken in turn from the largest, and from each quarter of the values, so that both parts have all of them.
Held out are those whose document and whose text no shown example has. Texts on which the latent is silent come from
the background of the book, from other documents than the shown ones.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from interp.core.display import Displayed
from interp.features.book import Book
from interp.features.descriptions.options import DescribeOptions

_MARKED = 0.3  # of the largest value in a text: what is marked
Row = dict[str, Any]


@dataclass(frozen=True)
class ExampleSplit(Displayed):
    """Rows of a book: examples that are shown, examples that are held out, and texts where the latent is silent."""

    shown: list[Row]
    held_out: list[Row]
    silent: list[Row]

    @classmethod
    def of(cls, book: Book, sae: str, latent: int, options: DescribeOptions) -> "ExampleSplit | None":
        """The split of a latent's examples; None where fewer than two can be held out, or two silent texts found."""
        kinds: dict[str, list[Row]] = {}
        for row in book.examples(latent, sae):
            kinds.setdefault(row["kind"], []).append(row)
        turns = [row for turn in zip_longest(*kinds.values()) for row in turn if row]
        shown, rest = _distinct(turns, options.shown)
        documents, texts = {row["document"] for row in shown}, {row["text"] for row in shown}
        held_out, _ = _distinct([x for x in rest if x["document"] not in documents], options.tested, texts)
        texts |= {row["text"] for row in held_out}
        columns, silent = "place, document, tokens, text", "sae = ? AND NOT list_contains(latents, ?)"
        rows = book.query(f"SELECT {columns} FROM background WHERE {silent} ORDER BY place", [sae, latent])
        random.Random(f"{options.seed} {latent}").shuffle(rows)
        quiet, _ = _distinct([x for x in rows if x["document"] not in documents], len(held_out), texts)
        return cls(shown, held_out, quiet) if min(len(held_out), len(quiet)) > 1 else None


def _distinct(rows: list[Row], count: int, seen: Collection[str] = ()) -> tuple[list[Row], list[Row]]:
    """The first rows of new texts, and the other rows."""
    chosen: dict[str, Row] = {}
    rest: list[Row] = []
    for row in rows:
        if len(chosen) < count and row["text"] not in chosen and row["text"] not in seen:
            chosen[row["text"]] = row
        else:
            rest.append(row)
    return list(chosen.values()), rest


def firing_tokens(row: Row) -> list[int]:
    """The tokens of an example on which its latent fires with at least 0.3 of its largest value there."""
    least = _MARKED * max(row["values"])
    return [index for index, value in enumerate(row["values"]) if value > 0 and value >= least]


def silent_tokens(row: Row, rng: random.Random) -> list[int]:
    """The same tokens, moved along the text to where the latent is silent; none where there is no such place."""
    marked, length = firing_tokens(row), len(row["values"])
    moved = [[(index + step) % length for index in marked] for step in range(1, length)]
    silent = [places for places in moved if not any(row["values"][place] for place in places)]
    return sorted(rng.choice(silent)) if silent else []
