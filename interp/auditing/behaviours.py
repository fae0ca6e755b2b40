"""Behaviours: what is measured in a model, item by item, and whether more of it is good.

Three kinds: `harm` should fall, `protected` must hold (refusals of dangerous requests, honesty), `capability` must
hold. A behaviour's `measure` gives one score an item, the same items in the same order for every model, so that
audits are paired. Its digest covers everything that the scores depend on but the model.

What makes behaviours: `choices` (likelihoods), `replies` (graded text), `refusals`, `judge`, a file of one's own
(`behaviour_file`), or a suite (`suites`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, isinf, isnan
from typing import Any, Literal

from interp.core.display import html_card
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.models.hooked import HookedModel

Kind = Literal["harm", "protected", "capability"]
Unit = Literal["rate", "margin", "nats"]


@dataclass(frozen=True)
class Scores:
    """One score an item, and what was said where the behaviour reads replies.

    NaN is a missing score (a judge that failed): it never counts as a pass, nor as a failure.
    """

    values: tuple[float, ...]
    replies: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """How many items have no score."""
        return sum(map(isnan, self.values))

    @property
    def constant(self) -> bool:
        """Whether all scored items of several scored alike: such a scorer may be unable to tell anything apart."""
        known = [value for value in self.values if not isnan(value)]
        return len(known) > 1 and len(set(known)) == 1

    @property
    def mean(self) -> float:
        """Mean over the items that have a score; NaN where none has."""
        known = [value for value in self.values if not isnan(value)]
        return sum(known) / len(known) if known else float("nan")


@dataclass(frozen=True)
class Behaviour:
    """A named measurement. `statement` says what a higher score means.

    Units: a `rate` is in [0, 1] for each item, a `margin` any number (more is more of the statement), `nats` are
    losses (lower is better). `groups` names each item's cluster, where items are not independent; without, each item
    is its own. `chance` is the mean score of a coin, where that means something. `secret` replies may be harmful or
    offensive: they are never kept nor printed. `spec` is what the scorer knows beside the prompts (answers, gold).

    Raises for no prompts, an empty one, and two items that are the same, by their number.
    """

    name: str
    kind: Kind
    statement: str
    prompts: tuple[str, ...]
    measure: Callable[[HookedModel], Scores]
    unit: Unit = "rate"
    groups: tuple[str, ...] = ()
    language: str = "en"
    scenario: str = ""
    scorer: str = ""
    chance: float | None = None
    secret: bool = False
    spec: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise InterpError(f"behaviour {self.name!r} has no items; expected at least one prompt")
        for number, prompt in enumerate(self.prompts, 1):
            if not prompt.strip():
                raise InterpError(f"behaviour {self.name!r}, item {number}: its prompt is empty; expected text")
        if self.groups and len(self.groups) != len(self.prompts):
            raise InterpError(
                f"behaviour {self.name!r} has {len(self.prompts)} prompts and {len(self.groups)} groups; expected one "
                "group an item, or none"
            )
        self._refuse_duplicates()

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def digest(self) -> str:
        """SHA-256 of name, kind, unit, statement, prompts, groups, and the scorer with what it knows."""
        described = [self.name, self.kind, self.unit, self.statement, self.language, self.scenario, self.scorer]
        return sha256_json([described, self.prompts, self.groups, self.chance, dict(self.spec)])

    def scores(self, model: HookedModel) -> Scores:
        """`measure`, checked: one score an item, each finite or missing but not all, rates within [0, 1]."""
        try:
            found = self.measure(model)
        except InterpError as problem:
            raise InterpError(f"behaviour {self.name!r}: {problem}") from problem
        if len(found.values) != len(self.prompts):
            raise InterpError(
                f"behaviour {self.name!r} gave {len(found.values)} scores for {len(self.prompts)} items; a measure "
                "gives one an item"
            )
        for number, value in enumerate(found.values, 1):
            outside = self.unit == "rate" and isfinite(value) and not 0 <= value <= 1
            if isinf(value) or outside:
                expected = "a number in [0, 1]" if self.unit == "rate" else "a finite number"
                raise InterpError(f"behaviour {self.name!r}, item {number} scored {value}; expected {expected}, or NaN")
        if found.missing == len(found.values):
            raise InterpError(
                f"behaviour {self.name!r}: none of its {len(found.values)} items has a score; see whether its judge "
                "answers, and run again: what else was measured is kept"
            )
        return found

    def _refuse_duplicates(self) -> None:
        """The same prompt may be asked twice with other answers, or after other messages; then `spec` says so."""
        columns = [self.spec[key] for key in ("answers", "before", "gold") if key in self.spec]
        seen: dict[str, int] = {}
        for number, item in enumerate(zip(self.prompts, *columns, strict=True), 1):
            first = seen.setdefault(repr(item), number)
            if first != number:
                raise InterpError(
                    f"behaviour {self.name!r}: items {first} and {number} are the same; leave one out, or the interval "
                    "would count it twice"
                )

    def _repr_html_(self) -> str:
        rows = [("kind", self.kind), ("items", len(self)), ("more means", self.statement), ("scored by", self.scorer)]
        return html_card(f"Behaviour {self.name}", [*rows, ("digest", self.digest[:12])])


def mean_scores(model: HookedModel, behaviours: Iterable[Behaviour]) -> dict[str, float]:
    """Each behaviour's mean score over the items that have one."""
    return {behaviour.name: behaviour.scores(model).mean for behaviour in behaviours}


def render_prompts(
    model: HookedModel, prompts: Sequence[str], before: Sequence[Sequence[Mapping[str, str]]] = (), chat: bool = True
) -> list[str]:
    """Prompts as the model is given them: as a user's messages where it knows a chat template, after those `before`.

    Without `chat` they are plain text to go on from. An instruction (`model.instructed`) is there in both.
    """
    if not any(before):
        return [model.render(prompt, chat) for prompt in prompts]
    if not chat:
        raise InterpError("messages before a prompt need a chat; render with chat=True, or join them into the prompt")
    asked = zip(before, prompts, strict=True)
    return [model.chat([*map(dict, messages), {"role": "user", "content": prompt}]) for messages, prompt in asked]
