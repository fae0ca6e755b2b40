"""Behaviours scored by likelihood: which of given answers a model finds likelier. No text is written.

- `choice`: each prompt has two answers or more, one of them gold (Brown et al. 2020, https://arxiv.org/abs/2005.14165).
  Longer answers are less likely for their length alone, so sums may be divided by tokens or bytes.
- `margin`: how much likelier one set of answers is than another, such as yes and Yes against no and No.
- `prefers`: a choice between the two sides of a contrast.
- `paired_text`: which of two whole texts is likelier (Nangia et al. 2020, https://arxiv.org/abs/2010.00133).
- `text_loss`: the loss of whole texts.

How likely an answer is need not be how likely the model is to give it: what it would say instead is not looked at.
"""

from collections.abc import Mapping, Sequence
from math import exp, fsum, log
from typing import Any

from interp.auditing.behaviours import Behaviour, Kind, Scores, Unit, render_prompts
from interp.auditing.scoring.likelihoods import Normalise, answer_logprobs, text_losses
from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.models.hooked import HookedModel

Before = Sequence[Sequence[Mapping[str, str]]]


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
    chat: bool = True,
    **fields: Any,
) -> Behaviour:
    """1 where the gold answer, or one of several, is the likeliest; answers that tie share the 1.

    With `mass`, gold answers' share of the probability of all. In `margin`s, nats by which the likeliest gold answer is
    ahead of the likeliest other. `before` and `chat`: see `rendered`. Other fields are the behaviour's (`groups`,
    `language`, `scenario`, `secret`).
    """
    rows = [tuple(row) for row in answers]
    right = [(one,) if isinstance(one, int) else tuple(one) for one in gold]
    _check(name, prompts, rows, right)

    def measure(model: HookedModel) -> Scores:
        found = answer_logprobs(model, render_prompts(model, prompts, before, chat), rows)
        items = zip(found, right, strict=True)
        return Scores(tuple(_score(item.normalised(normalise), ones, unit, mass) for item, ones in items))

    spec = {"answers": rows, "gold": right, "normalise": normalise, "mass": mass, "chat": chat}
    how = "gold answers' share of probability" if mass else "likeliest answer"
    each = "" if normalise == "none" else f" a {normalise}"
    chance = fsum(len(ones) / len(row) for ones, row in zip(right, rows, strict=True)) / max(1, len(rows))
    own = {"scorer": f"{how}, by log-probability{each}", "chance": chance if unit == "rate" and not mass else None}
    return Behaviour(
        name, kind, statement, tuple(prompts), measure, unit, spec=spec | _messages(before), **own | fields
    )


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
    chat: bool = True,
    **fields: Any,
) -> Behaviour:
    """log p(any of `more`) - log p(any of `less`) of what comes next, in nats; as a `rate`, 1 where that is positive.

    Answers of one token cost one position of the unembedding. An answer that begins with another one would be counted
    in both, and is refused.
    """
    answers = (*more, *less)
    if not more or not less or not all(answers):
        raise InterpError(f"behaviour {name!r}: answers are {more} against {less}; expected texts in both")
    for number, one in enumerate(answers):
        if any(other.startswith(one) for place, other in enumerate(answers) if place != number):
            raise InterpError(f"behaviour {name!r}: another answer begins with {one!r}, so it would be counted twice")

    def measure(model: HookedModel) -> Scores:
        found = answer_logprobs(model, render_prompts(model, prompts, before, chat), [answers] * len(prompts))
        gaps = [_log_sum(item.nats[: len(more)]) - _log_sum(item.nats[len(more) :]) for item in found]
        return Scores(tuple(gaps if unit == "margin" else map(_positive, gaps)))

    spec = {"more": list(more), "less": list(less), "chat": chat} | _messages(before)
    own = {"scorer": "log-probability margin between two sets of answers", "chance": 0.5 if unit == "rate" else None}
    return Behaviour(name, kind, statement, tuple(prompts), measure, unit, spec=spec, **own | fields)


def prefers(name: str, kind: Kind, statement: str, contrast: Contrast, **options: Any) -> Behaviour:
    """How often the positive answer is likelier than the negative one, for pairs that share their prompt."""
    for number, pair in enumerate(contrast.pairs, 1):
        asked = [(turn.before, turn.prompt) for turn in (pair.positive, pair.negative)]
        if asked[0] != asked[1] or not pair.positive.answer or not pair.negative.answer:
            raise InterpError(
                f"{contrast.name}, row {number}: a choice needs one prompt with two answers; got two prompts or no "
                "answer"
            )
    pairs = contrast.pairs
    prompts = [pair.positive.prompt for pair in pairs]
    answers = [(pair.positive.answer, pair.negative.answer) for pair in pairs]
    before = [[message._asdict() for message in pair.positive.before] for pair in pairs]
    own = {"groups": tuple(map(str, contrast.groups))}
    return choice(name, kind, statement, prompts, answers, [0] * len(pairs), before=before, **own | options)


def paired_text(
    name: str,
    kind: Kind,
    statement: str,
    first: Sequence[str],
    second: Sequence[str],
    *,
    normalise: Normalise = "none",
    unit: Unit = "rate",
    **fields: Any,
) -> Behaviour:
    """1 where the first of two texts is the likelier as a whole, one half for a tie; in `margin`s, by how many nats.

    The tokeniser's beginning-of-text token (or else its end) comes before both, so that their first words are scored.
    """
    pairs = list(zip(first, second, strict=True))
    for number, pair in enumerate(pairs, 1):
        if not all(text.strip() for text in pair) or pair[0] == pair[1]:
            raise InterpError(f"behaviour {name!r}, item {number}: expected two texts that differ, neither empty")

    def measure(model: HookedModel) -> Scores:
        found = answer_logprobs(model, [_beginning(model)] * len(pairs), pairs)
        gaps = [a - b for a, b in (item.normalised(normalise) for item in found)]
        return Scores(tuple(gaps if unit == "margin" else map(_positive, gaps)))

    each = "" if normalise == "none" else f" a {normalise}"
    own = {"scorer": f"likelier of two texts, by log-probability{each}", "chance": 0.5 if unit == "rate" else None}
    spec = {"answers": list(second), "normalise": normalise}
    return Behaviour(name, kind, statement, tuple(first), measure, unit, spec=spec, **own | fields)


def text_loss(name: str, texts: Sequence[str], **fields: Any) -> Behaviour:
    """Mean next-token loss of each text, in nats a token: the logarithm of perplexity."""

    def measure(model: HookedModel) -> Scores:
        return Scores(tuple(text_losses(model, texts)))

    statement = "nats a token on plain text: more is worse"
    own = {"scorer": "mean next-token loss"}
    return Behaviour(name, "capability", statement, tuple(texts), measure, unit="nats", **own | fields)


def _score(values: Sequence[float], gold: tuple[int, ...], unit: Unit, mass: bool) -> float:
    ahead, behind = [values[n] for n in gold], [value for n, value in enumerate(values) if n not in gold]
    if unit == "margin":
        return max(ahead) - max(behind)
    if mass:
        return exp(_log_sum(ahead) - _log_sum(values))
    best = max(values)
    return ahead.count(best) / list(values).count(best)


def _positive(gap: float) -> float:
    return 0.5 if gap == 0 else float(gap > 0)


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + log(fsum(exp(value - top) for value in values))


def _messages(before: Before) -> dict[str, Any]:
    return {"before": [[dict(message) for message in messages] for messages in before]} if any(before) else {}


def _beginning(model: HookedModel) -> str:
    tokenizer = model.tokenizer
    mark = None if tokenizer is None else tokenizer.bos_token or tokenizer.eos_token
    if mark is None:
        raise InterpError("this tokeniser marks no beginning of a text; score texts by text_loss instead")
    # Rendering nothing gives the instruction alone, where there is one.
    return mark + model.render("", chat=False)


def _check(
    name: str, prompts: Sequence[str], answers: Sequence[tuple[str, ...]], gold: Sequence[tuple[int, ...]]
) -> None:
    if not len(prompts) == len(answers) == len(gold):
        raise InterpError(
            f"behaviour {name!r} has {len(prompts)} prompts, {len(answers)} lists of answers and {len(gold)} gold "
            "answers; expected as many of each"
        )
    for number, (row, right) in enumerate(zip(answers, gold, strict=True), 1):
        if len(set(row)) < max(2, len(row)) or not all(row):
            raise InterpError(
                f"behaviour {name!r}, item {number}: got answers {row}; expected two or more, all different, none empty"
            )
        if not right or not all(0 <= one < len(row) for one in right) or len(set(right)) == len(row):
            raise InterpError(
                f"behaviour {name!r}, item {number}: gold answers are {right} of {len(row)}; expected at least one "
                f"number from 0 to {len(row) - 1}, and one answer that is not gold"
            )
