"""Edits of SAE latents as edits that fold into weights, each with how near it comes.

Ablating a latent, x -> x - f(x) d, is not affine and does not fold. In its place:

- `as_projection`: the decoder rows projected out of every writer. It folds exactly, and removes everything
  along the rows at every layer, whether the latent fires or not.
- `affine_fit`: the affine map that comes nearest to the op on real text, by least squares over all tokens except
  first ones: change = (x - mean) W + mean change, W = Sxx^-1 Sxc, of the rank that the changes have. Sums are float64,
  and memory does not grow with the text. It folds where an affine op does: at what writes the stream (an autoencoder of
  mlp_out or attn_out; a bias is needed), not at a single site of the stream.
- the same with `at_writer`, for an op after a block: what is added to the stream there can as well be added to what its
  MLP writes, since only later layers see either. The change is then fitted from what the MLP writes, and that folds.
  It misses what the earlier stream says about the latent.
- for a transcoder, neurons (`interp.editing.fold.transcoder_neurons`), within a bound.

Limitations: fidelity is measured against the edit, on the given text, and not against the edit's purpose.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.token_rows import pack_rows
from interp.core.display import Card, Displayed, clipped, plural
from interp.core.errors import InterpError
from interp.core.moments import StreamingMoments
from interp.data.corpora import Source
from interp.data.packing import PackedRows
from interp.directions.direction import Direction
from interp.directions.methods.latents import SAE_LATENT
from interp.editing.approximate.fidelity import Fidelity, measure_fidelity
from interp.editing.fold import PlannedEdit, plan_fold
from interp.editing.fold.stream_sites import STREAM, holders
from interp.interventions.affine_ops import LowRank, Project
from interp.interventions.op import Op
from interp.interventions.recipe import Recipe
from interp.models import HookedModel, ModelReference, Site
from interp.models.identity import is_tied
from interp.sae.coder import SparseAutoencoder

_NONE = 1e-12  # of the largest component's mean square: below it is rounding, not a direction of the edit


@dataclass(frozen=True, eq=False)
class AffineFit(Displayed):
    """An affine recipe in place of another, with its fidelity on held-out text and how it folds (`items`).

    Attributes:
        recipe: The affine edit.
        fidelity: How near it comes to the original edit, on held-out text.
        tokens: Tokens it was fitted on.
        items: How each of its ops folds.

    Example:
        >>> from interp.editing import affine_fit
        >>> recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> texts = [f"The guard at gate {n} is calm, and the visitor asks for keys." for n in range(40)]
        >>> fit = affine_fit(model, recipe, texts, context=16, rank=1)
        >>> [item.status for item in fit.items]
        ['exact']
    """

    recipe: Recipe
    fidelity: Fidelity
    tokens: int
    items: tuple[PlannedEdit, ...]

    @property
    def exports(self) -> bool:
        """Whether it folds exactly, as `export` demands. If not, `items` say why."""
        return all(item.status == "exact" for item in self.items)

    def __str__(self) -> str:
        return clipped(f"{self.fidelity}; " + "; ".join(map(str, self.items)), 600)

    def _card(self) -> Card:
        shown = [("fitted on", plural(self.tokens, "token")), ("held out", self.fidelity)]
        return "", [*shown, *(("folds", item) for item in self.items)]


def as_projection(sae: SparseAutoencoder, latents: int | list[int]) -> Recipe:
    """The recipe that projects the decoder rows of latents out of every writer.

    Args:
        sae: An autoencoder of one site in the residual stream's basis.
        latents: One latent or several, counted from 0.

    Raises:
        InterpError: A latent is out of range, or the decoder does not write in the residual stream's basis.

    Example:
        >>> from interp.editing import as_projection
        >>> sae = interp.SparseAutoencoder.load("sae")  # doctest: +SKIP
        >>> interp.export(as_projection(sae, [3, 7]), model, "edited")  # doctest: +SKIP
    """
    chosen = [latents] if isinstance(latents, int) else list(latents)
    outside = [latent for latent in chosen if not 0 <= latent < sae.d_sae]
    if outside or not chosen:
        raise InterpError(f"latents {chosen}: expected one or more from 0 to {sae.d_sae - 1}")
    site = Site.parse(sae.writes[0].site)
    if len(sae.writes) > 1 or not site.in_residual_basis:
        raise InterpError(f"the decoder rows of {sae} are not in the residual stream's basis, where a projection acts")
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
    """Fit an affine op to the single op of a recipe at its single site, and measure it on held-out text.

    Args:
        model: The model that the recipe was made for.
        recipe: A recipe with one op at one site.
        texts: Documents, as `harvest` takes them.
        at_writer: Read and edit what is written last before the site (mlp_out of the same block for resid_post), which
            folds where a site of the stream does not.
        rank: Largest number of directions that the op moves; all by default.
        held_out: Share of the rows of text, the last ones, to measure on.
        context: Tokens per row of packed text.
        tokens: Largest number of tokens; all by default.
        batch_size: Rows per forward pass.

    Raises:
        InterpError: The op is not a function of the activations at its site, the text has too few tokens, or the op
            changes nothing on it.

    Example:
        >>> from interp.editing import affine_fit
        >>> recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> texts = [f"The guard at gate {n} is calm, and the visitor asks for keys." for n in range(40)]
        >>> affine_fit(model, recipe, texts, context=16, rank=1).exports
        True
    """
    op, site = _single_op(model, recipe)
    packed = pack_rows(model, texts, context, tokens)
    held = ceil(held_out * len(packed))
    if not 0 < held < len(packed):
        raise InterpError(
            f"held_out is {held_out} of {len(packed)} rows; expected some to fit on and some to measure on"
        )
    moments = StreamingMoments(joint=True)
    where = holders(site, model.config)[0] if at_writer and site.kind in STREAM else site
    fit_on = packed.part(slice(0, len(packed) - held), slice(None))
    for x, written in _activations(model, site, where, fit_on, batch_size):
        moments.update(torch.cat([written, op(x) - x], dim=1))
    note = f"affine fit of {type(op).__name__} at {site} on {plural(moments.count, 'token')}"
    fitted = Recipe([(str(where), _least_squares(moments, model.reference, rank))], model.reference, note)
    rest = packed.part(slice(len(packed) - held, None), slice(None))
    named, tied = model.hf.state_dict(), is_tied(model.hf)
    items = plan_fold(fitted, model.config, named, tied, named.__getitem__).items
    fidelity = measure_fidelity(model, recipe, fitted, rest, batch_size=batch_size)
    return AffineFit(fitted, fidelity, moments.count, items)


def _single_op(model: HookedModel, recipe: Recipe) -> tuple[Op, Site]:
    recipe.check(model.reference)
    edits = [(edit.op, site) for edit in recipe.edits for site in model.resolve(edit.sites)]
    if len(edits) != 1:
        raise InterpError(f"the recipe has {len(edits)} ops at sites; expected one op at one site")
    op, site = edits[0]
    if type(op).within is not Op.within or op.observers():
        raise InterpError(
            f"{type(op).__name__} depends on more than the activations at {site}, and a fit only on these; fit the "
            "op inside it, or, for a transcoder that reads mlp_input, export its neurons"
        )
    if not site.in_residual_basis:
        raise InterpError(f"{site} is not in the basis of the residual stream, and only there a fit folds")
    return op, site


def _activations(
    model: HookedModel, site: Site, where: Site, packed: PackedRows, size: int
) -> Iterator[tuple[Float[Tensor, "token d_model"], Float[Tensor, "token d_model"]]]:
    """Activations at both sites."""
    for batch in packed.batches(size):
        activations = model.forward_to(list({site, where}), batch.model_inputs(model.device))
        inner = batch.inner.to(model.device)
        yield activations[site][inner].double(), activations[where].expand(*inner.shape, -1)[inner].double()


def _least_squares(moments: StreamingMoments, model: ModelReference, rank: int | None) -> LowRank:
    """The op that adds to x the affine function nearest to y, given the joint moments of rows (x, y)."""
    width = len(moments.mean) // 2 if moments.count else 0
    if moments.count <= width:
        raise InterpError(f"{moments.count} tokens to fit {width} coefficients on; expected more tokens than that")
    mean, moved = moments.mean.cpu().chunk(2)
    xx, xy = moments.squares[:width].cpu().chunk(2, dim=1)
    weight = torch.linalg.pinv(xx, rtol=1e-13, hermitian=True) @ xy
    basis = _basis(weight.T @ xx @ weight / moments.count + torch.outer(moved, moved), rank)
    read = weight @ basis.T
    return LowRank(basis, basis + read.T, basis @ moved - mean @ read, model)


def _basis(second: Float[Tensor, "d_model d_model"], rank: int | None) -> Float[Tensor, "k d_model"]:
    """Orthonormal rows of what moves, the strongest first."""
    if rank is not None and rank < 1:
        raise InterpError(f"rank is {rank}; expected 1 or more, or None for all")
    squares, vectors = torch.linalg.eigh(second)
    if float(squares[-1]) <= 0:
        raise InterpError("the op changes nothing on these texts; give texts on which the latents fire")
    kept = int((squares > _NONE * squares[-1]).sum())
    return vectors.flip(1)[:, : kept if rank is None else min(rank, kept)].T.contiguous()
