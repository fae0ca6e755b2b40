"""Estimates with 95 % intervals, from per-item scores.

The interval is a percentile bootstrap over items (Efron 1979). For scores of 0 and 1 the bootstrap is too sure of
itself near the ends (where no item failed it is a point), so there the interval also covers Wilson's score interval
(1927), and for paired differences Newcombe's combination (1998) of the Wilson intervals of the items lost and the
items won.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np

from interp.core.errors import InterpError

_Z = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A mean over n items with its 95 % interval."""

    estimate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, float | int]:
        """Plain values."""
        return asdict(self)


def mean_interval(scores: Sequence[float], seed: int = 0, resamples: int = 2000) -> Estimate:
    """Mean of per-item scores with its interval, deterministic for a seed."""
    values = _finite(scores)
    low, high = _bootstrap(values, seed, resamples)
    if np.isin(values, (0, 1)).all():
        wilson = _wilson(float(values.mean()), len(values))
        low, high = min(low, wilson[0]), max(high, wilson[1])
    return Estimate(float(values.mean()), low, high, len(values))


def paired_difference(
    before: Sequence[float], after: Sequence[float], seed: int = 0, resamples: int = 2000
) -> Estimate:
    """Mean of after - before over the same items, with its interval."""
    if len(before) != len(after):
        raise InterpError(
            f"paired scores differ in number ({len(before)} and {len(after)}); score the same items twice"
        )
    old, new = _finite(before), _finite(after)
    change = new - old
    low, high = _bootstrap(change, seed, resamples)
    if np.isin(old, (0, 1)).all() and np.isin(new, (0, 1)).all():
        newcombe = _newcombe(float((change > 0).mean()), float((change < 0).mean()), len(change))
        low, high = min(low, newcombe[0]), max(high, newcombe[1])
    return Estimate(float(change.mean()), low, high, len(change))


def _finite(scores: Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise InterpError(f"can't estimate from {len(values)} scores; expected at least one, all finite")
    return values


def _bootstrap(values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return float(low), float(high)


def _wilson(rate: float, n: int) -> tuple[float, float]:
    centre = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _newcombe(won: float, lost: float, n: int) -> tuple[float, float]:
    """Interval of won - lost from the Wilson intervals of the two rates, their squared half-widths added."""
    (won_low, won_high), (lost_low, lost_high) = _wilson(won, n), _wilson(lost, n)
    below = sqrt((won - won_low) ** 2 + (lost_high - lost) ** 2)
    above = sqrt((won_high - won) ** 2 + (lost - lost_low) ** 2)
    return max(-1.0, won - lost - below), min(1.0, won - lost + above)
