"""Significance: p-values of paired differences, and their correction over a suite.

Under the null hypothesis of no effect, the scores before and after are exchangeable. For scores of 0 and 1 this gives
McNemar's exact test (1947): whether an item was won or lost is a fair coin. For other scores, and for items in
groups, the signs of the groups' sums are flipped: in all ways if there are few, else in sampled ways, among which the
observed one counts (Phipson and Smyth 2010), so that a no-op edit is significant at most as often as the level says.
Holm (1979) corrects over the behaviours.

Limitations: where an edit keeps the mean but skews the differences, the p-value may be small: it tests for no effect,
not for no mean effect. The interval is one of the mean.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from interp.core.errors import InterpError

_FLIPS = 9_999
_ALL = 13  # 2^13 ways are fewer than the sampled flips


def mcnemar(won: int, lost: int) -> float:
    """The two-sided p-value of `won` against `lost` items, exact."""
    tail = sum(comb(won + lost, few) for few in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2 ** (won + lost))


def sign_flips(sums: Float[ndarray, "group"], seed: int = 0) -> float:
    """The two-sided p-value of sums that are symmetric about 0 under no effect."""
    moved = sums[sums != 0]
    seen = abs(moved.sum()) * (1 - 1e-12)
    if len(moved) <= _ALL:
        bits = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((2 * bits - 1) @ moved) >= seen).mean())
    flips = np.random.default_rng(seed).integers(2, size=(_FLIPS, len(moved)), dtype=np.int8) * 2 - 1
    return float((1 + (np.abs(flips @ moved) >= seen).sum()) / (_FLIPS + 1))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values so that the chance of any false positive among them is at most the level.

    Args:
        p_values: One per test.

    Returns:
        The adjusted p-values, in the same order.

    Raises:
        InterpError: A value is outside [0, 1].

    Example:
        >>> from interp.auditing.statistics.significance import holm
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    for value in p_values:
        if not 0 <= value <= 1:
            raise InterpError(f"{value} is not a p-value; expected a number from 0 to 1")
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(raised, 1)
    return tuple(map(float, adjusted))
