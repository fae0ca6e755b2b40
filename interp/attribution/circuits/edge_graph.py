"""The graph of edges of a transformer: every writer of the residual stream, and every input that reads it.

Sources are the embeddings (`input`), each attention head (`a0.h1`) and each MLP (`m0`). Targets are the query, key and
value input of each head (`a2.h3<q>`), the input of each MLP and the final norm (`logits`). An edge goes from a source
to each target that comes after it: `a0.h1->a2.h3<q>`. These are the names of EAP-IG (Hanna et al. 2024,
arXiv:2403.17806) and of the MIB benchmark (Mueller et al. 2025, arXiv:2504.13151).

With grouped-query attention, each query head has key and value inputs of its own, although its group has one
projection.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.display import Displayed
from interp.core.errors import InterpError, nearest
from interp.models.architectures.table import architecture
from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class EdgeGraph(Displayed):
    """The sources, targets and edges of a model's shape.

    Args:
        n_layers: Number of blocks.
        n_heads: Number of query heads of a block.
        d_model: Width of the residual stream.
        parallel: Whether attention and MLP of a block read the same stream.

    Example:
        >>> from interp.attribution import EdgeGraph
        >>> graph = EdgeGraph.of(model)
        >>> len(graph.sources), len(graph.targets), int(graph.edges.sum())
        (43, 115, 2188)
    """

    n_layers: int
    n_heads: int
    d_model: int
    parallel: bool = False

    @classmethod
    def of(cls, model: HookedModel) -> "EdgeGraph":
        """The graph of a model."""
        parallel = architecture(model.config).is_parallel(model.config)
        return cls(model.n_layers, model.config.num_attention_heads, model.d_model, parallel)

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """The writers, in the order of the forward pass."""
        nodes = [*(f"a{{0}}.h{head}" for head in range(self.n_heads)), "m{0}"]
        return "input", *self._blocks(nodes)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """The inputs: of each block the queries, keys and values of all heads, and the MLP; at the end the logits."""
        inputs = [f"a{{0}}.h{head}<{letter}>" for letter in "qkv" for head in range(self.n_heads)]
        return *self._blocks([*inputs, "m{0}"]), "logits"

    def _blocks(self, names: list[str]) -> list[str]:
        return [name.format(layer) for layer in range(self.n_layers) for name in names]

    @cached_property
    def owners(self) -> Int[Tensor, "target"]:
        """The source that each target is an input of; for the logits, the number of sources."""
        order = {name: number for number, name in enumerate(self.sources)}
        return torch.tensor([order.get(name.partition("<")[0], len(order)) for name in self.targets])

    @cached_property
    def reach(self) -> Int[Tensor, "target"]:
        """How many sources come before each target."""
        size, reach = self.n_heads + 1, []
        for layer in range(self.n_layers):
            before = 1 + layer * size
            reach += [before] * (3 * self.n_heads) + [before if self.parallel else before + self.n_heads]
        return torch.tensor([*reach, len(self.sources)])

    @cached_property
    def edges(self) -> Bool[Tensor, "source target"]:
        """Which pairs of source and target are edges."""
        return torch.arange(len(self.sources))[:, None] < self.reach

    def name(self, source: int, target: int) -> str:
        """An edge as text."""
        return f"{self.sources[source]}->{self.targets[target]}"

    @cached_property
    def index(self) -> dict[str, tuple[int, int]]:
        """The source and the target of each edge, by its name."""
        return {self.name(source, target): (source, target) for source, target in self.edges.nonzero().tolist()}

    def find(self, edge: str) -> tuple[int, int]:
        """The source and the target of an edge. Raises for an edge that the graph lacks."""
        if edge not in self.index:
            hint = nearest(edge, self.index)
            raise InterpError(f"{edge!r} is not an edge of this graph, such as input->m0 or a0.h1->a1.h0<q>; {hint}")
        return self.index[edge]

    def require(self, model: HookedModel) -> None:
        """Raise unless it is the graph of a model."""
        if self != EdgeGraph.of(model):
            raise InterpError(f"{self} is not the graph of {model.name}, {EdgeGraph.of(model)}; load its own model")
