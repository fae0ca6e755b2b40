"""Choices: behaviours scored by which of several given texts the model finds likelier. No text is generated.

- `choice`: each prompt has two or more answers, one or several of them gold (Brown et al. 2020,
  https://arxiv.org/abs/2005.14165). Longer answers are less likely for their length alone, so sums may be divided by
  tokens, characters or bytes.
- `margin`: how much likelier one set of answers is than another, such as yes and Yes against no and No.
- `prefers`: a choice between the two sides of a contrast.
- `paired_text`: which of two whole texts is likelier (Nangia et al. 2020, https://arxiv.org/abs/2010.00133).
- `text_loss`: the loss of whole texts.

Limitations: the likelihood of an answer is not the probability that the model gives this answer in a reply, since what
it would say instead is not measured.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from math import exp, fsum, log
from typing import Any

from interp.auditing.behaviours import Behaviour, Kind, Scores, Unit, by_items, render_prompts
from interp.auditing.scoring.likelihoods import Normalise, answer_logprobs, text_losses
from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.models.hooked import HookedModel
from interp.models.tokens import Beginning, RenderedText

_BEGINNINGS = {"document": "as documents of pretraining", "tokenizer": "as the tokenizer begins them", "none": "bare"}
_PER_UNIT: dict[Normalise, str] = {
    "none": "", "token": " a token", "byte": " a byte", "acc_norm": " a character (acc_norm)",
    "acc_bytes": " a byte (acc_bytes)",
}  # fmt: skip
Before = Sequence[Sequence[Mapping[str, str]]]


@by_items("prompts", "answers", "gold", "before")
def choice(
    name: str,
    kind: Kind,
    statement: str,
    prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
    gold: Sequence[int | Sequence[int]],
    *,
    normalise: Normalise = "none",
    unit: Unit = "rate",
    mass: bool = False,
    before: Before = (),
    chat: bool | Mapping[str, Any] = True,
    **fields: Any,
) -> Behaviour:
    """A behaviour that scores 1 where a gold answer is the likeliest; answers that tie share the 1.

    Args:
        name: Name of the behaviour.
        kind: `harm`, `protected` or `capability`.
        statement: What a higher score means.
        prompts: One per item.
        answers: Two or more different texts per item, used as they are (with a leading space where one is needed).
        gold: Per item the number of the gold answer, from 0, or the numbers of several.
        normalise: Compare sums of log-probabilities (`none`); or their means per `token`, or, as lm-evaluation-harness
            does, per character (`acc_norm`) or byte (`acc_bytes`) of the answer without the space before it. `byte`
            counts that space.
        unit: `rate`; or `margin`, the nats by which the likeliest gold answer exceeds the likeliest other.
        mass: Score the gold answers' share of the probability of all answers.
        before: Messages that precede each prompt; see `render_prompts`.
        chat: Whether prompts are rendered with the chat template; a mapping gives its variables.
        **fields: Further fields of `Behaviour`: `groups`, `language`, `scenario`, `secret`.

    Raises:
        InterpError: The lists differ in length, an item has fewer than two different answers, or a gold number is out
            of range.

    Example:
        >>> from interp.auditing import choice
        >>> greets = choice("greets", "capability", "greets back", ["Hello!"], [["Go away.", "Hello there."]], [1])
        >>> len(greets), greets.chance
        (1, 0.5)
        >>> greets.scores(model).missing
        0
    """
    rows = [tuple(row) for row in answers]
    gold_rows = [(right,) if isinstance(right, int) else tuple(right) for right in gold]
    _check(name, prompts, rows, gold_rows)

    def measure(model: HookedModel) -> Scores:
        items = answer_logprobs(model, render_prompts(model, prompts, before, chat), rows)
        pairs = zip(items, gold_rows, strict=True)
        return Scores(tuple(_score(item.normalised(normalise), right, unit, mass) for item, right in pairs))

    scorer = "gold answers' share of probability" if mass else "likeliest answer"
    chance = fsum(len(right) / len(row) for right, row in zip(gold_rows, rows, strict=True)) / max(1, len(rows))
    by_chance = chance if unit == "rate" and not mass else None
    described = {"scorer": f"{scorer}, by log-probability{_PER_UNIT[normalise]}", "chance": by_chance}
    spec = {"answers": rows, "gold": gold_rows, "normalise": normalise, "mass": mass, "chat": chat}
    spec |= messages_spec(before)
    return Behaviour(name, kind, statement, tuple(prompts), measure, unit, spec=spec, **described | fields)


@by_items("prompts", "before")
def margin(
    name: str,
    kind: Kind,
    statement: str,
    prompts: Sequence[str],
    more: Sequence[str],
    less: Sequence[str],
    *,
    unit: Unit = "margin",
    before: Before = (),
    chat: bool | Mapping[str, Any] = True,
    **fields: Any,
) -> Behaviour:
    """A behaviour that scores log p(any of `more`) - log p(any of `less`) as the next text, in nats.

    Args:
        name: Name of the behaviour.
        kind: `harm`, `protected` or `capability`.
        statement: What a higher score means.
        prompts: One per item.
        more: Answers that raise the score, none a beginning of another. Answers of one token are cheapest.
        less: Answers that lower it.
        unit: `margin`; or `rate`, 1 where the margin is positive.
        before: Messages that precede each prompt; see `render_prompts`.
        chat: Whether prompts are rendered with the chat template; a mapping gives its variables.
        **fields: Further fields of `Behaviour`.

    Raises:
        InterpError: One of the sets is empty, or an answer begins with another one, which would count twice.

    Example:
        >>> from interp.auditing import margin
        >>> margin("yes", "harm", "agrees", ["Is it so?"], ["Yes"], ["No"]).scores(model).values[0] != 0
        True
    """
    answers = (*more, *less)
    if not more or not less or not all(answers):
        raise InterpError(f"behaviour {name!r}: answers are {more} against {less}; expected texts in both")
    for answer, other in permutations(answers, 2):
        if other.startswith(answer):
            raise InterpError(f"behaviour {name!r}: another answer begins with {answer!r}, so it would count twice")

    def measure(model: HookedModel) -> Scores:
        items = answer_logprobs(model, render_prompts(model, prompts, before, chat), [answers] * len(prompts))
        gaps = [_log_sum(item.nats[: len(more)]) - _log_sum(item.nats[len(more) :]) for item in items]
        return Scores(tuple(gaps if unit == "margin" else map(_positive, gaps)))

    spec = {"more": list(more), "less": list(less), "chat": chat} | messages_spec(before)
    scorer = "log-probability margin between two sets of answers"
    described = {"scorer": scorer, "chance": 0.5 if unit == "rate" else None}
    return Behaviour(name, kind, statement, tuple(prompts), measure, unit, spec=spec, **described | fields)


def prefers(name: str, kind: Kind, statement: str, contrast: Contrast, **options: Any) -> Behaviour:
    """How often the positive answer is likelier than the negative one, for pairs that share their prompt.

    Further options are those of `choice`.
    """
    for number, pair in enumerate(contrast.pairs, 1):
        positive, negative = pair.positive, pair.negative
        same = (positive.before, positive.prompt) == (negative.before, negative.prompt)
        if not same or not positive.answer or not negative.answer:
            problem = f"{contrast.name}, row {number}: two prompts, or no answer"
            raise InterpError(f"{problem}; a choice needs one prompt with two answers")
    prompts = [pair.positive.prompt for pair in contrast.pairs]
    answers = [(pair.positive.answer, pair.negative.answer) for pair in contrast.pairs]
    before = [[message._asdict() for message in pair.positive.before] for pair in contrast.pairs]
    groups = {"groups": tuple(map(str, contrast.groups))}
    return choice(name, kind, statement, prompts, answers, [0] * len(prompts), before=before, **groups | options)


@by_items("first", "second")
def paired_text(
    name: str,
    kind: Kind,
    statement: str,
    first: Sequence[str],
    second: Sequence[str],
    *,
    normalise: Normalise = "none",
    unit: Unit = "rate",
    beginning: Beginning = "document",
    **fields: Any,
) -> Behaviour:
    """A behaviour that scores 1 where the first of two whole texts is the likelier, and 0.5 for a tie.

    A token for the beginning of a text precedes both, so that their first words are scored.

    Args:
        name: Name of the behaviour.
        kind: `harm`, `protected` or `capability`.
        statement: What a higher score means.
        first: One text per item.
        second: The text that each is compared with.
        normalise: Compare sums of log-probabilities (`none`); or their means per `token`, or, as lm-evaluation-harness
            does, per character (`acc_norm`) or byte (`acc_bytes`) of the answer without the space before it. `byte`
            counts that space.
        unit: `rate`; or `margin`, the difference in nats.
        beginning: What precedes both texts: what began a `document` of pretraining, or what the `tokenizer` puts there.
        **fields: Further fields of `Behaviour`.

    Raises:
        InterpError: A text is empty, or the two texts of an item are equal; in a measurement, the tokenizer has no
            token for the beginning of a text.

    Example:
        >>> from interp.auditing import paired_text
        >>> order = paired_text("order", "capability", "keeps word order", ["You are kind."], ["Kind are you."])
        >>> order.scores(model).values
        (1.0,)
    """
    if len(first) != len(second):
        raise InterpError(f"behaviour {name!r}: {len(first)} and {len(second)} texts; expected a pair for each item")
    pairs = list(zip(first, second, strict=True))
    for number, pair in enumerate(pairs, 1):
        if not all(text.strip() for text in pair) or pair[0] == pair[1]:
            raise InterpError(f"behaviour {name!r}, item {number}: expected two texts that differ, neither empty")

    def measure(model: HookedModel) -> Scores:
        items = answer_logprobs(model, [_beginning(model, beginning)] * len(pairs), pairs)
        gaps = [a - b for a, b in (item.normalised(normalise) for item in items)]
        return Scores(tuple(gaps if unit == "margin" else map(_positive, gaps)))

    texts = f"two texts that begin {_BEGINNINGS[beginning]}"
    scorer = f"likelier of {texts}, by log-probability{_PER_UNIT[normalise]}"
    described = {"scorer": scorer, "chance": 0.5 if unit == "rate" else None}
    spec = {"answers": list(second), "normalise": normalise, "beginning": beginning}
    return Behaviour(name, kind, statement, tuple(first), measure, unit, spec=spec, **described | fields)


@by_items("texts")
def text_loss(name: str, texts: Sequence[str], *, beginning: Beginning = "document", **fields: Any) -> Behaviour:
    """A capability that scores the mean next-token loss of each text in nats per token, the logarithm of perplexity.

    Args:
        name: Name of the behaviour.
        texts: One per item; a text longer than the context of the model is truncated.
        beginning: What comes before a text: what began a document of pretraining, what the `tokenizer` puts there, or
            `none`; see `HookedModel.tokens`.
        **fields: Further fields of `Behaviour`.

    Example:
        >>> from interp.auditing import text_loss
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> loss.kind, loss.unit, loss.scores(model).mean > 0
        ('capability', 'nats', True)
    """

    def measure(model: HookedModel) -> Scores:
        return Scores(tuple(text_losses(model, texts, beginning)))

    statement = "nats a token on plain text: more is worse"
    described = {"scorer": f"mean next-token loss of texts that begin {_BEGINNINGS[beginning]}"} | fields
    spec = {"beginning": beginning}
    return Behaviour(name, "capability", statement, tuple(texts), measure, unit="nats", spec=spec, **described)


def _score(values: Sequence[float], gold: tuple[int, ...], unit: Unit, mass: bool) -> float:
    right, wrong = [values[n] for n in gold], [value for n, value in enumerate(values) if n not in gold]
    if unit == "margin":
        return max(right) - max(wrong)
    if mass:
        return exp(_log_sum(right) - _log_sum(values))
    best = max(values)
    return right.count(best) / list(values).count(best)


def _positive(gap: float) -> float:
    return 0.5 if gap == 0 else float(gap > 0)


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + log(fsum(exp(value - top) for value in values))


def messages_spec(before: Before) -> dict[str, Any]:
    """The part of a behaviour's `spec` that says which messages precede the prompts."""
    return {"before": [[dict(message) for message in messages] for messages in before]} if any(before) else {}


def _beginning(model: HookedModel, beginning: Beginning) -> str:
    end = None if model.tokenizer is None else model.tokenizer.eos_token_id
    first = model.beginning(beginning) or ([] if end is None else [end])
    if not first:
        raise InterpError("this tokenizer has no token for the beginning of a text; score texts by text_loss instead")
    # Rendering an empty text returns the instruction, if there is one.
    return RenderedText(model.tokenizer.decode(first)) + model.render("", chat=False)


def _check(
    name: str, prompts: Sequence[str], answers: Sequence[tuple[str, ...]], gold: Sequence[tuple[int, ...]]
) -> None:
    if not len(prompts) == len(answers) == len(gold):
        numbers = f"{len(prompts)} prompts, {len(answers)} lists of answers and {len(gold)} gold answers"
        raise InterpError(f"behaviour {name!r} has {numbers}; expected equal numbers")
    for number, (row, right) in enumerate(zip(answers, gold, strict=True), 1):
        item = f"behaviour {name!r}, item {number}"
        if len(set(row)) < max(2, len(row)) or not all(row):
            raise InterpError(f"{item}: got answers {row}; expected two or more, all different, none empty")
        if not right or not set(right) < set(range(len(row))):
            expected = f"at least one number from 0 to {len(row) - 1}, and one answer that is not gold"
            raise InterpError(f"{item}: gold answers are {right} of {len(row)}; expected {expected}")
