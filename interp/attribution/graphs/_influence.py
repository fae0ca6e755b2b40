"""Influence of nodes on the logits, what of a graph is kept by it, and the scores of a graph.

    N = |edges|, each row divided by its sum         influence = w (N + N^2 + ...)

where w are the probabilities of the traced logits. Nodes are kept to a share of all influence, then edges between them
to a share of N times the influence of their target, then what nothing leads to or follows from is dropped. Measures and
defaults are those of circuit-tracer (Ameisen et al. 2025; https://github.com/decoderesearch/circuit-tracer).
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.display import Displayed

Share = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True, eq=False)
class Pruning(Displayed):
    """What of a graph is kept, and its scores.

    Attributes:
        sources: Which latents, errors and embeddings are kept; logits always are.
        edges: Which edges are kept.
        influence: The share of all influence that a source and the stronger ones have together: low is strong.
        replacement: The share of embeddings in the influence of embeddings and errors: 1 is a graph without errors.
        completeness: The share of each node's input that is no error, averaged by influence; that of errors and
            embeddings is 1.
        error_share: The share of errors in the influence of all sources.
    """

    sources: Bool[Tensor, "source"]
    edges: Bool[Tensor, "node source"]
    influence: Float[Tensor, "source"]
    replacement: float
    completeness: float
    error_share: float


def pruned(
    edges: Float[Tensor, "node source"],
    weights: Float[Tensor, "logit"],
    width: int,
    node_share: float,
    edge_share: float,
) -> Pruning:
    """The nodes and edges of most influence, and the scores of the whole graph.

    Args:
        edges: What each source (latents, errors, embeddings) contributes to each latent and logit.
        weights: Probabilities of the logits.
        width: Number of tokens, and of embeddings.
        node_share: Share of influence to which nodes are kept.
        edge_share: Share of influence to which edges between them are kept.
    """
    latents, normal = len(edges) - len(weights), _normalised(edges)
    influence = _influence(normal, weights)
    sources = influence >= _threshold(influence, node_share)
    sources[-width:] = True
    between = edges * sources
    between[:latents] *= sources[:latents, None]
    between = _normalised(between)
    scores = between * torch.cat([_influence(between, weights)[:latents], weights])[:, None]
    kept = (scores > 0) & (scores >= _threshold(scores[scores > 0], edge_share))
    sources = _without_dangling(kept, sources, width, latents)
    order, share = influence.argsort(descending=True), torch.empty_like(influence)
    share[order] = (influence[order].double().cumsum(0) / influence.double().sum()).float()
    errors, embeddings = influence[latents:-width].sum(), influence[-width:].sum()
    reach = torch.cat([influence[:latents], weights])
    # As in circuit-tracer, errors and embeddings count among the nodes, as complete ones.
    complete = 1 - (normal[:, latents:-width].sum(1) * reach).sum() / (influence.sum() + weights.sum())
    scored = (embeddings / (embeddings + errors), complete, errors / influence.sum())
    return Pruning(sources, kept, share, *map(float, scored))


def _without_dangling(
    edges: Bool[Tensor, "node source"], sources: Bool[Tensor, "source"], width: int, latents: int
) -> Bool[Tensor, "source"]:
    """The sources that lead to a logit, and latents that something leads to. Edges of others are dropped in place."""
    while True:
        edges &= sources
        edges[:latents] &= sources[:latents, None]
        linked = sources.clone()
        linked[:-width] &= edges.any(0)[:-width]
        linked[:latents] &= edges.any(1)[:latents]
        if linked.equal(sources):
            return sources
        sources = linked


def _normalised(edges: Float[Tensor, "node source"]) -> Float[Tensor, "node source"]:
    shares = edges.abs()
    return shares / shares.sum(1, keepdim=True).clamp(min=1e-10)


def _influence(normal: Float[Tensor, "node source"], weights: Float[Tensor, "logit"]) -> Float[Tensor, "source"]:
    """Influence by all paths; there are no cycles, so that it ends after as many steps as there are layers."""
    latents = len(normal) - len(weights)
    step = weights @ normal[latents:]
    influence = step.clone()
    while step[:latents].any():
        step = step[:latents] @ normal[:latents]
        influence += step
    return influence


def _threshold(scores: Float[Tensor, "n"], share: float) -> float:
    """The score to which scores, in decreasing order, have this share of their sum."""
    ordered = scores.sort(descending=True).values
    reached = ordered.double().cumsum(0)
    return float(ordered[min(int(torch.searchsorted(reached, share * reached[-1])), len(ordered) - 1)])


def total_effects(
    edges: Float[Tensor, "node source"], values: Float[Tensor, "latent"], sources: Tensor
) -> Float[Tensor, "node chosen"]:
    """The change of each node when a source is ablated, along all paths through latents whose gates hold.

    A latent that changes by a share of its value changes what it contributes by that share.

    Args:
        edges: As above.
        values: The values of the latents, in the order of their layers.
        sources: The sources that are ablated, one at a time.
    """
    latents = len(values)
    direct = -edges[:, sources]
    gains = edges[:, :latents] / values
    system = torch.eye(latents, device=edges.device) - gains[:latents]
    changes = torch.linalg.solve_triangular(system, direct[:latents], upper=False, unitriangular=True)
    return torch.cat([changes, direct[latents:] + gains[latents:] @ changes])
