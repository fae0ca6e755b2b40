"""How far raters agree: Krippendorff's alpha with a bootstrap interval, for all and within groups of raters.

Alpha is 1 for perfect agreement and 0 for that of chance (Krippendorff 2011, "Computing Krippendorff's
alpha-reliability"); preferences are nominal, ratings ordinal. Raters split by group where alpha within groups exceeds
alpha over all of them: the interval of the difference, over the same resamples of items, lies above 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from interp.auditing.statistics.comparison import Estimate
from interp.core.display import Displayed
from interp.features.agreement import Level, krippendorff_alpha
from interp.upkeep.feedback.judgements import Judgements

_RESAMPLES = 300


@dataclass(frozen=True)
class RaterAgreement(Displayed):
    """How far raters agree.

    Attributes:
        alpha: Of all raters, with its 95 % interval; None where no two raters judge the same, or all say the same.
        within: Of the raters of each group, by group; a group without two raters is left out.
        excess: The mean of `within` less alpha; None with fewer than two groups.
    """

    alpha: Estimate | None
    within: Mapping[str, Estimate]
    excess: Estimate | None

    @property
    def split(self) -> bool:
        """Whether raters agree more within groups than with all."""
        return self.excess is not None and self.excess.low > 0


def measure_agreement(judgements: Judgements, seed: int = 0) -> RaterAgreement:
    """Measure how far raters agree.

    Args:
        judgements: What they said.
        seed: Draws the resamples of items.

    Raises:
        InterpError: krippendorff is not installed.

    Example:
        >>> import json
        >>> from interp.upkeep import Judgements, measure_agreement
        >>> rows = [{"prompt": str(n), "chosen": "a", "rejected": "b", "rater": r} for n in range(9) for r in "xy"]
        >>> rows += [{"prompt": str(n), "chosen": "b", "rejected": "a", "rater": r} for n in range(9, 18) for r in "xy"]
        >>> _ = (tmp / "pairs.jsonl").write_text("\\n".join(map(json.dumps, rows)))
        >>> measure_agreement(Judgements.read(tmp / "pairs.jsonl")).alpha.estimate
        1.0
    """
    items: Sequence[Mapping[str, float]] = judgements.ratings or [x.votes for x in judgements.comparisons]
    raters = list(judgements.groups)
    level: Level = "ordinal" if judgements.ratings else "nominal"
    table = np.array([[float(item.get(rater, nan)) for item in items] for rater in raters])
    rows = {"": [*range(len(raters))]}
    for name in judgements.group_names:
        members = [number for number, rater in enumerate(raters) if judgements.groups[rater] == name]
        rows |= {name: members} if len(members) > 1 else {}
    rng = np.random.default_rng(seed)
    draws = [np.arange(len(items)), *rng.integers(len(items), size=(_RESAMPLES, len(items)))]
    alphas = {
        name: np.array([krippendorff_alpha(table[found][:, draw], level) for draw in draws])
        for name, found in rows.items()
    }
    overall, within = alphas.pop(""), [*alphas.values()]
    excess = np.mean(within, 0) - overall if len(within) > 1 else np.array([nan])
    groups = {name: alpha for name, values in alphas.items() if (alpha := _estimate(values, len(items)))}
    return RaterAgreement(_estimate(overall, len(items)), groups, _estimate(excess, len(items)))


def _estimate(values: Float[ndarray, "draw"], items: int) -> Estimate | None:
    """The first value, with the interval of the others."""
    drawn = values[1:][~np.isnan(values[1:])]
    if isnan(values[0]) or not len(drawn):
        return None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(values[0]), float(low), float(high), items)
