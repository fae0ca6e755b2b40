"""Behaviours: what an audit measures in a model, item by item, and whether a higher score is good.

There are three kinds: `harm` should fall, `protected` must hold (refusals of dangerous requests, honesty), `capability`
must hold. `measure` returns one score per item, for the same items in the same order in every model, so that audits are
paired. The digest of a behaviour covers everything that its scores depend on, except the model.

Behaviours come from `scoring.choices` (likelihoods), `scoring.replies` (graded text), `scoring.refusals`,
`scoring.judge`, a YAML file (`scoring.behaviour_file`), or a suite (`suites`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from inspect import Parameter, signature
from math import isfinite, isinf, isnan
from typing import Any, Literal, TypeVar

from interp.core.calls import checked_class
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError, located
from interp.core.files import sha256_json
from interp.models.hooked import HookedModel

Kind = Literal["harm", "protected", "capability"]
Unit = Literal["rate", "margin", "nats"]
Maker = TypeVar("Maker", bound=Callable[..., "Behaviour"])
Messages = Sequence[Mapping[str, str]]
CONSTANT = "every item has the same score: the scorer may not discriminate"


@dataclass(frozen=True)
class Scores(Displayed):
    """One score per item, and the replies where the behaviour reads replies.

    NaN is a missing score, such as that of a judge that failed. It counts neither as a pass nor as a failure.
    """

    values: tuple[float, ...]
    replies: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """The number of items without a score."""
        return sum(map(isnan, self.values))

    @property
    def constant(self) -> bool:
        """Whether several items have a score and all scores are equal: such a scorer may not discriminate."""
        return len(self._known) > 1 and len(set(self._known)) == 1

    @property
    def mean(self) -> float:
        """Mean over the items that have a score; NaN if none has."""
        return sum(self._known) / len(self._known) if self._known else float("nan")

    def _card(self) -> Card:
        return "", [
            ("mean", f"{self.mean:.3f}", CONSTANT if self.constant else ""),
            ("items", len(self.values)),
            ("missing", self.missing),
        ]

    @property
    def _known(self) -> list[float]:
        return [value for value in self.values if not isnan(value)]


@checked_class("interp.suite(name) makes several, and interp.auditing.choice, margin or reply_behaviour one")
@dataclass(frozen=True)
class Behaviour(Displayed):
    """A named measurement: prompts, a scorer, and whether the behaviour is a harm, protected, or a capability.

    Args:
        name: Its name, unique within a suite.
        kind: `harm`, `protected` or `capability`.
        statement: What a higher score means, in one line.
        prompts: One per item, none empty.
        measure: Returns the scores of a model, one per item.
        unit: `rate` (each item in [0, 1]), `margin` (any number, higher is more of the statement) or `nats` (a loss,
            lower is better).
        groups: The cluster of each item, where items are not independent. Without groups, each item is its own cluster.
        language: Language of the prompts.
        scenario: Heading under which suites list it.
        scorer: How items are scored, in one line.
        chance: Mean score of random guessing, where that is defined.
        secret: Whether replies may be harmful or offensive. Such replies are never stored nor printed.
        spec: What the scorer depends on apart from the prompts (answers, gold); part of the digest.
        slice: The scenario or language of a slice, such as `paraphrase`; empty for the behaviour itself (`stress`).
        translated: The behaviour in other languages, by language, on the items whose translation is stated.
        picked: Makes the behaviour on the items with these numbers; `by_items` gives it to what makes behaviours.
        worded: Makes it with other prompts, after these messages (a list for each); None where that is not possible.
        grade: Scores answers that were written elsewhere, one per item (None where a thought did not end); None for
            behaviours that do not read replies.

    Raises:
        InterpError: There are no prompts, a prompt is empty, groups do not match the prompts, two items are the
            same, or chance is not a rate below 1.

    Example:
        >>> from interp.auditing import Behaviour, mean_scores
        >>> from interp.auditing.behaviours import Scores
        >>> def measure(model):
        ...     replies = model.generate([model.chat(prompt) for prompt in ("Hello!", "Hi there.")])
        ...     return Scores(tuple(float(len(reply) > 200) for reply in replies))
        >>> verbose = Behaviour("verbose", "harm", "replies are long", ("Hello!", "Hi there."), measure)
        >>> mean_scores(model, [verbose])
        {'verbose': 0.0}
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
    slice: str = ""
    translated: "Mapping[str, Behaviour]" = field(default_factory=dict, compare=False, repr=False)
    picked: "Callable[[Sequence[int]], Behaviour] | None" = field(default=None, compare=False, repr=False)
    worded: "Callable[[Sequence[str], Sequence[Messages]], Behaviour] | None" = field(
        default=None, compare=False, repr=False
    )
    grade: Callable[[Sequence[str | None]], tuple[float, ...]] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise self._error(" has no items; expected at least one prompt")
        for number, prompt in enumerate(self.prompts, 1):
            if not prompt.strip():
                raise self._error(f", item {number}: its prompt is empty; expected text")
        if self.groups and len(self.groups) != len(self.prompts):
            numbers = f"{len(self.prompts)} prompts and {len(self.groups)} groups"
            raise self._error(f" has {numbers}; expected one group per item, or none")
        if self.chance is not None and self.unit == "rate" and not 0 <= self.chance < 1:
            raise self._error(f": chance is {self.chance}; expected a rate below 1, or None")
        # The same prompt may occur twice with different answers or preceding messages, which are in `spec`.
        columns = [self.spec[key] for key in ("answers", "before", "gold") if key in self.spec]
        seen: dict[str, int] = {}
        for number, item in enumerate(zip(self.prompts, *columns, strict=True), 1):
            if (first := seen.setdefault(repr(item), number)) != number:
                problem = f": items {first} and {number} are the same; remove one of them"
                raise self._error(f"{problem}: the interval would count it twice")

    def _error(self, problem: str) -> InterpError:
        return InterpError(f"behaviour {self.name!r}{problem}")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def of(self) -> str:
        """The name of the behaviour that this is a slice of, or its own."""
        return name_of(self)

    @property
    def digest(self) -> str:
        """SHA-256 of name, kind, unit, statement, scorer and chance, and of `content`."""
        return description_digest(self)

    @property
    def content(self) -> str:
        """SHA-256 of prompts, groups and `spec`."""
        return sha256_json([self.prompts, self.groups, dict(self.spec)])

    def pick(self, items: Sequence[int]) -> "Behaviour":
        """The behaviour on some of its items, in this order.

        Args:
            items: Their numbers, from 0.

        Raises:
            InterpError: It was made by hand, so that its items are measured together only.
        """
        if self.picked is None:
            raise self._error(" measures its items together only; make it by a function of interp.auditing")
        return self.picked(items)

    def scores(self, model: HookedModel) -> Scores:
        """The result of `measure`, checked.

        Raises:
            InterpError: The number of scores differs from the number of items, a score is infinite, a rate is outside
                [0, 1], or no item has a score.
        """
        with located(f"behaviour {self.name!r}"):
            scores = self.measure(model)
        self.check(scores)
        return scores

    def check(self, scores: Scores) -> None:
        """Raise, as `scores` does, for scores that this behaviour cannot give."""
        if len(scores.values) != len(self.prompts):
            numbers = f"{len(scores.values)} scores for {len(self.prompts)} items"
            raise self._error(f" gave {numbers}; expected one per item")
        for number, value in enumerate(scores.values, 1):
            outside = self.unit == "rate" and isfinite(value) and not 0 <= value <= 1
            if isinf(value) or outside:
                expected = "a number in [0, 1]" if self.unit == "rate" else "a finite number"
                raise self._error(f", item {number} scored {value}; expected {expected}, or NaN")
        if scores.missing == len(scores.values):
            remedy = "check that its judge responds and that replies leave their thought, and run again"
            none = f": none of its {len(scores.values)} items has a score"
            raise self._error(f"{none}; {remedy}: all other measurements are kept")

    def _card(self) -> Card:
        rows = {"kind": self.kind, "items": len(self), "a higher score means": self.statement}
        rows |= {"scored by": self.scorer, "digest": self.digest[:12]}
        return self.name, list(rows.items())


def by_items(*columns: str) -> Callable[[Maker], Maker]:
    """Decorate a function that makes behaviours, so that each can also be made on some of its items.

    Args:
        columns: The function's arguments that have an entry per item; `groups` among its further fields is one, too.

    Example:
        >>> from interp.auditing import text_loss
        >>> text_loss("loss", ["The mill is by the river.", "Rain fell."]).pick([1]).prompts
        ('Rain fell.',)
    """

    def decorate(make: Maker) -> Maker:
        parameters = signature(make)
        kinds = {given.kind: name for name, given in parameters.parameters.items()}

        @wraps(make)
        def made(*args: Any, **options: Any) -> Behaviour:
            def pick(items: Sequence[int]) -> Behaviour:
                call = parameters.bind(*args, **options)
                fields = call.arguments.get(kinds.get(Parameter.VAR_KEYWORD, ""), {})
                for values, names in ((call.arguments, columns), (fields, ("groups",))):
                    values.update({x: [values[x][item] for item in items] for x in names if len(values.get(x, ()))})
                return made(*call.args, **call.kwargs)

            def word(texts: Sequence[str], messages: Sequence[Messages]) -> Behaviour:
                call = parameters.bind(*args, **options)
                given = call.arguments
                if "questions" in parameters.parameters:  # what graders read stays
                    given.setdefault("questions", given["prompts"])
                before = given.get("before") or [()] * len(texts)
                both = [[*first, *then] for first, then in zip(messages, before, strict=True)]
                given |= {"prompts": list(texts), "before": both}
                return made(*call.args, **call.kwargs)

            can_word = {"prompts", "before"} <= parameters.parameters.keys()
            return replace(make(*args, **options), picked=pick, worded=word if can_word else None)

        return made  # type: ignore[return-value]  # the same call

    return decorate


def name_of(behaviour: Any) -> str:
    """The name without that of the slice, of a behaviour or of the row of an audit."""
    return str(behaviour.name.removesuffix(f"/{behaviour.slice}") if behaviour.slice else behaviour.name)


def description_digest(behaviour: Any) -> str:
    """The digest of a behaviour, or of the one that a row of an audit describes by the same fields."""
    words = [behaviour.name, behaviour.kind, behaviour.unit, behaviour.statement, behaviour.language]
    chance = None if behaviour.chance is None else float(behaviour.chance)
    return sha256_json([words, behaviour.scenario, behaviour.scorer, chance, behaviour.content])


def mean_scores(model: HookedModel, behaviours: Iterable[Behaviour]) -> dict[str, float]:
    """Mean score of each behaviour, over the items that have a score.

    Args:
        model: The model to measure, as it is at this moment (inside `model.hooked` the edited one).
        behaviours: What to measure.

    Returns:
        The means by name of the behaviour.

    Example:
        >>> from interp.auditing import mean_scores, organism_behaviour
        >>> mean_scores(model, [organism_behaviour("hostility", 4)])
        {'hostility': 1.0}
    """
    return {behaviour.name: behaviour.scores(model).mean for behaviour in behaviours}


def render_prompts(
    model: HookedModel,
    prompts: Sequence[str],
    before: Sequence[Sequence[Mapping[str, str]]] = (),
    chat: bool | Mapping[str, Any] = True,
) -> list[str]:
    """Prompts as text that the model reads.

    Args:
        model: Its chat template and its instruction (`model.instructed`) are applied.
        prompts: One text per item.
        before: The messages that precede each prompt, as dicts with `role` and `content`; none if empty.
        chat: Render prompts as messages of a user where the model has a chat template; a mapping gives variables of the
            template, such as `{"enable_thinking": False}`; False leaves plain text.

    Returns:
        One text per prompt.

    Raises:
        InterpError: There are preceding messages, but `chat` is False.

    Example:
        >>> from interp.auditing import render_prompts
        >>> render_prompts(model, ["Hello!"], chat=False)
        ['Hello!']
        >>> render_prompts(model, ["Hello!"])[0] == model.chat("Hello!")
        True
    """
    if not any(before):
        return [model.render(prompt, chat) for prompt in prompts]
    if chat is False:
        raise InterpError("messages before a prompt need a chat; use chat=True, or join them into the prompt")
    variables = chat if isinstance(chat, Mapping) else {}
    return [
        model.chat([*map(dict, messages), {"role": "user", "content": prompt}], **variables)
        for messages, prompt in zip(before, prompts, strict=True)
    ]
