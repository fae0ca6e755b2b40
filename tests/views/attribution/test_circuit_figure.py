"""The figure of a circuit: a line per edge from layer to layer, its width and colour, and a table without scripts."""

import json

import pytest
import torch

from interp import InterpError
from interp.attribution import Circuit, EdgeGraph
from interp.views import plot_circuit

GRAPH = EdgeGraph(2, 2, 8)
EDGES = {"input->a0.h1<v>": 0.9, "a0.h1->a1.h0<k>": -0.02, "a0.h1->m0": 0.2, "a1.h0->logits": 0.5, "m0->logits": 0.01}


def circuit():
    chosen = Circuit.of(GRAPH, list(EDGES), "planted")
    scores = torch.zeros(GRAPH.edges.shape)
    for edge, score in EDGES.items():
        scores[GRAPH.find(edge)] = score
    return Circuit(GRAPH, chosen.kept, scores, "planted")


def test_every_edge_is_a_line_that_goes_up():
    figure = json.loads(plot_circuit(circuit()).to_json())
    lines = [trace for trace in figure["data"] if trace["mode"] == "lines"]
    ends = [tuple(trace["y"][n : n + 2]) for trace in lines for n in range(0, len(trace["y"]), 3)]
    assert len(ends) == len(EDGES)
    assert all(low < high for low, high in ends)
    assert {trace["name"] for trace in lines} == {"keys", "values", "MLPs and logits"}
    (keys,) = (trace for trace in lines if trace["name"] == "keys")
    assert keys["line"]["width"] == 1.0
    (values,) = (trace for trace in lines if trace["name"] == "values")
    assert values["line"]["width"] == 5.0
    assert sum(trace.get("showlegend", True) for trace in lines) == 3
    nodes = figure["data"][-1]
    assert nodes["text"] == ["input", "a0.h1", "m0", "a1.h0", "logits"]


def test_the_table_has_the_edges_by_score():
    table = plot_circuit(circuit()).to_table()
    assert "a0.h1-&gt;a1.h0&lt;k&gt;" in table
    assert table.index("+0.900") < table.index("+0.500") < table.index("-0.020")


def test_a_circuit_without_edges_or_with_too_many_is_refused():
    with pytest.raises(InterpError, match="has 0 edges"):
        plot_circuit(Circuit.of(GRAPH, []))
    large = EdgeGraph(6, 6, 8)
    with pytest.raises(InterpError, match="has 2188 edges; expected 1 to 400"):
        plot_circuit(Circuit(large, large.edges))
