"""Check on a model that the table of writers is complete and right.

    1. the first block's input is the sum of the outputs of the embedding tables
    2. each block adds to the stream what is at its attention and MLP sites, and no more; the next block reads that, and
       so does the final norm
    3. a random subspace is folded out of every writer; run with the edited tensors, each block adds nothing along it

`check_stream_sums` does the first two in one pass over a few tokens, a tenth of a second for a small model. Exports and
`verify` begin with it: a certificate compares the models at the sites, and if something else writes to the stream,
neither model edits that. An architecture that was recognised, not known, is checked in full (`require_writer_check`).

A missing writer, a bias, an expert, or a wrong axis each leave something along the subspace. Blocks are run one at a
time on the plain model's own activations, so that only one block's edited tensors are held at once.

Limitations: other tokens are not checked. Experts that the few tokens do not reach are folded unchecked.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from interp.core.errors import InterpError
from interp.core.linalg import orthonormal_rows
from interp.editing.fold import plan_fold
from interp.editing.options import FoldOptions
from interp.interventions.affine_ops import Project
from interp.interventions.recipe import Recipe
from interp.models import HookedModel, Site
from interp.models.architectures.table import architecture, was_recognised
from interp.models.architectures.writers import writers

_ROWS = 2
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass
class WriterCheck:
    """What was measured.

    Attributes:
        leaks: Per block, the largest share of what it writes along the subspace, with the edited tensors.
        before: The same with the model's own tensors.
        sum_gap: How far the first block's input is from the sum of the tables, relative to it.
    """

    leaks: list[float]
    before: list[float]
    sum_gap: float


@torch.no_grad()
def check_writers(model: HookedModel, seed: int = 0) -> WriterCheck:
    """Check on a few random tokens that folding a subspace out of every writer leaves nothing along it.

    Args:
        model: The model to check.
        seed: Draws the tokens and the subspace.

    Raises:
        InterpError: The table of writers is wrong for a block, which the message names.

    Example:
        >>> from interp.editing import check_writers
        >>> max(check_writers(model).leaks) < 1e-6
        True
    """
    generator = torch.Generator().manual_seed(seed)
    rows = orthonormal_rows(torch.randn(_ROWS, model.d_model, generator=generator))
    state = dict(model.hf.state_dict())
    recipe = Recipe([("writers", Project(rows))])
    plan = plan_fold(recipe, model.config, state, False, state.__getitem__, FoldOptions(approximate=True))
    if plan.status == "refused":
        raise InterpError(f"{model.config.model_type} cannot be folded: {plan}")
    ids = torch.randint(model.config.vocab_size, (2, min(8, model.context or 8)), generator=generator)
    tolerance = _TOLERANCE.get(model.dtype, 0.0)
    check = WriterCheck([], [], _sum_gap(model, ids, tolerance))
    path = architecture(model.config).layers
    for layer, (block, args, kwargs, output) in enumerate(_block_calls(model, path, ids)):
        prefix = f"{path}.{layer}."
        edited = {n: plan.apply(prefix + n, x) for n, x in block.state_dict().items() if prefix + n in plan.changes}
        x = args[0] if args else kwargs["hidden_states"]
        leak = _share(x, _first(functional_call(block, edited, args, kwargs)), rows)
        before = _share(x, output, rows)
        check.leaks.append(leak)
        check.before.append(before)
        if leak > tolerance or leak > 0.1 * before:
            leaky = f"{model.config.model_type}: block {layer} still writes {leak:.1e} (before {before:.1e})"
            raise InterpError(f"{leaky} along what was folded out of its writers; the table of writers misses one")
    return check


def require_writer_check(model: HookedModel) -> None:
    """Check what an export relies on: the sums, and everything for an architecture that was only recognised."""
    check_stream_sums(model)
    if was_recognised(model.config.model_type):
        check_writers(model)


@torch.no_grad()
def check_stream_sums(model: HookedModel, seed: int = 0) -> list[float]:
    """How far each block's sum is off, relative to what it writes, on a few random tokens.

    Raises InterpError, naming the model type and the block, where something other than the sites writes to the stream.
    """
    kind, tolerance = model.config.model_type, _TOLERANCE.get(model.dtype, 0.0)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.config.vocab_size, (2, min(4, model.context or 4)), generator=generator)
    gap = _sum_gap(model, ids, tolerance)
    seen, last = _pass(model, ids)
    gaps = [_block_gap(seen, layer) for layer in range(model.n_layers)]
    if any(isnan(each) for each in (gap, *gaps)):
        broken = next((name for name, x in model.hf.state_dict().items() if not bool(x.isfinite().all())), None)
        if broken:
            raise InterpError(f"{broken} of {model.name} holds NaN or infinite values; restore the checkpoint")
        problem = f"{model.name} computes what is not finite in {model.dtype}"
        raise InterpError(f"{problem}; load it in bfloat16 or float32 (dtype)")
    for layer, off in enumerate(gaps):
        if not off <= 10 * tolerance:
            block = f"{kind}: block {layer} adds to the stream what is at none of its sites (off by {off:.1e})"
            raise InterpError(f"{block}; a fold would miss it, so run the recipe with hooks")
    starts = [seen[Site("resid_pre", layer)] for layer in range(1, model.n_layers)]
    for layer, after in enumerate([*starts, last]):
        if not torch.equal(after, seen[Site("resid_post", layer)]):
            reader = f"block {layer + 1}" if layer + 1 < model.n_layers else "the final norm"
            problem = f"{kind}: {reader} does not read what block {layer} left: something writes to the stream between"
            raise InterpError(f"{problem}; a fold would miss it, so run the recipe with hooks")
    return gaps


def _pass(model: HookedModel, ids: Tensor) -> tuple[dict[Site, Tensor], Tensor]:
    """Activations at the sites of the stream and its writers, and what the first module after the blocks reads."""
    seen: dict[Site, Tensor] = {}
    after: list[Tensor] = []

    def keep(site: Site, x: Tensor) -> Tensor:
        seen[site] = x.clone()
        return x

    def first_after(_: nn.Module, args: tuple[Any, ...]) -> None:
        if Site("resid_post", model.n_layers - 1) in seen and args and not after:
            after.append(args[0].clone())

    kinds = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    body = model.hf.get_submodule(architecture(model.config).layers.rpartition(".")[0])
    with ExitStack() as stack:
        for child in body.children():
            stack.callback(child.register_forward_pre_hook(first_after).remove)
        stack.enter_context(model.hooked([(str(s), partial(keep, s)) for s in model.sites if s.kind in kinds]))
        out = _first(model.hf.base_model(input_ids=ids.to(model.device), use_cache=False, return_dict=False))
    return seen, after[0] if after else out


def _block_gap(seen: dict[Site, Tensor], layer: int) -> float:
    """The largest gap over tokens, less what rounding a long stream alone causes."""
    before, attn, mlp, after = (seen[Site(kind, layer)] for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
    written = attn.double() + mlp.double()
    off = (after.double() - before.double() - written).norm(dim=-1)
    longer = torch.maximum(after.double().norm(dim=-1), before.double().norm(dim=-1))
    rounding = 2 * torch.finfo(after.dtype).eps * longer
    return float(((off - rounding).clamp(min=0) / written.norm(dim=-1).clamp(min=1e-12)).max())


def _block_calls(model: HookedModel, path: str, ids: Tensor) -> list[tuple[nn.Module, tuple[Any, ...], Any, Tensor]]:
    """Each block with the arguments of its call on these tokens, and what it returned."""
    calls: list[tuple[nn.Module, tuple[Any, ...], Any, Tensor]] = []

    def keep(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append((block, args, kwargs, _first(output)))

    with ExitStack() as stack:
        for block in model.hf.get_submodule(path):
            stack.callback(block.register_forward_hook(keep, with_kwargs=True).remove)
        model.hf(input_ids=ids.to(model.device), use_cache=False)
    return calls


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _share(
    x: Float[Tensor, "batch pos d_model"], y: Float[Tensor, "batch pos d_model"], rows: Float[Tensor, "k d_model"]
) -> float:
    """The largest share of y - x along the rows, less what rounding a long y alone causes."""
    wide = y.double() - x.double()
    along = (wide @ rows.to(wide).T).norm(dim=-1) - 2 * torch.finfo(y.dtype).eps * y.double().norm(dim=-1)
    return float((along.clamp(min=0) / wide.norm(dim=-1).clamp(min=1e-12)).max())


def _sum_gap(model: HookedModel, ids: Tensor, tolerance: float) -> float:
    """How far the first block's input is from the sum of what the tables write, relative to it. Raises beyond."""
    tables = [w for w in writers(model.config, model.hf.state_dict()) if w.layout == "table"]
    start = Site("resid_pre", 0)
    acts = model.forward_to([*(w.site for w in tables), start], {"input_ids": ids.to(model.device)})
    total = sum(acts[w.site].double() * w.stream for w in tables)
    gap = float((acts[start].double() - total).norm() / acts[start].double().norm())
    if gap > tolerance:
        problem = f"the first block's input is not the sum of the tables of embeddings (off by {gap:.1e})"
        raise InterpError(f"{model.config.model_type}: {problem}; a fold would miss what else writes there")
    return gap
