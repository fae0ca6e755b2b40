"""Metrics of a comparison: numbers that are read from the logits at the last token.

Limitations: of an answer of several tokens, one counts: the first by which it differs from the other answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from interp.core.display import Displayed
from interp.models.losses import kl_divergence


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
