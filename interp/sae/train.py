"""Train a sparse autoencoder of any kind on activations, from a store or a stream.

1. Activations are standardised by one mean vector and one scale, so that learning rates carry over between
   sites; both are folded into the result. First tokens of documents are left out (see `coder`).
2. Each batch takes one Adam step on hand-made gradients (`step`): learning rate warmed up, held, and brought
   to zero. Decoder gradients are made tangent to the unit sphere and rows renormalised, so that steps turn
   rows and no more.
3. Latents that have not fired for long get the auxiliary loss of Gao et al. (2024),
   https://arxiv.org/abs/2406.04093.

The same store and config give the same result on the same machine with the same number of threads.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from interp.activations.stream import ActivationSource
from interp.core.display import card
from interp.core.errors import InterpError
from interp.core.linalg import StreamingMoments
from interp.core.progress import track
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder, require_k
from interp.sae.kinds import KINDS
from interp.sae.nonlinearities import JumpReLU, TopK
from interp.sae.penalty import SteeredPenalty
from interp.sae.records import SaeConfig
from interp.sae.step import Auxiliary, Objective, Step, Weights, gradients

_POINTS = 50
_DENSITY_SHARE = 0.2
_STANDARDISED_ON = 16
_MEMORY = 0.02  # weight of the newest batch in BatchTopK's threshold
_GUESS = 0.9  # of that threshold, below which BatchTopK need not look


@dataclass(frozen=True)
class Point:
    """Progress: tokens seen; since the point before, mean fraction of variance unexplained and mean number of latents
    that fire on a token; dead latents now.
    """

    tokens: int
    fvu: float
    l0: float
    dead: int


@dataclass(frozen=True, eq=False)
class TrainedSae:
    """An SAE and how training went. `density` is each latent's share of tokens, in the last fifth."""

    sae: SparseAutoencoder
    history: tuple[Point, ...]
    density: Float[Tensor, "d_sae"]

    def _repr_html_(self) -> str:
        last = self.history[-1]
        rows = [
            ("tokens", f"{last.tokens:,}"),
            ("variance unexplained", f"{last.fvu:.3f}"),
            ("latents a token", f"{last.l0:.1f}"),
            ("dead latents", last.dead),
        ]
        return card(f"Training of {self.sae.d_sae:,} latents at {self.sae.site}", rows)


def train(source: ActivationSource, site: str | Site, config: SaeConfig | None = None) -> TrainedSae:
    """Train on one site of a store or a stream.

    Raises for a site that is not there, a k that does not fit, a store of fewer tokens than a batch,
    activations that are constant, NaN or infinite (naming the shard), and a training that diverges.
    """
    config = config or SaeConfig()
    require_k(config.k, config.d_sae)
    width, rows = source.width(site), source.trainable()
    if rows is not None and rows < config.batch_size:
        raise InterpError(f"{source} has {rows} tokens to train on; expected a batch of {config.batch_size} or more")
    scaling = Standardisation.of(islice(_batches(source, site, config), _STANDARDISED_ON))
    fit = Fit(config, width)
    steps = max(1, config.tokens // config.batch_size)
    for x in track(islice(_batches(source, site, config), steps), "train", total=steps):
        if not fit.update(scaling.standardise(x.float()), steps):
            bad = source.first_not_finite(site)
            where = f"{source}: {bad} holds NaN or infinite activations; harvest again" if bad else ""
            raise InterpError(where or f"training diverged at step {fit.steps}; choose a lower lr than {fit.rate:.2g}")
    tensors, nonlinearity = fit.folded(scaling)
    at = site if isinstance(site, Site) else Site.parse(site)
    sae = SparseAutoencoder(**tensors, nonlinearity=nonlinearity, site=at, model=source.model, config=config)
    return TrainedSae(sae, tuple(fit.history), fit.density)


def _batches(source: ActivationSource, site: str | Site, config: SaeConfig) -> Iterator[Tensor]:
    return source.batches(site, config.batch_size, config.seed, first_tokens=False)


@dataclass(frozen=True)
class Standardisation:
    """u = scale * (x - mean), of unit variance a coordinate on average."""

    mean: Float[Tensor, "d_in"]
    scale: float

    @classmethod
    def of(cls, batches: Iterable[Float[Tensor, "_ d_in"]]) -> "Standardisation":
        """What makes these activations standard. Raises if they are constant."""
        moments = StreamingMoments()
        for x in batches:
            moments.update(x)
        variance = float(moments.variance.mean())
        if variance == 0:
            raise InterpError("these activations are constant; there is nothing to learn from them")
        return cls(moments.mean.float(), variance**-0.5)

    def standardise(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Activations as training sees them."""
        return (x - self.mean).mul_(self.scale)


class Fit:
    """The mutable side of training: weights, optimiser, how long each latent has been silent, progress."""

    def __init__(self, config: SaeConfig, d_in: int):
        self.config = config
        self.weights = Weights.initial(config.d_sae, d_in, config.seed, config.kind)
        self.optimiser = torch.optim.Adam(self.weights.tensors, fused=True)
        self.rate = config.lr or 1e-3 * (4096 / config.d_sae) ** 0.5
        self.aux_k = config.aux_k or max(1, d_in // 2)
        self.silent = torch.zeros(config.d_sae, dtype=torch.long)
        self.penalty = SteeredPenalty(config.k, d_in, per_latent=config.kind == "jumprelu")
        self.threshold = 0.0  # of BatchTopK: running mean of the smallest value that a batch chose
        self.steps = 0
        self.history: list[Point] = []
        self._recent: list[tuple[float, float]] = []
        self._fired, self._counted = torch.zeros(config.d_sae, dtype=torch.long), 0

    @torch.no_grad()
    def update(self, x: Float[Tensor, "batch d_in"], total: int) -> bool:
        """One step of `total`. False, and nothing changed, if the loss is not finite."""
        config = self.config
        compute = getattr(torch, config.compute)
        sparsity = config.sparsity or self.penalty.weight
        objective = Objective(config.kind, config.k, sparsity, config.prefixes, compute)
        step = gradients(self.weights, x, objective, self._auxiliary(), self.threshold * _GUESS or None)
        if not torch.isfinite(step.loss):
            return False
        self._descend(step.gradients, self.rate * _schedule(self.steps, total, config))
        self.steps += 1
        self._note(step, len(x), total)
        return True

    def folded(self, scaling: Standardisation) -> tuple[dict[str, Any], TopK | JumpReLU]:
        """The tensors on raw activations: all kinds are positively homogeneous, so the scale moves through them."""
        weights, kind = self.weights, KINDS[self.config.kind]
        W_enc, b_enc, threshold = kind.folded(weights.W_enc, weights.b_enc - weights.W_enc @ weights.b_dec, weights.own)
        if self.config.kind == "batchtopk":
            threshold = threshold + self.threshold
        tensors = {
            "W_enc": W_enc,
            "b_enc": b_enc / scaling.scale - W_enc @ scaling.mean,
            "W_dec": weights.W_dec,
            "b_dec": weights.b_dec / scaling.scale + scaling.mean,
        }
        if self.config.kind == "topk":
            return tensors, TopK(k=self.config.k)
        return tensors | {"threshold": threshold / scaling.scale}, JumpReLU()

    @property
    def density(self) -> Float[Tensor, "d_sae"]:
        """Each latent's share of tokens in the last fifth of the steps."""
        return self._fired / self._counted

    def _auxiliary(self) -> Auxiliary | None:
        dead = self._dead()
        return Auxiliary(dead, self.aux_k, self.config.aux_weight) if len(dead) and self.config.aux_weight else None

    def _dead(self) -> Tensor:
        return (self.silent >= self.config.dead_after).nonzero().squeeze(1)

    def _descend(self, found: Weights, rate: float) -> None:
        rows = self.weights.W_dec
        found.W_dec.addcmul_(rows, torch.linalg.vecdot(found.W_dec, rows)[:, None], value=-1)
        for tensor, gradient in zip(self.weights.tensors, found.tensors, strict=True):
            tensor.grad = gradient
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.weights.tensors, self.config.clip)
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        normalize(rows, dim=1, out=rows)

    def _note(self, step: Step, tokens: int, total: int) -> None:
        self.silent = torch.where(step.fired > 0, 0, self.silent + tokens)
        l0 = int(step.fired.sum()) / tokens
        self._recent.append((float(step.fvu), l0))
        if self.config.kind == "batchtopk":
            self.threshold += (1 if self.steps == 1 else _MEMORY) * (max(0.0, step.lowest) - self.threshold)
        self.penalty.update(l0, self.steps / total)
        if self.steps > total * (1 - _DENSITY_SHARE):
            self._fired, self._counted = self._fired + step.fired, self._counted + tokens
        if self.steps % max(1, total // _POINTS) == 0 or self.steps == total:
            fvu, l0 = (sum(column) / len(self._recent) for column in zip(*self._recent, strict=True))
            self.history.append(Point(self.steps * self.config.batch_size, fvu, l0, len(self._dead())))
            self._recent = []


def _schedule(step: int, total: int, config: SaeConfig) -> float:
    """Factor of the learning rate: linear warm-up, then level, then linear to zero."""
    rise = (step + 1) / max(1, config.warm_up * total)
    fall = (total - step) / max(1, config.decay * total)
    return min(1.0, rise, fall)
