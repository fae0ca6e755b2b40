"""The mutable side of training: weights, optimiser and statistics of one autoencoder, saved and restored.

1. `TrainingState.update` takes one Adam step on the gradients of `gradients`. Decoder gradients are made tangent to the
   unit sphere and rows are normalised again.
2. `SteeredPenalty` moves the weight of a sparsity penalty so that a given number of latents fire per token. All
   thresholds of a JumpReLU autoencoder are moved together as well, by what the penalty has left, unless latents are
   resampled.
3. `product_dtype` decides the type of matrix products. Processors with matrix units for bfloat16 are several times as
   fast in it; those without can be half as fast as in float32, for less precision.
4. `folded` writes standardisation and kind into the tensors of the result.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, normalize

from interp.sae.code import pre_activations
from interp.sae.config import SaeConfig
from interp.sae.file_formats import unit_rows
from interp.sae.nonlinearities import JumpReLU, TopK
from interp.sae.training.gradients import Auxiliary, GradientStep, Objective, Weights, causal, gradients
from interp.sae.training.kinds import KINDS, RANKED
from interp.sae.training.latent_shard import LatentShard
from interp.sae.training.standardisation import Standardisation

_INTEGRAL = 0.02  # per step, on logarithms
_PROPORTIONAL = 1.5
_RAMP = 0.3  # share of the steps in which the target sinks
_DIRECT, _MOVED = 0.05, 5.0  # per step and in all steps at most, on logarithms of thresholds
_ROWS, _WIDTH, _COLUMNS, _TRIES = 256, 512, 2048, 5  # of the product that is timed
_POINTS = 50
_DENSITY_SHARE = 0.2
_MEMORY, _LAG = 0.02, 10  # weight of the newest batch in BatchTopK's threshold; in a short training 10 by the steps
_GUESS = 0.9  # share of that threshold below which BatchTopK need not look
_OPEN, _OPENED_ON, _LEAST = 4, 512, 1e-3  # times k that fire at first, measured on so many tokens; the lowest level
_TINY = 1e-12  # Adam's epsilon: gradients of a share of the variance are small, those of rare latents smallest
_TOPK_BIAS = 0.65
_REVIVED = 0.5  # length of a resampled latent's encoder row, relative to the living ones


class SteeredPenalty:
    """The weight of a sparsity penalty, from a proportional and integral controller on logarithms.

    The target sinks from the number of latents that fire at first to k. With a target of k from the start, the penalty
    rises as long as too many fire, and most latents are dead before it falls again. The proportional part reacts at
    once when too few fire, long before the integral has come down. The integral is bounded below: where fewer than k
    latents fire without any penalty, it would otherwise fall without end and be missing when it is needed.
    """

    def __init__(self, k: int, d_in: int, per_latent: bool):
        """`per_latent`: the penalty counts latents that fire, rather than summing their values."""
        # About a tenth of the variance, if k latents of equal size explained all of it.
        self.weight = 0.1 / k if per_latent else 0.1 / (k * d_in) ** 0.5
        self.k, self._integral, self._least = k, math.log(self.weight), math.log(self.weight / 1000)
        self._first: float | None = None

    def update(self, l0: float, share: float) -> float:
        """Take in a batch's mean number of latents per token, `share` of the way through training.

        Returns the logarithm of that number by the target, at most 1 either way.
        """
        self._first = max(l0, self.k) if self._first is None else self._first
        ahead = max(0.0, 1 - share / _RAMP)
        target = (1 - ahead) * math.log(self.k) + ahead * math.log(self._first)
        error = max(-1.0, min(1.0, math.log(max(l0, 1e-3)) - target))
        self._integral = max(self._least, self._integral + _INTEGRAL * error)
        self.weight = math.exp(self._integral + _PROPORTIONAL * error)
        return error

    def state(self) -> dict[str, float | None]:
        """What another controller needs to continue from here."""
        return {"weight": self.weight, "integral": self._integral, "first": self._first}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from another controller's `state`."""
        self.weight, self._integral, self._first = state["weight"], state["integral"], state["first"]


def product_dtype(compute: torch.dtype, device: torch.device) -> torch.dtype:
    """`compute`, or float32 where that is faster; measured once per process, on CPUs only."""
    if compute == torch.float32 or device.type != "cpu":
        return compute
    return compute if _seconds(compute) < _seconds(torch.float32) else torch.float32


@cache
def _seconds(dtype: torch.dtype) -> float:
    """The shortest time of a small product."""
    x, rows = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_COLUMNS, _WIDTH, dtype=dtype)
    seconds = []
    for _ in range(_TRIES + 1):  # the first one prepares kernels
        start = time.perf_counter()
        linear(x, rows)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


@dataclass(frozen=True)
class ProgressPoint:
    """Progress of training at one step.

    Attributes:
        tokens: Tokens seen so far.
        loss: Mean loss since the previous point.
        fvu: Mean fraction of variance unexplained since then.
        l0: Mean number of latents that fire per token since then.
        dead: Number of dead latents now.
        rate: Learning rate of this step.
        sparsity: Weight of the sparsity penalty in this step, 0 without one.
    """

    tokens: int
    loss: float
    fvu: float
    l0: float
    dead: int
    rate: float
    sparsity: float


class TrainingState:
    """One autoencoder in training, or a shard of it.

    `d_out` makes it a transcoder, `readers` counts the parts read separately. Tensors are those of the shard's latents;
    other numbers are those of all latents, and equal in all processes.
    """

    def __init__(
        self,
        config: SaeConfig,
        d_in: int,
        d_out: int | None = None,
        readers: int = 1,
        device: str = "cpu",
        shard: LatentShard | None = None,
    ):
        self.config, self._autoencodes, self.shard = config, d_out is None, shard or LatentShard()
        start = Weights.initial(config, d_in, d_out, readers, self.shard)
        self.weights = start.map(lambda x: x.to(device).contiguous())
        products = product_dtype(getattr(torch, config.compute), torch.device(device))
        lower = self.shard.least(torch.tensor(float(products != torch.float32), device=device))
        self.products = products if lower else torch.float32  # in all processes the same
        self.optimiser = self._adam()
        self.rate = config.lr or 1e-3 * (4096 / config.d_sae) ** 0.5
        self.aux_k = config.aux_k or max(1, (d_out or d_in) // 2)
        self.silent = torch.zeros(self.shard.rows(config.d_sae), dtype=torch.long, device=device)
        self.penalty = SteeredPenalty(config.k, d_in, per_latent=config.kind == "jumprelu")
        self.threshold = 0.0  # of BatchTopK: running mean of the smallest value that a batch chose
        self.steps = 0
        self.history: list[ProgressPoint] = []
        self._recent: list[tuple[float, float, float]] = []
        self._fired, self._counted = torch.zeros_like(self.silent), 0
        self._n_dead = 0
        self._slopes: Weights | None = None  # of the last step: their memory is used again

    def _adam(self) -> torch.optim.Adam:
        """Encoder biases may have their own learning rate: `share` of the others'."""
        quick = self.config.kind == "topk"
        beta = (0.0 if quick else 0.9) if self.config.beta1 is None else self.config.beta1
        share = self.config.bias_rate or (_TOPK_BIAS if quick else 1.0)
        others = [tensor for tensor in self.weights.tensors if tensor is not self.weights.b_enc]
        groups = [{"params": others, "share": 1.0}, {"params": [self.weights.b_enc], "share": share}]
        return torch.optim.Adam(groups, betas=(beta, 0.999), eps=_TINY, fused=True)

    @torch.no_grad()
    def update(
        self, x: Float[Tensor, "batch d_in"], total: int, target: Float[Tensor, "batch d_out"] | None = None
    ) -> GradientStep:
        """One step of `total`; nothing changes if its loss is not finite. Loss and FVU are on the CPU."""
        config, rate = self.config, self.rate * _schedule(self.steps, total, self.config)
        if not self.steps and config.kind not in RANKED:
            self._open(x)
        objective = Objective(config.kind, config.k, self._sparsity(total), config.prefixes, self.products)
        guess = self.threshold * _GUESS or None
        step = gradients(self.weights, x, objective, self._auxiliary(), guess, target, self.shard, self._slopes)
        self._slopes = step.gradients
        silent = torch.where(step.fired > 0, 0, self.silent + len(x))
        counts = self.shard.sum(torch.stack([step.fired.sum(), (silent >= config.dead_after).sum()]))
        # Read together: each reading waits for the device.
        loss, fvu, fired, dead = torch.stack([x.double() for x in (step.loss, step.fvu, *counts)]).tolist()
        if math.isfinite(loss):
            self._descend(step.gradients, rate)
            self.steps += 1
            self.silent, self._n_dead = silent, int(dead)
            self._recent.append((loss, fvu, fired / len(x)))
            self._note(step, rate, objective.sparsity, len(x), total)
            # Not in the last steps, which are too few for a latent to learn from scratch.
            settling = self.steps > total * (1 - config.decay)
            if config.resample_every and self.steps % config.resample_every == 0 and not settling:
                self._resample(x, step)
        return replace(step, loss=torch.tensor(loss), fvu=torch.tensor(fvu))

    def folded(self, reads: Standardisation, writes: Standardisation) -> tuple[dict[str, Any], TopK | JumpReLU]:
        """The tensors for raw activations: with standardisation and kind folded in, and the nonlinearity.

        All processes call it; those of all latents are in the first.
        """
        weights, kind = Weights.of(self.shard.whole(self.weights.named)).map(lambda x: x.cpu()), KINDS[self.config.kind]
        b_enc = weights.b_enc
        if self._autoencodes:
            b_enc = b_enc - weights.W_enc @ weights.b_dec
        W_enc, b_enc, threshold = kind.folded(weights.W_enc, b_enc, weights.extra)
        each = W_enc.shape[0] * W_enc.shape[1] // len(reads.scale)  # latents that read one part
        scale, mean = (x.view(-1, W_enc.shape[1]).repeat_interleave(each, 0) for x in (reads.scale, reads.mean))
        W_enc = W_enc * scale
        tensors = {
            "W_enc": W_enc,
            "b_enc": b_enc - (W_enc * mean).sum(1),
            "W_dec": weights.W_dec / writes.scale,
            "b_dec": weights.b_dec / writes.scale + writes.mean,
            "threshold": threshold + (self.threshold if self.config.kind == "batchtopk" else 0),
        }
        if weights.W_skip is not None:
            tensors["W_skip"] = weights.W_skip * reads.scale / writes.scale[:, None]
            tensors["b_dec"] = tensors["b_dec"] - tensors["W_skip"] @ reads.mean
        if self.config.kind == "topk":
            # TopK ranks latents by size, so all are scaled alike.
            del tensors["threshold"]
            return unit_rows(tensors, torch.full((len(W_enc),), writes.length)), TopK(k=self.config.k)
        return unit_rows(tensors), JumpReLU()

    @property
    def density(self) -> Float[Tensor, "d_sae"]:
        """Share of tokens on which each latent fires, in the last fifth of the steps."""
        return (self.shard.whole({"fired": self._fired})["fired"] / max(1, self._counted)).cpu()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that another state of the same settings needs to continue from here: tensors, and plain values."""
        tensors = {"silent": self.silent, "fired": self._fired}
        for name, tensor in self.weights.named.items():
            tensors[name] = tensor
            for key, value in self.optimiser.state[tensor].items():
                tensors[f"{name}.{key}"] = value
        plain = {
            "steps": self.steps,
            "products": str(self.products).removeprefix("torch."),
            "threshold": self.threshold,
            "counted": self._counted,
            "recent": self._recent,
            "penalty": self.penalty.state(),
            "history": [asdict(point) for point in self.history],
        }
        return tensors, plain

    def restore(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue from another object's `state`."""
        device = self.silent.device
        self.silent, self._fired = tensors["silent"].to(device), tensors["fired"].to(device)
        for name, tensor in self.weights.named.items():
            tensor.copy_(tensors[name])
            keys = ("step", "exp_avg", "exp_avg_sq")
            self.optimiser.state[tensor] = {key: tensors[f"{name}.{key}"].to(device) for key in keys}
        self.products = getattr(torch, plain["products"])  # a new measurement might differ
        self.steps, self.threshold, self._counted = plain["steps"], plain["threshold"], plain["counted"]
        self._n_dead = int(self.shard.sum((self.silent >= self.config.dead_after).sum()))
        self._recent = [tuple(values) for values in plain["recent"]]
        self.penalty.restore(plain["penalty"])
        self.history = [ProgressPoint(**point) for point in plain["history"]]

    def _auxiliary(self) -> Auxiliary | None:
        weight = self.config.aux_weight
        return Auxiliary(self._dead(), self.aux_k, weight) if self._n_dead and weight else None

    def _dead(self) -> Tensor:
        return (self.silent >= self.config.dead_after).nonzero().squeeze(1)

    def _open(self, x: Tensor) -> None:
        """Set one level for all latents so that few fire from the first step on.

        With half of them firing at first, the penalty would need hundreds of dense steps to separate those that matter
        from the rest, and short runs would end long before their target.
        """
        sample = x[:_OPENED_ON] - self.weights.b_dec if self._autoencodes else x[:_OPENED_ON]
        u = pre_activations(sample, self.weights.W_enc, self.weights.b_enc).flatten()
        firing = min(len(u) * self.shard.size, _OPEN * self.config.k * len(sample))
        own = u.topk(min(len(u), firing), sorted=False).values
        level = max(_LEAST, float(self.shard.beside(own[None]).topk(firing, sorted=False).values.min()))
        bias, parameters = KINDS[self.config.kind].start(level)
        self.weights.b_enc.fill_(bias)
        for name, value in parameters.items():
            self.weights.extra[name].fill_(value)

    def _sparsity(self, total: int) -> float:
        """The penalty's weight: fixed, after a linear rise, or steered."""
        if self.config.sparsity is None:
            return self.penalty.weight
        return self.config.sparsity * min(1.0, (self.steps + 1) / max(1, self.config.sparsity_warm_up * total))

    def _descend(self, slopes: Weights, rate: float) -> None:
        rows = self.weights.W_dec
        if self.config.frozen_decoder:
            slopes.W_dec.zero_()
        for slope, row in zip(slopes.W_dec.split(_ROWS), rows.split(_ROWS), strict=True):
            slope.addcmul_(row, torch.linalg.vecdot(slope, row)[:, None], value=-1)
        for tensor, gradient in zip(self.weights.tensors, slopes.tensors, strict=True):
            tensor.grad = gradient
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.weights.tensors, self.config.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self.optimiser.step()
        normalize(rows, dim=1, out=rows)

    def _note(self, step: GradientStep, rate: float, sparsity: float, tokens: int, total: int) -> None:
        l0 = self._recent[-1][-1]
        if self.config.kind == "batchtopk":
            newest = 1 if self.steps == 1 else min(1.0, max(_MEMORY, _LAG / total))
            self.threshold += newest * (max(0.0, step.lowest) - self.threshold)
        off = self.penalty.update(l0, self.steps / total)
        steered = self.config.sparsity is None and not self.config.resample_every  # which makes the number jump
        if self.config.kind == "jumprelu" and steered:
            # The penalty reaches thresholds through the learning rate only, too slowly for a short training. In a long
            # one it does all: what it selects is closer to the features.
            self.weights.extra["log_threshold"] += min(_DIRECT, _MOVED / total) * off
        if self.steps > total * (1 - _DENSITY_SHARE):
            self._fired, self._counted = self._fired + step.fired, self._counted + tokens
        if self.steps % max(1, total // _POINTS) == 0 or self.steps == total:
            loss, fvu, l0 = (sum(column) / len(self._recent) for column in zip(*self._recent, strict=True))
            seen, penalty = self.steps * self.config.batch_size, 0.0 if self.config.kind in RANKED else sparsity
            self.history.append(ProgressPoint(seen, loss, fvu, l0, self._n_dead, rate, penalty))
            self._recent = []

    def _resample(self, x: Tensor, step: GradientStep) -> None:
        """Restart dead latents from inputs that are explained badly, with the optimiser's state of living ones.

        Bricken et al. (2023), appendix: inputs are drawn by the square of their loss, encoder rows are short.
        """
        dead, weights = self._dead(), self.weights
        living = torch.ones_like(self.silent, dtype=torch.bool).index_fill(0, dead, False)
        if not len(dead) or not living.any():
            return
        generator = torch.Generator().manual_seed(self.config.seed + self.steps)
        chances = step.error.square().sum(1).square().cpu()
        drawn = chances.multinomial(len(dead), replacement=True, generator=generator).to(x.device)
        read = x[drawn] - weights.b_dec if self._autoencodes else x[drawn]
        if (readers := x.shape[1] // weights.W_enc.shape[1]) > 1:
            group = dead // (self.config.d_sae // readers)
            read = read.view(len(dead), readers, -1)[torch.arange(len(dead), device=x.device), group]
        read = normalize(read, dim=1)
        weights.W_enc[dead] = _REVIVED * weights.W_enc[living].norm(dim=1).mean() * read
        weights.W_dec[dead] = read if self._autoencodes else -step.error[drawn]
        weights.W_dec[dead] = normalize(causal(weights.W_dec, readers)[dead], dim=1)
        # Where only biases and thresholds limit how many latents fire, take those of the living ones.
        weights.b_enc[dead] = 0 if self.config.kind in RANKED else weights.b_enc[living].mean()
        for values in weights.extra.values():
            values[dead] = values[living].mean()
        for tensor in (weights.W_enc, weights.W_dec, weights.b_enc, *weights.extra.values()):
            state = self.optimiser.state[tensor]
            state["exp_avg"][dead] = 0
            # Zero would make the first step of each latent dozens of times too long.
            state["exp_avg_sq"][dead] = state["exp_avg_sq"][living].mean(0)
        self.silent[dead] = self._n_dead = 0


def _schedule(step: int, total: int, config: SaeConfig) -> float:
    """Factor of the learning rate: linear warm-up, then level, then down to zero, linearly or along a cosine."""
    rise = (step + 1) / max(1, config.warm_up * total)
    left = min(1.0, (total - step) / max(1, config.decay * total))
    fall = left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return min(1.0, rise, fall)
