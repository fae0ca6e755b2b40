"""Tracing: the attribution graph of a prompt.

1. A forward pass of the prompt records what MLPs read and write, attention patterns and norm scales.
2. The active latents of the transcoders, and the errors, become the local replacement model (`_replacement`).
3. Backward passes in batches give what each source contributes to each latent and to the traced logits.
4. Each node's contributions and its constant are summed and compared with its value; where they differ, the model is
   not linear under the freeze, and the graph is refused.
5. Nodes and edges are kept by influence, and each kept node is ablated in the unfrozen model.

Limitations: why attention attends where it does is not in the graph. Of a model with a cap on its logits, the logits
before the cap are traced. Sums are as exact as the model's dtype, so float32 is better than 16 bits.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from interp.attribution.graphs._influence import Share, pruned
from interp.attribution.graphs._replacement import LocalReplacement, Readers
from interp.attribution.graphs.effects import ablated
from interp.attribution.graphs.graph import AttributionGraph, Rules
from interp.core.errors import InterpError
from interp.core.inputs import parse_bytes
from interp.models.architectures.unembedding import stream_logits, token_text
from interp.models.hooked import HookedModel
from interp.models.tokens import Prompts, Tokens
from interp.sae.coder import SparseAutoencoder

_LOGITS, _CHANCE = 10, 0.95  # as many likeliest tokens as have this probability together, but no more than ten
_MATRICES = 5  # of the size of the edges, when it is pruned
_TOLERANCE = 1e-3  # of sums, which are in float32 also where the model is in float64; in 16 bits it is 0.1


def trace_graph(
    model: HookedModel,
    transcoders: SparseAutoencoder | Sequence[SparseAutoencoder],
    prompt: Prompts,
    targets: str | int | Sequence[str | int] | None = None,
    *,
    rules: Rules = "complete",
    node_share: Share = 0.8,
    edge_share: Share = 0.98,
    memory: str = "4GB",
    batch_size: PositiveInt = 64,
    measure: bool = True,
) -> AttributionGraph:
    """Trace which latents, errors and embeddings the prediction after a prompt is computed from.

    Args:
        model: The model.
        transcoders: Transcoders of its MLPs, such as `load_transcoders` reads. A layer without one is all error.
        prompt: One prompt: a text, what `model.chat` renders, token ids, or `Tokens`, without padding.
        targets: The tokens whose logits are traced: texts of one token each, with a leading space where it has one, or
            ids. Default: the likeliest ones, until they have a probability of 0.95 together, at most ten.
        rules: At the first token, on which transcoders are not trained, all that MLPs write is error nodes
            (`complete`). With `circuit-tracer` it is a constant, and no node.
        node_share: Share of influence to which nodes are kept.
        edge_share: Share of influence to which edges between kept nodes are kept.
        memory: The most that the graph may take, such as `4GB`.
        batch_size: Nodes per backward pass.
        measure: Ablate each kept node in the unfrozen model.

    Raises:
        InterpError: The transcoders do not fit the model; the prompt is padded, several or too short; a target is not
            one token; the graph needs more memory; or the model is not linear under the freeze.

    Example:
        >>> transcoders = interp.attribution.load_transcoders(interp.organism.transcoders(), model)
        >>> graph = interp.attribution.trace_graph(model, transcoders, "The river of", " the")
        >>> torch.allclose(graph.edges.sum(1) + graph.constants, graph.nodes.values, atol=1e-4)
        True
    """
    given = [transcoders] if isinstance(transcoders, SparseAutoencoder) else transcoders
    listed = [coder.to(dtype=torch.float32) for coder in given]
    if not listed:
        raise InterpError("there are no transcoders; give those of at least one layer")
    replacement = LocalReplacement(model, listed, _one_row(model, prompt), rules == "complete")
    nodes, probabilities = _nodes(replacement, targets)
    _require_memory(replacement, len(nodes.values), batch_size, memory)
    edges, constants = _edges(replacement, nodes, batch_size)
    pruning = pruned(edges, probabilities, replacement.width, node_share, edge_share)
    tokens, words = (
        tuple(str(x) if model.tokenizer is None else token_text(model.tokenizer, x) for x in ids.tolist())
        for ids in (replacement.batch.ids[0], nodes.latents[len(replacement.latents.values) :])
    )
    graph = AttributionGraph(
        model.reference, tuple(listed), replacement.batch, tokens, nodes, words, probabilities, edges, constants, rules,
        pruning,
    )  # fmt: skip
    return replace(graph, effects=ablated(graph, replacement, False, batch_size)) if measure else graph


def _one_row(model: HookedModel, prompt: Prompts) -> Tokens:
    batch = model.tokens(prompt)
    if len(batch) != 1:
        raise InterpError(f"a graph is of one prompt, not of {len(batch)}; call trace_graph for each")
    if padding := int((~batch.mask).sum()):
        raise InterpError(f"the prompt has padding at {padding} of its positions; give batch.unpadded()[0]")
    if batch.ids.shape[1] < 2:
        raise InterpError("the prompt is one token, which no transcoder is trained on; give a longer one")
    return batch


def _nodes(
    replacement: LocalReplacement, targets: str | int | Sequence[str | int] | None
) -> tuple[Readers, Float[Tensor, "logit"]]:
    """The nodes that read, and the probabilities of the logits among them."""
    model = replacement.model
    chances = stream_logits(model, replacement.final).detach().float().softmax(-1).cpu()
    tokens = _tokens(model, chances, targets)
    values = replacement.centred_logits(replacement.final).cpu()[tokens]
    places = (torch.full_like(tokens, x) for x in (-1, model.n_layers, replacement.width - 1))
    return Readers.joined([replacement.latents.fields, (*places, tokens, values)]), chances[tokens]


def _tokens(
    model: HookedModel, chances: Float[Tensor, "d_vocab"], targets: str | int | Sequence[str | int] | None
) -> Int[Tensor, "logit"]:
    if targets is None:
        likeliest = chances.topk(min(_LOGITS, len(chances)))
        return likeliest.indices[: int((likeliest.values.cumsum(0) < _CHANCE).sum()) + 1]
    listed = [targets] if isinstance(targets, str | int) else list(targets)
    tokens = [model.to_single_token(target) if isinstance(target, str) else target for target in listed]
    if not tokens or len(set(tokens)) < len(tokens) or not all(0 <= token < len(chances) for token in tokens):
        raise InterpError(f"targets {listed}: expected one or more different tokens, ids from 0 to {len(chances) - 1}")
    return torch.tensor(tokens)


def _require_memory(replacement: LocalReplacement, nodes: int, batch_size: int, memory: str) -> None:
    """Raise where a graph needs more than a budget: matrices of edges, vectors of sources, and a batch."""
    width, layers, model = replacement.width, len(replacement.writes), replacement.model
    batch = batch_size * width * layers * (24 * model.d_model + 4 * model.config.num_attention_heads * width)
    needed = 4 * (_MATRICES * nodes * replacement.sources + replacement.vectors * model.d_model + batch) / 1e9
    if needed * 1e9 > parse_bytes(memory):
        size = f"a graph of {nodes:,} latents and logits on {width} tokens needs about {needed:.3g} GB"
        remedy = f"shorten the prompt, lower batch_size, or allow memory='{needed * 1.01:.3g}GB'"
        raise InterpError(f"{size}, and memory is {memory}; {remedy}")


def _edges(
    replacement: LocalReplacement, nodes: Readers, batch_size: int
) -> tuple[Float[Tensor, "node source"], Float[Tensor, "node"]]:
    """What each source contributes to each node, and each node's constant; their sum is the node's value."""
    edges, constants = replacement.edges(nodes, batch_size), replacement.constants(nodes).cpu()
    gap = float(((edges.sum(1) + constants - nodes.values).abs() / (1 + nodes.values.abs())).max())
    if not gap < (_TOLERANCE if replacement.model.dtype.itemsize >= 4 else 0.1):
        raise InterpError(
            f"{replacement.model.config.model_type}: what a node reads differs by {gap:.2g} from the sum of what it is "
            "made of, so the model is not linear where patterns and norm scales are frozen, and has no graph"
        )
    return edges, constants
