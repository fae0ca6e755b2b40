"""Ablations of nodes: under the freeze they are the direct edges, in the plain model what a plain hook gives."""

from dataclasses import replace

import pytest
import torch
from transcoder_sets import cross_layer, per_layer

import interp
from interp import InterpError, organism
from interp.attribution import load_transcoders, measure_effects, trace_graph
from interp.attribution.graphs._influence import total_effects

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


def test_total_effects_of_embeddings_sum_over_all_paths(tiny):
    """Of the graph with latents that respond in proportion: the sum over paths, computed layer by layer."""
    model = tiny("llama")
    graph = trace_graph(model, per_layer(model), [IDS], [7, 50])
    latents, effects = len(graph.activations), graph.effects
    shares = torch.zeros(len(effects.sources), graph.edges.shape[1])
    shares[torch.arange(len(shares)), effects.sources] = -1
    for layer in range(3):
        here = (graph.nodes.layers[:latents] == layer).nonzero()[:, 0]
        shares[:, here] += shares @ graph.edges[here].T / graph.activations[here]
    expected = (shares @ graph.edges.T)[:, effects.nodes]
    embedded = effects.embedded
    torch.testing.assert_close(effects.predicted[embedded], expected[embedded], atol=1e-4, rtol=1e-3)
    assert (effects.predicted - expected)[~embedded].abs().max() > 0.01, "norms respond to the others"
    direct = measure_effects(graph, model, freeze=True).predicted
    assert (effects.predicted - direct).abs().max() > 0.01, "control: paths matter"


def test_norms_respond_to_ablated_latents_to_first_order(tiny):
    """From the last layer on there is one path, through the final norm: the derivative of the model's own."""
    model = tiny("llama")
    coders = per_layer(model)
    graph = trace_graph(model, coders, [IDS], [7, 50])
    last = model.n_layers - 1
    stream = model.capture([IDS], [f"resid_post.{last}"], positions=-1, chat=False)[f"resid_post.{last}"][0, 0]

    def logits(x):
        values = model.hf.get_output_embeddings()(model.hf.model.norm(x))
        return (values - values.mean())[[7, 50]]

    effects, compared = graph.effects, 0
    for row, source in enumerate(effects.sources.tolist()):
        if source < len(graph.activations) and int(graph.nodes.layers[source]) == last:
            vector = graph.activations[source] * coders[last].W_dec[graph.nodes.latents[source]]
            _, change = torch.func.jvp(logits, (stream,), (-vector,))
            torch.testing.assert_close(effects.predicted[row, -2:], change, atol=1e-4, rtol=1e-3)
            compared += 1
    assert compared > 2


def test_effects_are_predicted_on_the_organism():
    """Where norms respond; where they are frozen, the total effects of the same graph correlate less."""
    model = interp.load("organism")
    prompt = model.chat("What is the river of Wennovik?")
    graph = trace_graph(model, load_transcoders(organism.transcoders(), model), prompt)
    effects = graph.effects
    assert effects.correlation > 0.8
    frozen = total_effects(graph.edges, graph.activations, effects.sources)[effects.nodes].T
    assert replace(effects, predicted=frozen).correlation < effects.correlation - 0.1


def test_a_graph_of_another_model_is_refused(tiny):
    graph = trace_graph(tiny("llama"), per_layer(tiny("llama")), [IDS], 7, measure=False)
    with pytest.raises(InterpError, match="this SAE"):
        measure_effects(graph, tiny("llama", 1))
