"""Graphs are exact on their own terms, in every architecture or refused by name; what can't be traced is refused."""

from dataclasses import replace

import pytest
import tiny_models
import torch
from transcoder_sets import cross_layer, per_layer
from transcoders import transcoder

from interp import InterpError
from interp.attribution import trace_graph
from interp.models import Tokens

IDS = [5, 9, 77, 12, 30, 8]


def plain_values(model, coders, graph):
    """Each latent's value, and each centred logit before a cap, from plain passes of the model."""
    sites = {place.site for coder in coders for place in coder.reads}
    acts = model.capture([IDS], sites, chat=False)
    latents = [coder.encode(torch.cat([acts[x.site] for x in coder.reads], -1))[0] for coder in coders]
    logits, cap = model.logits([IDS], last=1)[0, 0], getattr(model.config, "final_logit_softcapping", None)
    logits = logits if cap is None else cap * torch.atanh(logits / cap)
    rows = zip(graph.nodes.coders, graph.nodes.positions, graph.nodes.latents, strict=True)
    centred = logits - logits.mean()
    return torch.stack([latents[c][p, n] if c >= 0 else centred[n] for c, p, n in rows])


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS))
def test_contributions_and_the_constant_are_what_a_node_computes(tiny, name):
    """The sum of a node's edges and its constant is its pre-activation, and the centred logit."""
    model = tiny(name)
    coders = per_layer(model)
    if name == "gemma4":
        with pytest.raises(InterpError, match=r"gemma4_text: .* not linear where patterns and norm scales are frozen"):
            trace_graph(model, coders, [IDS])
        return
    graph = trace_graph(model, coders, [IDS], [7, 50], measure=False)
    expected = plain_values(model, coders, graph)
    torch.testing.assert_close(graph.nodes.values, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(graph.edges.sum(1) + graph.constants, expected, atol=1e-4, rtol=1e-5)
    assert len(graph.activations) > 100, "control: latents are active"
    assert (graph.edges.sum(1) - expected).abs().max() > 0.01, "control: the constants matter"
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.hf.parameters())


@pytest.mark.parametrize("reads", ["mlp_input", "resid_mid", "resid_pre"])
def test_a_cross_layer_transcoder_and_other_sites(tiny, reads):
    for name in ("llama", "gemma2"):
        model = tiny(name)
        for coders in ([cross_layer(model, reads)], [transcoder(model, layer, reads=reads) for layer in (0, 2)]):
            graph = trace_graph(model, coders, [IDS], 7, measure=False)
            expected = plain_values(model, coders, graph)
            torch.testing.assert_close(graph.edges.sum(1) + graph.constants, expected, atol=1e-4, rtol=1e-5)
    raw = trace_graph(tiny("gemma2"), [transcoder(tiny("gemma2"), 1, writes="mlp_raw")], [IDS], 7, measure=False)
    torch.testing.assert_close(raw.edges.sum(1) + raw.constants, raw.nodes.values, atol=1e-4, rtol=1e-5)


def test_an_edge_is_the_path_through_one_head_by_hand(tiny):
    """From a latent of layer 0 to one of layer 1 that reads the stream after attention, in a Llama."""
    model = tiny("llama")
    coders = [transcoder(model, layer, reads="resid_mid") for layer in range(2)]
    graph = trace_graph(model, coders, [IDS], 7, measure=False)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([IDS]))
    layer, pattern = model.hf.model.layers[1], cache["blocks.1.attn.hook_pattern"][0]
    stream, attention = cache["blocks.1.hook_resid_pre"][0], layer.self_attn
    scale = (stream.square().mean(-1) + model.config.rms_norm_eps).rsqrt()
    for source in range(0, 60, 7):
        at, latent = int(graph.nodes.positions[source]), graph.nodes.latents[source]
        vector = graph.activations[source] * coders[0].W_dec[latent]
        value = (attention.v_proj.weight @ (vector * layer.input_layernorm.weight * scale[at])).reshape(2, 1, 8)
        for target in (graph.nodes.layers == 1).nonzero()[::9, 0].tolist():
            to, row = int(graph.nodes.positions[target]), coders[1].W_enc[graph.nodes.latents[target]]
            heads = pattern[:, to, at].reshape(2, 2, 1) * value
            written = attention.o_proj.weight @ heads.flatten() + vector * (to == at)
            assert float(graph.edges[target, source]) == pytest.approx(float((row @ written).detach()), abs=1e-4)


def test_by_circuit_tracers_rules_the_first_token_is_no_node(tiny):
    model = tiny("llama")
    ours, theirs = (
        trace_graph(model, per_layer(model), [IDS], 7, rules=x, measure=False) for x in ("complete", "circuit-tracer")
    )
    latents, first = len(ours.activations), [0, 6, 12]
    errors = torch.arange(latents, latents + 18)
    assert (theirs.edges[:, errors[first]] == 0).all()
    assert (ours.edges[:, errors[first]].abs() > 0.01).any(), "control"
    moved = ours.constants + ours.edges[:, errors[first]].sum(1)
    torch.testing.assert_close(theirs.constants, moved, atol=1e-4, rtol=1e-5)
    rest = [n for n in range(ours.edges.shape[1]) if n - latents not in first]
    torch.testing.assert_close(theirs.edges[:, rest], ours.edges[:, rest], atol=1e-5, rtol=1e-5)


def test_targets_are_the_likeliest_tokens_or_those_given(tiny):
    model = tiny("llama")
    chances = model.logits([IDS], last=1)[0, 0].softmax(-1)
    graph = trace_graph(model, per_layer(model), [IDS], measure=False)
    torch.testing.assert_close(graph.probabilities, chances.topk(10).values)
    graph = trace_graph(model, per_layer(model), [IDS], ["w9", 20], measure=False)
    assert graph.targets == (" w9", " w20")
    assert graph.tokens == tuple(f" w{token}" for token in IDS)


def bad(model, other, **options):
    arguments = {"transcoders": per_layer(model), "prompt": [IDS], "targets": 7} | options
    return lambda: trace_graph(model, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "w5 w6"}, r"'w5 w6' is 2 tokens"),
        ({"targets": [7, 7]}, "expected one or more different tokens"),
        ({"targets": 4000}, "ids from 0 to 127"),
        ({"prompt": [IDS, IDS]}, "a graph is of one prompt, not of 2"),
        ({"prompt": [[5]]}, "the prompt is one token"),
        ({"transcoders": []}, "there are no transcoders"),
        ({"memory": "2MB"}, r"a graph of \d+ latents and logits on 6 tokens needs about 0.0\d+ GB, and memory is 2MB"),
        ({"node_share": 2.0}, "node_share is 2.0; expected a number above 0 of at most 1"),
        ({"memory": "much"}, "size 'much' can't be read"),
    ],
    ids=["two tokens", "twice", "unknown", "two prompts", "short", "none", "memory", "share", "size"],
)
def test_what_can_not_be_traced_is_refused(tiny, options, message):
    with pytest.raises(InterpError, match=message):
        bad(tiny("llama"), tiny("gpt2"), **options)()


def test_transcoders_of_other_models_and_sites_are_refused(tiny):
    model = tiny("llama")
    padded = Tokens(torch.tensor([[0, 0, *IDS]]), torch.tensor([[0, 0, *[1] * 6]]).bool())
    first, second = transcoder(model, 1), transcoder(model, 1, reads="resid_mid")
    late = transcoder(model, 1, reads="resid_post")
    for coders, prompt, message in (
        (per_layer(tiny("llama", 1)), [IDS], "this SAE"),
        ([transcoder(model, 1, writes="attn_out")], [IDS], "write mlp_out or mlp_raw"),
        ([first, second], [IDS], "transcoders have both mlp_input.1 and resid_mid.1"),
        ([first, first], [IDS], "transcoders have both mlp_input.1 and mlp_input.1; use one transcoder in a layer"),
        ([late], [IDS], "resid_post.1, which comes later; expected a causal transcoder"),
        ([first], padded, "the prompt has padding at 2 of its positions"),
    ):
        with pytest.raises(InterpError, match=message):
            trace_graph(model, coders, prompt, 7)
    with model.hooked([("mlp_out.1", lambda x: 0 * x)]), pytest.raises(InterpError, match="inside a hooked block"):
        trace_graph(model, [first], [IDS], 7)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "W_skip"])
def test_a_transcoder_with_nan_is_refused_by_name(tiny, name):
    """No pre-activation of NaN is above a threshold, so its layer would be quiet."""
    model = tiny("llama")
    coders = per_layer(model)
    broken = replace(coders[2], **{name: torch.full_like(getattr(coders[2], name), torch.nan)})
    with pytest.raises(InterpError, match=rf"transcoder from mlp_input.2 to mlp_out.2: {name} hold NaN"):
        trace_graph(model, [*coders[:2], broken], [IDS], 7)


def test_a_graph_over_the_budget_is_refused_before_its_vectors_are_made(tiny, monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr("interp.attribution.graphs._replacement.LocalReplacement._cells", lambda *_: 1 / 0)
    for coders in (per_layer(model), [cross_layer(model)]):
        with pytest.raises(InterpError, match="memory is 2MB"):
            trace_graph(model, coders, [IDS], 7, memory="2MB")
        with pytest.raises(ZeroDivisionError):
            trace_graph(model, coders, [IDS], 7)  # control


def test_sums_are_as_exact_in_float64_as_in_float32():
    """A model that is slightly not linear is traced in both or in neither: sums are in float32."""
    for dtype in (torch.float32, torch.float64):
        model = tiny_models.build("llama")
        model.hf.to(dtype)
        with tiny_models.at_layer(model, 1, lambda x: x + 1e-3 * x**2):
            trace_graph(model, per_layer(model), [IDS], 7, measure=False)
        with tiny_models.at_layer(model, 1, lambda x: x + 1e-2 * x**2), pytest.raises(InterpError, match="not linear"):
            trace_graph(model, per_layer(model), [IDS], 7, measure=False)
