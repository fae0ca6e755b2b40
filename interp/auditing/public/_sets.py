"""A public set as data: its files, how rows become items, and which scorer makes a behaviour of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.auditing.behaviours import Behaviour, Kind
from interp.auditing.public._rows import PublicItem, PublicRow, item_groups, read_rows, sample_items
from interp.auditing.scoring.choices import choice, paired_text
from interp.core.errors import InterpError

ReadItems = Callable[[Sequence[PublicRow]], Iterable[PublicItem]]
BuildBehaviour = Callable[..., Behaviour]  # of items, the folder of all sets, and fields of the behaviour


@dataclass(frozen=True)
class PublicSet:
    """A behaviour on a public set.

    Attributes:
        name, kind, statement, secret: Those of the behaviour.
        scenario: Heading under which the behaviour is listed.
        metric: The usual metric of the set, for tables.
        files: JSONL files, relative to the folder of all sets.
        read: Makes items of rows.
        build: Makes a behaviour of the sampled items.
        even: Whether strata are sampled in exactly equal numbers.
        also: Further files that `build` reads.
    """

    name: str
    kind: Kind
    scenario: str
    statement: str
    metric: str
    files: tuple[str, ...]
    read: ReadItems
    build: BuildBehaviour
    even: bool = False
    also: tuple[str, ...] = ()
    secret: bool = False

    def items(self, root: Path) -> list[PublicItem]:
        """All items of the set."""
        return list(self.read(read_rows(root, *self.files)))

    def behaviour(self, root: Path, count: int, seed: int = 0) -> Behaviour:
        """The behaviour on about `count` items. Raises for a set without usable items."""
        sample = sample_items(self.items(root), count, seed, self.even)
        if not sample:
            raise InterpError(
                f"{self.name}: {', '.join(self.files)} in {root} give no items; see docs/results/public_suite.md"
            )
        return self.behaviour_on(sample, root)

    def behaviour_on(self, items: Sequence[PublicItem], root: Path) -> Behaviour:
        """The behaviour on these items."""
        head = {"name": self.name, "kind": self.kind, "statement": self.statement, "scenario": self.scenario}
        return self.build(items, root, groups=item_groups(items), secret=self.secret, **head)


def read_prompts(rows: Sequence[PublicRow], stratum: str) -> Iterator[PublicItem]:
    """Prompts without answers; `stratum` is the column that is balanced."""
    for row in rows:
        yield PublicItem(row.text("prompt").strip(), stratum=row.text(stratum))


def read_pairs(
    rows: Sequence[PublicRow], first: str, second: str, stratum: str = "", group: str = ""
) -> Iterator[PublicItem]:
    """Two columns as two texts, which differ; `stratum` and `group` are columns, too."""
    for row in rows:
        text, other = row.text(first).strip(), row.text(second).strip()
        if text != other:
            places = [row.text(column) if column else "" for column in (group, stratum)]
            yield PublicItem(text, (other,), (0,), *places)


def as_choice(items: Sequence[PublicItem], root: Path, **fields: Any) -> Behaviour:
    """Items as a choice among their answers; see `choice` for its options, which are among the fields."""
    prompts, answers, gold = zip(*((item.prompt, item.answers, item.gold) for item in items), strict=True)
    return choice(prompts=prompts, answers=answers, gold=gold, **fields)


def as_text_pair(items: Sequence[PublicItem], root: Path, **fields: Any) -> Behaviour:
    """Items as pairs of whole texts: the prompt against its only answer."""
    first, second = [item.prompt for item in items], [item.answers[0] for item in items]
    return paired_text(first=first, second=second, **fields)


def as_prompts(items: Sequence[PublicItem], root: Path, scorer: BuildBehaviour, **fields: Any) -> Behaviour:
    """Items as prompts alone, under a scorer of replies or of refusals."""
    return scorer(prompts=[item.prompt for item in items], **fields)
