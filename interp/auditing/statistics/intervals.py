"""Intervals of means and of means of paired differences, for items that may come in groups.

Rates have score intervals: Wilson's (1927) for one, Tango's (1998) for a difference of paired ones. Unlike the
percentile bootstrap, they do not collapse to a point where nothing changed, and they keep their coverage near 0 and
1. Fractional scores and items in groups enter by the effective number of items (Rao and Scott 1992): the number of
independent items that would vary as much as the sums of the groups do.

Other means have a studentised bootstrap (Efron 1981; Hall 1988) that resamples whole groups (Field and Welsh 2007) and
widens Student's interval to the side of the skew. With fewer than eight groups Student's interval is used alone.

Limitations: dependence that no group describes is ignored. With few groups, or few items that changed, coverage
deviates from 95 % as docs/results/statistics.md measures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin, sqrt, tan
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from interp.core.errors import InterpError
from interp.core.moments import wilson as wilson

LEVEL = 0.95


def normal(level: float) -> float:
    """The normal quantile for a two-sided interval."""
    return NormalDist().inv_cdf((1 + level) / 2)


Z = normal(LEVEL)
_FEW = 8
# Beyond three times Student's quantile a bootstrap of ties is uninformative.
_WIDEST = 3.0


@dataclass(frozen=True, eq=False)
class Clusters:
    """Sums of scores and numbers of items, group by group."""

    sums: Float[ndarray, "group"]
    sizes: Float[ndarray, "group"]

    @classmethod
    def of(cls, values: Float[ndarray, "item"], groups: Sequence[str] = ()) -> "Clusters":
        """Without groups each item is its own."""
        if not groups:
            return cls(values, np.ones(len(values)))
        _, member = np.unique(np.asarray(groups), return_inverse=True)
        return cls(np.bincount(member, weights=values), np.bincount(member).astype(np.float64))

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def items(self) -> float:
        """The number of items."""
        return float(self.sizes.sum())

    @property
    def mean(self) -> float:
        """The mean over items."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def error(self) -> float:
        """Standard error of the mean, with independent groups; 0 for one group, whose spread is unknown."""
        count, off = len(self), self.sums - self.mean * self.sizes
        return float(sqrt(count / (count - 1) * (off**2).sum()) / self.items) if count > 1 else 0.0

    def quantile(self, level: float = LEVEL) -> float:
        """Student's quantile for a two-sided interval."""
        return student(max(len(self) - 1, 1), level)

    def effective(self, variance: float) -> float:
        """The number of independent items of this variance that vary as the groups do; one per group if unknown."""
        if variance <= 0 or self.error == 0:
            return float(len(self))
        return variance / self.error**2


@lru_cache(maxsize=1024)
def student(freedom: int, level: float = LEVEL) -> float:
    """Student's quantile for a two-sided interval, from the finite sums for its distribution (Gosset 1908)."""
    return sqrt(freedom) * tan(bisect(lambda angle: _inside(angle, freedom) >= level, 0.0, pi / 2))


def bisect(beyond: Callable[[float], bool], low: float, high: float) -> float:
    """The point from which on `beyond` holds."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return (low + high) / 2


def _inside(angle: float, freedom: int) -> float:
    """The probability of |t| at most sqrt(freedom) * tan(angle)."""
    odd = freedom % 2
    steps = np.arange(2 + odd, freedom - 1, 2, dtype=np.float64)
    factors = np.concatenate([[1.0], (steps - 1) / steps * cos(angle) ** 2])
    if freedom == 1:
        return 2 * angle / pi
    terms = float(np.cumprod(factors).sum()) * sin(angle)
    return 2 / pi * (angle + cos(angle) * terms) if odd else terms


def tango(won: float, lost: float, n: float, z: float) -> tuple[float, float]:
    """The score interval of won - lost, the shares of items that changed either way (Tango 1998)."""
    return _where(won, lost, n, z), -_where(lost, won, n, z)


def _where(won: float, lost: float, n: float, z: float) -> float:
    """The difference at which the score statistic is z: the statistic falls with the difference."""
    return bisect(lambda difference: _score(difference, won, lost, n) <= z, -1.0, 1.0)


def _score(difference: float, won: float, lost: float, n: float) -> float:
    """The distance of won - lost from a difference, in standard errors under that difference."""
    linear = -won - lost + (2 - won + lost) * difference
    constant = -lost * difference * (1 - difference)
    share = (sqrt(max(0.0, linear**2 - 8 * constant)) - linear) / 4
    variance = max(2 * share + difference * (1 - difference), 1e-300) / n
    return (won - lost - difference) / sqrt(variance)


def bootstrap_t(clusters: Clusters, seed: int, resamples: int, level: float = LEVEL) -> tuple[float, float]:
    """Of a mean: the quantiles of (mean - truth) / error are the bootstrap's where these are beyond Student's."""
    if len(clusters) < 2:
        raise InterpError("the spread of one item, or one group, is unknown; give at least two")
    mean, error, quantile = clusters.mean, clusters.error, clusters.quantile(level)
    if len(clusters) < _FEW or error == 0:
        return mean - quantile * error, mean + quantile * error
    count = len(clusters)
    sums, sizes = clusters.sums - mean * clusters.sizes, clusters.sizes
    terms = _drawn(count, seed, resamples) @ np.stack([sums, sizes, sums**2, sums * sizes, sizes**2], 1)
    off = terms[:, 0] / terms[:, 1]
    squares = np.maximum(terms[:, 2] - 2 * off * terms[:, 3] + off**2 * terms[:, 4], 0)
    errors = np.sqrt(count / (count - 1) * squares) / terms[:, 1]
    widest = _WIDEST * quantile
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.nan_to_num(off / errors, nan=0.0, posinf=widest, neginf=-widest)
    below, above = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    # With a few dozen heavy-tailed groups the bootstrap underestimates the tails, so it never narrows Student's.
    return mean - error * float(np.clip(above, quantile, widest)), mean - error * float(
        np.clip(below, -widest, -quantile)
    )


@lru_cache(maxsize=4)
def _drawn(count: int, seed: int, resamples: int) -> Float[ndarray, "resample group"]:
    """How often each group is drawn; cached, since the behaviours of an audit mostly have equal numbers."""
    draws = np.random.default_rng(seed).integers(count, size=(resamples, count))
    cells = (draws + count * np.arange(resamples)[:, None]).ravel()
    return np.bincount(cells, minlength=resamples * count).reshape(resamples, count).astype(np.float64)
