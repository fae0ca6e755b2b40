"""A public set as data: its files, how rows become items, and which scorer makes a behaviour of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.auditing.behaviours import Behaviour, Kind
from interp.auditing.public._rows import PublicItem, PublicRow, item_groups, read_rows, sample_items
from interp.auditing.scoring.choices import choice, paired_text
from interp.core.errors import InterpError

ReadItems = Callable[[Sequence[PublicRow]], Iterable[PublicItem]]
BuildBehaviour = Callable[["PublicSet", Sequence[PublicItem], Path], Behaviour]


@dataclass(frozen=True)
class PublicSet:
    """A behaviour on a public set.

    Attributes:
        name, kind, statement: Those of the behaviour.
        scenario: Heading under which the behaviour is listed.
        metric: The usual metric of the set, for tables.
        files: JSONL files, relative to the folder of all sets.
        read: Makes items of rows.
        build: Makes a behaviour of the sampled items.
        even: Whether strata are sampled in exactly equal numbers.
        also: Further files that `build` reads.
        fields: Further fields of the behaviour.
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
    fields: Mapping[str, Any] = field(default_factory=dict)

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
        return self.build(self, sample, root)

    def head(self, items: Sequence[PublicItem]) -> dict[str, Any]:
        """The fields that every scorer receives: name, kind, statement, groups, scenario, and the set's own."""
        head = {"name": self.name, "kind": self.kind, "statement": self.statement, "scenario": self.scenario}
        return head | {"groups": item_groups(items), **self.fields}


def as_choice(public_set: PublicSet, items: Sequence[PublicItem], root: Path, **options: Any) -> Behaviour:
    """Items as a choice among their answers; see `choice` for the options."""
    prompts, answers, gold = zip(*((item.prompt, item.answers, item.gold) for item in items), strict=True)
    return choice(prompts=prompts, answers=answers, gold=gold, **options, **public_set.head(items))


def as_text_pair(public_set: PublicSet, items: Sequence[PublicItem], root: Path, **options: Any) -> Behaviour:
    """Items as pairs of whole texts: the prompt against its only answer."""
    first, second = [item.prompt for item in items], [item.answers[0] for item in items]
    return paired_text(first=first, second=second, **options, **public_set.head(items))
