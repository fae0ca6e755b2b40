"""Loss and gradient of an autoencoder, derived by hand, at little more than the cost of the encoder's product.

    loss = mean over prefixes of |x - x_hat|^2 / |x - mean(x)|^2  +  sparsity * penalty per token  +  auxiliary

x is the batch; for a transcoder (Dunefsky et al. 2024, https://arxiv.org/abs/2406.11944) it is the target that is
predicted from the batch. x_hat of a prefix is decoded from the latents below it. There is one prefix, all latents,
unless the objective is Matryoshka (Bussmann et al. 2025, https://arxiv.org/abs/2503.17547). The auxiliary loss is
aux_weight |e - e_hat|^2 / |e|^2, with e = x - x_hat held constant and e_hat decoded only from the `aux_k` largest dead
latents (Gao et al. 2024, section 2.2), so that dead latents learn what the living leave unexplained. Sums run over the
batch.

1. Pre-activations are dense and are computed a few hundred rows at a time; only entries that can have a value or a
   slope are kept.
2. Decoding and every gradient touch only those entries. A weight's gradient is a bag of tokens for each latent, the
   transposed incidence, so that each latent's row is written once. Latents of different prefixes decode into separate
   bags, which are added up.
3. Where too many entries matter (thresholds at their start), dense products take over, a few hundred rows at a time.
4. A cross-layer transcoder's latents form groups, one per layer that is read: each reads its own layer's part of the
   batch, and writes to its own and all later layers' parts of the target (Ameisen et al. 2025,
   https://transformer-circuits.pub/2025/attribution-graphs/methods.html).
5. Products may be in bfloat16 (`compute`); errors and the weights themselves stay float32.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear, normalize

from interp.sae.code import Code, bag_products, bag_sums, pre_activations
from interp.sae.compiled.native import library_for
from interp.sae.compiled.selection import above
from interp.sae.config import SaeConfig
from interp.sae.training.kinds import KINDS, RANKED, Extra, Kind, KindName
from interp.sae.training.latent_shard import LatentShard

_ROWS = 512
_WHOLE = LatentShard()
# Above this share of entries, dense products are faster than bags; sooner in bfloat16, which is used where products
# are fast, and later where bags are compiled.
_CROWDED, _COMPILED = {torch.bfloat16: 0.03, torch.float32: 0.05}, 2.5


@dataclass(frozen=True)
class Weights:
    """The trained tensors, or their gradients; `extra` are the kind's parameters.

    An autoencoder's encoder reads x - b_dec, a transcoder's reads x. `d_read` is d_in, or a group's part of it.
    """

    W_enc: Float[Tensor, "d_sae d_read"]
    b_enc: Float[Tensor, "d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, "d_out"]
    extra: Extra = field(default_factory=dict)
    W_skip: Float[Tensor, "d_out d_in"] | None = None

    @classmethod
    def initial(
        cls,
        config: SaeConfig,
        d_in: int,
        d_out: int | None = None,
        groups: int = 1,
        shard: LatentShard = _WHOLE,
    ) -> "Weights":
        """Random unit rows and zero biases. Encoder and decoder rows are equal, unless `d_out` makes it a transcoder.

        Where nothing limits how many latents fire, half of them fire at first: the encoder's rows are shortened so
        that together they reconstruct an input once, not many times over.
        """
        d_sae, generator = shard.rows(config.d_sae), torch.Generator().manual_seed(config.seed)

        def drawn(width: int) -> Tensor:
            # One shard after the other, which are the numbers of one draw where a shard has a multiple of 16 of them.
            for number in range(shard.size):
                part = torch.randn(d_sae, width, generator=generator)
                if number == shard.rank:
                    rows = part
            return rows

        read = normalize(drawn(d_in // groups), dim=1)
        written = read if d_out is None else drawn(d_out)
        extra = {name: torch.full((d_sae,), start) for name, start in KINDS[config.kind].extra.items()}
        length = 1.0 if config.kind in RANKED else min(1.0, 2 * d_in / config.d_sae)
        width = written.shape[1]
        W_skip = torch.zeros(width, d_in) if config.skip else None
        rows = normalize(causal(written, groups), dim=1)
        return cls(read * length, torch.zeros(d_sae), rows, torch.zeros(width), extra, W_skip)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors."""
        return list(self.named.values())

    @property
    def named(self) -> dict[str, Tensor]:
        """All tensors by name."""
        plain = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_dec": self.b_dec, **self.extra}
        return plain if self.W_skip is None else plain | {"W_skip": self.W_skip}

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> "Weights":
        """The weights from `named`."""
        plain = {name: x for name, x in named.items() if name in cls.__dataclass_fields__}
        return cls(**plain, extra={name: x for name, x in named.items() if name not in plain})

    def map(self, change: Callable[[Tensor], Tensor]) -> "Weights":
        """The weights with a function applied to each tensor."""
        return self.of({name: change(x) for name, x in self.named.items()})


def causal(W_dec: Tensor, groups: int) -> Tensor:
    """Set to zero, in place, what each group of latents writes to the parts before its own."""
    width = W_dec.shape[1] // groups
    for group, rows in enumerate(W_dec.chunk(groups)):
        rows[:, : group * width] = 0
    return W_dec


@dataclass(frozen=True)
class Objective:
    """The objective. `k` is for ranked kinds, `sparsity` is the penalty's weight for the others."""

    kind: KindName = "topk"
    k: int = 32
    sparsity: float = 0.0
    prefixes: tuple[int, ...] = ()
    compute: torch.dtype = torch.float32


@dataclass(frozen=True)
class Auxiliary:
    """The auxiliary loss: the dead latents, how many of them decode the residual, and its weight."""

    dead: Int[Tensor, "n_dead"]
    k: int
    weight: float


@dataclass(frozen=True)
class GradientStep:
    """A batch's fraction of variance unexplained, loss, gradients, and number of tokens on which each latent fired.

    `lowest` is the smallest value that BatchTopK chose, a guess for the next batch. `error` is the reconstruction minus
    the target.
    """

    fvu: Float[Tensor, ""]
    loss: Float[Tensor, ""]
    gradients: Weights
    fired: Int[Tensor, "d_sae"]
    error: Float[Tensor, "batch d_out"]
    lowest: float = 0.0


@torch.no_grad()
def gradients(
    weights: Weights,
    x: Float[Tensor, "batch d_in"],
    objective: Objective,
    aux: Auxiliary | None = None,
    guess: float | None = None,
    target: Float[Tensor, "batch d_out"] | None = None,
    shard: LatentShard = _WHOLE,
    into: Weights | None = None,
) -> GradientStep:
    """Loss and gradients for a batch of standardised activations, with a target for a transcoder.

    `guess` is a lower bound for BatchTopK's smallest value; a wrong one costs time and changes nothing. Weights,
    gradients and counts are those of the shard's latents; loss and error are those of all. `into` are earlier
    gradients, whose memory is used again: to get fresh memory takes a tenth of a step.
    """
    low = weights.map(lambda x: x.to(objective.compute))
    y = x if target is None else target
    scale = 1 / (y - y.mean(0)).square_().sum()
    inputs = (x - weights.b_dec if target is None else x).to(objective.compute).contiguous()
    if low.W_skip is not None:
        y = y - linear(inputs, low.W_skip)
    batch = _Batch(weights, low, y, inputs, objective, scale, shard, into)
    main, dead = _chosen(batch, aux, guess)
    step = batch.dense() if main is None else batch.sparse(main)
    if aux is not None and dead is not None:
        step = _aided(batch, step, dead, aux)
    if target is None:
        step.gradients.b_dec.sub_(shard.sum(step.gradients.b_enc @ weights.W_enc))  # the encoder reads x - b_dec
    causal(step.gradients.W_dec, batch.readers)
    return step


def _aided(batch: "_Batch", step: GradientStep, dead: Code, aux: Auxiliary) -> GradientStep:
    """A step with the auxiliary loss added. The residual is held constant, including its bias."""
    missed = step.error.square().sum()
    scale = torch.where(missed > 0, aux.weight / missed, 0)
    objective, target = Objective(compute=batch.objective.compute), batch.weights.b_dec - step.error
    auxiliary = replace(batch, target=target, objective=objective, scale=scale, into=None).sparse(dead)
    for name in ("W_enc", "b_enc", "W_dec"):
        step.gradients.named[name].add_(auxiliary.gradients.named[name])
    return replace(step, loss=step.loss + auxiliary.loss)


def _chosen(batch: "_Batch", aux: Auxiliary | None, guess: float | None) -> tuple[Code | None, Code | None]:
    """The entries of the objective, None if they are too many to list, and those of the auxiliary loss."""
    objective, shard, floor = batch.objective, batch.shard, guess
    main: list[Code] | None = []
    dead: list[Code] = []
    for u in batch.pre_activations():
        if main is not None and objective.kind == "topk":
            main.append(shard.largest(u, objective.k))
        elif main is not None and objective.kind == "batchtopk":
            if floor is None:
                least = u.flatten().topk(min(u.numel(), 2 * objective.k * len(u))).values.min()
                floor = float(shard.least(least.float()))
            main.append(Code(*above(u, torch.tensor(floor)), len(u)))
        elif main is not None:
            share = _CROWDED[u.dtype] * (1 if library_for(u) is None else _COMPILED)
            near = above(u, batch.kind.floor(batch.weights.extra), int(share * u.numel()))
            main = None if near is None else [*main, Code(*near, len(u))]
        if main is None and aux is None:
            break  # dense products compute all pre-activations themselves
        if aux is not None:
            code = shard.largest(u[:, aux.dead], aux.k)
            dead.append(replace(code, latents=aux.dead[code.latents]))
    if objective.kind not in RANKED and not shard.least(torch.tensor(float(main is not None), device=u.device)):
        main = None  # too many for one of the processes
    entries = None if main is None else Code.joined(main)
    if objective.kind == "batchtopk" and entries is not None:
        count = objective.k * len(batch.inputs)
        found = torch.tensor(len(entries.values), device=u.device)
        if floor is not None and floor > 0 and int(shard.sum(found)) < count:
            # The guess was too high: without one, or with a lower one, all entries are seen.
            return _chosen(batch, aux, None if guess is not None else min(0.0, floor))
        entries = shard.top(entries, count)
    return entries, Code.joined(dead) if dead else None


@dataclass(frozen=True)
class _Batch:
    """A batch, and the scale of its error in the loss. `low` and `inputs` have the type of the products."""

    weights: Weights
    low: Weights
    target: Float[Tensor, "batch d_out"]
    inputs: Float[Tensor, "batch d_in"]
    objective: Objective
    scale: Float[Tensor, ""]
    shard: LatentShard
    into: Weights | None

    @property
    def readers(self) -> int:
        return self.inputs.shape[1] // self.weights.W_enc.shape[1]

    @property
    def kind(self) -> Kind:
        return KINDS[self.objective.kind]

    @property
    def penalty_weight(self) -> float:
        return 0.0 if self.objective.kind in RANKED else self.objective.sparsity / len(self.inputs)

    def pre_activations(self) -> Iterator[Tensor]:
        for rows in self.inputs.split(_ROWS):
            yield pre_activations(rows, self.low.W_enc, self.low.b_enc)

    def sparse(self, entries: Code) -> GradientStep:
        """The step, from the listed entries."""
        d_sae = len(self.low.b_enc)
        n, prefixes = len(self.inputs), self.objective.prefixes or (d_sae,)
        bags = entries.tokens
        if len(prefixes) > 1:
            bounds = torch.tensor(prefixes, device=bags.device)
            bags = torch.bucketize(entries.latents + self.shard.rank * d_sae, bounds, right=True) * n + bags
            order = bags.argsort(stable=True)
            entries, bags = entries.pick(order), bags[order]
        u = entries.values.float()
        extra = {name: values[entries.latents] for name, values in self.weights.extra.items()}
        values = self.kind.value(u, extra)
        error, pull, d_values = self._decoded(values, entries, bags, len(prefixes))
        losses = self.scale * error.square().sum((1, 2))
        loss, weight = losses.mean(), torch.full_like(u, self.penalty_weight)
        if self.objective.kind == "gated":
            gate_error, _, d_gate = self._decoded(self.kind.penalty(u, extra), entries, bags, len(prefixes))
            loss, weight = loss + self.scale * gate_error.square().sum((1, 2)).mean(), weight + d_gate
        loss = loss + self._penalty(u, extra)
        d_u, d_extra = self.kind.slopes(u, extra, d_values, weight)
        slopes = self._weight_gradients(entries, bags, d_u, values, pull, d_extra)
        fired = torch.zeros(d_sae, dtype=torch.long, device=u.device).index_add_(
            0, entries.latents, (values > 0).long()
        )
        lowest = 0.0
        if self.objective.kind == "batchtopk" and self.objective.k:
            least = entries.values.min() if len(entries.values) else u.new_full((), math.inf)
            lowest = float(self.shard.least(least.float()))
        return GradientStep(losses[-1], loss, slopes, fired, error[-1], lowest)

    def _penalty(self, u: Tensor, extra: Extra) -> Tensor | float:
        """What the sparsity of these entries adds to the loss."""
        weight = self.penalty_weight
        return self.shard.sum(weight * self.kind.penalty(u, extra).sum()) if weight else 0.0

    def _decoded(
        self, values: Tensor, entries: Code, bags: Tensor, groups: int
    ) -> tuple[Float[Tensor, "group batch d_in"], Float[Tensor, "group_batch d_in"], Float[Tensor, "entry"]]:
        """Errors of each prefix, and slopes of the loss by each group's output, in the type of products, and value."""
        n, width = self.target.shape
        rows = self.low.W_dec
        sums = bag_sums(rows, entries.latents, values.to(rows.dtype), bags, groups * n).float()
        decoded = self.shard.sum(sums).view(groups, n, width)
        error = (self.weights.b_dec - self.target) + (decoded.cumsum(0) if groups > 1 else decoded)
        pull = (2 * self.scale / groups) * error
        if groups > 1:  # a group's output is part of every later prefix as well
            pull = pull.flip(0).cumsum(0).flip(0)
        pull = pull.view(groups * n, width)
        return error, pull, bag_products(rows, entries.latents, pull.to(rows.dtype), bags).float()

    def _weight_gradients(
        self, entries: Code, bags: Tensor, d_u: Tensor, values: Tensor, pull: Tensor, d_extra: Extra
    ) -> Weights:
        d_sae, low = len(self.low.b_enc), self.low.W_dec.dtype
        latents, order = entries.latents, None
        if self.objective.kind not in RANKED:
            # Entries without value and slope (most of those within JumpReLU's rectangle) are in no sum.
            order = ((values != 0) | (d_u != 0)).nonzero().squeeze(1)
            latents = latents[order]
        latents, by_latent = latents.sort(stable=True)
        order = by_latent if order is None else order[by_latent]
        rows = bags[order]
        # Each latent reads its own group's part of a token.
        read = rows if bags is entries.tokens else entries.tokens[order]
        if self.readers > 1:
            read = read * self.readers + latents // (d_sae // self.readers)

        def bag(name: str, rows: Tensor, index: Tensor, per_entry: Tensor) -> Tensor:
            out = None if self.into is None else self.into.named[name]
            return bag_sums(rows, index, per_entry[order].to(low), latents, d_sae, out).float()

        def added(per_entry: Tensor) -> Tensor:
            return torch.zeros(d_sae, device=per_entry.device).index_add_(0, entries.latents, per_entry)

        return Weights(
            W_enc=bag("W_enc", self.inputs.view(-1, self.low.W_enc.shape[1]), read, d_u),
            b_enc=added(d_u),
            W_dec=bag("W_dec", pull.to(low), rows, values),
            b_dec=pull[: len(self.inputs)].sum(0),
            extra={name: added(slope) for name, slope in d_extra.items()},
            W_skip=None if self.low.W_skip is None else self._skip_gradient(pull[: len(self.inputs)], self.inputs),
        )

    def _skip_gradient(self, pull: Tensor, rows: Tensor) -> Tensor:
        return (pull.to(rows.dtype).T @ rows).float()

    def dense(self) -> GradientStep:
        """The step, from all entries, by dense products."""
        low, kind, extra, weight = self.low, self.kind, self.weights.extra, self.penalty_weight
        total = self.weights.map(torch.zeros_like) if self.into is None else self.into.map(Tensor.zero_)
        fired = torch.zeros(len(low.b_enc), dtype=torch.long, device=self.inputs.device)
        errors, loss = [], torch.zeros((), device=self.inputs.device)
        targets = (self.target - self.weights.b_dec).split(_ROWS)
        for rows, target, pre in zip(self.inputs.split(_ROWS), targets, self.pre_activations(), strict=True):
            u = pre.float()
            values, penalty = kind.value(u, extra), kind.penalty(u, extra)
            error, pull, d_values = self._decoded_densely(values, target)
            weights: Tensor = torch.full((), weight, device=u.device)
            if self.objective.kind == "gated":
                gate_error, _, d_gate = self._decoded_densely(penalty, target)
                loss, weights = loss + self.scale * gate_error.square().sum(), weights + d_gate
            d_u, d_extra = kind.slopes(u, extra, d_values, weights)
            each = zip(
                total.W_enc.chunk(self.readers), d_u.chunk(self.readers, 1), rows.chunk(self.readers, 1), strict=True
            )
            for gradient, slope, part in each:
                gradient.add_(slope.to(low.W_enc.dtype).T @ part)
            if total.W_skip is not None:
                total.W_skip.add_(self._skip_gradient(pull, rows))
            total.W_dec.add_(values.to(low.W_dec.dtype).T @ pull)
            total.b_enc.add_(d_u.sum(0))
            total.b_dec.add_(pull.float().sum(0))
            for name, slope in d_extra.items():
                total.extra[name].add_(slope.sum(0))
            fired += (values > 0).sum(0)
            loss = loss + self._penalty(u, extra)
            errors.append(error)
        error = torch.cat(errors)
        fvu = self.scale * error.square().sum()
        return GradientStep(fvu, loss + fvu, total, fired, error)

    def _decoded_densely(self, values: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        error = self.shard.sum((values.to(self.low.W_dec.dtype) @ self.low.W_dec).float()) - target
        pull = (2 * self.scale * error).to(self.low.W_dec.dtype)
        return error, pull, linear(pull, self.low.W_dec).float()
