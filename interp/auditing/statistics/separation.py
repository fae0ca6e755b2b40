"""How well a score separates the two sides of pairs, with an interval that does not collapse where it separates all.

AUROC is a mean over pairs of the sides' placement values, whose variance is DeLong's (DeLong, DeLong and Clarke-Pearson
1988), with both members of a pair as one draw. It enters Wilson's interval as the effective number of pairs: the
number of independent draws that would vary as much. Limitations: where every pair has the same placement (a score that
separates all, or one that is constant) the effective number is that of the pairs.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.auditing.statistics.comparison import Estimate
from interp.auditing.statistics.intervals import Z, wilson
from interp.core.errors import InterpError


def separation(positive: Float[Tensor, "pairs"], negative: Float[Tensor, "pairs"]) -> Estimate:
    """AUROC of the two sides of pairs, with its 95 % interval.

    Args:
        positive: Scores of the positive sides, (pairs,).
        negative: Scores of the negative sides, in the same order, (pairs,).

    Returns:
        The probability that a positive score exceeds a negative one; ties count half.

    Raises:
        InterpError: There are fewer than two pairs, or a score is NaN.

    Example:
        >>> from interp.auditing.statistics.separation import separation
        >>> print(separation(torch.arange(20.0) + 8, torch.arange(20.0)))
        0.820 [0.755, 0.871]
    """
    pairs = len(positive)
    if pairs < 2 or torch.cat([positive, negative]).isnan().any():
        raise InterpError(f"scores of {pairs} pairs; expected two pairs or more, none NaN")
    gaps = torch.sign(positive.double()[:, None] - negative.double()[None, :])
    wins = (gaps + 1) / 2
    area = float(wins.mean())
    variance = float((wins.mean(1) + wins.mean(0)).var()) / pairs
    draws = area * (1 - area) / variance if variance > 0 else float(pairs)
    return Estimate(area, *wilson(area, draws, Z), pairs)
