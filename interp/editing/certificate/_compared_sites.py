"""Places: where hooked and exported model have to be the same, and what may not be left there, op by op.

Where no op acts on the stream itself, each writer's output is compared. An op on the stream acts on what was written
behind its writers with hooks, and in them in weights, so that there the stream is compared in their place, and only
where something reads it: what is added at resid_pre.2 is in the weights of mlp_out.1, and so in resid_post.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.core.linalg import orthonormal_rows
from interp.editing.fold.plan import STATUSES, PlannedEdit, Status
from interp.editing.fold.stream_sites import STREAM, covers, holders, is_constant, map_of
from interp.interventions.ops import Erase, Op, Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.sites import WRITERS, Site


@dataclass(frozen=True, eq=False)
class RemovedSubspace:
    """What a site must not have: anything of x - mean along the rows (orthonormal; the mean None if it is 0)."""

    rows: Float[Tensor, "k d_model"]
    mean: Float[Tensor, "d_model"] | None = None

    @classmethod
    def by(cls, op: Op) -> "RemovedSubspace | None":
        """What an op removes in full, if anything: full projections and erasers."""
        if isinstance(op, Project) and op.strength == 1:
            return cls(op.rows)
        if isinstance(op, Erase) and map_of(op, Site("embed"), op.width).idempotent:
            return cls(orthonormal_rows(op.read.double()), op.mean)
        return None

    def share(self, x: Float[Tensor, "token d_model"]) -> float:
        """The largest share of it that is left."""
        inside = x.double() if self.mean is None else x.double() - self.mean.to(x.device).double()
        along = (inside @ self.rows.to(inside).T).norm(dim=-1)
        return float((along / x.double().norm(dim=-1).clamp(min=1e-12)).max())


@dataclass(frozen=True, eq=False)
class ComparedEdit:
    """A plan's item with where it is measured: at its sites, and at those of which the op has the last word."""

    item: PlannedEdit
    sites: tuple[Site, ...]
    emptied: dict[Site, RemovedSubspace]


def stream_readers(model: HookedModel) -> list[Site]:
    """Where something reads the stream: attention, MLPs and the final norm."""
    last = Site("resid_post", model.n_layers - 1)
    return [site for site in model.sites if site.kind in ("resid_pre", "resid_mid") or site == last]


def compared_sites(recipe: Recipe, model: HookedModel) -> list[Site]:
    """Sites at which hooked and exported model have to agree: every writer's, or the stream's where it is read."""
    return (
        stream_readers(model)
        if any(site.kind in STREAM for site in _edited(recipe, model))
        else model.resolve("writers")
    )


def compared_edits(recipe: Recipe, items: Sequence[PlannedEdit], model: HookedModel) -> list[ComparedEdit]:
    """The items of a recipe's plan, which come edit by edit and divide each one's sites among them."""
    last = {site: edit for edit in recipe.edits for site in model.resolve(edit.sites)}
    where, open_ = compared_sites(recipe, model), _not_last(recipe, model)
    left, found = iter(items), list[ComparedEdit]()
    for edit in recipe.edits:
        wanted, emptied = set(map(str, model.resolve(edit.sites))), RemovedSubspace.by(edit.op)
        while wanted:
            item = next(left)
            wanted -= set(item.sites)
            own = model.resolve(item.sites)
            closed = [site for site in own if emptied and last[site] is edit and site not in open_]
            at = {_at(site, where) if site.kind in STREAM else site: emptied for site in closed if emptied}
            found.append(ComparedEdit(item, tuple(dict.fromkeys(_at(site, where) for site in own)), at))
    return found


def claimed_status(found: Sequence[ComparedEdit]) -> dict[Site, Status]:
    """The least exact that any op's fold claims to be at a site."""
    said: dict[Site, Status] = {}
    for place in found:
        for site in place.sites:
            said[site] = max(said.get(site, "exact"), place.item.status, key=STATUSES.index)
    return said


def _edited(recipe: Recipe, model: HookedModel) -> set[Site]:
    return {site for edit in recipe.edits for site in model.resolve(edit.sites)}


def _at(site: Site, where: Sequence[Site]) -> Site:
    """Where what acts at a site is compared: at a writer's output, or where the stream is read next."""
    if where[0].kind in STREAM:
        return next(other for other in where if other.order >= site.order)
    if site.in_residual_basis:
        return site
    return Site("mlp_out" if site.kind in ("mlp_input", "mlp_post") else "attn_out", site.layer)


def _not_last(recipe: Recipe, model: HookedModel) -> set[Site]:
    """Writers whose weights hold what an op does to the stream behind them."""
    found: set[Site] = set()
    for edit in recipe.edits:
        own = model.resolve(edit.sites)
        stream = [site for site in own if site.kind in STREAM]
        if stream and is_constant(edit.op):
            found |= {holder for site in stream if site.kind != "resid_mid" for holder in holders(site, model.config)}
        elif stream:
            kinds = WRITERS if covers(own, model.config) else ("embed", "pos_embed")
            found |= {site for site in model.sites if site.kind in kinds}
    return found
