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


def cohens_d(positive: Float[Tensor, "n"], negative: Float[Tensor, "m"]) -> float:
    """Difference of means in pooled standard deviations; 0 where neither side varies and the means agree."""
    p, q = positive.double(), negative.double()
    n, m = len(p), len(q)
    pooled = ((p - p.mean()).square().sum() + (q - q.mean()).square().sum()) / max(n + m - 2, 1)
    gap = float(p.mean() - q.mean())
    return gap / float(pooled.sqrt().clamp(min=1e-12))
