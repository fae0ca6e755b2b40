"""Circuits: sets of edges that are to do a behaviour by themselves, and how well they do.

A circuit is run on the clean prompts. Its edges carry what their sources write in that run; all other edges carry what
they write on the corrupt prompts (`resample`), or the mean of that over pairs, at each distance from the end (`mean`).

    faithfulness = (metric of the circuit - metric of no edge) / (metric of all edges - metric of no edge)
    completeness = 1 - the same of the model without the circuit's edges

Wang et al. 2023, arXiv:2211.00593; Hanna et al. 2024, arXiv:2403.17806. The areas under the curve of faithfulness over
the share of edges are those of the MIB benchmark (Mueller et al. 2025, arXiv:2504.13151).

Limitations: another task's circuit can do as well, and circuits shift with wordings; compare with both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveInt
from torch import Tensor

from interp.attribution.circuits.edge_graph import EdgeGraph
from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.core.files import new_file, read_json, write_json

Ablation = Literal["resample", "mean"]
_SIZES = ("n_layers", "n_heads", "d_model")
_LARGEST = 10**8  # sources times targets of a file; a model of 80 layers with 64 heads has 80 million


@dataclass(frozen=True, eq=False)
class Circuit(Displayed):
    """A set of edges.

    Args:
        graph: The edges of the model.
        kept: Which of them are in the circuit.
        scores: The score of each edge. Default: none.
        name: Of what it is the circuit.

    Example:
        >>> from interp.attribution import Circuit, EdgeGraph
        >>> circuit = Circuit.of(EdgeGraph.of(model), ["input->a0.h5<v>", "a0.h5->logits", "m1->m2"])
        >>> circuit.pruned().edges
        ('input->a0.h5<v>', 'a0.h5->logits')
    """

    graph: EdgeGraph
    kept: Bool[Tensor, "source target"]
    scores: Float[Tensor, "source target"] | None = None
    name: str = "circuit"

    @classmethod
    def of(cls, graph: EdgeGraph, edges: Sequence[str], name: str = "circuit") -> "Circuit":
        """A circuit of edges by name. Raises for an edge that the graph lacks."""
        kept = torch.zeros_like(graph.edges)
        for edge in edges:
            kept[graph.find(edge)] = True
        return cls(graph, kept, name=name)

    @classmethod
    def random(cls, graph: EdgeGraph, edges: PositiveInt, seed: int = 0) -> "Circuit":
        """A random circuit without unconnected parts: random paths from the logits back to the input.

        Args:
            graph: The edges of the model.
            edges: Its number of edges. The last path may go beyond by some.
            seed: The same seed gives the same circuit.
        """
        draw, kept, owners = Random(seed), torch.zeros_like(graph.edges), graph.owners.tolist()
        inputs = {owner: [t for t, x in enumerate(owners) if x == owner] for owner in set(owners)}
        while int(kept.sum()) < min(edges, int(graph.edges.sum())):
            node = len(graph.sources)
            while node:
                target = draw.choice(inputs[node])
                node = draw.randrange(int(graph.reach[target]))
                kept[node, target] = True
        return cls(graph, kept, name=f"random {seed}")

    @property
    def edges(self) -> tuple[str, ...]:
        """The names of its edges."""
        return tuple(self.graph.name(*edge) for edge in self.kept.nonzero().tolist())

    @property
    def nodes(self) -> tuple[str, ...]:
        """The sources of its edges, in the order of the forward pass."""
        return tuple(self.graph.sources[number] for number in self.kept.any(1).nonzero()[:, 0].tolist())

    def __len__(self) -> int:
        return int(self.kept.sum())

    def pruned(self) -> "Circuit":
        """The edges on a path from the input to the logits."""
        kept, owners, last = self.kept.clone(), self.graph.owners, len(self.graph.sources)
        for source in range(1, last):
            if not kept[:, owners == source].any():
                kept[source] = False
        for source in reversed(range(1, last)):
            if not kept[source].any():
                kept[:, owners == source] = False
        return replace(self, kept=kept)

    def save(self, out: str | Path) -> None:
        """Write the circuit, with the scores of all edges, as JSON that EAP-IG and MIB read.

        Args:
            out: A new file.
        """
        scores = self.kept.float() if self.scores is None else self.scores
        edges = {
            name: {"score": float(scores[edge]), "in_graph": bool(self.kept[edge])}
            for name, edge in self.graph.index.items()
        }
        config = {key: getattr(self.graph, key) for key in _SIZES} | {"parallel_attn_mlp": self.graph.parallel}
        kept = {*self.nodes, "logits"}
        nodes = {name: {"in_graph": name in kept} for name in (*self.graph.sources, "logits")}
        with new_file(out) as path:
            write_json(path, {"cfg": config, "nodes": nodes, "edges": edges})

    @classmethod
    def read(cls, file: str | Path) -> "Circuit":
        """Read a circuit from JSON that `save`, EAP-IG or MIB has written.

        Args:
            file: The file.

        Raises:
            InterpError: A part is missing, an edge is unknown, neurons are chosen one by one, or the number of layers
                or heads is no model's.

        Example:
            >>> from interp.attribution import Circuit, EdgeGraph
            >>> Circuit.of(EdgeGraph.of(model), ["input->m0", "m0->logits"]).save(tmp / "circuit.json")
            >>> Circuit.read(tmp / "circuit.json").nodes
            ('input', 'm0')
        """
        value: Any = read_json(Path(file))
        try:
            sizes = value["cfg"]
            n_layers, n_heads, d_model = (int(sizes[key]) for key in _SIZES)
            _require_size(n_layers, n_heads)
            graph = EdgeGraph(n_layers, n_heads, d_model, bool(sizes["parallel_attn_mlp"]))
            kept, scores = torch.zeros_like(graph.edges), torch.zeros(graph.edges.shape)
            for name, edge in value["edges"].items():
                place = graph.find(name)
                kept[place], scores[place] = bool(edge["in_graph"]), float(edge.get("score") or 0)
            neurons = [name for name, node in value["nodes"].items() if isinstance(node, dict) and node.get("neurons")]
        except InterpError as error:
            raise InterpError(f"{file}: {error}") from None
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            expected = "expected cfg, nodes and edges"
            raise InterpError(f"{file} is not a circuit of EAP-IG or MIB: {error!r}; {expected}") from None
        if neurons:
            raise InterpError(f"{file} chooses neurons of {neurons[0]} one by one; expected whole heads and MLPs")
        return cls(graph, kept, scores, Path(file).stem)

    def _card(self) -> Card:
        share = len(self) / int(self.graph.edges.sum())
        rows = [("edges", f"{len(self)} ({share:.2%})"), ("nodes", ", ".join(self.nodes[:20]))]
        return f"{self.name}: a circuit of {plural(len(self), 'edge')}", rows


def _require_size(n_layers: int, n_heads: int) -> None:
    """Raise before a graph of edges is made that takes all memory, or that has no edges."""
    if min(n_layers, n_heads) < 1 or 3 * (n_layers * (n_heads + 1)) ** 2 > _LARGEST:
        expected = f"expected a model of 1 to {_LARGEST:,} pairs of a writer and a reader"
        raise InterpError(f"n_layers is {n_layers} and n_heads is {n_heads}; {expected}")
