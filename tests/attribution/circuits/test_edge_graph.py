"""The graph of edges: names and counts of EAP-IG, and which sources come before which targets."""

import pytest

from interp import InterpError
from interp.attribution import EdgeGraph


def test_sources_and_targets_have_the_names_and_the_numbers_of_eap_ig():
    """GPT-2 small has 32,491 edges in the EAP-IG paper's graph."""
    graph = EdgeGraph(12, 12, 768)
    assert int(graph.edges.sum()) == 32_491
    assert len(graph.sources) == 157
    assert len(graph.index) == 32_491
    assert graph.sources[:2] == ("input", "a0.h0")
    assert graph.targets[0] == "a0.h0<q>"
    assert graph.targets[-1] == "logits"


@pytest.mark.parametrize("parallel", [False, True])
def test_an_edge_goes_to_what_is_computed_later(parallel):
    graph = EdgeGraph(2, 2, 8, parallel)
    assert ("a0.h1->m0" in graph.index) != parallel
    assert "m0->a1.h1<v>" in graph.index
    assert "a1.h0->logits" in graph.index
    assert not any(name.startswith(("a0.h0->a0", "m1->m", "a1.h0->a", "m0->m0")) for name in graph.index)
    assert [graph.sources[owner] for owner in graph.owners[:-1].tolist()] == [
        target.partition("<")[0] for target in graph.targets[:-1]
    ]
    for name, (source, target) in graph.index.items():
        assert graph.name(source, target) == name
        assert source < graph.reach[target]


def test_an_edge_that_is_none_and_the_graph_of_another_model_are_refused(tiny):
    graph = EdgeGraph.of(tiny("llama"))
    with pytest.raises(InterpError, match=r"'a1.h0->a0.h0<q>' is not an edge .* did you mean"):
        graph.find("a1.h0->a0.h0<q>")
    graph.require(tiny("qwen2"))
    with pytest.raises(InterpError, match="is not the graph of tiny llama"):
        EdgeGraph(3, 4, 32, parallel=True).require(tiny("llama"))
