"""Whether an edit changed anything: p-values of paired differences, and their correction over a suite.

Under no effect, before and after could as well be exchanged. Of scores of 0 and 1 this is McNemar's exact test (1947):
items won and lost are tosses of a coin. Of others, or of items in groups, the signs of the groups' sums are flipped:
all ways of it where they are few, else drawn ones, the one seen counted among them (Phipson and Smyth 2010), so that
a no-op edit is called significant at most as often as the level says. Where an edit moves items so that their mean
stays but the differences are skewed, such a p-value may be small: it is of no effect, not of no mean effect; the
interval is of the mean. Holm (1979) corrects over the behaviours.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from interp.core.errors import InterpError

_FLIPS = 9_999
_ALL = 13  # 2^13 ways are fewer than the flips that would be drawn


def mcnemar(won: int, lost: int) -> float:
    """Two-sided, exact."""
    tail = sum(comb(won + lost, few) for few in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2 ** (won + lost))


def sign_flips(sums: Float[ndarray, "group"], seed: int = 0) -> float:
    """Two-sided, of sums that are symmetric about 0 if nothing changed."""
    moved = sums[sums != 0]
    seen = abs(moved.sum()) * (1 - 1e-12)
    if len(moved) <= _ALL:
        bits = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((2 * bits - 1) @ moved) >= seen).mean())
    flips = np.random.default_rng(seed).integers(2, size=(_FLIPS, len(moved)), dtype=np.int8) * 2 - 1
    return float((1 + (np.abs(flips @ moved) >= seen).sum()) / (_FLIPS + 1))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted so that the chance of any false finding among them is at most the level they are put to.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    for value in p_values:
        if not 0 <= value <= 1:
            raise InterpError(f"{value} is no p-value; expected a number from 0 to 1")
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(raised, 1)
    return tuple(map(float, adjusted))
