"""How well a scalar separates two sets."""

import torch
from jaxtyping import Float
from torch import Tensor


def auroc(positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> float:
    """Chance that a positive value exceeds a negative one, ties counted half (Mann and Whitney 1947)."""
    values = torch.cat([positive, negative]).double()
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    last_rank = counts.cumsum(0).double()
    midranks = (last_rank - (counts - 1) / 2)[inverse]
    n, m = len(positive), len(negative)
    return float((midranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def best_threshold(positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> tuple[float, float]:
    """Where values above are best called positive, and the share called rightly, each side counted half (Youden 1950).

    Midway between two values, or half a unit below the lowest or above the highest; of several, the lowest.
    """
    values = torch.cat([positive, negative]).double().unique()
    cuts = torch.cat([values[:1] - 0.5, (values[1:] + values[:-1]) / 2, values[-1:] + 0.5])
    right = (positive.double() > cuts[:, None]).double().mean(1) + (negative.double() <= cuts[:, None]).double().mean(1)
    best = int(right.argmax())
    return float(cuts[best]), float(right[best] / 2)


def cohens_d(positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> float:
    """Difference of means in pooled standard deviations; 0 where neither side varies and the means agree."""
    p, q = positive.double(), negative.double()
    n, m = len(p), len(q)
    pooled = ((p - p.mean()).square().sum() + (q - q.mean()).square().sum()) / max(n + m - 2, 1)
    gap = float(p.mean() - q.mean())
    return gap / float(pooled.sqrt().clamp(min=1e-12))
