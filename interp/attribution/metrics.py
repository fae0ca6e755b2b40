"""Metrics of a comparison: numbers that are read from the logits at the last token.

Limitations: of an answer of several tokens, one counts: the first by which it differs from the other answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.models.continuations import with_answers
from interp.models.hooked import HookedModel
from interp.models.losses import kl_divergence
from interp.models.tokens import common_length


@dataclass(frozen=True)
class LogitDifference(Displayed):
    """The logit of the answer, minus that of the wrong one, in nats.

    Args:
        answers: One per pair, or the only one: a text, with its leading space, or a token id. Default: the token that
            the model itself finds likeliest after the clean prompt.
        wrong: The other answers, given with `answers` or not at all. Default: the token that the model finds likeliest
            after the corrupt prompt.
    """

    answers: str | int | Sequence[str | int] | None = None
    wrong: str | int | Sequence[str | int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", several(self.answers))
        object.__setattr__(self, "wrong", several(self.wrong))

    def of(self, logits: Tensor, answer: Tensor, wrong: Tensor, clean: Tensor) -> Tensor:
        """The metric of logits, (edit, batch, d_vocab)."""
        return _at(logits, answer) - _at(logits, wrong)


@dataclass(frozen=True)
class LogProbability(Displayed):
    """The log-probability of the answer's first token, in nats.

    Args:
        answers: As in `LogitDifference`.
    """

    answers: str | int | Sequence[str | int] | None = None
    wrong: None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", several(self.answers))

    def of(self, logits: Tensor, answer: Tensor, wrong: Tensor, clean: Tensor) -> Tensor:
        """The metric of logits, (edit, batch, d_vocab)."""
        return _at(logits, answer) - logits.logsumexp(-1)


@dataclass(frozen=True)
class KLToClean(Displayed):
    """The divergence of the clean run's prediction from the patched run's, KL(clean || patched), in nats."""

    answers: None = field(default=None, init=False, repr=False)
    wrong: None = field(default=None, init=False, repr=False)

    def of(self, logits: Tensor, answer: Tensor, wrong: Tensor, clean: Tensor) -> Tensor:
        """The metric of logits, (edit, batch, d_vocab)."""
        return kl_divergence(clean.expand_as(logits), logits)


def _at(logits: Tensor, tokens: Tensor) -> Tensor:
    """The logit of each row's token, (edit, batch)."""
    return logits.gather(-1, tokens.to(logits.device).expand(len(logits), -1)[..., None])[..., 0]


def several(value: Any) -> Any:
    """One text or id as a tuple of it; several as they are."""
    return (value,) if isinstance(value, str | int) else value


def answer_tokens(
    model: HookedModel, metric: Any, number: int, texts: Sequence[Any], ids: Sequence[list[int]], place: str
) -> tuple[tuple[int, int], Sequence[list[int]]]:
    """The tokens of a pair's answers, -1 for the model's own, and its prompts with what both answers begin with.

    Args:
        model: The model.
        metric: The metric.
        number: The number of the pair.
        texts: The clean and the corrupt prompt, texts or ids.
        ids: The tokens of both.
        place: The pair, for errors.
    """
    sides = (getattr(metric, side, None) for side in ("answers", "wrong"))
    given = [side[number] for side in sides if side is not None]
    if not given:
        return (-1, -1), ids
    if not all(isinstance(answer, int) for answer in given):
        return _first_that_differs(model, given, texts, ids, place)
    size = model.hf.config.get_text_config().vocab_size
    if unknown := [answer for answer in given if not 0 <= answer < size]:
        raise InterpError(f"{place}: token {unknown[0]} is not in the vocabulary; expected an id below {size}")
    return (given[0], given[-1]), ids


def _first_that_differs(
    model: HookedModel, given: list[Any], texts: Sequence[Any], ids: Sequence[list[int]], place: str
) -> tuple[tuple[int, int], list[list[int]]]:
    """The first tokens in which answers differ, and prompts up to them."""
    chosen, prompts = [], []
    for text, tokens in zip(texts, ids, strict=True):
        if not isinstance(text, str) or any(isinstance(answer, int) for answer in given):
            expected = "expected token ids for prompts of ids, else two texts or two ids"
            raise InterpError(f"{place}: answers {given}; {expected}")
        whole = [model.tokens([x]).unpadded()[0] for x in with_answers(text, given)[1]]
        shared = common_length(whole) if len(whole) > 1 else common_length([whole[0], tokens])
        if shared >= min(map(len, whole)):
            raise InterpError(f"{place}: answers {given} have no token that differs")
        prompts.append(whole[0][:shared])
        chosen.append((whole[0][shared], whole[-1][shared]))
    if chosen[0] != chosen[1]:
        raise InterpError(f"{place}: {given} are other tokens after clean than after corrupt")
    return chosen[0], prompts
