"""Comparisons: a behaviour before and after an edit, item by item, with 95 % intervals.

The design is paired: the same items in the same order, with the same prompts and decoding. An item without a score on
either side is left out on both, and counted on each: where the two counts differ, what was left out depends on the
side, and the difference may come from that. Items that share a group (a template, a passage) count as one draw.
`intervals` has the intervals, `significance` the p-values; their coverage and error rates are measured in
docs/results/statistics.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import asin, copysign, inf, sqrt
from statistics import NormalDist

import numpy as np
from pydantic import PositiveInt

from interp.auditing.behaviours import Unit
from interp.auditing.statistics.intervals import LEVEL, Clusters, Z, bootstrap_t, normal, tango, wilson
from interp.auditing.statistics.significance import mcnemar, sign_flips
from interp.core.display import Displayed
from interp.core.errors import InterpError

_POWER = NormalDist().inv_cdf(0.8)


@dataclass(frozen=True)
class Estimate(Displayed):
    """A mean over n items with its 95 % interval."""

    estimate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.estimate:z.3f} [{self.low:z.3f}, {self.high:z.3f}]"


@dataclass(frozen=True)
class PairedComparison(Displayed):
    """One behaviour before and after, over the items that have a score on both sides.

    Attributes:
        before, after: Means with intervals.
        difference: The mean of after - before.
        p: p-value of the difference, not corrected for other behaviours (`holm`).
        effect: Cohen's h for rates, else the mean difference in standard deviations of the differences, which is
            infinite if these do not vary although the mean moved.
        detectable: The smallest difference that this number of items detects with 80 % power.
        n_groups: Number of clusters of items.
        missing: Items without a score on one side or both.
        missing_before, missing_after: Items without a score on each side.
        constant: Whether all scores before and after are equal: such a scorer may not discriminate.

    Example:
        >>> from interp.auditing import compare_scores
        >>> comparison = compare_scores([1.0] * 9 + [0.0], [0.0] * 10)
        >>> comparison.difference.estimate, comparison.n_groups, round(comparison.p, 4)
        (-0.9, 10, 0.0039)
    """

    before: Estimate
    after: Estimate
    difference: Estimate
    p: float
    effect: float
    detectable: float
    n_groups: int
    missing: int
    constant: bool
    missing_before: int = 0
    missing_after: int = 0


def compare_scores(
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[str] = (),
    unit: Unit = "rate",
    seed: int = 0,
    resamples: PositiveInt = 2000,
    level: float = LEVEL,
) -> PairedComparison:
    """Compare scores of the same items before and after an edit.

    Args:
        before: One score per item; NaN is a missing score.
        after: Scores of the same items, in the same order.
        groups: The cluster of each item; none if items are independent.
        unit: `rate` (scores in [0, 1]), `margin` or `nats`.
        seed: Seed of the bootstrap and of sign flips.
        resamples: Bootstrap resamples, for units other than rates.
        level: Probability that an interval covers what it estimates; for m intervals that all do, 1 - 0.05 / m.

    Returns:
        Means, paired difference, p-value and effect size.

    Raises:
        InterpError: The scores differ in number or are infinite, a rate is outside [0, 1], no item has both scores, or
            a unit other than a rate has a single item or group, so that its spread is unknown.

    Example:
        >>> from interp.auditing import compare_scores
        >>> result = compare_scores([1.0, 1.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
        >>> print(result.difference, round(result.p, 3))
        -0.500 [-0.812, 0.086] 0.25
    """
    old, new = _paired(before, after)
    _require_groups(groups, len(old))
    whole = np.isfinite(old) & np.isfinite(new)
    kept = [group for group, keep in zip(groups, whole, strict=True) if keep] if groups else ()
    missing, sides = int(len(old) - whole.sum()), [int(np.isnan(side).sum()) for side in (old, new)]
    if missing == len(old):
        raise InterpError(f"none of {len(old)} items has a score both before and after")
    old, new = _checked(old[whole], unit), _checked(new[whole], unit)
    changes = Clusters.of(new - old, kept)
    return PairedComparison(
        before=_mean(old, kept, unit, seed, resamples, level),
        after=_mean(new, kept, unit, seed, resamples, level),
        difference=_difference(old, new, kept, unit, seed, resamples, level),
        p=_p(old, new, changes, seed),
        effect=_effect(old, new, unit),
        detectable=_detectable(changes, unit),
        n_groups=len(changes),
        missing=missing,
        constant=len(old) > 1 and len(np.unique([old, new])) == 1,
        missing_before=sides[0],
        missing_after=sides[1],
    )


def mean_interval(
    scores: Sequence[float],
    seed: int = 0,
    resamples: PositiveInt = 2000,
    groups: Sequence[str] = (),
    unit: Unit | None = None,
) -> Estimate:
    """The mean of scores with its 95 % interval.

    Args:
        scores: One finite score per item.
        seed: Seed of the bootstrap; the result is deterministic.
        resamples: Bootstrap resamples, for units other than rates.
        groups: The cluster of each item; none if items are independent.
        unit: `rate`, `margin` or `nats`. Default: `rate` if all scores are 0 or 1, else `margin`.

    Raises:
        InterpError: There are no scores, one is not finite, or a rate is outside [0, 1].

    Example:
        >>> from interp.auditing import mean_interval
        >>> print(mean_interval([1.0, 1.0, 0.0, 1.0]))
        0.750 [0.301, 0.954]
    """
    values = _checked(np.asarray(scores, dtype=np.float64), unit or "margin")
    _require_groups(groups, len(values))
    return _mean(values, groups, unit or _unit(values), seed, resamples)


def paired_difference(
    before: Sequence[float],
    after: Sequence[float],
    seed: int = 0,
    resamples: PositiveInt = 2000,
    groups: Sequence[str] = (),
    unit: Unit | None = None,
) -> Estimate:
    """The mean of after - before over the same items, with its 95 % interval.

    Args:
        before: One finite score per item.
        after: Scores of the same items, in the same order.
        seed: Seed of the bootstrap; the result is deterministic.
        resamples: Bootstrap resamples, for units other than rates.
        groups: The cluster of each item; none if items are independent.
        unit: `rate`, `margin` or `nats`. Default: `rate` if all scores are 0 or 1, else `margin`.

    Raises:
        InterpError: As `mean_interval`, and if the scores differ in number.

    Example:
        >>> from interp.auditing import paired_difference
        >>> paired_difference([1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]).estimate
        -0.5
    """
    old, new = (_checked(values, unit or "margin") for values in _paired(before, after))
    _require_groups(groups, len(old))
    return _difference(old, new, groups, unit or _unit(old, new), seed, resamples)


def _require_groups(groups: Sequence[str], scores: int) -> None:
    if groups and len(groups) != scores:
        raise InterpError(f"{scores} scores have {len(groups)} groups; expected one each, or none")


def _paired(before: Sequence[float], after: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    if len(before) != len(after):
        raise InterpError(
            f"paired scores differ in number ({len(before)} and {len(after)}); score the same items twice"
        )
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if np.isinf(old).any() or np.isinf(new).any():
        raise InterpError("cannot estimate from infinite scores; expected finite ones, or NaN for a missing one")
    return old, new


def _checked(values: np.ndarray, unit: Unit) -> np.ndarray:
    if not len(values) or not np.isfinite(values).all():
        raise InterpError(f"cannot estimate from {len(values)} scores; expected at least one, all finite")
    if unit == "rate" and not ((values >= 0) & (values <= 1)).all():
        raise InterpError(
            f"rates go from 0 to 1; got {values.min():g} to {values.max():g}: give the unit (margin, nats)"
        )
    return values


def _unit(*scores: np.ndarray) -> Unit:
    return "rate" if all(_binary(values) for values in scores) else "margin"


def _binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _mean(
    values: np.ndarray, groups: Sequence[str], unit: Unit, seed: int, resamples: int, level: float = LEVEL
) -> Estimate:
    clusters = Clusters.of(values, groups)
    share = clusters.mean
    if unit == "rate":
        ends = wilson(share, *_size(clusters, share * (1 - share), bool(groups) or not _binary(values), level))
    else:
        ends = bootstrap_t(clusters, seed, resamples, level)
    return _estimate(clusters, ends)


def _difference(
    old: np.ndarray,
    new: np.ndarray,
    groups: Sequence[str],
    unit: Unit,
    seed: int,
    resamples: int,
    level: float = LEVEL,
) -> Estimate:
    change = new - old
    clusters = Clusters.of(change, groups)
    if unit == "rate":
        won, lost = float(np.maximum(change, 0).mean()), float(np.maximum(-change, 0).mean())
        variance, uncertain = won + lost - (won - lost) ** 2, bool(groups) or not (_binary(old) and _binary(new))
        ends = tango(won, lost, *_size(clusters, variance, uncertain, level))
    else:
        ends = bootstrap_t(clusters, seed, resamples, level)
    return _estimate(clusters, ends)


def _estimate(clusters: Clusters, ends: tuple[float, float]) -> Estimate:
    """The mean, which its interval contains."""
    return Estimate(clusters.mean, min(ends[0], clusters.mean), max(ends[1], clusters.mean), int(clusters.items))


def _size(clusters: Clusters, variance: float, uncertain: bool, level: float) -> tuple[float, float]:
    """The effective number of items and its quantile, which is normal if the variance follows from the share."""
    return (clusters.effective(variance), clusters.quantile(level)) if uncertain else (clusters.items, normal(level))


def _p(old: np.ndarray, new: np.ndarray, changes: Clusters, seed: int) -> float:
    if len(changes) == len(old) and _binary(old) and _binary(new):
        return mcnemar(int((new > old).sum()), int((new < old).sum()))
    return sign_flips(changes.sums, seed)


def _effect(old: np.ndarray, new: np.ndarray, unit: Unit) -> float:
    if unit == "rate":
        return 2 * (asin(sqrt(new.mean())) - asin(sqrt(old.mean())))
    change = new - old
    if np.ptp(change) == 0:
        return 0.0 if change[0] == 0 else copysign(inf, change[0])
    return float(change.mean() / change.std(ddof=1))


def _detectable(changes: Clusters, unit: Unit) -> float:
    """The variance of a rate's difference is at least the absolute difference itself, which bounds it from below."""
    detectable = (changes.quantile() + _POWER) * changes.error
    return max(detectable, (Z + _POWER) ** 2 / len(changes)) if unit == "rate" else detectable
