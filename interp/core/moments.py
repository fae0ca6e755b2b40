"""Streaming moments: count, mean and squared deviations of rows that arrive in batches. And the interval of a share."""

from dataclasses import dataclass, field
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass
class StreamingMoments:
    """Moments of rows, merged batch by batch in float64 by the update of Chan, Golub and LeVeque (1979).

    "Updating formulae and a pairwise algorithm for computing sample variances": two batches are merged from their
    counts, means and deviations, so that no sum of squares of large numbers is ever taken.

    Args:
        joint: Keep the scatter matrix, (d_model, d_model), in place of one sum of squares per coordinate.

    Attributes:
        count: Number of rows.
        mean: Mean of the rows, (d_model).
        squares: Squared deviations from the mean, summed over rows: (d_model), or the scatter matrix if `joint`.

    Example:
        >>> from interp.core.moments import StreamingMoments
        >>> moments = StreamingMoments()
        >>> moments.update(torch.tensor([[1.0], [3.0]])); moments.update(torch.tensor([[5.0]]))
        >>> moments.count, moments.mean.item(), moments.variance.item()
        (3, 3.0, 4.0)
    """

    joint: bool = False
    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def update(self, x: Float[Tensor, "batch d_model"]) -> None:
        """Merge a batch of rows, on whatever device it is; a batch without rows changes nothing."""
        wide = x.detach().double()
        n, total = len(wide), self.count + len(wide)
        if not n:
            return
        mean = wide.mean(0)
        centred, delta, weight = wide - mean, mean - self.mean.to(wide), self.count * n / total
        if self.joint:
            within, between = centred.T @ centred, torch.outer(delta, delta)
        else:
            within, between = centred.square().sum(0), delta.square()
        self.squares = self.squares.to(wide) + within + between * weight
        self.mean = self.mean.to(wide) + delta * (n / total)
        self.count = total

    @property
    def variance(self) -> Float[Tensor, "*d_model"]:
        """Unbiased variance per coordinate, or the covariance matrix if `joint`."""
        return self.squares / (self.count - 1)


def wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), of `n` items and at `z` standard deviations.

    >>> wilson(1.0, 10.0, 1.96)
    (0.7224598..., 1.0)
    """
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(max(0.0, share * (1 - share)) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
