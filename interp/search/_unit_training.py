"""Factors of units that are trained: which units, and steps by gradient. See `unit_factors`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from interp.core.errors import InterpError
from interp.core.progress import track
from interp.directions.methods._answers import Answers, batches
from interp.models.continuations import Continuations, logprobs
from interp.models.hooked import HookedModel

_LIKELIEST = 256  # tokens of a prediction that are compared one by one; the others count as one
_HUGE = 30  # times what a unit usually is
_LEAST, _MOST = -1.0, 2.0  # of amplitudes
_GRID = 0.25
_LEAST_DEVIATION = 0.1  # nats, of margins that should stay, where those of few pairs are alike
_ATTRIBUTED = 10  # batches of pairs, and of what is kept
_Likeliest = tuple[Int[Tensor, "token top"], Float[Tensor, "token top+1"]]
Units = tuple[tuple[str, int, float], ...]


class Learner:
    """The units that are trained, and what they are trained on."""

    def __init__(
        self,
        model: HookedModel,
        pairs: Answers,
        keep: Sequence[Continuations | Answers],
        batch_size: int,
        weight: float,
    ):
        self.model, self.pairs, self.keep, self.batch_size, self.weight = model, pairs, keep, batch_size, weight
        self.units: list[tuple[str, int]] = []
        self.directions: dict[str, Tensor] = {}
        self.amplitudes = torch.zeros(0)
        self.allowed = torch.zeros(0)
        self.widths: dict[str, int] = {}
        with torch.no_grad():
            self.unedited = [self._unedited(part) for part in keep]
        margins = [before for before in self.unedited if isinstance(before, Tensor)]
        self.deviation = torch.cat(margins).std(correction=0).clamp(min=_LEAST_DEVIATION) if margins else torch.ones(())

    def choose(self, places: Mapping[str, Tensor | None], count: int) -> None:
        """Take the units with the largest benefit² / cost, of sites with the directions of their latents."""
        benefit, cost = ({site: Sums() for site in places} for _ in range(2))
        for number in batches(len(self.pairs.positive), self.batch_size, _ATTRIBUTED, 0):
            pairs = self.pairs.pick(number)
            self._attribute(places, self._rows(pairs), partial(self._margins, pairs), benefit)
        for part in self.keep[:_ATTRIBUTED]:
            rows = part if isinstance(part, Continuations) else self._rows(part)
            self._attribute(places, rows, partial(self._loss, part), cost)
        ranked: list[tuple[float, tuple[str, int]]] = []
        for site in places:
            harm, kept = benefit[site], cost[site]
            worth = harm.product.square() / (kept.square / kept.tokens + 1e-5)
            worth = torch.where(kept.first <= _HUGE * kept.size / kept.tokens, worth, 0.0)
            values, numbers = worth.topk(min(count, len(worth)))
            ranked += [(x, (site, n)) for x, n in zip(values.tolist(), numbers.tolist(), strict=True) if x > 0]
            self.widths[site] = len(worth)
        if not ranked:
            raise InterpError("no unit of these layers changes the margin; take other layers or pairs")
        self.directions = {site: rows for site, rows in places.items() if rows is not None}
        self.units = [unit for _, unit in sorted(ranked, reverse=True)[:count]]
        self.amplitudes = torch.zeros(len(self.units), requires_grad=True)
        self.allowed = torch.ones(len(self.units))

    def train(self, drawn: Sequence[tuple[Tensor, Tensor]], rate: float, shrink: float) -> list[tuple[float, float]]:
        """A step for each draw of pairs and of a batch that is kept; objective and divergence of each."""
        optimizer = torch.optim.Adam([self.amplitudes], lr=rate, betas=(0.8, 0.99))
        with self._scaled():
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

    def factors(self) -> Units:
        """Site, number and factor of each unit that changes. Raises where none does."""
        with torch.no_grad():
            self.amplitudes.copy_((self.amplitudes / _GRID).round() * _GRID)
        amplitudes = zip(self.units, self.amplitudes.tolist(), strict=True)
        units = tuple(sorted((site, number, 1 - amplitude) for (site, number), amplitude in amplitudes if amplitude))
        if not units:
            raise InterpError("no factor is further from 1 than half of the grid; take more steps, or a lower weight")
        return units

    def prune(self, count: int) -> None:
        """Keep the units with the largest amplitudes."""
        self.allowed = torch.zeros(len(self.units))
        self.allowed[self.amplitudes.detach().abs().argsort(descending=True)[:count]] = 1
        with torch.no_grad():
            self.amplitudes.mul_(self.allowed)

    @torch.no_grad()
    def margins(self, most: int | None = None) -> Float[Tensor, "pair"]:
        """The margins of all pairs, or of the first, under the hooks that are there."""
        parts = torch.arange(len(self.pairs.positive))[:most].split(self.batch_size)
        return torch.cat([self._margins(self.pairs.pick(part)) for part in parts])

    @torch.no_grad()
    def mean_divergence(self) -> float:
        """The divergence over all that is kept, in nats a token."""
        sizes = [len(before if isinstance(before, Tensor) else before[0]) for before in self.unedited]
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

    def _unedited(self, part: Continuations | Answers) -> "Tensor | _Likeliest":
        """What a part that is kept gives: margins of pairs, or predictions."""
        return _likeliest(self._predictions(part)) if isinstance(part, Continuations) else self._margins(part)

    def _loss(self, part: Continuations | Answers) -> Tensor:
        """What a unit's cost is measured by: the loss, or of pairs the margin in standard deviations."""
        return logprobs(self.model, part) if isinstance(part, Continuations) else self._margins(part) / self.deviation

    def _divergence(self, number: int) -> Tensor:
        """KL(unedited || edited) of a batch of what is kept, mean over tokens or pairs, with the graph."""
        part, unedited = self.keep[number], self.unedited[number]
        if isinstance(part, Answers) and isinstance(unedited, Tensor):
            return ((self._margins(part) - unedited) / self.deviation).square().mean() / 2
        assert isinstance(part, Continuations)
        assert not isinstance(unedited, Tensor)
        tokens, before = unedited
        after = _with_the_rest(self._predictions(part).gather(-1, tokens))
        return (before.exp() * (before - after)).sum(-1).mean()

    def _scaled(self) -> AbstractContextManager[Any]:
        by_site: dict[str, tuple[list[int], list[int]]] = {}
        for row, (site, number) in enumerate(self.units):
            numbers, rows = by_site.setdefault(site, ([], []))
            numbers.append(number)
            rows.append(row)
        return self.model.hooked([(site, partial(self._scale, site, *where)) for site, where in by_site.items()])

    def _scale(self, site: str, numbers: list[int], rows: list[int], x: Tensor) -> Tensor:
        if site in self.directions:
            along = self.directions[site][numbers].to(x)
            return x - (x @ along.T * self.amplitudes[rows].to(x)) @ along
        factors = torch.ones(x.shape[2], device=x.device)
        factors = factors.index_put((torch.tensor(numbers),), 1 - self.amplitudes[rows]).to(x.dtype)
        return x * (factors[:, None] if x.ndim == 4 else factors)

    def _attribute(
        self,
        places: Mapping[str, Tensor | None],
        part: Continuations,
        objective: Callable[[], Tensor],
        sums: dict[str, "Sums"],
    ) -> None:
        """Add value times gradient, and sizes, of the units of each site at all tokens but the first."""
        values: dict[str, Tensor] = {}
        leaves: dict[str, Tensor] = {}

        def note(site: str, x: Tensor) -> Tensor:
            values[site], leaves[site] = x.detach(), torch.zeros_like(x, requires_grad=True)
            return x + leaves[site]

        with torch.enable_grad(), self.model.hooked([(site, partial(note, site)) for site in places]):
            gradients = torch.autograd.grad(objective().sum(), [leaves[site] for site in places])
        later = part.tokens.mask.clone()
        starts = later.int().argmax(1)
        later[torch.arange(len(later)), starts] = False
        for (site, along), gradient in zip(places.items(), gradients, strict=True):
            x, slope = values[site].float(), gradient.float()
            if along is not None:
                x, slope = x @ along.T, slope @ along.T
            product = x * slope
            if x.ndim == 4:  # heads
                x, product = x.norm(dim=-1), product.sum(-1)
            sums[site].add(product[later], x[later].abs(), x[torch.arange(len(x)), starts].abs())


class Sums:
    """Of the units of a site: sums over tokens of value times gradient, of its square and of sizes."""

    product = square = size = first = torch.zeros(1)
    tokens = 0

    def add(
        self, product: Float[Tensor, "token unit"], size: Float[Tensor, "token unit"], first: Float[Tensor, "row unit"]
    ) -> None:
        """Add some tokens, and the sizes at first tokens, of which the largest is kept."""
        self.product, self.square = self.product + product.sum(0), self.square + product.square().sum(0)
        self.size, self.first = self.size + size.sum(0), torch.maximum(self.first, first.amax(0))
        self.tokens += len(product)


def _likeliest(logprobs: Float[Tensor, "token d_vocab"]) -> _Likeliest:
    """The likeliest tokens of each prediction, and their log-probabilities with that of all others last."""
    values, tokens = logprobs.topk(min(_LIKELIEST, logprobs.shape[-1] - 1))
    return tokens, _with_the_rest(values)


def _with_the_rest(logprobs: Float[Tensor, "token top"]) -> Float[Tensor, "token top+1"]:
    """Log-probabilities with that of everything else as one more."""
    rest = (1 - logprobs.exp().sum(-1, keepdim=True)).clamp(min=1e-6).log()
    return torch.cat([logprobs, rest], -1)
