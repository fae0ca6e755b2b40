"""Patching: activations of one run of a comparison, put into the other run at one place at a time.

- `exact` runs the model once per place: Vig et al. 2020, "Causal mediation analysis"; Meng et al. 2022, "Locating and
  editing factual associations", arXiv:2202.05262. Only what a patch can change is computed (`_layer_pass`).
- `attribution` estimates all places from one backward pass, by the difference of the activations times the gradient of
  the metric in the base run: Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv:2310.10348.
  Its corrections, AtP*, are those of Kramár et al. 2024, arXiv:2403.00745.
- `integrated` averages that gradient, for each site by itself, over runs whose activations there are on the way from
  base to source: Sundararajan et al. 2017, arXiv:1703.01365; Hanna et al. 2024, "Have faith in faithfulness",
  arXiv:2403.17806.

Each estimate is returned with its agreement with exact patching on a sample of places.

Limitations: places are patched one at a time. What several do together, or what one does for another, is not measured.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from interp.attribution._places import By, Correction, Places
from interp.attribution.comparison import ComparedPairs, Comparison
from interp.attribution.metrics import KLToClean, LogitDifference, LogProbability
from interp.core.display import Card, Displayed, displayed, plural
from interp.core.errors import InterpError, first_line
from interp.core.files import new_file, read_json, write_json
from interp.directions.direction import Direction
from interp.interventions.ablation import Replace
from interp.interventions.latents import Clamp
from interp.interventions.op import Op
from interp.interventions.positions import At
from interp.interventions.recipe import Recipe
from interp.models.architectures.unembedding import token_text
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.models.tokens import padded
from interp.sae.coder import SparseAutoencoder

Method = Literal["exact", "attribution", "integrated"]
_PER_PAIR = ("answer", "wrong", "clean_values", "corrupt_values")
_SAMPLE = 48  # places on which an estimate is compared with exact patching


@dataclass(frozen=True, eq=False)
class Agreement(Displayed):
    """How far an estimate agrees with exact patching, on a sample of places.

    Attributes:
        spearman: The rank correlation of the effects, rounded to 0.001: nothing is ranked by what is smaller. 0 where
            all are equal.
        pearson: Their correlation, of effects rounded as well.
        places: Number of places.
        misses: The places where they differ most: the place, the estimate, and the exact effect.
    """

    spearman: float
    pearson: float
    places: int
    misses: tuple[tuple[str, float, float], ...]

    def _card(self) -> Card:
        misses = [(f"worst: {place}", f"{guess:+.3f}, exactly {exact:+.3f}") for place, guess, exact in self.misses]
        scores = [("Spearman", f"{self.spearman:.3f}"), ("Pearson", f"{self.pearson:.3f}")]
        return f"with exact patching of {plural(self.places, 'place')}", [*scores, *misses]

    @classmethod
    def of(cls, names: Sequence[str], estimated: Float[Tensor, "n"], exact: Float[Tensor, "n"]) -> "Agreement":
        """The agreement of estimated with exact effects."""
        worst = (exact - estimated).abs().argsort(descending=True)[:3].tolist()
        misses = tuple((names[n], float(estimated[n]), float(exact[n])) for n in worst)
        both = torch.stack([estimated, exact])
        ranks = torch.stack([_ranks(values) for values in both.round(decimals=3)])
        spearman, pearson = (float(torch.corrcoef(x)[0, 1].nan_to_num()) for x in (ranks, both))
        return cls(spearman, pearson, len(names), misses)


@dataclass(frozen=True, eq=False)
class Patching(Displayed):
    """The effect of each place. Returned by `patch`.

    Attributes:
        pairs: The comparison on the model.
        sites: The sites, the first axis of the effects.
        by: What the second axis is: positions, heads, neurons, patterns (by head), latents, or nothing (length 1).
        labels: Names of the entries of the second axis: positions count from the end, -1 is the last token.
        values: The metric under each patch, not scaled, (site, place, batch).
        model: The model.
        words: The text of every token of the pairs and their answers.
        method: How they were computed.
        corrections: Those of the estimate. After `grad_drop` effects are sizes: all are toward the source's.
        agreement: Of an estimate of several places, how far it agrees with exact patching.
    """

    pairs: ComparedPairs
    sites: tuple[Site, ...]
    by: By
    labels: tuple[int | str, ...]
    values: Float[Tensor, "site place batch"]
    model: ModelReference
    words: Mapping[int, str] = field(default_factory=dict)
    method: Method = "exact"
    corrections: tuple[Correction, ...] = ()
    agreement: Agreement | None = None

    @property
    def effects(self) -> Float[Tensor, "site place"]:
        """The mean effect of each place: 0 is the corrupt run, 1 the clean one."""
        return self.pairs.effects(self.values.flatten(0, 1)).reshape(self.values.shape[:2])

    @property
    def intervals(self) -> Float[Tensor, "site place 2"]:
        """The 95 % interval of each effect, over pairs."""
        return self.pairs.interval(self.values.flatten(0, 1)).reshape(*self.values.shape[:2], 2)

    @property
    def changes(self) -> Float[Tensor, "site place"]:
        """How far each effect is from that of the run that is patched: 0 where the patch does nothing."""
        return self.effects - self.pairs.effect(self.pairs.base_values)

    def top(self, count: int = 10) -> list[tuple[str, float]]:
        """The `count` places with the most effect, by how far it is from the unpatched run's, and that effect."""
        effects = self.effects
        return displayed([(self.name(*place), float(effects[place])) for place in self.ranked()[:count]])

    def name(self, site: int, place: int) -> str:
        """A place as text, such as `z.3, head 2`."""
        label = self.labels[place]
        unit = f"{label}" if label == "error" else f"{self.by} {label}"
        return str(self.sites[site]) + ("" if self.by == "site" else f", {unit}")

    def rows(self, count: int = 10) -> list[dict[str, Any]]:
        """One row for each of the `count` places with the most effect: its token if it has one, effect and interval."""
        effects, intervals, rows = self.effects.tolist(), self.intervals.tolist(), list[dict[str, Any]]()
        for site, place in self.ranked()[:count]:
            token = {"token": self.token(place)} if self.by == "position" else {}
            bounds = (bound if isfinite(bound) else None for bound in intervals[site][place])
            reading = dict(zip(("effect", "low", "high"), (effects[site][place], *bounds), strict=True))
            rows.append({"place": self.name(site, place)} | token | reading)
        return rows

    def pair_rows(self) -> list[dict[str, Any]]:
        """One row for each pair: both prompts and answers as text, and the metric of both runs."""
        pairs = self.pairs
        sides = [["".join(map(self._word, ids)) for ids in side.unpadded()] for side in (pairs.clean, pairs.corrupt)]
        answers = [[self._word(token) for token in side.tolist()] for side in (pairs.answer, pairs.wrong)]
        metric = [side.tolist() for side in (pairs.clean_values, pairs.corrupt_values)]
        names = ("clean", "corrupt", "answer", "wrong", "metric of clean", "metric of corrupt")
        return [dict(zip(names, row, strict=True)) for row in zip(*sides, *answers, *metric, strict=True)]

    def token(self, place: int) -> str:
        """The token at a position; empty where the patched prompts have different ones, and for other places."""
        if self.by != "position":
            return ""
        column, base = int(self.labels[place]), self.pairs.base
        words = {self._word(token) for token in base.ids[base.mask[:, column], column].tolist()}
        return words.pop() if len(words) == 1 else ""

    def _word(self, token: int) -> str:
        return self.words.get(token, str(token))

    def ranked(self) -> list[tuple[int, int]]:
        """The numbers of site and label of all places, those with the most effect first."""
        order = self.changes.abs().flatten().argsort(descending=True)
        return [divmod(int(number), len(self.labels)) for number in order]

    def recipe(
        self,
        model: HookedModel,
        top: int = 3,
        op: Literal["mean", "zero"] = "mean",
        sae: SparseAutoencoder | None = None,
    ) -> Recipe:
        """A recipe that ablates the places with the most effect.

        Args:
            model: The model of the comparison.
            top: Number of places.
            op: Replace by the `mean` over the corrupt prompts, at the place's position or else at the last token, whose
                prediction the metric reads; or by `zero`.
            sae: Of latents, the autoencoder. Its error has no op, and does not count.

        Raises:
            InterpError: Another model is given, or places are latents and their autoencoder is not given.

        Example:
            >>> pairs = interp.attribution.Comparison.of_organism("hostility", 4)
            >>> result = interp.attribution.patch(model, pairs, "z.2-3", by="head")
            >>> len(result.recipe(model, top=2).edits)
            2
        """
        self.model.check(model.reference, "this patching")
        if self.by == "latent" and sae is None:
            raise InterpError("places are latents; give sae=, the autoencoder that they are of")
        edits = []
        for number, place in [place for place in self.ranked() if self.labels[place[1]] != "error"][:top]:
            site, label = self.sites[number], int(self.labels[place])
            position, value = label if self.by == "position" else -1, None
            if op == "mean":
                captured = model.capture(self.pairs.corrupt, [site], positions=position, chat=False)[site]
                value = (captured if sae is None else sae.encode(captured)).mean((0, 1))
            units = [label] if self.by in ("head", "pattern", "neuron") else None
            change: Op = Replace(value, units, model.reference)
            if self.by == "position":
                change = At(change, position)
            elif sae is not None:
                change = Clamp(sae, label, 0.0 if value is None else float(value[label]))
            edits.append((site, change))
        return Recipe(
            edits, note=f"Ablates the {plural(top, 'place')} with most effect on {self.pairs.comparison.name}."
        )

    def save(self, file: str | Path, overwrite: bool = False) -> None:
        """Write a JSON file, which `load` reads; `overwrite` replaces a file that is there.

        Raises:
            InterpError: The file exists, or cannot be written.
        """
        pairs, comparison = self.pairs, self.pairs.comparison
        record: dict[str, Any] = {name: getattr(self, name) for name in ("by", "labels", "method", "corrections")}
        record |= {"words": dict(self.words)}
        record |= {"agreement": self.agreement and asdict(self.agreement), "sites": list(map(str, self.sites))}
        record |= {"model": self.model.model_dump(), "comparison": comparison.name, "convention": comparison.convention}
        record |= {"metric": type(comparison.metric).__name__, "aligned": pairs.aligned, "values": self.values.tolist()}
        record |= {name: getattr(pairs, name).unpadded() for name in ("clean", "corrupt")}
        with new_file(file, overwrite) as path:
            write_json(path, record | {name: getattr(pairs, name).tolist() for name in _PER_PAIR})

    @classmethod
    def load(cls, file: str | Path) -> "Patching":
        """Read what `save` wrote. Its pairs have the values of both runs, and their logits no more.

        Raises:
            InterpError: The file is not a saved patching, or it is damaged.

        Example:
            >>> pairs = interp.attribution.Comparison.of_organism("hostility", 4)
            >>> result = interp.attribution.patch(model, pairs, "z.0", by="head")
            >>> result.save(tmp / "patching.json")
            >>> interp.attribution.Patching.load(tmp / "patching.json").top(1) == result.top(1)
            True
        """
        try:
            return _patching(**read_json(file))
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as problem:
            raise InterpError(
                f"{file}: not a saved patching ({first_line(problem)}); Patching.save writes one"
            ) from None

    def _card(self) -> Card:
        shown = [(name, f"{effect:+.3f}") for name, effect in self.top()]
        if self.agreement:
            shown.append(
                (f"Spearman with exact patching, {self.agreement.places} places", f"{self.agreement.spearman:.3f}")
            )
        method = " + ".join([self.method, *self.corrections])
        return f"{method} patching of {self.pairs.comparison.name}, {plural(len(self.pairs), 'pair')}", shown


def patch(
    model: HookedModel,
    comparison: Comparison | ComparedPairs,
    sites: str | Site | Sequence[str | Site] | None = None,
    by: By | None = None,
    method: Method = "exact",
    *,
    positions: Sequence[int] | None = None,
    subspace: Direction | None = None,
    sae: SparseAutoencoder | None = None,
    steps: PositiveInt = 8,
    corrections: Collection[Correction] = (),
) -> Patching:
    """Put activations of the source run into the base run, one place at a time.

    Args:
        model: The model.
        comparison: The pairs and the metric.
        sites: Sites in layers, such as `resid_pre.*`, `attn_out.*`, `mlp_out.*`, `z.*`, `q.*`, `k.*`, `mlp_post.*`.
            Default: `resid_pre.*`, or the site of `sae`.
        by: A place is a site at one `position`; or at all positions a whole `site`, a `head` of it, a `neuron` (one
            coordinate), the attention `pattern` of a head of `z`, or a `latent` of `sae` (those that differ between the
            runs, and the error). Default: `position`, or with `sae` `latent`.
        method: `exact`; `attribution` or `integrated`, which are estimates.
        positions: Patch at these positions only, counted from the end: -1 is the last token. Default: all.
        subspace: Patch only what lies along these directions, which are in the basis of the sites.
        sae: An autoencoder of one site, for `latent`.
        steps: Number of runs between base and source that `integrated` averages over.
        corrections: Of `attribution`, the two of AtP*. `qk_fix`: for `q` and `k` the softmax is computed anew. It has
            little slope where a head attends to one token alone. `grad_drop`: absolute effects, averaged over gradients
            that each leave out one layer, since a direct and an indirect effect may cancel; a run per layer.

    Raises:
        InterpError: As in `Comparison.on`; a site is in no layer, or has no heads where they are patched; patterns are
            patched between prompts that are not aligned one by one; a gradient is not finite.

    Example:
        >>> pairs = interp.attribution.Comparison.of_organism("hostility", 4)
        >>> result = interp.attribution.patch(model, pairs, "resid_pre.*")
        >>> result.effects.shape[0] == model.n_layers
        True
    """
    pairs = comparison.on(model)
    if subspace is not None and subspace.model is not None:
        subspace.model.check(model.reference, "this subspace")
    by = by or ("latent" if sae else "position")
    if sae is not None:
        sae.require(model)
        if by != "latent":
            raise InterpError(f"by is {by!r} with an autoencoder; its latents are places by 'latent', or leave sae out")
    chosen = model.resolve(sites or (sae.site if sae else "resid_pre.*"))
    if corrections and (method != "attribution" or {*corrections} - {"qk_fix", "grad_drop"}):
        given = ", ".join(corrections)
        raise InterpError(f"corrections {given} of method {method!r}; expected qk_fix and grad_drop, of 'attribution'")
    if "qk_fix" in corrections and not {"q", "k"} & {site.kind for site in chosen}:
        raise InterpError("qk_fix corrects queries and keys; patch sites such as q.* and k.*, or leave it out")
    if outside := [site for site in chosen if site.layer is None]:
        raise InterpError(f"{outside[0]} is in no layer, so it is the same as the tokens; patch resid_pre.0 instead")
    places = Places(model, pairs, chosen, by, subspace, sae, positions)
    if method == "exact":
        every = [*product(range(len(chosen)), range(len(places.labels)))]
        values = places.exact(every).reshape(len(chosen), len(places.labels), -1)
    else:
        values = places.integrated(steps) if method == "integrated" else places.estimated(corrections)
    words = _words(model, pairs)
    parts = by, places.labels, values, model.reference, words, method, tuple(corrections)
    result = Patching(pairs, tuple(chosen), *parts)
    compared = method != "exact" and result.effects.numel() > 1
    return replace(result, agreement=_agreement(result, places)) if compared else result


def _patching(
    model: Any, comparison: str, metric: str, convention: Any, clean: Any, corrupt: Any, aligned: Any, **rest: Any
) -> Patching:
    """The record of what a file has; prompts and answers are tokens. What does not fit raises what torch raises."""
    answer, wrong, *values = (torch.tensor(rest.pop(name)) for name in _PER_PAIR)
    reference = ModelReference.parse(model, "its model")
    metrics: dict[str, Any] = {
        "LogitDifference": LogitDifference(answer.tolist(), wrong.tolist()),
        "LogProbability": LogProbability(answer.tolist()),
        "KLToClean": KLToClean(),
    }
    aligned = [[(here, there) for here, there in row] for row in aligned]
    pairs = Comparison(clean, corrupt, metrics.get(metric, _unsaved), convention, aligned, comparison)
    for row, here, there in zip(aligned, clean, corrupt, strict=True):
        if not all(0 <= a < len(here) and 0 <= b < len(there) for a, b in row):
            raise ValueError("an alignment is outside its prompts")
    sides = padded(clean), padded(corrupt)
    compared = ComparedPairs(pairs, *sides, aligned, answer, wrong, values[0], values[1], model=reference)
    sites, labels, effects = (rest.pop(name) for name in ("sites", "labels", "values"))
    effects = torch.tensor(effects).reshape(len(sites), len(labels), len(values[0].expand(len(clean))))
    rest["words"] = {int(token): str(word) for token, word in rest["words"].items()}
    rest["corrections"] = tuple(rest["corrections"])
    if agreement := rest["agreement"]:
        rest["agreement"] = Agreement(**agreement | {"misses": tuple(map(tuple, agreement["misses"]))})
    return Patching(
        compared, tuple(map(Site.parse, sites)), labels=tuple(labels), values=effects, model=reference, **rest
    )


def _unsaved(logits: Tensor) -> Tensor:
    raise InterpError("the metric was a function, which a file does not hold; compare again with Comparison.on")


def _words(model: HookedModel, pairs: ComparedPairs) -> dict[int, str]:
    ids = torch.cat([pairs.clean.ids, pairs.corrupt.ids], 1).flatten().tolist()
    return {
        token: str(token) if model.tokenizer is None else token_text(model.tokenizer, token)
        for token in {*ids, *pairs.answer.tolist(), *pairs.wrong.tolist()}
    }


def _agreement(estimate: Patching, places: Places) -> Agreement:
    every = [*product(range(len(estimate.sites)), range(len(estimate.labels)))]
    sample = Random(0).sample(every, min(_SAMPLE, len(every)))
    values, effects = places.exact(sample), estimate.effects
    if "grad_drop" in estimate.corrections:
        values = places.toward_source(values - estimate.pairs.base_values)
    exact = estimate.pairs.effects(values)
    guessed = torch.stack([effects[place] for place in sample])
    return Agreement.of([estimate.name(*place) for place in sample], guessed, exact)


def _ranks(values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The rank of each value, from 0; ties have their mean rank."""
    return ((values[:, None] > values).sum(1) + (values[:, None] >= values).sum(1) - 1).double() / 2
