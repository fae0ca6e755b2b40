"""Where the hooked and the exported model have to agree, and what may not be left there, op by op.

Where no op acts on the stream itself, each writer's output is compared. An op on the stream acts after the writers with
hooks, but inside them in weights. The stream is then compared instead, and only where something reads it: what is added
at resid_pre.2 is in the weights of mlp_out.1, and so in resid_post.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.core.linalg import orthonormal_rows
from interp.editing.fold.plan import STATUSES, PlannedEdit, Status
from interp.editing.fold.stream_sites import STREAM, covers, holders, is_constant, map_of
from interp.interventions.affine_ops import Erase, Project
from interp.interventions.op import Op
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.sites import WRITERS, Site


@dataclass(frozen=True, eq=False)
class RemovedSubspace:
    """What may not be left at a site: anything of x - mean along the orthonormal rows (None: the mean is 0)."""

    rows: Float[Tensor, "k d_model"]
    mean: Float[Tensor, "d_model"] | None = None

    @classmethod
    def by(cls, op: Op) -> "RemovedSubspace | None":
        """What an op removes completely: full projections and erasers do, other ops nothing."""
        if isinstance(op, Project) and op.strength == 1:
            return cls(op.rows)
        if isinstance(op, Erase) and map_of(op, Site("embed"), op.width).idempotent:
            return cls(orthonormal_rows(op.read.double()), op.mean)
        return None

    def share(self, x: Float[Tensor, "token d_model"]) -> float:
        """The largest share of a token's vector that is left along the rows."""
        inside = x.double() if self.mean is None else x.double() - self.mean.to(x.device).double()
        along = (inside @ self.rows.to(inside).T).norm(dim=-1)
        return float((along / x.double().norm(dim=-1).clamp(min=1e-12)).max())


@dataclass(frozen=True, eq=False)
class ComparedEdit:
    """A planned edit, the sites where it is measured, and what it removes at those where no later op acts."""

    item: PlannedEdit
    sites: tuple[Site, ...]
    emptied: dict[Site, RemovedSubspace]


def stream_readers(model: HookedModel) -> list[Site]:
    """Where something reads the stream: attention, MLPs and the final norm."""
    last = Site("resid_post", model.n_layers - 1)
    return [site for site in model.sites if site.kind in ("resid_pre", "resid_mid") or site == last]


def compared_sites(recipe: Recipe, model: HookedModel) -> list[Site]:
    """Sites at which hooked and exported model have to agree: every writer's, or the stream's where it is read."""
    edited = {site.kind for edit in recipe.edits for site in model.resolve(edit.sites)}
    return model.resolve("writers") if edited.isdisjoint(STREAM) else stream_readers(model)


def compared_edits(recipe: Recipe, items: Sequence[PlannedEdit], model: HookedModel) -> list[ComparedEdit]:
    """The items of a recipe's plan, which come edit by edit and divide each one's sites among them."""
    last = {site: edit for edit in recipe.edits for site in model.resolve(edit.sites)}
    where, holding = compared_sites(recipe, model), _not_last(recipe, model)
    remaining, compared = iter(items), list[ComparedEdit]()
    for edit in recipe.edits:
        names, removed = set(map(str, model.resolve(edit.sites))), RemovedSubspace.by(edit.op)
        while names:
            item = next(remaining)
            names -= set(item.sites)
            sites = model.resolve(item.sites)
            final = [site for site in sites if last[site] is edit and site not in holding]
            emptied = {_at(s, where) if s.kind in STREAM else s: removed for s in final if removed}
            compared.append(ComparedEdit(item, tuple(dict.fromkeys(_at(site, where) for site in sites)), emptied))
    return compared


def claimed_status(edits: Sequence[ComparedEdit]) -> dict[Site, Status]:
    """The least exact status that any op's fold claims at each site."""
    claims: dict[Site, Status] = {}
    for edit in edits:
        for site in edit.sites:
            claims[site] = max(claims.get(site, "exact"), edit.item.status, key=STATUSES.index)
    return claims


def _at(site: Site, where: Sequence[Site]) -> Site:
    """Where what acts at a site is compared: at a writer's output, or where the stream is read next."""
    if where[0].kind in STREAM:
        return next(other for other in where if other.order >= site.order)
    if site.in_residual_basis:
        return site
    return Site("mlp_out" if site.kind in ("mlp_input", "mlp_post") else "attn_out", site.layer)


def _not_last(recipe: Recipe, model: HookedModel) -> set[Site]:
    """Writers whose weights hold what an op does to the stream after them."""
    holding: set[Site] = set()
    for edit in recipe.edits:
        sites = model.resolve(edit.sites)
        stream = [site for site in sites if site.kind in STREAM]
        if stream and is_constant(edit.op):
            holding |= {holder for site in stream if site.kind != "resid_mid" for holder in holders(site, model.config)}
        elif stream:
            kinds = WRITERS if covers(sites, model.config) else ("embed", "pos_embed")
            holding |= {site for site in model.sites if site.kind in kinds}
    return holding
