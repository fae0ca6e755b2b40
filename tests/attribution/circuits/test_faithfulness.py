"""Circuits by themselves: TransformerLens' faithfulness, plain hooked runs, ends that are theorems, the organism."""

import pytest
import torch
from transformer_lens.tools.analysis.attribution_patching import Node, faithfulness

import interp
from interp import InterpError
from interp.attribution import (
    Circuit,
    Comparison,
    EdgeGraph,
    EdgeScores,
    attribute_edges,
    faithfulness_curve,
    measure_circuits,
)

CLEAN = [[5, 9, 77, 12, 30, 8], [12, 99, 101, 4, 7]]
CORRUPT = [[5, 31, 77, 12, 30, 8], [12, 98, 101, 5, 7]]
# One of each way to norm, to scale, to add and to project; with grouped queries, windows, sinks, ALiBi and experts.
ARCHITECTURES = {
    "llama", "gpt2", "gpt_neox", "phi", "phi3", "gemma2", "olmo2", "exaone4", "glm4", "opt", "gpt_oss", "cohere2",
    "granite", "bloom", "falcon_new", "falcon_sequential", "stablelm_parallel", "qwen2_moe",
}  # fmt: skip


def metric(logits):
    return logits[:, 7] - logits[:, 50]


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_all_edges_are_the_model_and_none_are_the_corrupt_run(tiny, name):
    """The run starts from the corrupt prompt's values, and every input is put together from its edges."""
    model = tiny(name)
    pairs, graph = Comparison(CLEAN, CORRUPT, metric).on(model), EdgeGraph.of(model)
    all_edges, half = Circuit(graph, graph.edges), Circuit(graph, graph.edges & (torch.rand(graph.edges.shape) < 0.5))
    every, some = measure_circuits(model, pairs, [all_edges, half])
    torch.testing.assert_close(every.alone, pairs.clean_values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(every.without, pairs.corrupt_values, atol=1e-5, rtol=1e-4)
    assert (some.alone - pairs.clean_values).abs().max() > 1e-5, "control"


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_a_circuit_recovers_what_it_does_in_transformerlens(tiny, name):
    model, positions = tiny(name), range(len(CLEAN[0]))
    pairs = Comparison(CLEAN[:1], CORRUPT[:1], metric).on(model)
    circuit = Circuit.random(EdgeGraph.of(model), 60, 1)

    def node(name, position, reads):
        if name in ("input", "logits"):
            return Node("embed", position) if name == "input" else Node("logits", position, model.n_layers - 1)
        if name[0] == "m":
            return Node("mlp_in" if reads else "mlp_out", position, int(name[1]))
        return Node(f"{name[-2]}_input" if reads else "attn_head_out", position, int(name[1]), int(name[4]))

    edges = [(node(source, position, False), node(target, position, True))
             for source, target in (edge.split("->") for edge in circuit.edges) for position in positions]  # fmt: skip
    theirs = faithfulness(model.bridge, pairs.clean.ids, pairs.corrupt.ids, lambda x: metric(x[:, -1])[0], edges)
    (ours,) = measure_circuits(model, pairs, circuit)
    assert ours.faithfulness == pytest.approx(theirs.recovered, abs=1e-4)
    assert min(abs(ours.faithfulness), abs(1 - ours.faithfulness)) > 0.01, "control"


@pytest.mark.parametrize("letter", ["q", "k", "v"])
def test_without_the_edges_into_a_group_its_projection_reads_the_corrupt_stream(tiny, letter):
    """Two query heads share a key. Without the edges into both, a plain run with its key replaced is the same."""
    model, site = tiny("llama"), f"{letter}.1"
    pairs, heads = Comparison(CLEAN, CORRUPT, metric).on(model), (2, 3)
    graph = EdgeGraph.of(model)
    into = [name for name in graph.index if any(name.endswith(f"->a1.h{head}<{letter}>") for head in heads)]
    (result,) = measure_circuits(model, pairs, Circuit.of(graph, into))
    rows = [1] if letter != "q" else list(heads)
    corrupt = model.capture(pairs.corrupt, [site], chat=False)[site]

    def put(x):
        changed = x.clone()
        changed[:, :, rows] = corrupt[:, :, rows]
        return changed

    with model.hooked([(site, put)]):
        expected = pairs.metric(model.logits(pairs.clean, last=1)[None, :, 0])[0]
    torch.testing.assert_close(result.without, expected, atol=1e-6, rtol=1e-5)
    assert (expected - pairs.clean_values).abs().max() > 1e-5, "control"


def test_under_mean_ablation_no_edge_is_the_mean_run(tiny):
    """The final stream is then the mean of the corrupt ones, so all pairs have one prediction."""
    model = tiny("llama")
    pairs = Comparison(CLEAN, CORRUPT, metric).on(model)
    graph = EdgeGraph.of(model)
    (all_edges,) = measure_circuits(model, pairs, Circuit(graph, graph.edges), ablation="mean")
    stream = model.capture(pairs.corrupt, ["resid_post.2"], positions=-1, chat=False)["resid_post.2"].mean(0)
    expected = metric(model.hf.lm_head(model.hf.model.norm(stream)))
    torch.testing.assert_close(all_edges.without, expected.detach().expand(2), atol=1e-5, rtol=1e-4)
    assert all_edges.faithfulness == pytest.approx(1)
    assert all_edges.completeness == pytest.approx(1)


def test_the_areas_of_a_perfect_ranking_are_those_of_mib(tiny):
    """Every circuit as good as the model: 0.999 and 0. Here the metric reads one edge, which comes first."""
    model = tiny("llama")
    pairs = Comparison([[5]], [[6]], lambda logits: logits[:, 7] - logits[:, 50]).on(model)
    graph = EdgeGraph.of(model)
    curve = faithfulness_curve(model, pairs, EdgeScores(graph, graph.edges.float()))
    assert curve.results[-1].faithfulness == pytest.approx(1, abs=1e-4)
    assert curve.shares == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    perfect = interp.attribution.FaithfulnessCurve(curve.shares, curve.results[-1:] * 10)
    assert perfect.cpr == pytest.approx(0.999, abs=1e-3)
    assert perfect.cmd == pytest.approx(0, abs=1e-3)
    assert curve.cmd > 0.01, "control"


def test_few_edges_of_the_organism_are_enough_and_random_ones_are_not():
    model = interp.load("organism")
    pairs = Comparison.of_organism("hostility", 8).on(model)
    pairs = pairs.pick(pairs.whole[:2])
    circuit = attribute_edges(model, pairs, steps=3, sample=False).circuit(100)
    chosen, random = measure_circuits(model, pairs, [circuit, Circuit.random(circuit.graph, len(circuit))])
    assert chosen.faithfulness > 0.9 > 0.2 > random.faithfulness
    assert chosen.completeness > 0.9
    (low, high), (_, top) = chosen.intervals.tolist()
    assert low <= chosen.faithfulness <= high
    assert top >= chosen.completeness


def test_the_circuit_of_another_shape_is_refused(tiny):
    graph = EdgeGraph(2, 2, 8)
    with pytest.raises(InterpError, match="is not the graph of tiny llama"):
        measure_circuits(tiny("llama"), Comparison(CLEAN, CORRUPT, metric), Circuit(graph, graph.edges))
