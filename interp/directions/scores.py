"""How well a number separates two sets."""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError


def auroc(positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> float:
    """Area under the ROC curve: the probability that a positive value exceeds a negative one.

    Mann and Whitney 1947, "On a test of whether one of two random variables is stochastically larger than the other".

    Args:
        positive: Values of the positive set, (n,).
        negative: Values of the negative set, (m,).

    Returns:
        From 0 to 1. Ties count half.

    Example:
        >>> interp.directions.auroc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
        0.875
    """
    values = _values(positive, negative)
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last_rank = counts.cumsum(0).double()
    midranks = (last_rank - (counts - 1) / 2)[inverse]
    n, m = len(positive), len(negative)
    return float((midranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def best_threshold(positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> tuple[float, float]:
    """The threshold above which values are best called positive, by balanced accuracy.

    Youden 1950, "Index for rating diagnostic tests".

    Args:
        positive: Values of the positive set, (n,).
        negative: Values of the negative set, (m,).

    Returns:
        The threshold, and its balanced accuracy from 0.5 to 1. The threshold lies midway between two values, or half
        a unit below the lowest or above the highest; of several that are equally good it is the lowest.

    Example:
        >>> interp.directions.best_threshold(torch.tensor([2.0, 4.0]), torch.tensor([0.0, 1.0]))
        (1.5, 1.0)
    """
    values = _values(positive, negative).unique()
    cuts = torch.cat([values[:1] - 0.5, (values[1:] + values[:-1]) / 2, values[-1:] + 0.5])
    right = (positive.double() > cuts[:, None]).double().mean(1) + (negative.double() <= cuts[:, None]).double().mean(1)
    best = int(right.argmax())
    return float(cuts[best]), float(right[best] / 2)


def cohens_d(positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> float:
    """Cohen's d: the difference of two means in pooled standard deviations.

    Args:
        positive: Values of the positive set, (n,).
        negative: Values of the negative set, (m,).

    Returns:
        The effect size; 0 where neither set varies and the means agree.

    Example:
        >>> round(interp.directions.cohens_d(torch.tensor([2.0, 4.0]), torch.tensor([0.0, 2.0])), 3)
        1.414
    """
    n, m = len(positive), len(negative)
    p, q = _values(positive, negative).split([n, m])
    pooled = ((p - p.mean()).square().sum() + (q - q.mean()).square().sum()) / max(n + m - 2, 1)
    gap = float(p.mean() - q.mean())
    return gap / float(pooled.sqrt().clamp(min=1e-12))


def _values(positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> Float[Tensor, "n_plus_m"]:
    values = torch.cat([positive, negative]).double()
    if not len(positive) or not len(negative) or values.isnan().any():
        raise InterpError(f"{len(positive)} and {len(negative)} values; expected one or more on each side, none NaN")
    return values
