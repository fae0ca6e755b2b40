"""Features: edits of SAE latents as what folds into weights, each with how near it comes.

x -> x - f(x) d, a latent ablated, is not affine, and has no fold. In its place:

- `as_projection`: the decoder rows projected out of every writer. Folds exactly; it takes away all along the rows, be
  the latent silent or not, at every layer.
- `affine_fit`: the affine map that comes nearest to the op on real text, by least squares over all tokens but first
  ones: change = (x - mean) W + mean change, W = Sxx^-1 Sxc, of the rank that the changes have. Sums are in float64 and
  take no more memory for more text. It folds where an affine op does: at what writes the stream (an autoencoder of
  mlp_out or attn_out; a bias is needed), not at one site of the stream.
- the same `at_writer`, for an op behind a block: what is added to the stream there may as well be added to what its MLP
  writes, and only what comes behind sees either. So the change is fitted by what the MLP writes, and that folds. It
  misses what is known of the latent from what was in the stream before.
- for a transcoder, neurons (`interp.editing.fold.transcoder_neurons`), within a bound.

What none of them knows: what the edit is for. Fidelity is to the edit, on the given text.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.token_rows import pack_rows
from interp.core.display import html_card
from interp.core.errors import InterpError
from interp.data.corpora import Source
from interp.data.packing import PackedRows
from interp.directions.direction import Direction
from interp.directions.methods.latents import SAE_LATENT
from interp.editing.approximate.fidelity import Fidelity, measured
from interp.editing.fold.plan import PlannedEdit
from interp.editing.fold.steps import plan_fold
from interp.editing.fold.stream_sites import STREAM, holders
from interp.interventions.ops import LowRank, Op, Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder

_NONE = 1e-12  # of the mean square of the largest component of the changes: rounding, not a direction of the edit


@dataclass(frozen=True, eq=False)
class AffineFit:
    """An affine recipe in place of another, its fidelity on held-out text, and how it folds (`items`)."""

    recipe: Recipe
    fidelity: Fidelity
    tokens: int
    items: tuple[PlannedEdit, ...]

    @property
    def exports(self) -> bool:
        """Whether `export` takes it as it is: folded exactly. If not, `items` say why."""
        return all(item.status == "exact" for item in self.items)

    def __str__(self) -> str:
        return f"{self.fidelity}; " + "; ".join(map(str, self.items))

    def _repr_html_(self) -> str:
        shown = [("fitted on", f"{self.tokens} tokens"), ("held out", str(self.fidelity))]
        return html_card("Affine fit of an edit", [*shown, *(("folds", str(item)) for item in self.items)])


def as_projection(sae: SparseAutoencoder, latents: int | list[int]) -> Recipe:
    """The recipe that projects latents' decoder rows out of every writer. Raises for rows that are elsewhere."""
    chosen = [latents] if isinstance(latents, int) else list(latents)
    outside = [latent for latent in chosen if not 0 <= latent < sae.d_sae]
    if outside or not chosen:
        raise InterpError(f"latents {chosen}: expected one or more from 0 to {sae.d_sae - 1}")
    site = Site.parse(sae.writes[0].site)
    if len(sae.writes) > 1 or not site.in_residual_basis:
        raise InterpError(
            f"the decoder rows of this {sae} are not in the residual stream's basis, where a projection could act"
        )
    direction = Direction(sae.W_dec[chosen].float(), site, -1, SAE_LATENT, sae.model, "")
    return Recipe([("writers", Project(direction))])


def affine_fit(
    model: HookedModel,
    recipe: Recipe,
    texts: Source,
    *,
    at_writer: bool = False,
    rank: int | None = None,
    held_out: float = 0.25,
    context: int = 128,
    tokens: int | None = None,
    batch_size: int = 8,
) -> AffineFit:
    """Fit an affine op to the one op of a recipe at its one site, on text, and measure it on the last rows of the text.

    `rank` limits how many directions it moves. With `at_writer` the fit reads and edits what is written last before the
    site (mlp_out of the same block for resid_post), which folds where a site of the stream does not. Raises where the
    op is no function of the activations at its site, where the text has too few tokens, and where the op changes
    nothing on it.
    """
    op, site = _one(model, recipe)
    packed = pack_rows(model, texts, context, tokens)
    held = ceil(held_out * len(packed))
    if not 0 < held < len(packed):
        raise InterpError(
            f"held_out is {held_out} of {len(packed)} rows of {context} tokens; expected some to fit on and some to "
            "measure on: give more text, or a smaller context"
        )
    sums = _Regression()
    where = holders(site, model.config)[0] if at_writer and site.kind in STREAM else site
    fit_on = packed.part(slice(0, len(packed) - held), slice(None))
    for x, written in _activations(model, site, where, fit_on, batch_size):
        sums.update(written, op(x) - x)
    note = f"affine fit of {type(op).__name__} at {site} on {sums.count} tokens"
    fitted = Recipe([(str(where), sums.op(model.reference, rank))], model.reference, note)
    rest = packed.part(slice(len(packed) - held, None), slice(None))
    named, tied = model.hf.state_dict(), bool(model.config.tie_word_embeddings)
    items = plan_fold(fitted, model.config, named, tied, named.__getitem__).items
    return AffineFit(fitted, measured(model, recipe, fitted, rest, batch_size), sums.count, items)


def _one(model: HookedModel, recipe: Recipe) -> tuple[Op, Site]:
    recipe.check(model.reference)
    edits = [(edit.op, site) for edit in recipe.edits for site in model.resolve(edit.sites)]
    if len(edits) != 1:
        raise InterpError(f"the recipe has {len(edits)} ops at sites; expected one op at one site, fitted by itself")
    op, site = edits[0]
    if type(op).within is not Op.within or op.observers():
        raise InterpError(
            f"{type(op).__name__} goes by more than the activations at {site}, of which a fit is a function; fit the "
            "op inside it, or, for a transcoder that reads mlp_input, export its neurons "
            "(interp.editing.fold.transcoder_neurons)"
        )
    if not site.in_residual_basis:
        raise InterpError(f"{site} is not in the basis of the residual stream, where alone a fit could be folded")
    return op, site


def _activations(
    model: HookedModel, site: Site, where: Site, packed: PackedRows, size: int
) -> Iterator[tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_model"]]]:
    """What is at both sites."""
    for batch in packed.batches(size):
        found = model.forward_to(list({site, where}), batch.model_inputs(model.device))
        inner = batch.inner.to(model.device)
        yield found[site][inner].double(), found[where].expand(*inner.shape, -1)[inner].double()


@dataclass
class _Regression:
    """The mutable side of a fit: counts, means and sums of products of x and y, in float64."""

    count: int = 0
    means: tuple[Tensor, Tensor] = field(default_factory=lambda: (torch.zeros(()), torch.zeros(())))
    xx: Tensor = field(default_factory=lambda: torch.zeros(()))
    xy: Tensor = field(default_factory=lambda: torch.zeros(()))

    def update(self, x: Float[Tensor, "token d_model"], y: Float[Tensor, "token d_model"]) -> None:
        """Take in rows; Chan et al.'s rule for pooled covariances."""
        if not len(x):
            return
        both, total = (x.cpu(), y.cpu()), self.count + len(x)
        steps = [side.mean(0) - mean for side, mean in zip(both, self.means, strict=True)]
        inner = [side - side.mean(0) for side in both]
        share = self.count * len(x) / total
        self.xx = self.xx + inner[0].T @ inner[0] + share * torch.outer(steps[0], steps[0])
        self.xy = self.xy + inner[0].T @ inner[1] + share * torch.outer(steps[0], steps[1])
        self.means = (self.means[0] + steps[0] * len(x) / total, self.means[1] + steps[1] * len(x) / total)
        self.count = total

    def op(self, model: ModelReference, rank: int | None) -> LowRank:
        """The op that adds to x what comes nearest to y."""
        width = len(self.xx) if self.count else 0
        if self.count <= width:
            raise InterpError(f"{self.count} tokens to fit {width} coefficients on; expected more tokens than that")
        mean, moved = self.means
        weight = torch.linalg.pinv(self.xx, rtol=1e-13, hermitian=True) @ self.xy
        basis = _basis(weight.T @ self.xx @ weight / self.count + torch.outer(moved, moved), rank)
        read = weight @ basis.T
        return LowRank(basis, basis + read.T, basis @ moved - mean @ read, model)


def _basis(second: Float[Tensor, "d_model d_model"], rank: int | None) -> Float[Tensor, "k d_model"]:
    """Orthonormal rows of what moves, the strongest first."""
    if rank is not None and rank < 1:
        raise InterpError(f"rank is {rank}; expected 1 or more, or None for all")
    squares, vectors = torch.linalg.eigh(second)
    if float(squares[-1]) <= 0:
        raise InterpError("the op changes nothing on these texts; give some on which the latents fire")
    kept = int((squares > _NONE * squares[-1]).sum())
    return vectors.flip(1)[:, : kept if rank is None else min(rank, kept)].T.contiguous()
