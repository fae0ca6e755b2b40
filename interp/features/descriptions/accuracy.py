"""Balanced accuracy of what a machine says of texts, with an interval.

The mean of two shares: of the texts on which the latent fires and that the machine says so of, and of the others that
it doesn't say so of; 0.5 at chance. Over latents each share is the mean of theirs, with the score interval of as many
texts as would vary as much, or more, where latents differ. The interval of the two adds up the squared distances to
their ends (Newcombe 1998, "Interval estimation for the difference between independent proportions"; Zou and Donner
2008). Where both shares are of the same texts, as in fuzzing, the correlation of their answers counts (Zou and Donner
2008), with one more pair of equal answers, so that few texts don't pass for certainty. The interval is over texts, for
these latents; another choice of latents varies more.

Texts without an answer count for neither share. How many there are is in `missing`: a machine that answers only where
it is sure has many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean

from pydantic import Field

from interp.core.config import Config
from interp.core.display import Card, Displayed
from interp.core.moments import wilson

_Z = NormalDist().inv_cdf(0.975)
_MORE = 0.25  # the squared distance from the mean of one more answer, at a share of one half


class Answer(Config):
    """What a machine said of a text.

    >>> from interp.features.descriptions.accuracy import Answer
    >>> Answer(place=3, fires=True, said=None).said is None
    True
    """

    place: int = Field(description="the text's place in the corpus")
    fires: bool = Field(description="whether the latent fires there; in fuzzing, whether the right tokens were marked")
    said: bool | None = Field(description="what the machine said; null where its reply was not of the asked form")


@dataclass(frozen=True)
class BalancedAccuracy(Displayed):
    """A balanced accuracy.

    Attributes:
        value: The accuracy, NaN without answers.
        low: The lower end of its 95 % interval.
        high: The upper end.
        n: Number of texts that were answered.
        missing: Number of texts without an answer.
    """

    value: float
    low: float
    high: float
    n: int
    missing: int

    @classmethod
    def of(cls, latents: Sequence[Sequence[Answer]]) -> "BalancedAccuracy":
        """The accuracy over latents, of those with answers on both sides.

        >>> from interp.features.descriptions.accuracy import Answer, BalancedAccuracy
        >>> says = [Answer(place=n, fires=n < 8, said=n < 8) for n in range(16)]
        >>> round(BalancedAccuracy.of([says]).low, 2), BalancedAccuracy.of([says]).value
        (0.77, 1.0)
        """
        cells = [sides for sides in map(_sides, latents) if all(sides)]
        missing = sum(answer.said is None for answers in latents for answer in answers)
        if not cells:
            return cls(math.nan, math.nan, math.nan, 0, missing)
        shares, below, above = list[float](), list[float](), list[float]()
        for side in zip(*cells, strict=True):
            share = mean(mean(cell.values()) for cell in side)
            low, high = wilson(share, len(side) ** 2 / sum(1 / len(cell) for cell in side), _Z)
            shares, below, above = [*shares, share], [*below, share - low], [*above, high - share]
        value, texts, same = mean(shares), sum(len(cell) for sides in cells for cell in sides), _correlation(cells)
        down, up = (math.sqrt(x * x + y * y + 2 * same * x * y) / 2 for x, y in (below, above))
        return cls(value, value - down, value + up, texts, missing)

    @property
    def text(self) -> str:
        """The accuracy with its interval, and how many texts have no answer."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]" + f", {self.missing} missing" * (self.missing > 0)

    def _card(self) -> Card:
        return self.text, [("texts", self.n)]


def _sides(answers: Sequence[Answer]) -> list[dict[int, float]]:
    """By the place of a text whether what was said of it is right: where the latent fires, and elsewhere."""
    said = [answer for answer in answers if answer.said is not None]
    return [{x.place: float(x.said == x.fires) for x in said if x.fires == side} for side in (True, False)]


def _correlation(cells: Sequence[Sequence[dict[int, float]]]) -> float:
    """The correlation within latents of what is right on both sides of a text; 0 where no text is on both."""
    errors = [[{place: x - mean(cell.values()) for place, x in cell.items()} for cell in sides] for sides in cells]
    products = [first[place] * second[place] for first, second in errors for place in first.keys() & second.keys()]
    spreads = [_MORE + sum(x * x for cell in side for x in cell.values()) for side in zip(*errors, strict=True)]
    return (_MORE + sum(products)) / math.sqrt(math.prod(spreads)) if products else 0.0
