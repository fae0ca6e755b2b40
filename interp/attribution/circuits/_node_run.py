"""Node runs: a model computed node by node, where each input of each node reads a stream of its own.

The residual stream is a sum of what the nodes write. So the input of a node can be put together edge by edge:

    input of a target = its stream outside + the sum over edges of (what the source writes now - what it wrote outside)

Nodes are computed by the Hugging Face layers themselves, stopped where a value is known: the norm before a projection,
attention from given queries, keys and values, the MLP. Query heads of one group have different keys and values here, so
attention runs once per head of a group, on copies of the batch.

Where a norm follows attention, a head writes its share of the normed output: its part, times the norm's scale in the
same run.

Limitations: keys and values of low rank (DeepSeek) are refused, and streams that are not the sum of what is written,
as in most models of 16 bits, whose sums are rounded.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution._layer_pass import RecordedRun
from interp.attribution.circuits.edge_graph import EdgeGraph
from interp.core.errors import InterpError
from interp.models.architectures.table import Tap, architecture
from interp.models.architectures.unembedding import stream_logits
from interp.models.hooked import HookedModel
from interp.models.hooks import attached
from interp.models.sites import Site
from interp.models.tokens import Tokens

# Projections of queries, keys and values in one: all queries first (True), or each group's together.
_FUSED = {
    "gpt2": ("attn.c_attn", True),
    "phi3": ("self_attn.qkv_proj", True),
    "gpt_neox": ("attention.query_key_value", False),
    "bloom": ("self_attention.query_key_value", False),
    "falcon": ("self_attention.query_key_value", False),
}
Stream = Float[Tensor, "batch pos d_model"]


class _Reached(Exception):
    """The value at which a layer is stopped."""


@dataclass(frozen=True, eq=False)
class Written:
    """What each source writes in a run, and the stream that each group of targets reads.

    Args:
        parts: (source, batch, pos, d_model).
        streams: Before attention and before the MLP of each layer, and at the end.
    """

    parts: Float[Tensor, "source batch pos d_model"]
    streams: list[Stream]

    def mean(self, mask: Tensor) -> "Written":
        """The mean over rows, at each distance from the end."""
        share = (mask / mask.sum(0).clamp(min=1))[..., None].to(self.parts)

        def over_rows(x: Tensor) -> Tensor:
            return (x * share).sum(-3, keepdim=True).expand_as(x)

        return Written(over_rows(self.parts), [over_rows(stream) for stream in self.streams])


class NodeRun:
    """The nodes of a model on a batch.

    Args:
        model: The model.
        batch: The tokens.

    Raises:
        InterpError: The queries of a head are not read by one projection, the stream is not the sum of what is written,
            or the nodes, one by one, do not give the model's logits.
    """

    def __init__(self, model: HookedModel, batch: Tokens):
        kind, self.row = model.config.model_type, architecture(model.config)
        if not self.row.qkv and kind not in _FUSED:
            raise InterpError(f"{kind}: the inputs of its queries, keys and values are not known; use patch instead")
        self.model, self.batch, self.graph = model, batch, EdgeGraph.of(model)
        self.recorded = RecordedRun(model, batch)
        self.arguments = self.recorded.arguments(0)
        with torch.no_grad():
            self.written = self._written()
            logits = self.run(self.written)[0]
        if not torch.allclose(logits, self.recorded.logits, atol=1e-3, rtol=1e-3):
            raise self._inexact("its nodes, one by one, do not give the model's logits")

    def _written(self) -> Written:
        """What is written in the batch's own run."""
        layers, middle = range(self.graph.n_layers), "resid_pre" if self.graph.parallel else "resid_mid"
        streams = [Site(kind, layer) for layer in layers for kind in ("resid_pre", middle)]
        streams.append(Site("resid_post", layers[-1]))
        nodes = [Site(kind, layer) for layer in layers for kind in ("z", "mlp_out")]
        acts = self.model.capture(self.batch, {*streams, *nodes}, batch_size=len(self.batch), chat=False)
        written = [self.heads(site.layer or 0, acts[site]) if site.kind == "z" else acts[site][None] for site in nodes]
        parts = torch.cat([acts[streams[0]][None], *written])
        final = acts[streams[-1]][self.batch.mask]
        rest = final - parts.sum(0)[self.batch.mask]  # biases: the same at all tokens, up to rounding of large numbers
        if ((rest - rest[-1]).abs() > 1e-3 + 1e-5 * final.abs().amax(-1, keepdim=True)).any():
            raise self._inexact("its stream is not the sum of what heads and MLPs write")
        return Written(parts, [acts[site] for site in streams])

    def _inexact(self, problem: str) -> InterpError:
        """The error for sums that are not exact. In 16 bits, rounding alone can be the reason."""
        kind, dtype = self.model.config.model_type, self.model.dtype
        if dtype.itemsize >= 4:
            return InterpError(f"{kind}: {problem}; use patch instead")
        rounded = f"{kind}: edges are sums over the stream, which {str(dtype).removeprefix('torch.')} rounds too much"
        return InterpError(f"{rounded}; a circuit needs float32; load with dtype='float32'")

    def run(
        self, outside: Written, kept: Float[Tensor, "source target"] | None = None, start: Stream | None = None
    ) -> tuple[Float[Tensor, "batch d_vocab"], list[Float[Tensor, "_ batch pos d_model"]]]:
        """The logits at the last token, and the inputs of the targets, by group.

        Args:
            outside: What the edges carry that are not kept.
            kept: 1 for the edges that carry what is written in this run. Default: all.
            start: The embeddings. Default: those of the batch.
        """
        width, inputs = 3 * self.graph.n_heads, list[Tensor]()
        gaps = ((self.written.parts[0] if start is None else start) - outside.parts[0])[None]

        def read(group: int, count: int) -> Tensor:
            first, stream = sum(map(len, inputs)), outside.streams[group]
            if kept is None:
                inputs.append((stream + gaps.sum(0)).expand(count, *stream.shape))
            else:
                chosen = kept[: len(gaps), first : first + count].to(gaps)
                inputs.append(stream + torch.einsum("st,sbpd->tbpd", chosen, gaps))
            return inputs[-1]

        def write(values: Tensor) -> Tensor:
            return torch.cat([gaps, values - outside.parts[len(gaps) : len(gaps) + len(values)]])

        for layer in range(self.graph.n_layers):
            heads = self.heads(layer, self.attention(layer, read(2 * layer, width)))
            gaps = gaps if self.graph.parallel else write(heads)
            mlp = self.mlp(layer, read(2 * layer + 1, 1)[0])[None]
            gaps = write(torch.cat([heads, mlp]) if self.graph.parallel else mlp)
        final = self.recorded.norm(read(-1, 1)[0, :, -1])
        return stream_logits(self.model, final), inputs

    def attention(
        self, layer: int, inputs: Float[Tensor, "target batch pos d_model"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The `z` of each head, from the stream that its queries, keys and values read."""
        heads, rows = self.graph.n_heads, self._rows(layer)
        normed = self._until(layer, inputs.flatten(0, 1), Tap(rows["q"][0], "in")).unflatten(0, (3, heads, -1))
        group, values, order = heads // len(rows["k"][1]), defaultdict[str, list[Tensor]](list), defaultdict(list)
        for (letter, (path, index)), stream in zip(rows.items(), normed, strict=True):
            module, each = self.model.hf.get_submodule(path), index.repeat_interleave(heads // len(index), 0)
            weight = module.weight.T if self.row.transposed else module.weight
            value = torch.einsum("hbpd,hed->hbpe", stream, weight[each])
            value = value if module.bias is None else value + module.bias[each][:, None, None]
            grouped = value[None].expand(group, -1, -1, -1, -1) if letter == "q" else value.unflatten(0, (-1, group))
            grouped = grouped if letter == "q" else grouped.movedim(1, 0)
            values[path].append(grouped.movedim(1, 3).flatten(3).flatten(0, 1))  # (copy * batch, pos, row)
            order[path].append(index.flatten())
        outputs = {Tap(x, "out"): torch.cat(values[x], -1)[..., torch.cat(order[x]).argsort()] for x in values}
        hidden = self.recorded.streams[layer].repeat(group, 1, 1)
        z = self._until(layer, hidden, self.model.tap(Site("z", layer)), outputs)
        z = z.unflatten(0, (group, -1)).unflatten(
            3, (-1, group)
        )  # (copy, batch, pos, shared head, of its group, d_head)
        return z.diagonal(dim1=0, dim2=4).movedim(-1, 3).flatten(2, 3)

    def mlp(self, layer: int, stream: Stream) -> Stream:
        """What the MLP writes, from the stream that it reads."""
        attention = {self.model.tap(Site("attn_out", layer)): torch.zeros_like(stream)}
        return self._until(layer, stream, self.model.tap(Site("mlp_out", layer)), attention)

    def heads(self, layer: int, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "head batch pos d_model"]:
        """What each head writes."""
        base, config = f"{self.row.layers}.{layer}", self.model.config
        weight = self.model.hf.get_submodule(f"{base}.{self.row.attn_write}").weight
        weight = (weight.T if self.row.transposed else weight).unflatten(1, (self.graph.n_heads, -1))
        parts = torch.einsum("bphe,dhe->hbpd", z, weight) * self.row.scale(config)
        if self.row.attn_post_norm is None:
            return parts
        norm = self.model.hf.get_submodule(f"{base}.{self.row.attn_post_norm}")
        whole, gain = parts.sum(0), norm(torch.full_like(parts[0, :1, :1], 4096.0))
        gained = whole * gain
        scale = (norm(whole) * gained).sum(-1, keepdim=True) / gained.square().sum(-1, keepdim=True).clamp(min=1e-12)
        return parts * gain * scale

    def _until(self, layer: int, hidden: Tensor, last: Tap, outputs: Mapping[Tap, Tensor] | None = None) -> Tensor:
        """The value at a place of a layer, where the outputs of some modules are given."""

        def stop(x: Tensor) -> Tensor:
            raise _Reached(x)

        given = [(tap, partial(_instead, value)) for tap, value in (outputs or {}).items()]
        with attached(self.model.hf, [*given, (last, stop)]):
            try:
                self.recorded.through(layer, hidden, self.arguments)
            except _Reached as reached:
                return reached.args[0]
        raise InterpError(f"{self.model.config.model_type}: layer {layer} does not compute {last.path}; use patch")

    def _rows(self, layer: int) -> dict[str, tuple[str, Int[Tensor, "head d_head"]]]:
        """The projection of queries, keys and values, and its rows for each head."""
        rows: dict[str, tuple[str, Tensor]] = {}
        for letter in "qkv" if self.row.qkv else "":
            tap = self.model.tap(Site(letter, layer))
            size = self.model.hf.get_submodule(tap.path).weight.numel() // self.graph.d_model
            rows[letter] = tap.path, torch.arange(size).view(tap.heads or 1, -1)
        if rows:
            return rows
        name, stacked = _FUSED[self.model.config.model_type]
        path, heads = f"{self.row.layers}.{layer}.{name}", self.graph.n_heads
        size = self.model.hf.get_submodule(f"{self.row.layers}.{layer}.{self.row.attn_write}").weight.numel()
        every = torch.arange(self.model.hf.get_submodule(path).weight.numel() // self.graph.d_model)
        every = every.view(-1, size // self.graph.d_model // heads)
        shared = (len(every) - heads) // 2
        groups = every.view(shared, -1, every.shape[1])
        parts = every.split([heads, shared, shared]) if stacked else groups.split([heads // shared, 1, 1], 1)
        return {letter: (path, part.reshape(-1, every.shape[1])) for letter, part in zip("qkv", parts, strict=True)}


def _instead(value: Tensor, x: Tensor) -> Tensor:
    return value
