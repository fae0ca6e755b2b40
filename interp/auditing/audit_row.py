"""Rows of an audit, one per behaviour, and the item scores from which every figure in them can be computed again.

A file holds the scores of a behaviour under one model as one line of text, in the order of the items; `-` is a missing
score. Items of one cluster have the same number in `groups`. Scores are stored without texts, so those of secret
behaviours are stored too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isnan, nan
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, FiniteFloat, PlainSerializer

from interp.auditing.behaviours import CONSTANT, Behaviour, Kind, Scores, Unit, description_digest, name_of
from interp.auditing.statistics.comparison import Estimate, PairedComparison, compare_scores
from interp.auditing.statistics.intervals import LEVEL
from interp.auditing.statistics.significance import holm
from interp.core.display import Card, Displayed
from interp.core.errors import located


def _to_line(values: Sequence[float | None]) -> str:
    return " ".join("-" if value is None else repr(float(value)).removesuffix(".0") for value in values)


def _from_line(line: Any) -> tuple[float | None, ...]:
    if not isinstance(line, str):
        raise ValueError("scores are a line of numbers")
    return tuple(None if word == "-" else float(word) for word in line.split(" ") if line)


_Line = Annotated[tuple[FiniteFloat | None, ...], PlainSerializer(_to_line), BeforeValidator(_from_line)]


def _known(values: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(None if isnan(value) else value for value in values)


@dataclass(frozen=True)
class ItemScores:
    """The scores of one behaviour's items under every model of an audit; None is a missing score.

    Attributes:
        arms: The scores of each draw, by what was measured: `before`, `after`, or the name of a baseline.
        groups: The number of each item's cluster; empty if items are independent.
    """

    arms: dict[str, tuple[_Line, ...]]
    groups: _Line = ()

    @classmethod
    def of(cls, behaviour: Behaviour, arms: Mapping[str, Sequence[Scores]]) -> "ItemScores":
        """Those of a behaviour, as it was measured."""
        # Sorted labels keep their order as numbers, which decides how a bootstrap draws them.
        groups = np.unique(behaviour.groups, return_inverse=True)[1].tolist() if behaviour.groups else ()
        lines = {arm: tuple(_known(scores.values) for scores in draws) for arm, draws in arms.items()}
        return cls(lines, tuple(map(float, groups)))

    @property
    def is_unchanged(self) -> bool:
        """Whether the edit changed no score."""
        return self.arms["before"] == self.arms["after"]

    def draws(self, arm: str) -> list[Scores]:
        """The scores under each draw of an arm."""
        return [Scores(tuple(nan if value is None else value for value in line)) for line in self.arms[arm]]

    def compare(self, arm: str, unit: Unit, seed: int, level: float = LEVEL) -> PairedComparison:
        """An arm against the unedited model, with the scores of an item averaged over the draws."""
        means = [sum(values) / len(values) for values in zip(*(draw.values for draw in self.draws(arm)), strict=True)]
        groups = [f"{group:012.0f}" for group in self.groups]
        return compare_scores(self.draws("before")[0].values, means, groups, unit, seed, level=level)


@dataclass(frozen=True)
class AuditRow(Displayed):
    """One behaviour: the estimates before and after, and the paired difference after - before.

    Attributes:
        p: p-value of the null hypothesis of no difference.
        p_holm: The same after Holm's correction.
        effect: Standardised difference. Saved as None if infinite.
        detectable: The smallest difference that is detectable with 80 % power at this number of items.
        n_groups: Number of clusters of items.
        missing: Pairs without a score.
        missing_before, missing_after: Items without a score before, and after.
        constant: Whether every item has the same score in both models; if so, the scorer may be unable to tell
            them apart.

    The other fields are those of the behaviour.

    Example:
        >>> from interp.auditing import AuditRow, compare_scores
        >>> result = compare_scores([1.0] * 20, [0.0] * 20)
        >>> row = AuditRow("hostility", "harm", "rate", "insults", result.before, result.after, result.difference)
        >>> row.difference.estimate, row.better
        (-1.0, 1.0)
    """

    name: str
    kind: Kind
    unit: Unit
    statement: str
    before: Estimate
    after: Estimate
    difference: Estimate
    p: float = 1.0
    p_holm: float = 1.0
    effect: float | None = 0.0
    detectable: float | None = None
    n_groups: int = 0
    missing: int = 0
    missing_before: int = 0
    missing_after: int = 0
    constant: bool = False
    language: str = "en"
    scenario: str = ""
    scorer: str = ""
    chance: float | None = None
    secret: bool = False
    digest: str = ""
    content: str = ""
    slice: str = ""

    @property
    def of(self) -> str:
        """The name of the behaviour that this is a slice of, or its own."""
        return name_of(self)

    @property
    def better(self) -> float:
        """The difference, signed so that positive is good: a harm or a loss fell, or what must hold rose."""
        return -self.difference.estimate if self.kind == "harm" or self.unit == "nats" else self.difference.estimate

    @property
    def reading(self) -> str:
        """The difference in words; it counts as a change where the corrected p-value is below 0.05."""
        if self.constant:
            return CONSTANT
        if self.p_holm >= 0.05:
            return "not significant" + (f" (can detect {self.detectable:.2g})" if self.detectable else "")
        return "better" if self.better > 0 else "worse"

    @property
    def missing_reading(self) -> str:
        """The items without a score before and after; where the rates differ, a warning about the difference."""
        counts = f"{self.missing_before} before, {self.missing_after} after"
        differ = self.missing_before != self.missing_after
        return counts + "; the rates differ, so the difference may come from which items have a score" * differ

    def _card(self) -> Card:
        rows = [("kind", self.kind), ("before", self.before), ("after", self.after)]
        change = ("difference", self.difference, self.reading)
        missing = [("missing", self.missing, self.missing_reading)] if self.missing else []
        return self.name, [*rows, change, ("p (Holm)", self.p_holm), ("items", self.after.n), *missing]


def audit_rows(
    behaviours: Sequence[Behaviour | AuditRow], items: Mapping[str, ItemScores], seed: int
) -> tuple[AuditRow, ...]:
    """Behaviours compared by the scores of their items, with p-values corrected for their number."""
    comparisons, levels = list[PairedComparison](), interval_levels(behaviours)
    for behaviour in behaviours:
        name = behaviour.name
        with located(f"behaviour {name!r}", "; remove it from the suite"):
            comparisons.append(items[name].compare("after", behaviour.unit, seed, levels[name]))
    corrected = holm([comparison.p for comparison in comparisons])
    return tuple(
        AuditRow(
            **_row_fields(behaviour) | _row_fields(comparison) | {"p_holm": p, "digest": description_digest(behaviour)}
        )
        for behaviour, comparison, p in zip(behaviours, comparisons, corrected, strict=True)
    )


def interval_levels(behaviours: Sequence[Behaviour | AuditRow]) -> dict[str, float]:
    """The level of each behaviour's intervals: those of the slices of one hold together at 95 % (Bonferroni)."""
    slices = Counter(behaviour.of for behaviour in behaviours if behaviour.slice)
    return {x.name: 1 - (1 - LEVEL) / slices[x.of] if x.slice else LEVEL for x in behaviours}


def _row_fields(record: Behaviour | AuditRow | PairedComparison) -> dict[str, Any]:
    """Those values of a record that a row has a field for."""
    return {f.name: getattr(record, f.name) for f in fields(AuditRow) if hasattr(record, f.name)}
