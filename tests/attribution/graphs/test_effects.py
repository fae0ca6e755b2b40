"""Ablations of nodes: under the freeze they are the direct edges, in the plain model what a plain hook gives."""

import pytest
import torch
from transcoder_sets import cross_layer, per_layer

from interp import InterpError
from interp.attribution import measure_effects, trace_graph

IDS = [5, 9, 77, 12, 30, 8]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox", "bloom", "granite"])
def test_an_ablation_under_the_freeze_is_the_direct_edge(tiny, name):
    model = tiny(name)
    for coders in (per_layer(model), [cross_layer(model)]):
        graph = trace_graph(model, coders, [IDS], [7, 50], measure=False)
        effects = measure_effects(graph, model, freeze=True)
        torch.testing.assert_close(effects.measured, effects.predicted, atol=1e-4, rtol=1e-5)
        assert effects.correlation == pytest.approx(1, abs=1e-6)
        assert (effects.predicted[~effects.later] == 0).all()
        plain = measure_effects(graph, model)
        assert (plain.measured - effects.measured).abs().max() > 0.01, "control: the plain model responds otherwise"


def test_an_ablation_in_the_plain_model_is_a_plain_hook(tiny):
    model = tiny("llama")
    coders = per_layer(model)
    graph = trace_graph(model, coders, [IDS], [7, 50])
    effects, nodes = graph.effects, graph.nodes.pick(graph.kept_nodes)
    for row in range(0, len(effects.sources), 9):
        source = int(effects.sources[row])
        if source >= len(graph.activations):
            continue
        layer, position = int(graph.nodes.layers[source]), int(graph.nodes.positions[source])
        vector = graph.activations[source] * coders[layer].W_dec[graph.nodes.latents[source]]

        def without(x, position=position, vector=vector):
            changed = x.clone()
            changed[:, position] -= vector
            return changed

        with model.hooked([(f"mlp_out.{layer}", without)]):
            logits = model.logits([IDS], last=1)[0, 0]
            read = model.capture([IDS], ["mlp_input.2"], chat=False)["mlp_input.2"][0]
        changed = (logits - logits.mean())[[7, 50]] - nodes.values[-2:]
        torch.testing.assert_close(effects.measured[row, -2:], changed, atol=1e-4, rtol=1e-4)
        here = nodes.layers == 2
        values = coders[2].encode(read)[nodes.positions[here], nodes.latents[here]]
        torch.testing.assert_close(effects.measured[row, here], values - nodes.values[here], atol=1e-4, rtol=1e-4)


def test_total_effects_sum_over_all_paths(tiny):
    """Of the graph with latents that respond in proportion: the sum over paths, computed layer by layer."""
    model = tiny("llama")
    graph = trace_graph(model, per_layer(model), [IDS], [7, 50])
    latents, effects = len(graph.activations), graph.effects
    shares = torch.zeros(len(effects.sources), graph.edges.shape[1])
    shares[torch.arange(len(shares)), effects.sources] = -1
    for layer in range(3):
        here = (graph.nodes.layers[:latents] == layer).nonzero()[:, 0]
        shares[:, here] += shares @ graph.edges[here].T / graph.activations[here]
    expected = shares @ graph.edges.T
    torch.testing.assert_close(effects.predicted, expected[:, effects.nodes], atol=1e-4, rtol=1e-3)
    direct = measure_effects(graph, model, freeze=True).predicted
    assert (effects.predicted - direct).abs().max() > 0.01, "control: paths matter"


def test_a_graph_of_another_model_is_refused(tiny):
    graph = trace_graph(tiny("llama"), per_layer(tiny("llama")), [IDS], 7, measure=False)
    with pytest.raises(InterpError, match="this SAE"):
        measure_effects(graph, tiny("llama", 1))
