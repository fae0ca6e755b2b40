"""Edges patched one by one, against plain hooked runs and TransformerLens, in many architectures."""

import pytest
import tiny_models
import torch
from transformer_lens.patching import get_act_patch_direct_path

from interp import InterpError
from interp.attribution import Comparison, patch_edges
from interp.models.sites import Site

CLEAN = [[5, 9, 77, 12, 30, 8], [12, 99, 101, 4, 7]]
CORRUPT = [[5, 31, 77, 12, 30, 8], [12, 98, 101, 5, 7]]


def metric(logits):
    return logits[:, 7] - logits[:, 50]


def slow(model, pairs, source, target):
    """Plain runs with hooks: the input of a layer is changed to read one projection, which then goes in by itself."""
    kind, layer = ("z", "mlp_out")[source[0] == "m"], int(source[1])
    base, other = (model.capture(side, [f"{kind}.{layer}"], chat=False)[f"{kind}.{layer}"]
                   for side in (pairs.base, pairs.source))  # fmt: skip
    change = other - base
    if kind == "z":
        head, attention = int(source[-1]), model.hf.get_submodule(model.tap(Site("z", layer)).path)
        part = torch.zeros_like(change)
        part[:, :, head] = change[:, :, head]
        change = part.flatten(2) @ attention.weight.T * getattr(model.config, "residual_multiplier", 1.0)
    if target == "logits":
        return run(model, pairs, f"resid_post.{model.n_layers - 1}", lambda x: x + change)
    layer, letter, site = int(target[1]), target[-2], f"{target[-2]}.{target[1]}"
    if target[0] == "m":
        with model.hooked([(f"resid_mid.{layer}", lambda x: x + change)]):
            new = model.capture(pairs.base, [f"mlp_out.{layer}"], chat=False)[f"mlp_out.{layer}"]
        return run(model, pairs, f"mlp_out.{layer}", lambda x: new)
    with model.hooked([(f"resid_pre.{layer}", lambda x: x + change)]):
        read = model.capture(pairs.base, [site], chat=False)[site]
    head = int(target[4])
    row = head * read.shape[2] // model.config.num_attention_heads if letter in "kv" else head
    with model.hooked([(site, lambda x: put(x, row, read))]):
        z = model.capture(pairs.base, [f"z.{layer}"], chat=False)[f"z.{layer}"]
    return run(model, pairs, f"z.{layer}", lambda x: put(x, head, z))


def put(x, head, value):
    changed = x.clone()
    changed[:, :, head] = value[:, :, head]
    return changed


def run(model, pairs, site, change):
    with model.hooked([(site, change)]):
        return pairs.metric(model.logits(pairs.base, last=1)[None, :, 0])[0]


@pytest.mark.parametrize(
    ("name", "convention"),
    [("llama", "denoise"), ("llama", "noise"), ("granite", "denoise"), ("qwen3", "noise"), ("cohere", "denoise")],
)
def test_an_edge_has_the_metric_of_plain_hooked_runs(tiny, name, convention):
    """Rows of two lengths; groups of two query heads, of which one alone reads the change."""
    model = tiny(name)
    pairs = Comparison(CLEAN, CORRUPT, metric, convention=convention).on(model)
    targets = ["a1.h1<q>", "a2.h1<k>", "a2.h2<v>", "logits"] + ["m1"] * (name != "cohere")
    edges = [(source, target) for source in ("m0", "a0.h3") for target in targets]
    result = patch_edges(model, pairs, ["->".join(edge) for edge in edges])
    for edge, values in zip(edges, result.values, strict=True):
        torch.testing.assert_close(values, slow(model, pairs, *edge), atol=2e-6, rtol=1e-5)
    changes = (result.values - pairs.base_values).abs().amax(1)
    assert int((changes > 5e-7).sum()) >= len(edges) - 1, "control: what a first MLP adds to the last token is the same"


@pytest.mark.parametrize("name", ["gpt2", "phi3", "gpt_neox", "bloom", "falcon", "falcon_new", "falcon_sequential"])
def test_fused_projections_are_split_into_queries_keys_and_values(tiny, name):
    """Of a token that comes first, the query is of no use to later ones; of one by itself, neither is the key."""
    model, letters = tiny(name), [f"input->a0.h{head}<{letter}>" for head in (0, 3) for letter in "qkv"]
    first = Comparison([[5, 9, 8]], [[6, 9, 8]], metric).on(model)
    alone = Comparison([[5]], [[6]], metric).on(model)
    for pairs, matter in ((first, [0, 1, 1] * 2), (alone, [0, 0, 1] * 2)):
        changes = (patch_edges(model, pairs, letters).values - pairs.base_values).abs()[:, 0]
        assert (changes > 2e-6).tolist() == [bool(x) for x in matter], changes


@pytest.mark.parametrize(("name", "letters"), [("gpt2", "qkv"), ("llama", "q"), ("gpt_neox", "v")])
def test_edges_between_heads_are_those_of_transformerlens(tiny, name, letters):
    model = tiny(name)
    pairs = Comparison(CLEAN[:1], CORRUPT[:1], metric).on(model)
    (_, clean), (_, corrupt) = (model.bridge.run_with_cache(side.ids) for side in (pairs.clean, pairs.corrupt))
    for letter in letters:
        theirs = get_act_patch_direct_path(
            model.bridge, pairs.corrupt.ids, clean, corrupt, lambda x: metric(x[:, -1]).mean(), 0, 2, letter, False
        )
        ours = patch_edges(model, pairs, [f"a0.h2->a{x}.h{head}<{letter}>" for x in (1, 2) for head in range(4)])
        torch.testing.assert_close(ours.values[:, 0].view(2, 4), theirs[1:], atol=2e-6, rtol=1e-5)


def test_the_last_stream_is_the_sum_of_its_edges(tiny):
    """Under a metric that is linear in the final stream, the edges into the logits make the whole change."""
    model = tiny("llama")
    pairs = Comparison(CLEAN, CORRUPT, metric).on(model)
    result = patch_edges(model, pairs, "m2->logits")
    assert result.intervals.shape == (1, 2)
    assert result.top(1) == [("m2->logits", pytest.approx(float(result.changes[0])))]


@pytest.mark.parametrize(
    ("pairs", "edges", "message"),
    [
        (([[5, 9, 8]], [[5, 9]], "ends"), "input->m0", "3 and 2 tokens .* keeps the 0 pairs that are"),
        (([[5, 9, 8]], [[5, 7, 8]], None), "m0->a0.h0<q>", "is not an edge"),
    ],
    ids=["lengths", "edge"],
)
def test_what_has_no_edges_is_refused(tiny, pairs, edges, message):
    clean, corrupt, alignment = pairs
    with pytest.raises(InterpError, match=message):
        patch_edges(tiny("llama"), Comparison(clean, corrupt, metric, alignment=alignment), edges)


def test_models_without_known_inputs_are_refused_by_name(tiny):
    for name in ("deepseek_v2", "gemma4"):
        with pytest.raises(InterpError, match=f"{name}.*queries, keys and values are not known"):
            patch_edges(tiny(name), Comparison(CLEAN, CORRUPT, metric), "input->m0")
    model = tiny("llama")
    with model.hooked([("mlp_out.1", lambda x: 0 * x)]), pytest.raises(InterpError, match="inside a hooked block"):
        patch_edges(model, Comparison(CLEAN, CORRUPT, metric), "input->m0")


def test_streams_with_huge_numbers_are_sums_and_streams_that_grow_by_themselves_are_not():
    """The first token of many models has activations of thousands, whose sums are rounded."""
    model = tiny_models.build("llama", seed=5)
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[CLEAN[0][0]] *= 1e6
    pairs = Comparison(CLEAN[:1], CORRUPT[:1], metric).on(model)
    assert patch_edges(model, pairs, "m0->logits").values.isfinite().all()
    with (
        tiny_models.at_layer(model, 1, lambda x: 1.2 * x),
        pytest.raises(InterpError, match="llama: its stream is not the sum"),
    ):
        patch_edges(model, pairs, "m0->logits")


def test_where_16_bits_round_too_much_the_error_says_so():
    """The same model in float32 has edges, so its stream is a sum of what is written."""
    model = tiny_models.build("llama")
    pairs = Comparison(CLEAN, CORRUPT, metric)
    assert patch_edges(model, pairs, "m0->logits").values.isfinite().all(), "control"
    model.hf.to(torch.bfloat16)
    with pytest.raises(InterpError, match=r"llama: edges .* bfloat16 rounds too much; .* load with dtype='float32'"):
        patch_edges(model, pairs, "m0->logits")
