"""Find what separates a contrast: every method at every site and position, scored on held-out pairs.

One forward pass over the contrast captures all sites. The contrast is split by group; directions are fitted on one part
and their AUROC and Cohen's d measured on the other, along the direction as fitted (no threshold or sign is chosen on
held-out data). An autoencoder adds its latents: the one whose activation separates the training part best.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.display import table
from interp.core.errors import InterpError, nearest
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.direction import Direction
from interp.directions.fits import FITS
from interp.directions.scores import auroc, cohens_d
from interp.models.hooked import HookedModel
from interp.models.reference import ModelReference
from interp.models.sites import Site

if TYPE_CHECKING:
    from interp.sae.coder import SparseAutoencoder

SAE_LATENT = "sae_latent"
_LATENTS_RANKED = 32


@dataclass(frozen=True)
class Finding:
    """A fitted direction and its held-out scores; `latent` is set where it is an autoencoder's decoder row."""

    direction: Direction
    auroc: float
    cohens_d: float
    latent: int | None = None

    @property
    def row(self) -> dict[str, object]:
        """One row of the table, plain values."""
        d = self.direction
        place = {"method": d.method, "site": str(d.site), "position": d.position}
        return place | {"auroc": self.auroc, "cohens_d": self.cohens_d, "latent": self.latent}


@dataclass(frozen=True, repr=False)
class Findings:
    """All findings on one contrast, of which `held_out` pairs were kept for the scores."""

    rows: tuple[Finding, ...]
    contrast: Contrast
    held_out: int

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def methods(self) -> list[str]:
        """The methods that found something."""
        return sorted({row.direction.method for row in self.rows})

    def best(self, count: int = 1, method: str | None = None) -> list[Finding]:
        """The findings that separate held-out pairs best: by AUROC, then by Cohen's d. Raises where there is none."""
        chosen = [row for row in self.rows if method in (None, row.direction.method)]
        if not chosen:
            raise InterpError(f"no finding by {method!r}; {nearest(str(method), self.methods)}")
        return sorted(chosen, key=lambda row: (-row.auroc, -row.cohens_d))[:count]

    def shortlist(self, count: int) -> list[Finding]:
        """The best of each method in turn, so that a method whose scores are alike crowds out no other."""
        by_method = [self.best(len(self), method) for method in self.methods]
        turns = zip_longest(*by_method)
        return [finding for turn in turns for finding in turn if finding is not None][:count]

    def __repr__(self) -> str:
        return f"Findings({len(self)} on {self.contrast.name}; best: {self.best()[0].row})"

    def _repr_html_(self) -> str:
        header = ["method", "site", "position", "held-out AUROC", "Cohen's d"]
        cells = [[*list(f.row.values())[:3], f"{f.auroc:.3f}", f"{f.cohens_d:.2f}"] for f in self.best(12)]
        return table(f"Findings on {self.contrast.name}: best of {len(self)}", header, cells)


def find(
    model: HookedModel,
    contrast: Contrast,
    sites: str | Iterable[str] = "resid_post.*",
    methods: str | Sequence[str] = tuple(FITS),
    positions: int | Sequence[int] = (-1,),
    sae: "SparseAutoencoder | None" = None,
    held_out: float = 0.3,
    seed: int = 0,
) -> Findings:
    """Fit every method at every site and position. `sae`, if given, adds its best latent at its own site.

    Prompts are rendered with the chat template where the tokenizer has one. Positions count from a prompt's end if
    negative; where the two sides do not differ at all, nothing is fitted. Raises for an unknown method or site, and
    where a contrast can't be split.
    """
    methods = [methods] if isinstance(methods, str) else methods
    positions = [positions] if isinstance(positions, int) else positions
    for method in methods:
        if method not in FITS:
            raise InterpError(f"unknown method {method!r}; {nearest(method, FITS)}")
    wanted = model.resolve(sites)
    for site in wanted:
        if not site.in_residual_basis:
            raise InterpError(f"{site} is not in the residual stream's basis, so no direction of it can be edited out")
    if sae is not None:
        sae.require(model)
    captured = wanted if sae is None or sae.site in wanted else [*wanted, sae.site]
    train, test = contrast.split(held_out, seed)
    cells = _cells(model, train, test, captured, positions)
    origin = _Origin(model.reference, contrast.digest)
    found = [_fitted(cell, method, origin) for cell in track(cells, "fit") if cell.site in wanted for method in methods]
    if sae is not None:
        found += [_best_latent(cell, sae, origin) for cell in cells if cell.site == sae.site]
    return Findings(tuple(found), contrast, len(test))


@dataclass(frozen=True)
class _Origin:
    """What a direction was fitted in and on."""

    model: ModelReference
    data: str


class _Sides(NamedTuple):
    """Activations of a contrast's two sides, one row a pair; or what a direction or latent reads of them."""

    positive: Float[Tensor, "pairs *d_model"]
    negative: Float[Tensor, "pairs *d_model"]

    def read(self, by: Callable[[Tensor], Tensor]) -> "_Sides":
        return _Sides(by(self.positive), by(self.negative))


@dataclass(frozen=True)
class _Cell:
    """The sides at one site and position: of the part to fit on, and of that held out."""

    site: Site
    position: int
    fit: _Sides
    held_out: _Sides


def _cells(
    model: HookedModel, train: Contrast, test: Contrast, sites: Sequence[Site], positions: Sequence[int]
) -> list[_Cell]:
    """Every cell at which the two sides differ; at tokens before the first difference there is nothing to find."""
    captured = [[model.capture(side, sites, positions) for side in part.texts(model.render)] for part in (train, test)]
    cells = []
    for site in sites:
        for column, position in enumerate(positions):
            fit, held_out = (_Sides(*(acts[site][:, column].cpu().float() for acts in part)) for part in captured)
            if not torch.equal(*fit):
                cells.append(_Cell(site, position, fit, held_out))
    if not cells:
        raise InterpError(
            f"both sides have the same activations at positions {list(positions)}; choose positions at or after the "
            "first token that differs"
        )
    return cells


def _fitted(cell: _Cell, method: str, origin: _Origin) -> Finding:
    row = FITS[method](*cell.fit)
    means = torch.stack([x.mean(0) for x in cell.fit])
    direction = Direction(row[None], cell.site, cell.position, method, origin.model, origin.data, means=means)
    return _scored(direction, cell.held_out.read(lambda x: direction.read(x)[:, 0]))


def _best_latent(cell: _Cell, sae: "SparseAutoencoder", origin: _Origin) -> Finding:
    """The latent whose activation best separates the part to fit on; ties go to the larger gap of means."""
    positive, negative = cell.fit.read(sae.encode)
    gap = positive.mean(0) - negative.mean(0)
    candidates = gap.topk(min(_LATENTS_RANKED, len(gap))).indices.tolist()
    latent = max(candidates, key=lambda i: (auroc(positive[:, i], negative[:, i]), float(gap[i])))
    row = sae.W_dec[latent][None].float()
    direction = Direction(row, cell.site, cell.position, SAE_LATENT, origin.model, origin.data)
    return _scored(direction, cell.held_out.read(lambda x: sae.encode(x)[:, latent]), latent)


def _scored(direction: Direction, read: _Sides, latent: int | None = None) -> Finding:
    area, effect = auroc(*read), cohens_d(*read)
    scored = replace(direction, scores={"auroc": area, "cohens_d": effect})
    return Finding(scored, area, effect, latent)
