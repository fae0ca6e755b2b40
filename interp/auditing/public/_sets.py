"""What an adapter is: a public set, how it is asked, and the behaviour that this makes.

An adapter says its set's files, how they become items, and which scorer takes them, all as data; see `public`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.auditing.behaviours import Behaviour, Kind
from interp.auditing.public._rows import PublicItem, PublicRow, groups_of, read_rows, sample_items
from interp.auditing.scoring.choices import choice, paired_text
from interp.core.errors import InterpError

Reading = Callable[[Sequence[PublicRow]], list[PublicItem]]
Making = Callable[["PublicSet", Sequence[PublicItem], Path], Behaviour]


@dataclass(frozen=True)
class PublicSet:
    """A behaviour on a public set. `metric` says the set's usual number; `scenario` is the heading it stands under.

    `read` makes items of rows, `make` a behaviour of the items drawn, for which it may read other files (`also`).
    `even`: strata are drawn in exactly equal numbers.
    """

    name: str
    kind: Kind
    scenario: str
    statement: str
    metric: str
    files: tuple[str, ...]
    read: Reading
    make: Making
    even: bool = False
    also: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)

    def items(self, root: Path) -> list[PublicItem]:
        """All items of the set."""
        return self.read(read_rows(root, *self.files))

    def behaviour(self, root: Path, count: int, seed: int = 0) -> Behaviour:
        """The behaviour on about `count` items. Raises for a set of which none is left."""
        drawn = sample_items(self.items(root), count, seed, self.even)
        if not drawn:
            raise InterpError(
                f"{self.name}: {', '.join(self.files)} in {root} give no items; see docs/results/public_suite.md"
            )
        return self.make(self, drawn, root)

    def common(self, items: Sequence[PublicItem]) -> dict[str, Any]:
        """What every behaviour of the adapter is told."""
        return {"groups": groups_of(items), "scenario": self.scenario, **self.fields}


def as_choice(**options: Any) -> Making:
    """Items as a choice among their answers; see `choice` for the options."""

    def make(adapter: PublicSet, items: Sequence[PublicItem], root: Path) -> Behaviour:
        return choice(
            adapter.name,
            adapter.kind,
            adapter.statement,
            [item.prompt for item in items],
            [item.answers for item in items],
            [item.gold for item in items],
            **options,
            **adapter.common(items),
        )

    return make


def as_text_pair(**options: Any) -> Making:
    """Items as pairs of whole texts: the prompt against its only answer."""

    def make(adapter: PublicSet, items: Sequence[PublicItem], root: Path) -> Behaviour:
        first, second = [item.prompt for item in items], [item.answers[0] for item in items]
        return paired_text(
            adapter.name, adapter.kind, adapter.statement, first, second, **options, **adapter.common(items)
        )

    return make
