"""Standardisation: activations as training sees them, so that learning rates carry over between sites and models."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.linalg import StreamingMoments

_MEDIAN_STEPS, _NEARNESS = 100, 1e-6


@dataclass(frozen=True, eq=False)
class Standardisation:
    """u = scale * (x - mean). Each place has one scale, by which it has unit variance a coordinate on average."""

    mean: Float[Tensor, "d_in"]
    scale: Float[Tensor, "d_in"]

    @classmethod
    def of(cls, batches: Iterable[Float[Tensor, "_ d_in"]], widths: Sequence[int] | None = None) -> "Standardisation":
        """What makes these activations standard; `widths` are of the places that are side by side in them.

        Raises if a place is constant, or holds NaN or infinities.
        """
        moments = StreamingMoments()
        for x in batches:
            moments.update(x)
        scales = []
        for variance in moments.variance.split(list(widths or [len(moments.mean)])):
            if not (mean := float(variance.mean())):
                raise InterpError("these activations are constant; there is nothing to learn from them")
            scales.append(torch.full((len(variance),), mean**-0.5))
        return cls(moments.mean.float(), torch.cat(scales))

    def __call__(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Activations as training sees them, in float32."""
        return (x.float() - self.mean.to(x.device)).mul_(self.scale.to(x.device))

    def part(self, columns: Sequence[slice]) -> "Standardisation":
        """That of some of the columns."""
        return Standardisation(*(torch.cat([whole[one] for one in columns]) for whole in (self.mean, self.scale)))

    @property
    def length(self) -> float:
        """What a standardised unit is on raw activations; the geometric mean over places."""
        return math.exp(-float(self.scale.double().log().mean()))


def geometric_median(x: Float[Tensor, "row d_in"]) -> Float[Tensor, "d_in"]:
    """The point of the least sum of distances from the rows, by Weiszfeld's iteration.

    Vardi and Zhang, "The multivariate L1-median and associated data depth" (2000).
    """
    median = x.mean(0)
    for _ in range(_MEDIAN_STEPS):
        weight = (x - median).norm(dim=1).clamp(min=1e-12).reciprocal()
        moved = (weight @ x) / weight.sum()
        done = float((moved - median).norm()) <= _NEARNESS * float(x.std())
        median = moved
        if done:
            break
    return median
