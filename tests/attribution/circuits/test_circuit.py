"""Circuits: pruning against all paths, random ones, and the files of EAP-IG and MIB."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.attribution import Circuit, EdgeGraph

GRAPH = EdgeGraph(2, 2, 8)
NAMES = sorted(GRAPH.index)


def on_paths(edges):
    """The edges on a path from the input to the logits, by walking all paths."""
    after = {}
    for edge in edges:
        source, target = edge.split("->")
        after.setdefault(source, []).append((edge, target.partition("<")[0]))
    used = set()

    def walk(node, path):
        if node == "logits":
            used.update(path)
        for edge, target in after.get(node, []):
            walk(target, [*path, edge])

    walk("input", [])
    return used


@given(st.sets(st.sampled_from(NAMES), max_size=25))
def test_a_pruned_circuit_has_the_edges_on_paths_from_input_to_logits(edges):
    circuit = Circuit.of(GRAPH, sorted(edges))
    assert set(circuit.edges) == edges
    assert set(circuit.pruned().edges) == on_paths(edges)


@given(st.integers(1, len(NAMES)), st.integers(0, 3))
def test_a_random_circuit_has_its_size_and_no_unconnected_part(size, seed):
    circuit = Circuit.random(GRAPH, size, seed)
    assert size <= len(circuit) < size + 6
    assert circuit.pruned().edges == circuit.edges
    assert Circuit.random(GRAPH, size, seed).edges == circuit.edges


def test_random_circuits_differ():
    assert len({Circuit.random(GRAPH, 10, seed).edges for seed in range(5)}) == 5


@pytest.mark.parametrize("parallel", [False, True])
def test_a_file_has_the_form_of_eap_ig_and_is_read_back(tmp_path, parallel):
    graph = EdgeGraph(2, 2, 8, parallel)
    circuit = Circuit.of(graph, ["input->a0.h1<v>", "a0.h1->a1.h0<k>", "a1.h0->logits"])
    circuit = Circuit(graph, circuit.kept, torch.randn(graph.edges.shape) * graph.edges)
    circuit.save(tmp_path / "circuit.json")
    value = json.loads((tmp_path / "circuit.json").read_text())
    assert value["cfg"] == {"n_layers": 2, "n_heads": 2, "d_model": 8, "parallel_attn_mlp": parallel}
    assert value["nodes"]["a0.h1"] == {"in_graph": True}
    assert value["nodes"]["m0"] == {"in_graph": False}
    assert set(value["edges"]) == set(graph.index)
    assert value["edges"]["a0.h1->a1.h0<k>"]["in_graph"] is True
    again = Circuit.read(tmp_path / "circuit.json")
    assert again.graph == graph
    assert again.edges == circuit.edges
    assert torch.equal(again.scores, circuit.scores)
    with pytest.raises(InterpError, match="exists"):
        circuit.save(tmp_path / "circuit.json")


FILE = {
    "cfg": {"n_layers": 2, "n_heads": 2, "d_model": 8, "parallel_attn_mlp": False},
    "nodes": {"input": {"in_graph": True}, "m0": {"in_graph": True}, "logits": {"in_graph": True}},
    "edges": {"input->m0": {"score": 0.5, "in_graph": True}, "m0->logits": {"in_graph": True}},
}


def test_a_file_with_some_edges_and_without_scores_is_read(tmp_path):
    (tmp_path / "mib.json").write_text(json.dumps(FILE))
    circuit = Circuit.read(tmp_path / "mib.json")
    assert (circuit.nodes, circuit.name, float(circuit.scores.sum())) == (("input", "m0"), "mib", 0.5)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"cfg": {}}, "not a circuit of EAP-IG or MIB: KeyError"),
        ({"cfg": FILE["cfg"] | {"n_layers": 100_000}}, "broken.json: n_layers is 100000 and n_heads is 2; expected"),
        ({"cfg": FILE["cfg"] | {"n_heads": 0}}, "broken.json: n_layers is 2 and n_heads is 0; expected"),
        ({"edges": {"m1->m0": {"score": 0, "in_graph": True}}}, "'m1->m0' is not an edge"),
        ({"edges": {"input->m0": True}}, "not a circuit of EAP-IG or MIB"),
        ({"nodes": {"m0": {"in_graph": True, "neurons": [True, False]}}}, "chooses neurons of m0 one by one"),
    ],
    ids=["cfg", "huge", "none", "edge", "form", "neurons"],
)
def test_a_broken_file_is_refused(tmp_path, part, message):
    (tmp_path / "broken.json").write_text(json.dumps(FILE | part))
    with pytest.raises(InterpError, match=message):
        Circuit.read(tmp_path / "broken.json")
