"""Ops at sites of the residual stream itself, which no single tensor writes.

An idempotent map T = x -> (I - A) x + A mu at every point where something reads the stream is the same as (I - A) at
every writer and A mu once: T x + (I - A) y is T of the sum. So the constant goes into one table, and no biases are
needed. An op that acts at only some of these points, differs between them, or compounds (after n sites a projection of
scale s leaves (1 - s)^n) is not a map of the writers.

A vector added after a block is a bias of what the block wrote last. Added to the first block's input, it is part of
every row of the token table.

`map_of` gives the form in which an op folds, a map of what is written at its site, or the reason why there is none.
"""

from collections.abc import Collection, Iterable
from typing import Any

from interp.core.errors import InterpError
from interp.editing.fold.ablation import replacement
from interp.editing.fold.affine_maps import TensorMap
from interp.interventions.ablation import Replace
from interp.interventions.op import Op, Wrapped
from interp.models.architectures.table import architecture
from interp.models.sites import WRITERS, Site

FIRST = Site("resid_pre", 0)
STREAM = ("resid_pre", "resid_mid", "resid_post")
AT_WRITERS = f"writers ({', '.join(WRITERS)}; or all of them: 'writers')"


def covers(sites: Collection[Site], config: Any) -> bool:
    """Whether the sites are all those at which the stream is read: by attention, MLPs and the unembedding."""
    layers, present = config.num_hidden_layers, set(sites)
    before = [{Site("resid_pre", n), Site("resid_post", n - 1)} for n in range(1, layers)]
    needed = [{FIRST}, *before, {Site("resid_post", layers - 1)}]
    if not architecture(config).is_parallel(config):
        needed += [{Site("resid_mid", n)} for n in range(layers)]
    return all(present & either for either in needed)


def holders(site: Site, config: Any) -> list[Site]:
    """Writers' sites at which a vector can be added in place of a site of the stream, the preferred one first."""
    if site.kind == "resid_mid":
        hint = "add it at attn_out or resid_post, or run it with hooks"
        raise InterpError(f"a vector added at {site} is seen by the MLP alone, so no writer can hold it; {hint}")
    if site == FIRST:
        return [Site("embed")]
    layer = site.layer if site.kind == "resid_post" else (site.layer or 0) - 1
    # In a parallel block nothing reads between attention and MLP, so either can hold it.
    parallel = architecture(config).is_parallel(config)
    return [Site(kind, layer) for kind in (("mlp_out", "attn_out") if parallel else ("mlp_out",))]


def refuse_stream(edit: TensorMap, group: Collection[Site], whole: bool) -> None:
    """Raise where a map at sites of the stream is not a map of the writers: at some sites only, or not idempotent."""
    site = next(iter(group))
    if not whole and site != FIRST:
        raise InterpError(
            f"an op at {str(site)!r} does not fold: no single tensor writes that site of the residual stream, and what "
            f"was written before it is read unchanged elsewhere; declare it at {AT_WRITERS}, or the same at every site "
            "of the stream (resid_pre.*, resid_mid.*, resid_post.*)"
        )
    if whole and not edit.idempotent:
        problem = "an op that is not idempotent compounds: of scale s, it leaves (1 - s)^n of a direction after n sites"
        raise InterpError(f"{problem}; declare it at 'writers', where it acts once per write")


def refuse_company(edit: TensorMap, whole: bool, others: Iterable[tuple[TensorMap, bool]]) -> None:
    """Raise where another op on the stream changes the effect of one at all its sites."""
    for other, other_whole in others:
        if whole and other_whole and _commute(edit, other):
            continue
        if whole or other_whole:
            problem = "an op at every site of the residual stream acts on what another op did, which no writer does"
            raise InterpError(f"{problem}; declare additions at writers (mlp_out, attn_out), and join projections")


def _commute(first: TensorMap, second: TensorMap) -> bool:
    """Whether neither reads what the other writes, so that their order does not matter."""
    orders = ((first, second), (second, first))
    return all(bool(((a.read.double() @ b.write.double().T).abs() < 1e-5).all()) for a, b in orders)


def map_of(op: Op, site: Site, d_model: int) -> TensorMap:
    """The map of an op at a site. Raises where it has none: gated, nonlinear, or at some tokens only."""
    if isinstance(op, Replace) and site.kind in WRITERS:
        return replacement(op, site, d_model)
    affine = op.affine()
    if affine is None:
        why = "acts at some tokens only" if isinstance(op, Wrapped) else "is not an affine function of the activations"
        problem = f"{type(op).__name__} {why}, so it has no exact fold into weights"
        raise InterpError(f"{problem}; use Project, interp.distil (--distil), or hooks (model.hooked(recipe))")
    return TensorMap.of(affine)


def is_constant(op: Op) -> bool:
    """Whether an op only adds a vector."""
    affine = op.affine()
    return affine is not None and TensorMap.of(affine).is_constant
