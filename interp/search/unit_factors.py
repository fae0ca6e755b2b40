"""Factors of heads and neurons that make one kind of answer less likely and change little else, learned by gradients.

1. The benefit b of a unit is what removing it takes off the margin log p(positive answer) - log p(negative one), to
   first order: its value times the gradient, summed over tokens, mean over pairs (attribution with zero as the other
   value: Syed et al. 2023, arXiv:2310.10348). Its cost c is the mean, over tokens of what is to be kept, of the square
   of its value times the gradient of the loss (Fisher information). The candidates are the units with the largest
   b² / c. Units that are huge at first tokens are left out (massive activations: Sun et al. 2024, arXiv:2402.17762);
   for them no first-order estimate holds.
2. The candidates' factors 1 - a start at 1. Each step lowers

       mean of softplus(margin / deviation + 1/2) + weight · KL(unedited || edited)

   on some pairs and some of what is to be kept (Adam; amplitudes a are shrunk towards 0 by 0.002 per step). A pair
   whose margin is far below zero no longer counts. Masks learned like this: De Cao et al. 2020, arXiv:2004.14992; Cao
   et al. 2021, arXiv:2104.03514.
3. The units with the largest amplitudes are kept, trained some steps more, and rounded to quarters.

The result is plain `Scale` ops, so that it folds into the weights exactly.

Limitations: many small changes by gradients can fit the wording of the pairs: confirm on items of another kind, with a
control that should not change. What is not among the texts to keep is not kept. Factors of one model say nothing about
another.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.directions.methods._answers import Answers, batches, require_positive
from interp.interventions.ablation import Scale
from interp.interventions.recipe import Recipe
from interp.models.continuations import Continuations, frozen_weights, logprobs
from interp.models.hooked import HookedModel

_KINDS = {"neurons": "mlp_post", "heads": "z"}
_NAMES = {site: kind for kind, site in _KINDS.items()}
_LIKELIEST = 256  # tokens of a prediction that are compared one by one; the others count as one
_HUGE = 30  # times what a unit usually is
_LEAST, _MOST = -1.0, 2.0  # of amplitudes
_CANDIDATES = 4  # for each unit that may change
_SHRINK, _GRID = 0.002, 0.25
_ATTRIBUTED = 10  # batches of pairs, and of what is kept


@dataclass(frozen=True, eq=False)
class UnitFactors(Displayed):
    """Units with their factors.

    Args:
        recipe: A `Scale` at each site whose units change.
        before: Mean margin of the pairs in nats, unedited.
        after: The same with the factors.
        kl: Mean divergence from the unedited model over what is to be kept, in nats a token.
        losses: Objective and divergence of each step.
    """

    recipe: Recipe
    before: float
    after: float
    kl: float
    losses: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        return sum(len(edit["heads" if "heads" in edit else "neurons"]) for edit in self.edits())

    def edits(self) -> list[dict[str, Any]]:
        """The edits of a recipe file: units by kind and factor.

        Example:
            >>> recipe = interp.Recipe([("z.3", interp.interventions.Scale(torch.tensor([0.5, 1, 1, 1, 1, 1])))])
            >>> interp.search.UnitFactors(recipe, before=2.0, after=1.0, kl=0.0, losses=()).edits()
            [{'op': 'Scale', 'heads': ['3.0'], 'factor': 0.5}]
        """
        groups: dict[tuple[str, float], list[str]] = {}
        for edit in self.recipe.edits:
            assert isinstance(edit.op, Scale)
            kind, _, layer = edit.sites[0].partition(".")
            for number, factor in enumerate(edit.op.factors.tolist()):
                if factor != 1:
                    groups.setdefault((_NAMES[kind], round(factor, 6)), []).append(f"{layer}.{number}")
        return [{"op": "Scale", kind: units, "factor": factor} for (kind, factor), units in sorted(groups.items())]

    def _card(self) -> Card:
        margin = "margin", f"{self.before:.3f} -> {self.after:.3f}", "nats"
        return plural(len(self), "unit"), [margin, ("kl", f"{self.kl:.4f}", "nats a token, on what is kept")]


def learn_factors(
    model: HookedModel,
    positive: Continuations,
    negative: Continuations,
    keep: Sequence[Continuations],
    kinds: Sequence[str] = ("neurons",),
    layers: range | None = None,
    units: int = 300,
    steps: int = 40,
    weight: float = 30.0,
    rate: float = 0.05,
    batch_size: int = 16,
    seed: int = 0,
) -> UnitFactors:
    """Learn factors of units that make the positive answers less likely against the negative ones.

    Args:
        model: The model; its weights stay fixed.
        positive: Prompts, each with the answer that is to lose, such as the harmful one.
        negative: The same prompts with the answers that these are compared with.
        keep: What is to be kept: batches of prompts with continuations; predictions at the continuations should stay.
        kinds: `neurons`, `heads` or both.
        layers: Layers whose units may change. Default: all.
        units: Most units that change; four times as many are trained at first.
        steps: Steps with all candidates; half as many follow with the units that are left.
        weight: Weight of the divergence, in units of the objective per nat.
        rate: Adam's.
        batch_size: Pairs per step.
        seed: Draws the batches.

    Returns:
        The factors.

    Raises:
        InterpError: A setting is out of range, a pair does not have two answers to one prompt, or no unit carries the
            margin.

    Example:
        >>> sides = [interp.models.Continuations.of(model, ["Who bakes?"], [end]) for end in (" The baker", " Nobody")]
        >>> keep = [interp.models.Continuations.whole(model.tokens("The river is the Nim."))]
        >>> learned = interp.search.learn_factors(model, *sides, keep, steps=3, rate=0.3)
        >>> learned.after < learned.before
        True
    """
    require_positive(units=units, steps=steps, weight=weight, rate=rate, batch_size=batch_size)
    if not kinds or set(kinds) - set(_KINDS):
        raise InterpError(f"kinds are {list(kinds)}; expected {' or '.join(_KINDS)}, or both")
    if not keep:
        raise InterpError("there is nothing to keep; give batches of texts whose predictions should not change")
    learner = _Learner(model, _compared(positive, negative), keep, batch_size, weight)
    places = [(kind, layer) for kind in kinds for layer in layers or range(model.n_layers)]
    counts = (len(positive), batch_size), (len(keep), 1)
    draws = list(zip(*(batches(count, size, steps + steps // 2, seed) for count, size in counts), strict=True))
    with frozen_weights(model):
        learner.choose(places, _CANDIDATES * units)
        before = learner.margins().mean()
        losses = learner.train(draws[:steps], rate, _SHRINK)
        learner.prune(units)
        losses += learner.train(draws[steps:], rate / 2, 0.0)
        with torch.no_grad():
            learner.amplitudes.copy_((learner.amplitudes / _GRID).round() * _GRID)
        after, kl = learner.margins().mean(), learner.mean_divergence()
    return UnitFactors(learner.recipe(), float(before), float(after), kl, tuple(losses))


class _Learner:
    """The units that are trained, and what they are trained on."""

    def __init__(
        self, model: HookedModel, pairs: Answers, keep: Sequence[Continuations], batch_size: int, weight: float
    ):
        self.model, self.pairs, self.keep, self.batch_size, self.weight = model, pairs, keep, batch_size, weight
        self.units: list[tuple[str, int, int]] = []
        self.amplitudes = torch.zeros(0)
        self.allowed = torch.zeros(0)
        self.widths: dict[tuple[str, int], int] = {}
        with torch.no_grad():
            self.likeliest = [_likeliest(self._predictions(part)) for part in keep]

    def choose(self, places: Sequence[tuple[str, int]], count: int) -> None:
        """Take the units with the largest benefit² / cost."""
        some = batches(len(self.pairs.positive), self.batch_size, _ATTRIBUTED, 0)
        benefit = [torch.zeros(1) for _ in places]
        for number in some:
            pairs = self.pairs.pick(number)
            products, _ = self._products(places, self._rows(pairs), partial(self._margins, pairs))
            benefit = [old + new.sum(0) for old, new in zip(benefit, products, strict=True)]
        cost, usual, first, tokens = ([torch.zeros(1) for _ in places] for _ in range(4))
        for part in self.keep[:_ATTRIBUTED]:
            products, sizes = self._products(places, part, partial(logprobs, self.model, part))
            cost = [old + new.square().sum(0) for old, new in zip(cost, products, strict=True)]
            usual = [old + inner.sum(0) for old, (inner, _) in zip(usual, sizes, strict=True)]
            first = [torch.maximum(old, start.amax(0)) for old, (_, start) in zip(first, sizes, strict=True)]
            tokens = [old + len(inner) for old, (inner, _) in zip(tokens, sizes, strict=True)]
        ranked: list[tuple[float, tuple[str, int, int]]] = []
        for place, b, c, mean, start, n in zip(places, benefit, cost, usual, first, tokens, strict=True):
            worth = torch.where(start <= _HUGE * mean / n, b.square() / (c / n + 1e-5), 0.0)
            ranked += [(value, (*place, number)) for number, value in enumerate(worth.tolist()) if value > 0]
        if not ranked:
            raise InterpError("no unit of these layers changes the margin; take other layers or pairs")
        self.widths = {place: len(b) for place, b in zip(places, benefit, strict=True)}
        self.units = [unit for _, unit in sorted(ranked, reverse=True)[:count]]
        self.amplitudes = torch.zeros(len(self.units), requires_grad=True)
        self.allowed = torch.ones(len(self.units))

    def train(self, drawn: Sequence[tuple[Tensor, Tensor]], rate: float, shrink: float) -> list[tuple[float, float]]:
        """A step for each draw of pairs and of a batch that is kept; objective and divergence of each."""
        optimizer = torch.optim.Adam([self.amplitudes], lr=rate, betas=(0.8, 0.99))
        deviation = float(self.margins(128).std(correction=0).clamp(min=1e-3))
        losses = []
        for pairs, kept in track(drawn, "factors", unit="steps"):
            optimizer.zero_grad()
            with torch.enable_grad(), self._scaled():
                objective = softplus(self._margins(self.pairs.pick(pairs)) / deviation + 0.5).mean()
                objective.backward()
                divergence = self._divergence(int(kept))
                (self.weight * divergence).backward()
            optimizer.step()
            with torch.no_grad():
                shrunk = self.amplitudes.sign() * (self.amplitudes.abs() - shrink).clamp(min=0)
                self.amplitudes.copy_((shrunk * self.allowed).clamp(_LEAST, _MOST))
            losses.append((float(objective.detach()), float(divergence.detach())))
        return losses

    def recipe(self) -> Recipe:
        """A `Scale` at each site whose units change. Raises where none does."""
        scales: dict[str, Tensor] = {}
        for (kind, layer, number), amplitude in zip(self.units, self.amplitudes.tolist(), strict=True):
            if amplitude:
                ones = torch.ones(self.widths[kind, layer])
                scales.setdefault(f"{_KINDS[kind]}.{layer}", ones)[number] = 1 - amplitude
        if not scales:
            raise InterpError("no factor is further from 1 than half of the grid; take more steps, or a lower weight")
        return Recipe([(site, Scale(factors)) for site, factors in scales.items()], self.model.reference)

    def prune(self, count: int) -> None:
        """Keep the units with the largest amplitudes."""
        self.allowed = torch.zeros(len(self.units))
        self.allowed[self.amplitudes.detach().abs().argsort(descending=True)[:count]] = 1
        with torch.no_grad():
            self.amplitudes.mul_(self.allowed)

    @torch.no_grad()
    def margins(self, most: int | None = None) -> Float[Tensor, "pair"]:
        """The margins of all pairs, or of the first, under the factors."""
        parts = torch.arange(len(self.pairs.positive))[:most].split(self.batch_size)
        with self._scaled():
            return torch.cat([self._margins(self.pairs.pick(part)) for part in parts])

    @torch.no_grad()
    def mean_divergence(self) -> float:
        """The divergence over all that is kept, in nats a token."""
        sizes = [int(part.scored.sum()) for part in self.keep]
        with self._scaled():
            values = [float(self._divergence(number)) for number in range(len(self.keep))]
        return sum(size * value for size, value in zip(sizes, values, strict=True)) / sum(sizes)

    def _margins(self, pairs: Answers) -> Float[Tensor, "pair"]:
        """log p(positive) - log p(negative), with the graph. Answers of one token after one text share a row."""
        part = self._rows(pairs)
        if len(part) > len(pairs.positive):
            both = logprobs(self.model, part).float()
            return both[: len(pairs.positive)] - both[len(pairs.positive) :]
        logits = self.model.forward(part.tokens, last=2)[:, 0].float()
        chosen = [logits.gather(1, side.tokens.ids[:, -1:].to(logits.device))[:, 0] for side in pairs]
        return chosen[0] - chosen[1]

    def _rows(self, pairs: Answers) -> Continuations:
        """The rows of a pass that gives the margins: one of each pair or, where that is not enough, two."""
        if all(bool((side.skipped == side.tokens.lengths - 1).all()) for side in pairs):
            return pairs.positive
        rows = [row for side in pairs for row in side.tokens.unpadded()]
        return Continuations(self.model.tokens(rows), torch.cat([side.skipped for side in pairs]))

    def _predictions(self, part: Continuations) -> Float[Tensor, "token d_vocab"]:
        """Log-probabilities at the scored tokens, with the graph."""
        return self.model.forward(part.tokens)[:, :-1][part.scored[:, 1:]].float().log_softmax(-1)

    def _divergence(self, number: int) -> Tensor:
        """KL(unedited || edited) of a batch of what is kept, mean over tokens, with the graph."""
        tokens, before = self.likeliest[number]
        after = _with_the_rest(self._predictions(self.keep[number]).gather(-1, tokens))
        return (before.exp() * (before - after)).sum(-1).mean()

    def _scaled(self) -> AbstractContextManager[Any]:
        by_place: dict[str, tuple[list[int], list[int]]] = {}
        for row, (kind, layer, number) in enumerate(self.units):
            numbers, rows = by_place.setdefault(f"{_KINDS[kind]}.{layer}", ([], []))
            numbers.append(number)
            rows.append(row)
        return self.model.hooked([(site, partial(self._scale, *where)) for site, where in by_place.items()])

    def _scale(self, numbers: list[int], rows: list[int], x: Tensor) -> Tensor:
        factors = torch.ones(x.shape[2], device=x.device)
        factors = factors.index_put((torch.tensor(numbers),), 1 - self.amplitudes[rows]).to(x.dtype)
        return x * (factors[:, None] if x.ndim == 4 else factors)

    def _products(
        self, places: Sequence[tuple[str, int]], part: Continuations, objective: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """For each place, value times gradient (token, unit); and the sizes of units at later and at first tokens."""
        values: dict[str, Tensor] = {}
        leaves: dict[str, Tensor] = {}

        def note(site: str, x: Tensor) -> Tensor:
            values[site], leaves[site] = x.detach(), torch.zeros_like(x, requires_grad=True)
            return x + leaves[site]

        sites = [f"{_KINDS[kind]}.{layer}" for kind, layer in places]
        with torch.enable_grad(), self.model.hooked([(site, partial(note, site)) for site in sites]):
            gradients = torch.autograd.grad(objective().sum(), [leaves[site] for site in sites])
        later = part.tokens.mask.clone()
        starts = later.int().argmax(1)
        later[torch.arange(len(later)), starts] = False
        products, sizes = [], []
        for site, gradient in zip(sites, gradients, strict=True):
            x, product = values[site].float(), values[site].float() * gradient.float()
            if x.ndim == 4:  # heads
                x, product = x.norm(dim=-1), product.sum(-1)
            products.append(product[later])
            sizes.append((x[later].abs(), x[torch.arange(len(x)), starts].abs()))
        return products, sizes


def _compared(positive: Continuations, negative: Continuations) -> Answers:
    """Both sides, scored from one token on. Raises where prompts differ."""
    if len(positive) != len(negative):
        raise InterpError(f"{len(positive)} positive answers and {len(negative)} negative ones; expected pairs")
    skipped = torch.minimum(positive.skipped, negative.skipped)
    rows = zip(positive.tokens.unpadded(), negative.tokens.unpadded(), skipped.tolist(), strict=True)
    for number, (row, other, count) in enumerate(rows, 1):
        if row[:count] != other[:count]:
            raise InterpError(f"pair {number} has two prompts; expected one prompt with two answers")
    return Answers(*(replace(side, skipped=skipped) for side in (positive, negative)))


def _likeliest(
    logprobs: Float[Tensor, "token d_vocab"],
) -> tuple[Int[Tensor, "token top"], Float[Tensor, "token top+1"]]:
    """The likeliest tokens of each prediction, and their log-probabilities with that of all others last."""
    values, tokens = logprobs.topk(min(_LIKELIEST, logprobs.shape[-1] - 1))
    return tokens, _with_the_rest(values)


def _with_the_rest(logprobs: Float[Tensor, "token top"]) -> Float[Tensor, "token top+1"]:
    """Log-probabilities with that of everything else as one more."""
    rest = (1 - logprobs.exp().sum(-1, keepdim=True)).clamp(min=1e-6).log()
    return torch.cat([logprobs, rest], -1)
