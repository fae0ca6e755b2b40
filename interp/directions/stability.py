"""Stability: whether a fit finds the same direction again on other pairs of the same kind.

The groups of the training pairs are resampled with replacement (Efron 1979, "Bootstrap methods"), so that
near-duplicates stay together, and the direction is fitted again. Stability is the mean |cosine| between the direction
and the refits: 1 where every sample gives the same direction. A refit that fails counts as 0.

Limitations: a resample shares pairs with the original, so noise alone scores above chance, about 0.7 for a difference
of means.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.directions.contrast_activations import Sides

Refit = Callable[[Tensor, Tensor], Tensor]


def resamples(groups: Sequence[int], count: int, seed: int = 0) -> list[Int[Tensor, "_"]]:
    """Indices of pairs, `count` times: as many groups as there are, drawn with replacement, with all their pairs."""
    if count < 0:
        raise InterpError(f"bootstrap is {count}; expected how often to fit again, or 0 for not at all")
    labels = torch.tensor(groups)
    members = [(labels == group).nonzero()[:, 0] for group in dict.fromkeys(groups)]
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randint(len(members), (len(members),), generator=generator).tolist() for _ in range(count)]
    return [torch.cat([members[group] for group in draw]) for draw in draws]


def bootstrap_stability(
    row: Float[Tensor, "d_model"], refit: Refit, sides: Sides, samples: Sequence[Int[Tensor, "_"]]
) -> float:
    """Mean |cosine| between a direction and its refits on resampled pairs.

    Args:
        row: The direction, (d_model,).
        refit: The fit: it maps the two sides' activations to a row.
        sides: The activations (n, d_model) of the pairs that the direction was fitted on.
        samples: Indices of pairs, one tensor per refit, as `resamples` draws them.

    Returns:
        From 0 to 1. A refit that raises `InterpError` counts as 0.

    Example:
        >>> from interp.directions import Sides, bootstrap_stability, diff_means
        >>> sides = Sides(torch.eye(3)[[0, 0, 0]], torch.zeros(3, 3))
        >>> bootstrap_stability(torch.tensor([1.0, 0, 0]), diff_means, sides, [torch.tensor([0, 0, 2])])
        1.0
    """
    return sum(_refit_cosine(row, refit, sides.pick(sample)) for sample in samples) / len(samples)


def _refit_cosine(row: Tensor, refit: Refit, sides: Sides) -> float:
    try:
        refitted = refit(*sides)
    except InterpError:
        return 0.0
    return float(torch.cosine_similarity(row.double(), refitted.double(), dim=0).abs())
