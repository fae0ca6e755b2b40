"""Behaviours scored by likelihood: which of given answers a model finds likelier. No text is written.

- `choice`: each prompt has two answers or more, one of them gold (Brown et al. 2020, Gao et al. 2021). are
  less likely for their length alone, so sums may be divided by tokens or bytes.
- `prefers`: a choice between the two sides of a contrast.
- `text_loss`: the loss of whole texts.

How likely an answer is need not be how likely the model is to give it: what it would say instead is not looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from interp.auditing.behaviours import Behaviour, Kind, Scores, Unit, rendered
from interp.auditing.scorers import continuation_logprobs, text_losses
from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.models.hooked import HookedModel

Normalise = Literal["none", "token", "byte"]


@dataclass(frozen=True)
class AnswerLogprobs:
    """Of one item's answers: log p(answer | prompt) in nats, summed over tokens, and how long each answer is."""

    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]

    def normalised(self, by: Normalise = "none") -> tuple[float, ...]:
        """The sums, or nats a token or a byte of UTF-8."""
        lengths = {"none": [1] * len(self.nats), "token": self.tokens, "byte": self.bytes}[by]
        return tuple(nats / length for nats, length in zip(self.nats, lengths, strict=True))


def answer_logprobs(
    model: HookedModel, prompts: Sequence[str], answers: Sequence[Sequence[str]]
) -> list[AnswerLogprobs]:
    """How likely each answer is to follow its prompt. Texts are as they are: a space between is part of the answer."""
    found = []
    for prompt, ends in zip(prompts, answers, strict=True):
        nats = continuation_logprobs(model, [prompt] * len(ends), ends).tolist()
        tokens = [model.tokens(prompt + end).ids.shape[1] - model.tokens(prompt).ids.shape[1] for end in ends]
        found.append(AnswerLogprobs(tuple(nats), tuple(tokens), tuple(len(end.encode()) for end in ends)))
    return found


def choice(
    name: str,
    kind: Kind,
    statement: str,
    prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
    gold: Sequence[int],
    *,
    normalise: Normalise = "none",
    unit: Unit = "rate",
    before: Sequence[Sequence[Mapping[str, str]]] = (),
    chat: bool = True,
    **fields: Any,
) -> Behaviour:
    """1 where the gold answer is the likeliest; answers that tie for it share the 1.

    In `margin`s: nats by which the gold answer is ahead of the likeliest other. `before` and `chat`: see `rendered`.
    Other fields are the behaviour's (`groups`, `language`, `scenario`, `secret`).
    """
    rows = [tuple(row) for row in answers]
    _check(name, prompts, rows, gold)

    def measure(model: HookedModel) -> Scores:
        found = answer_logprobs(model, rendered(model, prompts, before, chat), rows)
        items = zip(found, gold, strict=True)
        return Scores(tuple(_score(item.normalised(normalise), right, unit) for item, right in items))

    spec = {"answers": rows, "gold": list(gold), "normalise": normalise, "chat": chat}
    spec |= {"before": [[dict(message) for message in messages] for messages in before]} if any(before) else {}
    chance = sum(1 / len(row) for row in rows) / len(rows) if unit == "rate" else None
    each = "" if normalise == "none" else f" a {normalise}"
    fields = {"scorer": f"likeliest answer by log-probability{each}", "chance": chance} | fields
    return Behaviour(name, kind, statement, tuple(prompts), measure, unit, spec=spec, **fields)


def prefers(name: str, kind: Kind, statement: str, contrast: Contrast, **fields: Any) -> Behaviour:
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
    groups = tuple(map(str, contrast.groups))
    return choice(name, kind, statement, prompts, answers, [0] * len(pairs), before=before, groups=groups, **fields)


def text_loss(name: str, texts: Sequence[str], **fields: Any) -> Behaviour:
    """Mean next-token loss of each text, in nats a token: the logarithm of perplexity."""

    def measure(model: HookedModel) -> Scores:
        return Scores(tuple(text_losses(model, texts)))

    statement = "nats a token on plain text: more is worse"
    fields = {"scorer": "mean next-token loss"} | fields
    return Behaviour(name, "capability", statement, tuple(texts), measure, unit="nats", **fields)


def _score(values: Sequence[float], gold: int, unit: Unit) -> float:
    if unit == "margin":
        return values[gold] - max(value for number, value in enumerate(values) if number != gold)
    best = max(values)
    return float(values[gold] == best) / sum(value == best for value in values)


def _check(name: str, prompts: Sequence[str], answers: Sequence[tuple[str, ...]], gold: Sequence[int]) -> None:
    if not len(prompts) == len(answers) == len(gold):
        raise InterpError(
            f"behaviour {name!r} has {len(prompts)} prompts, {len(answers)} lists of answers and {len(gold)} gold "
            "answers; expected as many of each"
        )
    for number, (row, right) in enumerate(zip(answers, gold, strict=True), 1):
        if len(row) < 2 or not all(row):
            raise InterpError(f"behaviour {name!r}, item {number}: got answers {row}; expected two or more, none empty")
        if not 0 <= right < len(row):
            raise InterpError(
                f"behaviour {name!r}, item {number}: gold answer {right} is missing; expected 0 to {len(row) - 1}"
            )
