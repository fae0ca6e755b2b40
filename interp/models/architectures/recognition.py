"""Recognise an architecture that the table does not have: by trying the table's rows on the model itself.

Many model types are a known family under another name. A row fits where every module that it names is there, and where
on random tokens, to within rounding,

    the first block's input is the token table's rows, plus positions where there are any
    each block's output is its input plus what attention and MLP write, behind norms and multipliers
    each block's input is the output of the one before
    the MLP reads the input plus what attention wrote, or, in parallel blocks, does not change with what attention wrote

What fits is used under the model's own name from then on, in this process. What does not is refused, by name. Experts
are not looked for: where their tensors are, and along which axis, is nothing that sums could show.

What it does not know: whether the tensors that a row names are what writes. `interp.editing.certificate.writer_check`
measures that.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import InterpError, nearest
from interp.models.architectures.table import Architecture, known_architectures, register
from interp.models.hooked import HookedModel
from interp.models.sites import Site

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_KINDS = ("embed", "pos_embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def recognise_architecture(hf: Any) -> Architecture:
    """The row that a causal language model's sites agree with; it is in the table afterwards, so that `load` takes it.

    Raises InterpError where none does. A model type that is in the table already is returned as it is there.
    """
    kind, rows = hf.config.model_type, known_architectures()
    if kind in rows:
        return rows[kind]
    problems: list[str] = []
    for row in _candidates(hf, rows.values()):
        with register(kind, row) as keep:
            problem = _problem(HookedModel(hf), row)
            if problem is None:
                keep()
                return row
            problems.append(problem)
    reason = problems[0] if problems else "its modules have other names"
    raise InterpError(
        f"architecture {kind!r} is not supported: none of the known ones describes it ({reason}), so it needs a row of "
        f"its own in interp.models.architectures; {nearest(kind, rows)}"
    )


def _candidates(hf: Any, rows: Iterable[Architecture]) -> list[Architecture]:
    """Rows whose modules are all there, each once; those of sequential blocks first, whose sites say more."""
    found: list[Architecture] = []
    for row in rows:
        if row.experts or not _config_fits(hf.config, row):
            continue
        # What sums can't tell is left at the careful choice.
        plain = replace(row, packs=False, requires=(), parallel=row.is_parallel(hf.config))
        named = plain.qkv and all(_module(hf, f"{plain.layers}.0.{plain.qkv.format(x)}") for x in "qkv")
        fitted = plain if named else replace(plain, qkv=None)
        if fitted not in found and _modules_fit(hf, fitted):
            found.append(fitted)
    return sorted(found, key=lambda row: bool(row.parallel))


def _config_fits(config: Any, row: Architecture) -> bool:
    flags = () if isinstance(row.parallel, bool) else row.parallel
    return all(hasattr(config, name) for name in (*flags, *([row.write_scale] if row.write_scale else [])))


def _modules_fit(hf: Any, row: Architecture) -> bool:
    inner = [row.attn, row.attn_write, row.mlp, row.mlp_read, row.mlp_write, row.attn_post_norm, row.mlp_post_norm]
    if not row.parallel:
        inner.append(row.mlp_norm)
    layers = [f"{row.layers}.{layer}" for layer in range(hf.config.num_hidden_layers)]
    paths = [
        row.embed,
        row.pos_embed,
        row.embed_norm,
        *(f"{layer}.{path}" for layer in layers for path in inner if path),
    ]
    if not all(_module(hf, path) for path in paths if path):
        return False
    writes = [_module(hf, f"{layers[0]}.{path}") for path in (row.attn_write, row.mlp_write)]
    return all((type(module).__name__ == "Conv1D") == row.transposed for module in writes)


def _module(hf: Any, path: str) -> nn.Module | None:
    try:
        return hf.get_submodule(path)
    except AttributeError:
        return None


@torch.no_grad()
def _problem(model: HookedModel, row: Architecture) -> str | None:
    """What does not add up; None if everything does."""
    ids = torch.randint(
        model.config.vocab_size, (2, min(8, model.context or 8)), generator=torch.Generator().manual_seed(0)
    )
    wanted, inputs = [s for s in model.sites if s.kind in _KINDS], {"input_ids": ids.to(model.device)}
    first = Site("mlp_out", 0)
    try:
        acts = model.forward_to(wanted, inputs)
        with model.hooked([(Site("attn_out", 0), lambda x: x + 1)]):
            moved = model.forward_to([first], inputs)[first]
    except (InterpError, RuntimeError, KeyError, AttributeError, IndexError) as problem:
        return f"its sites can't be read ({str(problem).partition(chr(10))[0]})"
    tolerance = _TOLERANCE.get(model.dtype, 0.0)
    if row.parallel and not _same(moved, acts[first], tolerance):
        return "not so that attention and MLP read the same"
    table = model.hf.get_input_embeddings().weight[ids.to(model.device)]
    return next((f"not so that {what}" for what, x, y in _sums(acts, table) if not _same(x, y, tolerance)), None)


def _sums(acts: dict[Site, Tensor], table: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What has to be equal, with its name."""
    start, positions = acts[Site("embed")], acts.get(Site("pos_embed"))
    yield "the token table's output is its rows", start, table
    yield (
        "the first block reads the tables",
        acts[Site("resid_pre", 0)],
        start if positions is None else start + positions,
    )
    for layer in sorted({site.layer for site in acts if site.layer is not None}):
        pre, post, middle = (acts.get(Site(kind, layer)) for kind in ("resid_pre", "resid_post", "resid_mid"))
        attention, mlp = acts[Site("attn_out", layer)], acts[Site("mlp_out", layer)]
        if pre is None or post is None:
            continue
        yield f"block {layer} adds what attention and MLP write", post, pre + attention + mlp
        if middle is not None:
            yield f"the MLP of block {layer} reads what attention wrote", middle, pre + attention
        if layer:
            yield f"block {layer} reads the one before", pre, acts[Site("resid_post", layer - 1)]


def _same(x: Tensor, y: Tensor, tolerance: float) -> bool:
    wide = x.double()
    return x.shape == y.shape and bool((wide - y.double()).norm() <= tolerance * wide.norm())
