"""Stopping hopeless trials: a sequential test on the items measured so far.

A trial is hopeless if a constraint is broken, if a finished point is better in every objective, or if no objective but
the KL gains a share of the unedited score (of a margin, a share of its standard deviation). All are means over the
choosing items, of which the first n are a random sample without replacement. At each look, a one-sided interval
with Student's quantile and the correction for a finite population (Cochran 1977, section 2.6) is formed around each
mean; for rates two items are added, one of each sign (Agresti and Min 2005), so that few equal items have a spread.

The error rate is the chance that a trial stops which would not be hopeless on all items. It is divided among all looks
and tests (Bonferroni); that every objective is worse needs no further correction (intersection-union test, Berger
1982). docs/howto/sweep.md has the rate as measured.

Limitations: for losses with heavy tails the interval is approximate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from interp.auditing.statistics.intervals import Clusters, student
from interp.core.display import Displayed
from interp.search.sweeps.objectives import Goals, ItemValues
from interp.search.sweeps.sweep_file import KL

_FEWEST = 6  # items at which a test is made


@dataclass(frozen=True)
class StoppingRule(Displayed):
    """The test of a sweep.

    Args:
        goals: Objectives and constraints.
        base: Scores of the unedited model on the choosing items.
        looks: How many shares of the items a trial is looked at; where all items are known, nothing is left to chance.
        error: The error rate over all looks.
        gain: The least gain in an objective that makes a trial worth finishing.

    Example:
        >>> from interp.auditing import text_loss
        >>> from interp.search.sweeps.objectives import Goals
        >>> from interp.search.sweeps.stopping import StoppingRule
        >>> loss = text_loss("loss", [f"Rain fell for {n} days." for n in range(40)])
        >>> rule = StoppingRule(Goals.of([loss], ["loss"], (), ()), {"loss": [2.0] * 40}, looks=1)
        >>> rule.reason({"loss": [8.0 + n / 10 for n in range(10)]}, {3: {"loss": [2.0] * 40}})
        'worse than trial 3 in every objective'
    """

    goals: Goals
    base: ItemValues
    looks: int
    error: float = 0.05
    gain: float = 0.0

    def reason(self, scores: ItemValues, front: Mapping[int, ItemValues]) -> str:
        """Why a trial is hopeless, given its scores so far and those of finished points; empty if it is not."""
        tests = len(self.goals.constraints) + len(front) + 1
        error = self.error / (max(1, self.looks) * tests)
        for name in self.goals.constraints:
            done = scores.get(name, ())
            excess = self.goals.excess(name, self.base[name][: len(done)], done)
            if self._lower_end(name, excess, error) > 0:
                return f"{name} is beyond its bound"
        for number, other in front.items():
            if all(self._lower_end(name, self._gap(name, scores, other), error) > 0 for name in self.goals.objectives):
                return f"worse than trial {number} in every objective"
        harms = [name for name in self.goals.objectives if name != KL]
        if self.gain and harms and all(self._lower_end(name, self._gain(name, scores), error) > 0 for name in harms):
            return f"gains less than {self.gain:.0%} in every objective"
        return ""

    def _gain(self, name: str, scores: ItemValues) -> Float[ndarray, "item"]:
        """What an objective lacks of the least gain; positive where it gains less."""
        whole = np.asarray(self.base[name])
        scale = np.nanstd(whole) if self.goals.behaviours[name].unit == "margin" else abs(np.nanmean(whole))
        return self._gap(name, scores, self.base) + self.gain * scale

    def _gap(self, name: str, scores: ItemValues, other: ItemValues) -> Float[ndarray, "item"]:
        done = scores.get(name, ())
        return self.goals.item_costs(name, done) - self.goals.item_costs(name, other[name][: len(done)])

    def _lower_end(self, name: str, values: Float[ndarray, "item"], error: float) -> float:
        """The lower end of a one-sided interval of the mean over all items."""
        behaviour, whole = self.goals.behaviours[name], np.isfinite(values)
        groups = [group for group, keep in zip(behaviour.groups, whole, strict=False) if keep]
        values = values[whole]
        left = 1 - len(values) / len(behaviour)
        if not len(values) or (left and len(values) < _FEWEST):
            return -np.inf
        if behaviour.unit == "rate":
            values = np.concatenate([values, values.mean() + np.array([1.0, -1.0])])
            groups = [*groups, "+", "-"] if groups else []
        clusters = Clusters.of(values, groups)
        return clusters.mean - student(len(clusters) - 1, 1 - 2 * error) * clusters.error * sqrt(left)
