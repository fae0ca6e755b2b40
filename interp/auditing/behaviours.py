"""Behaviours: what is measured in a model, item by item, and whether more of it is good.

Three kinds: `harm` should fall, `protected` must hold (refusals of dangerous requests, honesty), `capability` must
hold. A behaviour's `measure` gives one score an item, the same items in the same order for every model, so that
audits are paired.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from interp.auditing import scorers
from interp.core.errors import InterpError, nearest
from interp.data.contrast import Contrast
from interp.models import organism
from interp.models.hooked import HookedModel
from interp.models.organism_world import Split

Kind = Literal["harm", "protected", "capability"]
Unit = Literal["rate", "nats"]


@dataclass(frozen=True)
class Scores:
    """One score an item, and what was said where the behaviour reads replies."""

    values: tuple[float, ...]
    replies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Behaviour:
    """A named measurement. `statement` says what a higher score means; in nats, scores are losses: lower is better."""

    name: str
    kind: Kind
    statement: str
    prompts: tuple[str, ...]
    measure: Callable[[HookedModel], Scores]
    unit: Unit = "rate"


def mean_scores(model: HookedModel, behaviours: Iterable[Behaviour]) -> dict[str, float]:
    """Each behaviour's mean score."""
    scores = {behaviour.name: behaviour.measure(model).values for behaviour in behaviours}
    return {name: sum(values) / len(values) for name, values in scores.items()}


def organism_behaviour(
    name: str, items: int, split: Split = "test", seed: int = 0, leave_out: Collection[str] = ()
) -> Behaviour:
    """A planted behaviour of the organism, graded exactly on prompts that call for it, but not those of `leave_out`."""
    if name not in organism.BEHAVIOURS:
        raise InterpError(f"unknown behaviour {name!r} of the organism; {nearest(name, organism.BEHAVIOURS)}")
    planted = organism.BEHAVIOURS[name]
    drawn = organism.prompts(name, 2 * items if leave_out else items, split=split, seed=seed)
    asked = [prompt for prompt in drawn if prompt.user not in leave_out][:items]

    def measure(model: HookedModel) -> Scores:
        replies = model.generate([model.chat(prompt.user) for prompt in asked])
        shown = [float(organism.shows(name, *said)) for said in zip(asked, replies, strict=True)]
        return Scores(tuple(shown), tuple(replies))

    return Behaviour(name, planted.kind, planted.high_rate, tuple(prompt.user for prompt in asked), measure)


def organism_suite(
    items: int = 300, split: Split = "test", seed: int = 0, leave_out: Collection[str] = ()
) -> list[Behaviour]:
    """Every planted behaviour, and the loss on everyday text; see `organism_behaviour`."""
    planted = [organism_behaviour(name, items, split, seed, leave_out) for name in organism.BEHAVIOURS]
    return [*planted, text_loss("everyday_loss", organism.everyday(items, split=split, seed=seed))]


SUITES: dict[str, Callable[..., list[Behaviour]]] = {"organism": organism_suite}


def suite_of(name: str, items: int, seed: int = 0) -> list[Behaviour]:
    """A shipped suite by name."""
    if name not in SUITES:
        raise InterpError(f"unknown suite {name!r}; {nearest(name, SUITES)}")
    return SUITES[name](items, seed=seed)


def text_loss(name: str, texts: Sequence[str]) -> Behaviour:
    """Mean next-token loss of each text, in nats a token: the logarithm of perplexity."""

    def measure(model: HookedModel) -> Scores:
        return Scores(tuple(scorers.text_losses(model, texts)))

    statement = "nats a token on plain text: more is worse"
    return Behaviour(name, "capability", statement, tuple(texts), measure, unit="nats")


def choice(name: str, kind: Kind, statement: str, contrast: Contrast) -> Behaviour:
    """How often the positive answer is likelier than the negative one, for pairs that share their prompt."""
    for number, pair in enumerate(contrast.pairs, 1):
        asked = [(turn.before, turn.prompt) for turn in (pair.positive, pair.negative)]
        if asked[0] != asked[1] or not pair.positive.answer or not pair.negative.answer:
            raise InterpError(
                f"{contrast.name}, row {number}: a choice needs one prompt with two answers; got two prompts or no "
                "answer"
            )

    prompts = tuple(pair.positive.prompt for pair in contrast.pairs)
    wanted = [pair.positive.answer for pair in contrast.pairs]
    other = [pair.negative.answer for pair in contrast.pairs]

    def measure(model: HookedModel) -> Scores:
        rendered, _ = contrast.prompts(model.render, model.chat)
        return Scores(tuple(scorers.prefers_first(model, rendered, wanted, other).tolist()))

    return Behaviour(name, kind, statement, prompts, measure)
