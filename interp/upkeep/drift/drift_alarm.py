"""When a series of audits has drifted: an alarm by a sequential rule, and the trend with its interval.

The first audit is the reference. Audit t after it raises an alarm for a behaviour if the interval of its paired
difference from the reference lies beyond the margin as a whole, at level 1 - 0.05 · 6 / (π² t²) / m, of m behaviours.
These errors sum to 5 % over all audits that will ever be made (a spending rule for sequential tests in the manner of
Lan and DeMets 1983), and by Boole's inequality they may depend on each other in any way, as audits on the same items
do. So a series whose behaviours stay within the margin of the reference raises any alarm, ever, with at most that
probability, as far as the intervals cover; docs/results/drift.md has simulations.

The trend is the mean over items of the slopes of their scores by least squares, per audit.

Limitations: the margin has to be chosen before the series, since a smaller one chosen later was chosen by the data. An
alarm is about the items of the suite. The trend has a 95 % interval of its own and raises no alarm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import numpy as np

from interp.auditing.audit_row import AuditRow, ItemScores
from interp.auditing.auditor import Audit
from interp.auditing.behaviours import Kind
from interp.auditing.statistics.comparison import Estimate, compare_scores, mean_interval
from interp.core.display import Displayed
from interp.upkeep.drift.site_changes import beyond

FALSE_ALARMS = 0.05


@dataclass(frozen=True)
class SeriesTrend(Displayed):
    """A behaviour over a series of audits.

    Attributes:
        behaviour, kind: Those of the behaviour.
        reference: Its mean in the first audit.
        last: Its mean in the last audit.
        change: The paired difference of these, with the interval of the rule.
        slope: Mean change per audit; None before the second audit.
        alarm: The number of the first audit that raised an alarm, counted from 0; None if none did.
    """

    behaviour: str
    kind: Kind
    reference: Estimate
    last: Estimate
    change: Estimate
    slope: Estimate | None
    alarm: int | None


def alarm_level(number: int, behaviours: int) -> float:
    """The level of the intervals of the audit with this number, from 1, of so many behaviours.

    >>> sum(1 - alarm_level(number, 1) for number in range(1, 100_000)) < FALSE_ALARMS
    True
    """
    return 1 - FALSE_ALARMS * 6 / (pi**2 * number**2) / behaviours


def assess_series(audits: Sequence[Audit], margin: float) -> tuple[SeriesTrend, ...]:
    """The trend of each behaviour over audits of single models, and which raised an alarm.

    Args:
        audits: In the order in which they were made; the first is the reference. All measure the same behaviours.
        margin: Change of a behaviour that does not count, in its unit.

    Example:
        >>> from interp.auditing import text_loss
        >>> from interp.upkeep import assess_series
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> (trend,) = assess_series([interp.audit(model, None, [loss])] * 3, margin=0.05)
        >>> trend.slope.estimate, trend.alarm
        (0.0, None)
    """
    return tuple(
        _trend(row, [audit.items[row.name] for audit in audits], len(audits[0].rows), margin) for row in audits[0].rows
    )


def _trend(row: AuditRow, series: Sequence[ItemScores], behaviours: int, margin: float) -> SeriesTrend:
    scores = [items.draws("before")[0].values for items in series]
    groups = [f"{group:012.0f}" for group in series[0].groups]
    results = [
        compare_scores(scores[0], later, groups, row.unit, level=alarm_level(max(1, number), behaviours))
        for number, later in enumerate(scores)
    ]
    alarms = (number for number, result in enumerate(results) if beyond(result.difference, margin))
    ends = [compare_scores(side, side, groups, row.unit).before for side in (scores[0], scores[-1])]
    slope = _slope(np.asarray(scores), groups) if len(scores) > 1 else None
    return SeriesTrend(row.name, row.kind, ends[0], ends[1], results[-1].difference, slope, next(alarms, None))


def _slope(scores: np.ndarray, groups: Sequence[str]) -> Estimate | None:
    """The mean of the items' slopes over audits, of the items that have every score; None with fewer than two."""
    whole = np.isfinite(scores).all(0)
    kept = [group for group, keep in zip(groups, whole, strict=True) if keep] if groups else []
    if len(set(kept) if groups else whole.nonzero()[0]) < 2:
        return None
    times = np.arange(len(scores)) - (len(scores) - 1) / 2
    slopes = times @ scores[:, whole] / (times @ times)
    return mean_interval(slopes.tolist(), groups=kept, unit="margin")
