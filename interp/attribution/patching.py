"""Patching: activations of one run of a comparison, put into the other run at one place at a time.

- `exact` runs the model once per place: Vig et al. 2020, "Causal mediation analysis"; Meng et al. 2022, "Locating and
  editing factual associations", arXiv:2202.05262. Only what a patch can change is computed (`_layer_pass`).
- `attribution` estimates all places from one backward pass, by the difference of the activations times the gradient of
  the metric in the base run: Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv:2310.10348.
- `integrated` averages that gradient, for each site by itself, over runs whose activations there are on the way from
  base to source: Sundararajan et al. 2017, arXiv:1703.01365; Hanna et al. 2024, "Have faith in faithfulness",
  arXiv:2403.17806.

Each estimate is returned with its agreement with exact patching on a sample of places.

Limitations: places are patched one at a time. What several do together, or what one does for another, is not measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution._layer_pass import RecordedRun, SiteEdit
from interp.attribution.comparison import ComparedPairs, Comparison
from interp.core.display import Card, Displayed, displayed, plural
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.directions.direction import Direction
from interp.interventions.ablation import Replace
from interp.interventions.positions import At
from interp.interventions.recipe import Recipe
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.hooks import attached
from interp.models.sites import Site

By = Literal["position", "head", "site"]
Method = Literal["exact", "attribution", "integrated"]
_SAMPLE = 48  # places on which an estimate is compared with exact patching


@dataclass(frozen=True, eq=False)
class Agreement(Displayed):
    """How far an estimate agrees with exact patching, on a sample of places.

    Attributes:
        spearman: The rank correlation of the effects, rounded to 0.001: nothing is ranked by what is smaller.
        pearson: Their correlation.
        places: Number of places.
        misses: The places where they differ most: the place, the estimate, and the exact effect.
    """

    spearman: float
    pearson: float
    places: int
    misses: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, eq=False)
class Patching(Displayed):
    """The effect of each place. Returned by `patch`.

    Attributes:
        pairs: The comparison on the model.
        sites: The sites, the first axis of the effects.
        by: What the second axis is: the positions, the heads, or nothing (length 1).
        labels: Names of the entries of the second axis: positions count from the end, -1 is the last token.
        values: The metric under each patch, not scaled, (site, place, batch).
        method: How they were computed.
        agreement: Of an estimate, how far it agrees with exact patching.
    """

    pairs: ComparedPairs
    sites: tuple[Site, ...]
    by: By
    labels: tuple[int, ...]
    values: Float[Tensor, "site place batch"]
    method: Method = "exact"
    agreement: Agreement | None = None

    @property
    def effects(self) -> Float[Tensor, "site place"]:
        """The mean effect of each place: 0 is the corrupt run, 1 the clean one."""
        return self.pairs.effects(self.values.flatten(0, 1)).reshape(self.values.shape[:2])

    @property
    def intervals(self) -> Float[Tensor, "site place 2"]:
        """The 95 % interval of each effect, over pairs."""
        return self.pairs.interval(self.values.flatten(0, 1)).reshape(*self.values.shape[:2], 2)

    def top(self, count: int = 10) -> list[tuple[str, float]]:
        """The `count` places with the most effect, and that effect: how far it is from the unpatched run's."""
        effects = self.effects
        return displayed([(self.name(*place), float(effects[place])) for place in self._ranked(effects)[:count]])

    def name(self, site: int, place: int) -> str:
        """A place as text, such as `z.3, head 2`."""
        return str(self.sites[site]) + ("" if self.by == "site" else f", {self.by} {self.labels[place]}")

    def _ranked(self, effects: Float[Tensor, "site place"]) -> list[tuple[int, int]]:
        order = (effects - self.pairs.effect(self.pairs.base_values)).abs().flatten().argsort(descending=True)
        return [divmod(int(number), len(self.labels)) for number in order]

    def recipe(self, model: HookedModel, top: int = 3, op: Literal["mean", "zero"] = "mean") -> Recipe:
        """A recipe that ablates the places with the most effect.

        Args:
            model: The model of the comparison.
            top: Number of places.
            op: Replace by the `mean` over the corrupt prompts, at the place's position or else at the last token, whose
                prediction the metric reads; or by `zero`.

        Example:
            >>> pairs = interp.attribution.Comparison.of_organism("hostility", 4)
            >>> result = interp.attribution.patch(model, pairs, "z.2-3", by="head")
            >>> len(result.recipe(model, top=2).edits)
            2
        """
        edits, reference = [], model.reference
        for number, place in self._ranked(self.effects)[:top]:
            site, units = self.sites[number], [self.labels[place]] if self.by == "head" else None
            position, mean = self.labels[place] if self.by == "position" else -1, None
            if op == "mean":
                mean = model.capture(self.pairs.corrupt, [site], positions=position, chat=False)[site].mean((0, 1))
            value = Replace(mean, units, reference)
            edits.append((site, At(value, position) if self.by == "position" else value))
        return Recipe(
            edits, note=f"Ablates the {plural(top, 'place')} with most effect on {self.pairs.comparison.name}."
        )

    def _card(self) -> Card:
        shown = [(name, f"{effect:+.3f}") for name, effect in self.top()]
        if self.agreement:
            shown.append(
                (f"Spearman with exact patching, {self.agreement.places} places", f"{self.agreement.spearman:.3f}")
            )
        return f"{self.method} patching of {self.pairs.comparison.name}, {plural(len(self.pairs), 'pair')}", shown


def patch(
    model: HookedModel,
    comparison: Comparison | ComparedPairs,
    sites: str | Site | Sequence[str | Site] = "resid_pre.*",
    by: By = "position",
    method: Method = "exact",
    *,
    subspace: Direction | None = None,
    steps: int = 8,
) -> Patching:
    """Put activations of the source run into the base run, one place at a time.

    Args:
        model: The model.
        comparison: The pairs and the metric.
        sites: Sites in layers, such as `resid_pre.*`, `attn_out.*`, `mlp_out.*`, `z.*`, `q.*`, `k.*`, `mlp_post.*`.
        by: A place is a site at one `position`; a `head` of a site at all positions; or a `site` at all positions.
        method: `exact`; `attribution` or `integrated`, which are estimates.
        subspace: Patch only what lies along these directions, which are in the basis of the sites.
        steps: Number of runs between base and source that `integrated` averages over.

    Raises:
        InterpError: As in `Comparison.on`; a site is in no layer, or has no heads where they are patched; a gradient is
            not finite.

    Example:
        >>> pairs = interp.attribution.Comparison.of_organism("hostility", 4)
        >>> result = interp.attribution.patch(model, pairs, "resid_pre.*")
        >>> result.effects.shape[0] == model.n_layers
        True
    """
    if model.is_hooked:
        raise InterpError(
            "the model is inside a hooked block; leave the block, or export the recipe and load the result"
        )
    pairs = comparison.on(model) if isinstance(comparison, Comparison) else comparison
    chosen = model.resolve(sites)
    if outside := [site for site in chosen if site.layer is None]:
        raise InterpError(f"{outside[0]} is in no layer, so it is the same as the tokens; patch resid_pre.0 instead")
    places = _Places(model, pairs, chosen, by, subspace)
    if method == "exact":
        every = [(site, place) for site in range(len(chosen)) for place in range(len(places.labels))]
        values = places.exact(every).reshape(len(chosen), len(places.labels), -1)
        return Patching(pairs, tuple(chosen), by, places.labels, values)
    values = places.estimated(method, steps)
    estimate = Patching(pairs, tuple(chosen), by, places.labels, values, method)
    return replace(estimate, agreement=_agreement(estimate, places))


class _Places:
    """The places of a patching, with the activations of both runs there."""

    def __init__(self, model: HookedModel, pairs: ComparedPairs, sites: list[Site], by: By, subspace: Direction | None):
        self.model, self.pairs, self.sites, self.by = model, pairs, sites, by
        self.columns = pairs.columns
        source = model.capture(pairs.source, sites, chat=False)
        rows, there = torch.arange(len(pairs))[:, None], self.columns.clamp(min=0)
        self.source = {site: source[site][rows, there] for site in sites}
        heads = {x.shape[2] if x.ndim == 4 else 0 for x in self.source.values()}
        if by == "head" and (0 in heads or len(heads) > 1):
            raise InterpError(
                f"{', '.join(map(str, sites))}: expected sites with one number of heads: z, q, or k and v"
            )
        width = pairs.base.ids.shape[1]
        entries = {"position": range(-width, 0), "head": range(max(heads)), "site": range(1)}[by]
        self.labels = tuple(entries)
        self.basis = None if subspace is None else torch.linalg.qr(subspace.rows.float().T).Q
        same = (self.columns >= 0) & (pairs.base.ids == pairs.source.ids[rows, there])
        same &= pairs.base.position_ids == pairs.source.position_ids[rows, there]
        self.start = int((~same & pairs.base.mask).any(0).int().argmax())

    def put(self, site: Site, place: int, start: int, x: Tensor) -> Tensor:
        """The activations of the base run, from a column on, with a place patched."""
        source, real = self.source[site][:, start:].to(x), (self.columns >= 0)[:, start:].to(x.device)
        if self.basis is not None:
            basis = self.basis.to(x)
            source = x + (source - x) @ basis @ basis.T
        if self.by == "position":
            real = real & (torch.arange(real.shape[1], device=x.device) == place - start)
        where = real.reshape(*real.shape, *[1] * (x.ndim - 2))
        if self.by == "head":
            where = where & (torch.arange(x.shape[2], device=x.device) == place)[:, None]
        return torch.where(where, source, x)

    def exact(self, places: Sequence[tuple[int, int]]) -> Float[Tensor, "place batch"]:
        """The metric under each patch, in the order of the places."""
        run, values = RecordedRun(self.model, self.pairs.base), torch.empty(len(places), len(self.pairs))
        starts: dict[int, list[int]] = {}
        for number, (_, place) in enumerate(places):
            starts.setdefault(place if self.by == "position" else self.start, []).append(number)
        for start, numbers in track(list(starts.items()), "patch", size=lambda item: len(item[1]), unit="places"):
            numbers.sort(key=lambda number: self.sites[places[number][0]].order)
            edits = [
                SiteEdit(site, partial(self.put, site, place, start))
                for site, place in ((self.sites[places[number][0]], places[number][1]) for number in numbers)
            ]
            values[numbers] = run.read(edits, start, self.pairs.metric).cpu().float()
        return values

    def estimated(self, method: Method, steps: int) -> Float[Tensor, "site place batch"]:
        """The metric under each patch, by the gradient at the base run, or averaged on the way to the source."""
        here = self.model.capture(self.pairs.base, self.sites, chat=False)
        if method == "attribution":
            gradients = self._gradients(self.sites)
        else:
            shares = [(step + 0.5) / steps for step in range(steps)]
            runs = track([(site, share) for site in self.sites for share in shares], "integrate", unit="runs")
            parts = [self._gradients([site], share)[site] for site, share in runs]
            means = [torch.stack(parts[n : n + steps]).mean(0) for n in range(0, len(parts), steps)]
            gradients = dict(zip(self.sites, means, strict=True))
        changes = torch.stack([torch.stack([*self._changes(x, here[x], gradients[x])]) for x in self.sites])
        return self.pairs.base_values + changes

    def _changes(self, site: Site, base: Tensor, gradient: Tensor) -> Iterator[Tensor]:
        for place in range(len(self.labels)):
            yield ((self.put(site, place, 0, base) - base) * gradient).flatten(1).sum(1).detach()

    def _gradients(self, sites: Sequence[Site], share: float = 0.0) -> dict[Site, Tensor]:
        """The gradients of the metric, in a run whose activations at the sites are `share` of the way to the source."""
        held: dict[Site, Tensor] = {}

        def hold(site: Site, x: Tensor) -> Tensor:
            real = (self.columns >= 0).reshape(*self.columns.shape, *[1] * (x.ndim - 2)).to(x.device)
            mixed = torch.where(real, x + share * (self.source[site].to(x) - x), x) if share else x
            held[site] = mixed if mixed.requires_grad else mixed.detach().requires_grad_()
            return held[site]

        taps = [(self.model.tap(site), partial(hold, site)) for site in sites]
        with frozen_weights(self.model), attached(self.model.hf, taps), torch.enable_grad():
            values = self.pairs.metric(self.model.forward(self.pairs.base, last=1)[None, :, 0])
            gradients = torch.autograd.grad(values.sum(), [held[site] for site in sites])
        if not all(gradient.isfinite().all() for gradient in gradients):
            name = self.pairs.comparison.name
            raise InterpError(f"{name}: a gradient of the metric is not finite; patch with method='exact'")
        return dict(zip(sites, gradients, strict=True))


def _agreement(estimate: Patching, places: _Places) -> Agreement:
    every = [(site, place) for site in range(len(estimate.sites)) for place in range(len(estimate.labels))]
    sample = Random(0).sample(every, min(_SAMPLE, len(every)))
    exact, effects = estimate.pairs.effects(places.exact(sample)), estimate.effects
    guessed = torch.stack([effects[place] for place in sample])
    worst = (exact - guessed).abs().argsort(descending=True)[:3].tolist()
    misses = tuple((estimate.name(*sample[n]), float(guessed[n]), float(exact[n])) for n in worst)
    both = torch.stack([guessed, exact])
    ranks = torch.stack([_ranks(values) for values in both.round(decimals=3)])
    return Agreement(float(torch.corrcoef(ranks)[0, 1]), float(torch.corrcoef(both)[0, 1]), len(sample), misses)


def _ranks(values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The rank of each value, from 0; ties have their mean rank."""
    return ((values[:, None] > values).sum(1) + (values[:, None] >= values).sum(1) - 1).double() / 2
