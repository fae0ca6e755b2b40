"""Canonical directions of activations x and concepts z from their covariance, and whether they are more than chance.

Both are whitened, M = C^(-1/2) Sxz Szz^(-1/2) = U S Vᵀ, and S holds the canonical correlations. C is Sxx or a shrunk
estimate of it, which is better where there are few rows per dimension. Correlations are shrunk towards zero by the
oracle approximating shrinkage (Chen, Wiesel, Eldar and Hero 2010, "Shrinkage algorithms for MMSE covariance
estimation"). Correlations are shrunk, not covariances, so that coordinates of huge variance do not dominate.

The squares of S sum to Pillai's trace. If z is independent of x, this is tr(K P) given x, with K fixed and P the
projection onto a random subspace. The p-value is that of a beta distribution with the same mean and variance. For one
concept and no shrinkage this is the F test of a regression. Bartlett's chi-square test, which it replaces, fails with
shrinkage and with fewer rows than dimensions; this one does not.

Limitations: rows are assumed to be independent. Tokens of one text are not, which makes p-values too small, as do heavy
tails.
"""

from dataclasses import dataclass
from math import exp, lgamma, log, log1p, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDING = 1e-12  # share of the largest value below which float64 cannot tell a value from zero


@dataclass(frozen=True, eq=False)
class Canonical:
    """Directions by falling correlation, the p-value of the correlations, and the shrinkage.

    Read times writeᵀ is the identity, and x - ((x - mean) readᵀ) write has no covariance with z.
    """

    read: Float[Tensor, "k d_model"]
    write: Float[Tensor, "k d_model"]
    p: float
    shrinkage: float


def canonical(
    sxx: Float[Tensor, "d_model d_model"],
    sxz: Float[Tensor, "d_model n_concepts"],
    szz: Float[Tensor, "n_concepts n_concepts"],
    count: int,
    shrinkage: float | None = None,
) -> Canonical:
    """The canonical directions from covariances over `count` rows; `shrinkage` is estimated if None."""
    amount = oracle_shrinkage(sxx, count) if shrinkage is None else shrinkage
    whiten_x, whiten_z = _whitening(sxx, amount), _whitening(szz, 0.0)
    u, s, vt = torch.linalg.svd(whiten_x @ sxz @ whiten_z.T, full_matrices=False)
    k = int((s > _ROUNDING).sum())  # correlations, so none exceeds one
    read = u[:, :k].T @ whiten_x
    write = (vt[:k] @ whiten_z @ sxz.T) / s[:k, None]
    return Canonical(read, write, _p_value(whiten_x @ sxx @ whiten_x.T, s, count - 1, len(whiten_z)), amount)


def oracle_shrinkage(covariance: Float[Tensor, "d d"], count: int) -> float:
    """How far to shrink correlations towards zero, from 0 to 1."""
    scale = _inverse_deviations(covariance)
    correlation = covariance * scale * scale[:, None]
    d, squares = float(correlation.diagonal().sum()), float(correlation.square().sum())
    if squares <= d:
        return 1.0
    return min(1.0, ((1 - 2 / d) * squares + d * d) / ((count + 1 - 2 / d) * (squares - d)))


def _whitening(covariance: Float[Tensor, "d d"], shrinkage: float) -> Float[Tensor, "rank d"]:
    """W, such that Wᵀ W is the (pseudo-)inverse of the shrunk covariance S and W S Wᵀ is diagonal."""
    scale = _inverse_deviations(covariance)
    varies = scale > 0
    correlation = (covariance * scale * scale[:, None])[varies][:, varies]
    values, vectors = torch.linalg.eigh(correlation)
    values = (1 - shrinkage) * values + shrinkage
    kept = values > _ROUNDING * len(values) * values.max()
    rows = covariance.new_zeros(int(kept.sum()), len(covariance))
    rows[:, varies] = (vectors[:, kept] / values[kept].sqrt()).T
    return rows * scale


def _inverse_deviations(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d"]:
    variance = covariance.diagonal()
    return torch.where(variance > 0, variance, torch.inf).rsqrt()


def _p_value(spread: Float[Tensor, "rank rank"], correlations: Float[Tensor, "k"], m: int, q: int) -> float:
    """Probability of correlations at least as large between q independent concepts and x on m + 1 rows."""
    first, second, top = float(spread.trace()), float(spread.square().sum()), float(spread.diagonal().max())
    mean = first / (m * top)
    variance = 2 * (m - q) / (q * m * (m - 1) * (m + 2)) * (second - first**2 / m) / top**2
    if variance <= _ROUNDING * mean:
        return 1.0  # x has as many dimensions as rows, so any concept is read perfectly
    total = mean * (1 - mean) / variance - 1
    return _beta_tail(float(correlations.square().sum()) / (q * top), mean * total, (1 - mean) * total)


def _beta_tail(x: float, a: float, b: float) -> float:
    """Probability that a beta variable exceeds x, by the continued fraction of the incomplete beta function."""
    if x <= 0 or x >= 1:
        return float(x <= 0)
    if 1 - x > (b + 1) / (a + b + 2):
        return 1 - _beta_fraction(x, b, a)  # the fraction converges fast only on the other side
    return _beta_fraction(1 - x, a, b)


def _beta_fraction(y: float, a: float, b: float) -> float:
    """Probability that a beta variable exceeds 1 - y, where y is not rounded away next to 1."""
    fraction = 1.0
    for i in range(20 + 5 * round(sqrt(max(a, b))), 0, -1):
        odd = (b + i - 1) * (a + b + i - 1) * y / ((b + 2 * i - 2) * (b + 2 * i - 1))
        even = i * (a - i) * y / ((b + 2 * i - 1) * (b + 2 * i))
        fraction = 1 - odd / (1 + even / fraction)
    return exp(b * log(y) + a * log1p(-y) - log(b) - lgamma(a) - lgamma(b) + lgamma(a + b)) / fraction
