"""Recognition of architectures outside the table, by trying the rows of the table on the model itself.

Many model types are a known family under another name. A row fits if every module that it names exists, and if on
random tokens, up to rounding,

    the input of the first block is the token embedding, plus the position embedding where there is one
    the output of each block is its input plus the outputs of attention and MLP, after norms and multipliers
    the input of each block is the output of the block before
    the MLP reads the input plus the output of attention; in parallel blocks it does not depend on that output
    a row with padding on its left has the logits that it has alone

A row that fits is used for this model type from then on, in this process. A model that no row fits is refused by name.

Limitations: mixtures of experts are not recognised, because sums do not show where their tensors are. Whether the
tensors that a row names are the writers is measured by `interp.editing.certificate.writer_check`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import InterpError, first_line, nearest
from interp.models.architectures.table import Architecture, known_architectures, register
from interp.models.hooked import HookedModel
from interp.models.sites import Site

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_KINDS = ("embed", "pos_embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def recognise_architecture(hf: Any) -> Architecture:
    """The table's row that fits a causal language model. It is added to the table, so that `load` accepts the type.

    Args:
        hf: The Hugging Face model. For a model type that is in the table, its row is returned without a test.

    Raises:
        InterpError: No row fits.
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
        f"architecture {kind!r} is not supported: no known architecture fits it ({reason}), so it needs a row of "
        f"its own in interp.models.architectures.table; {nearest(kind, rows)}"
    )


def _candidates(hf: Any, rows: Iterable[Architecture]) -> list[Architecture]:
    """The rows whose modules all exist, without repeats; sequential blocks first, because they have more sites."""
    candidates: list[Architecture] = []
    for row in rows:
        if row.experts or not _config_fits(hf.config, row):
            continue
        # What sums can't show keeps its safe value.
        plain = replace(row, packs=False, requires=(), parallel=row.is_parallel(hf.config))
        named = plain.qkv and all(_module(hf, f"{plain.layers}.0.{plain.qkv.format(x)}") for x in "qkv")
        fitted = plain if named else replace(plain, qkv=None)
        if fitted not in candidates and _modules_fit(hf, fitted):
            candidates.append(fitted)
    return sorted(candidates, key=lambda row: bool(row.parallel))


def _config_fits(config: Any, row: Architecture) -> bool:
    flags = () if isinstance(row.parallel, bool) else row.parallel
    return all(hasattr(config, name) for name in (*flags, row.write_scale) if name)


def _modules_fit(hf: Any, row: Architecture) -> bool:
    outer = (row.embed, row.pos_embed, row.embed_norm)
    inner = [row.attn, row.attn_write, row.mlp, row.mlp_read, row.mlp_write, row.attn_post_norm, row.mlp_post_norm]
    if not row.parallel:
        inner.append(row.mlp_norm)
    layers = [f"{row.layers}.{layer}" for layer in range(hf.config.num_hidden_layers)]
    paths = [*outer, *(f"{layer}.{path}" for layer in layers for path in inner if path)]
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
    """The first equation that does not hold; None if all hold."""
    shape, generator = (2, min(8, model.context or 8)), torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, shape, generator=generator)
    sites, inputs = [s for s in model.sites if s.kind in _KINDS], {"input_ids": ids.to(model.device)}
    first = Site("mlp_out", 0)
    try:
        acts = model.forward_to(sites, inputs)
        short = ids[1, : 1 + shape[1] // 2].tolist()
        padded, alone = model.logits([ids[0].tolist(), short])[1, -len(short) :], model.logits([short])[0]
        with model.hooked([(Site("attn_out", 0), lambda x: x + 1)]):
            shifted = model.forward_to([first], inputs)[first]
    except (InterpError, RuntimeError, KeyError, AttributeError, IndexError) as problem:
        return f"its sites can't be read ({first_line(problem)})"
    tolerance = _TOLERANCE.get(model.dtype, 0.0)
    if row.parallel and not _same(shifted, acts[first], tolerance):
        return "not so that attention and MLP read the same"
    table = model.hf.get_input_embeddings().weight[ids.to(model.device)]
    equations = [*_sums(acts, table), ("padding changes no logits", padded, alone)]
    return next((f"not so that {what}" for what, x, y in equations if not _same(x, y, tolerance)), None)


def _sums(acts: dict[Site, Tensor], table: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The equations: a name, and the two sides that must be equal."""
    start, positions = acts[Site("embed")], acts.get(Site("pos_embed"))
    yield "the token table's output is its rows", start, table
    stream = start if positions is None else start + positions
    yield "the first block reads the tables", acts[Site("resid_pre", 0)], stream
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
