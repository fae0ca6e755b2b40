"""Standardisation: activations as training sees them, so that learning rates carry over between sites and models."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.moments import StreamingMoments

_MEDIAN_STEPS, _NEARNESS = 100, 1e-6
_REACH = 10  # times the usual distance from the mean


@dataclass(frozen=True, eq=False)
class Standardisation:
    """u = scale * (x - mean). Each site has one scale, with which its coordinates have unit variance on average.

    In most language models a few tokens, attention sinks among them, have norms hundreds of times those of the others
    (Sun et al., "Massive activations in large language models", 2024, https://arxiv.org/abs/2402.17762): a single one
    can have more than nine tenths of its batch's variance. Tokens further than ten times the usual distance from the
    mean are shortened to that distance, here and while mean and scale are measured.
    """

    mean: Float[Tensor, "d_in"]
    scale: Float[Tensor, "d_in"]
    widths: tuple[int, ...]  # of the sites side by side

    @classmethod
    def of(cls, batches: Iterable[Float[Tensor, "_ d_in"]], widths: Sequence[int] | None = None) -> "Standardisation":
        """Measure mean and scale; `widths` are those of the sites that are side by side in the batches.

        Raises if a site's activations are constant.
        """
        moments, parts = StreamingMoments(), tuple(widths or ())
        for x in batches:
            parts = parts or (x.shape[1],)
            moments.update(torch.cat([_around_median(place) for place in x.float().split(parts, dim=1)], dim=1))
        scales = []
        for variance in moments.variance.split(parts):
            if not (mean := float(variance.mean())):
                raise InterpError("these activations are constant; there is nothing to learn from them")
            scales.append(torch.full((len(variance),), mean**-0.5))
        return cls(moments.mean.float(), torch.cat(scales), parts)

    def __call__(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Activations as training sees them, in float32."""
        u = (x.float() - self.mean.to(x.device)).mul_(self.scale.to(x.device))
        for place in u.split(self.widths, dim=1):
            _draw_in(place, place.shape[1] ** 0.5)
        return u

    def part(self, columns: Sequence[slice]) -> "Standardisation":
        """The standardisation of some of the sites, given by their columns."""
        mean, scale = (torch.cat([x[part] for part in columns]) for x in (self.mean, self.scale))
        return Standardisation(mean, scale, tuple(part.stop - part.start for part in columns))

    @property
    def length(self) -> float:
        """Length of a standardised unit in raw activations; the geometric mean over sites."""
        return math.exp(-float(self.scale.double().log().mean()))


def _draw_in(apart: Float[Tensor, "row width"], usual: Float[Tensor, ""] | float) -> None:
    """Shorten rows, in place, to ten times the usual length, unless that is zero."""
    length = torch.linalg.vector_norm(apart, dim=1)
    far = (length > _REACH * usual).nonzero().squeeze(1)
    if len(far) and usual:
        apart[far] *= (_REACH * usual / length[far])[:, None]


def _around_median(x: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
    """Rows shortened towards the median, in units of the median distance; a few outliers move neither."""
    middle = x.median(0).values
    apart = x - middle
    _draw_in(apart, torch.linalg.vector_norm(apart, dim=1).median())
    return middle + apart


def geometric_median(x: Float[Tensor, "row d_in"]) -> Float[Tensor, "d_in"]:
    """The point with the least sum of distances from the rows, by Weiszfeld's iteration.

    Vardi and Zhang, "The multivariate L1-median and associated data depth" (2000).
    """
    median = x.mean(0)
    for _ in range(_MEDIAN_STEPS):
        weight = (x - median).norm(dim=1).clamp(min=1e-12).reciprocal()
        previous, median = median, (weight @ x) / weight.sum()
        if float((median - previous).norm()) <= _NEARNESS * float(x.std()):
            break
    return median
