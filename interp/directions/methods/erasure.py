"""Erasers: affine maps after which no linear probe reads a concept, and how to fit them.

An eraser is x -> x - ((x - mean) readᵀ) write. An `ErasureFitter` accumulates the joint covariance of activations x and
concepts z batch by batch. From it come

- `leace`: the oblique projection that erases with the least squared change. Belrose et al. 2023, "LEACE: perfect linear
  concept erasure in closed form", https://arxiv.org/abs/2306.03819. Of the canonical directions U, S, V (see
  `canonical`) it reads Uᵀ C^(-1/2) and writes S⁻¹ Vᵀ Szz^(-1/2) Szx. Whatever C is, read times writeᵀ is the identity
  and the written rows span Szx: shrinkage of C changes how far activations move, not what is erased.
- `sal`: the orthogonal projection off leading left singular vectors of Sxz. Shao, Ziser and Cohen 2023, "Gold doesn't
  always glitter: spectral removal of linear and nonlinear guarded attribute information",
  https://arxiv.org/abs/2203.07893.

A significance test of the whole concept decides whether there is something to erase. The size of a singular value would
not do: it is small for a rare concept, however well a probe reads it. If the test passes, the whole concept is erased.

Limitations: nonlinear probes may still read the concept, and later layers may compute it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.core.linalg import erase
from interp.core.moments import StreamingMoments
from interp.directions.methods._canonical import Canonical, canonical
from interp.models.identity import ModelReference

LEVEL = 1e-3


class NothingToErase(InterpError):
    """The concept cannot be told from chance."""


@dataclass(frozen=True, eq=False)
class Eraser(Displayed):
    """The affine map x -> x - ((x - mean) readᵀ) write, after which no linear probe reads a concept.

    Args:
        read: Rows that read the concept, (k, d_model), float64.
        write: Rows that are subtracted, (k, d_model), float64.
        mean: Mean activation, (d_model,), float64.
        method: How it was fitted: "leace", "sal" or "inlp".
        count: Number of rows it was fitted on.
        statistics: The significance `level`, the p-value `p` of the concept, and `displaced`, the mean squared change
            on the fitted data as a share of its variance.
        model: The model it belongs to, where known.

    Example:
        >>> row, mean = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([2.5, 0.0]).double()
        >>> eraser = interp.directions.Eraser(row, row, mean, "sal", count=4)
        >>> eraser(torch.tensor([[7.0, 1.0]]))
        tensor([[2.5000, 1.0000]])
    """

    read: Float[Tensor, "k d_model"]
    write: Float[Tensor, "k d_model"]
    mean: Float[Tensor, "d_model"]
    method: str
    count: int
    statistics: Mapping[str, float] = field(default_factory=dict)
    model: ModelReference | None = None

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations with the concept's part set to its mean; narrower types are computed in float32."""
        return erase(x, self.read, self.write, self.mean)

    def __str__(self) -> str:
        return f"{self.method} of {plural(len(self.read), 'direction')}, fitted on {plural(self.count, 'row')}"

    def _card(self) -> Card:
        meanings = {"p": "of the concept, below the level", "displaced": "mean squared change, of the variance"}
        return str(self), [(name, value, meanings.get(name, "")) for name, value in self.statistics.items()]


class ErasureFitter(Displayed):
    """The joint mean and covariance of activations and concepts, batch by batch in float64, and erasers from them.

    Args:
        d_model: Width of the activations.
        n_concepts: Number of concepts, or of classes.

    Raises:
        InterpError: Either is below 1.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [0.0, 2.0], [5.0, 1.0], [5.0, 2.0]]).repeat(9, 1)
        >>> fitter = interp.ErasureFitter(d_model=2, n_concepts=2).update(x, torch.tensor([0, 0, 1, 1] * 9))
        >>> fitter.leace()(x[:3]).tolist()
        [[2.5, 1.0], [2.5, 2.0], [2.5, 1.0]]
    """

    def __init__(self, d_model: int, n_concepts: int):
        if d_model < 1 or n_concepts < 1:
            raise InterpError(f"d_model is {d_model} and n_concepts {n_concepts}; expected at least 1 of each")
        self.d_model, self.n_concepts, self._moments = d_model, n_concepts, StreamingMoments(joint=True)

    def _card(self) -> Card:
        return "", [("rows", self.count), ("d_model", self.d_model), ("concepts", self.n_concepts)]

    @property
    def count(self) -> int:
        """Number of rows."""
        return self._moments.count

    def update(self, x: Float[Tensor, "batch d_model"], z: Shaped[Tensor, "rows *n_concepts"]) -> "ErasureFitter":
        """Add a batch.

        Args:
            x: Activations, (batch, d_model).
            z: Concepts, (batch, n_concepts), or the class of each row, (batch,) integers from 0 to n_concepts - 1.

        Returns:
            The fitter itself.

        Raises:
            InterpError: A shape is wrong, or an entry is not finite. The fitter stays as it was.
        """
        if x.shape[1] != self.d_model:
            raise InterpError(f"activations have shape {tuple(x.shape)}; expected (batch, {self.d_model})")
        both = [finite_rows(x, "activations"), concept_columns(z, len(x), self.n_concepts).to(x.device)]
        self._moments.update(torch.cat(both, dim=1))
        return self

    def leace(self, level: float = LEVEL, shrinkage: float | None = None) -> Eraser:
        """The eraser of least squared change.

        Args:
            level: Significance level of the test whether there is anything to erase; 1 always erases.
            shrinkage: Of the correlations between activations, from 0 (least change on the fitted data) to 1. None
                estimates it (least change on other data).

        Raises:
            NothingToErase: The concept is not significant.
            InterpError: There are too few rows, or the concept or the activations are constant.
        """
        fit = self._significant(level, shrinkage)
        return self._eraser("leace", fit.read, fit.write, {"level": level, "p": fit.p, "shrinkage": fit.shrinkage})

    def sal(self, level: float = LEVEL, rank: int | None = None) -> Eraser:
        """The orthogonal projection off leading left singular vectors of Sxz.

        Args:
            level: As in `leace`.
            rank: How many singular vectors to remove; None for all. As many leading right singular vectors have no
                covariance with x afterwards.

        Raises:
            NothingToErase: The concept is not significant.
            InterpError: The rank exceeds that of the covariance, or as in `leace`.
        """
        fit = self._significant(level, None)
        kept = len(fit.read) if rank is None else rank
        if not 1 <= kept <= len(fit.read):
            raise InterpError(f"rank is {rank}; expected 1 to {len(fit.read)}, the rank of the covariance")
        rows = torch.linalg.svd(self.covariances()[1], full_matrices=False)[0][:, :kept].T
        return self._eraser("sal", rows, rows, {"level": level, "p": fit.p})

    def covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        """The covariances Sxx, Sxz and Szz, divided by `count`; 0 for coordinates that vary by rounding only."""
        scatter = self._moments.squares / self.count
        varies = scatter.diagonal() > (1e-12 * self._moments.mean).square()
        scatter, d = scatter * varies * varies[:, None], self.d_model
        return scatter[:d, :d], scatter[:d, d:], scatter[d:, d:]

    def _significant(self, level: float, shrinkage: float | None) -> Canonical:
        """The canonical directions; raises unless they are significant."""
        if not 0 < level <= 1 or (shrinkage is not None and not 0 <= shrinkage <= 1):
            raise InterpError(f"level is {level}, shrinkage {shrinkage}; expected above 0 to 1, and 0 to 1 or None")
        if self.count < self.n_concepts + 3:
            raise InterpError(
                f"only {plural(self.count, 'row')}; {self.n_concepts} concepts need {self.n_concepts + 3} or more"
            )
        sxx, sxz, szz = self.covariances()
        for name, covariance in (("concept is", szz), ("activations are", sxx)):
            if not covariance.any():
                raise InterpError(f"the {name} constant over all {self.count} rows; give rows in which it varies")
        result = canonical(sxx, sxz, szz, self.count, shrinkage)
        if result.p > level or not len(result.read):
            chance = f"chance on {self.count} rows (p = {result.p:.2g}, level {level:g})"
            raise NothingToErase(f"the concept can't be told from {chance}; give more rows, or a weaker level")
        return result

    def _eraser(self, method: str, read: Tensor, write: Tensor, statistics: Mapping[str, float]) -> Eraser:
        sxx = self.covariances()[0]
        displaced = float(((read @ sxx @ read.T) * (write @ write.T)).sum() / sxx.trace())
        read, write, mean = (tensor.cpu().contiguous() for tensor in (read, write, self._moments.mean[: self.d_model]))
        return Eraser(read, write, mean, method, self.count, {**statistics, "displaced": displaced})


def concept_columns(z: Tensor, rows: int, k: int) -> Float[Tensor, "rows k"]:
    """One column per concept, in float64. Raises where z is neither such columns nor classes."""
    classes = z.ndim == 1 and not z.is_floating_point()
    if len(z) != rows or not (classes or z.shape[1:] == (k,)):
        actual = f"shape {tuple(z.shape)} and type {z.dtype}"
        raise InterpError(f"concepts have {actual}; expected ({rows}, {k}), or ({rows},) integers that name classes")
    if classes and rows and not 0 <= int(z.min()) <= int(z.max()) < k:
        raise InterpError(f"classes go from {int(z.min())} to {int(z.max())}; expected 0 to {k - 1}")
    return torch.nn.functional.one_hot(z.long(), k).double() if classes else finite_rows(z, "concepts")


def finite_rows(x: Shaped[Tensor, "rows columns"], name: str) -> Float[Tensor, "rows columns"]:
    """The rows in float64. Raises where an entry is not finite, naming the tensor and the first such row."""
    wide = x.detach().double()
    if not torch.isfinite(wide).all():
        row = int((~torch.isfinite(wide)).any(1).nonzero()[0])
        raise InterpError(f"{name} have NaN or infinite entries, first in row {row} of the batch; leave such rows out")
    return wide
