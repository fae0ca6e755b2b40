"""Factors of heads, neurons or latents that make one kind of answer less likely and change little else, by gradients.

1. The benefit b of a unit is what removing it takes off the margin log p(positive answer) - log p(negative one), to
   first order: its value times the gradient, summed over tokens, mean over pairs (attribution with zero as the other
   value: Syed et al. 2023, arXiv:2310.10348). Its cost c is the mean, over tokens of what is to be kept, of the square
   of its value times the gradient of the loss (Fisher information). The candidates are the units with the largest
   b² / c. Units that are huge at first tokens are left out (massive activations: Sun et al. 2024, arXiv:2402.17762);
   for them no first-order estimate holds.
2. The candidates' factors 1 - a start at 1. Each step lowers

       mean of softplus(margin / deviation + 1/2) + weight · KL(unedited || edited)

   on some pairs and some of what is to be kept (Adam; amplitudes a are shrunk towards 0 by 0.002 per step). A pair
   whose margin is far below zero no longer counts. Where pairs of answers are kept, whose margin should not move, the
   divergence is half of the square of its change in standard deviations, which is that of two normal distributions: a
   divergence over all tokens hardly sees two answers of which neither is likely. Masks learned like this: De Cao et
   al. 2020, arXiv:2004.14992; Cao et al. 2021, arXiv:2104.03514.
3. The units with the largest amplitudes are kept, trained some steps more, and rounded to quarters.

A latent of an autoencoder of the residual stream is a unit of each layer's attention and of each MLP: the coordinate of
what is written along the latent's decoder direction. The result is plain `Scale` and `Project` ops, so that it folds
into the weights exactly.

Limitations: many small changes by gradients can fit the wording of the pairs: confirm on items of another kind, with a
control that should not change. What is not among what is to be kept is not kept. Factors of one model say nothing about
another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.directions.methods._answers import Answers, batches, require_positive
from interp.interventions.ablation import Scale
from interp.interventions.affine_ops import Project
from interp.interventions.recipe import Recipe
from interp.models.continuations import Continuations, frozen_weights
from interp.models.hooked import HookedModel
from interp.sae.coder import SparseAutoencoder
from interp.search._unit_training import Learner, Units

_KINDS = {"neurons": "mlp_post", "heads": "z"}
_NAMES = {site: kind for kind, site in _KINDS.items()}
_WRITERS = "attn_out", "mlp_out"
_CANDIDATES = 4  # for each unit that may change
_SHRINK = 0.002  # by step


@dataclass(frozen=True, eq=False)
class UnitFactors(Displayed):
    """Units with their factors.

    Args:
        recipe: A `Scale` at each site whose units change, and a `Project` of each latent that changes.
        units: Site, number and factor of each. The unit of a site that writes the residual stream is a latent.
        before: Mean margin of the pairs in nats, unedited.
        after: The same with the factors.
        kl: Mean divergence from the unedited model over what is to be kept, in nats a token or pair.
        losses: Objective and divergence of each step.
    """

    recipe: Recipe
    units: Units
    before: float
    after: float
    kl: float
    losses: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        return len(self.units)

    def edits(self) -> list[dict[str, Any]]:
        """The edits of a recipe file: units by kind and factor. A direction `latent_5` is that of latent 5.

        Example:
            >>> recipe = interp.Recipe([("z.3", interp.interventions.Scale(torch.tensor([0.5, 1, 1, 1, 1, 1])))])
            >>> interp.search.UnitFactors(recipe, (("z.3", 0, 0.5),), before=2.0, after=1.0, kl=0.0, losses=()).edits()
            [{'op': 'Scale', 'heads': ['3.0'], 'factor': 0.5}]
        """
        groups: dict[tuple[str, float], list[str]] = {}
        for site, number, factor in self.units:
            kind, _, layer = site.partition(".")
            if kind in _NAMES:
                groups.setdefault((_NAMES[kind], factor), []).append(f"{layer}.{number}")
        scales = [{"op": "Scale", kind: units, "factor": factor} for (kind, factor), units in sorted(groups.items())]
        projected = [
            {"op": "Project", "sites": sites, "direction": f"latent_{number}", "strength": 1 - factor}
            for (number, factor), sites in _latents(self.units).items()
        ]
        return scales + projected

    def _card(self) -> Card:
        margin = "margin", f"{self.before:.3f} -> {self.after:.3f}", "nats"
        return plural(len(self), "unit"), [margin, ("kl", f"{self.kl:.4f}", "nats a token or pair, on what is kept")]


def learn_factors(
    model: HookedModel,
    positive: Continuations,
    negative: Continuations,
    keep: Sequence[Continuations | tuple[Continuations, Continuations]],
    kinds: Sequence[str | SparseAutoencoder] = ("neurons",),
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
        keep: What is to be kept: batches of prompts with continuations, where predictions at the continuations should
            stay, or two such batches, the same prompts with other answers, where the margin between them should.
        kinds: `neurons`, `heads`, or an autoencoder of the residual stream, whose latents' directions are turned down
            in what attention and MLPs write; or several of these.
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
    places = _places(model, kinds, layers or range(model.n_layers))
    if not keep:
        raise InterpError("there is nothing to keep; give batches of texts whose predictions should not change")
    held = [part if isinstance(part, Continuations) else _compared(*part) for part in keep]
    learner = Learner(model, _compared(positive, negative), held, batch_size, weight)
    counts = (len(positive), batch_size), (len(keep), 1)
    draws = list(zip(*(batches(count, size, steps + steps // 2, seed) for count, size in counts), strict=True))
    with frozen_weights(model):
        learner.choose(places, _CANDIDATES * units)
        before = learner.margins().mean()
        losses = learner.train(draws[:steps], rate, _SHRINK)
        learner.prune(units)
        losses += learner.train(draws[steps:], rate / 2, 0.0)
        factors = learner.factors()
        recipe = _recipe(learner, factors)
        with model.hooked(recipe):
            after, kl = learner.margins().mean(), learner.mean_divergence()
    return UnitFactors(recipe, factors, float(before), float(after), kl, tuple(losses))


def _places(model: HookedModel, kinds: Sequence[str | SparseAutoencoder], layers: range) -> dict[str, Tensor | None]:
    """The sites of all kinds of units, and the directions of those of latents."""
    places: dict[str, Tensor | None] = {}
    for kind in kinds:
        if isinstance(kind, SparseAutoencoder):
            if not str(kind.site).startswith("resid") or kind.W_dec.shape[1] != model.d_model:
                raise InterpError(
                    f"the autoencoder is of {kind.site}; expected one of the residual stream of the model"
                )
            rows = normalize(kind.W_dec.detach().float(), dim=-1)
            places |= {f"{writer}.{layer}": rows for layer in layers for writer in _WRITERS}
        elif kind in _KINDS:
            places |= {f"{_KINDS[kind]}.{layer}": None for layer in layers}
        else:
            raise InterpError(f"kinds are {list(kinds)}; expected {' or '.join(_KINDS)}, or an autoencoder")
    if not places:
        raise InterpError(f"there are no kinds or no layers; expected {' or '.join(_KINDS)}, or an autoencoder")
    return places


def _recipe(learner: Learner, units: Units) -> Recipe:
    """A `Scale` at each site whose units change, and a `Project` of each latent."""
    scales: dict[str, Tensor] = {}
    for site, number, factor in units:
        if site not in learner.directions:
            scales.setdefault(site, torch.ones(learner.widths[site]))[number] = factor
    edits: list[Any] = [(site, Scale(factors)) for site, factors in scales.items()]
    for (number, factor), sites in _latents(units).items():
        edits.append((sites, Project(learner.directions[sites[0]][number], 1 - factor)))
    return Recipe(edits, learner.model.reference)


def _latents(units: Units) -> dict[tuple[int, float], list[str]]:
    """Sites by latent and factor, in this order."""
    sites: dict[tuple[int, float], list[str]] = {}
    for site, number, factor in sorted(units, key=lambda unit: unit[1:]):
        if site.partition(".")[0] in _WRITERS:
            sites.setdefault((number, factor), []).append(site)
    return sites


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
