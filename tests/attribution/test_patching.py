"""Patching against plain hooked runs and TransformerLens, in every architecture; estimates against exact patching."""

import json

import pytest
import sae_samples
import tiny_models
import torch
from transformer_lens import patching as theirs

import interp
from interp import Direction, InterpError
from interp.attribution import Comparison, KLToClean, LogitDifference, Patching, patch
from interp.models import frozen_weights
from interp.models.hooks import attached
from interp.models.sites import Site

CLEAN = [[5, 9, 77, 12, 30, 8], [12, 99, 101, 4, 7]]
CORRUPT = [[5, 31, 77, 12, 30, 8], [12, 98, 101, 5, 7]]


def compared(model, **options):
    return Comparison(CLEAN, CORRUPT, lambda logits: logits[:, 7] - logits[:, 50], **options).on(model)


def slow(model, pairs, site, by, place):
    """One plain run with a hook, over all layers and columns."""
    columns, rows = pairs.columns, torch.arange(len(pairs))[:, None]
    source = model.capture(pairs.source, [site], chat=False)[site][rows, columns.clamp(min=0)]

    def put(x):
        patched = x.clone()
        for row in range(len(pairs)):
            for column in range(columns.shape[1]):
                if columns[row, column] >= 0 and (by != "position" or column == place):
                    where = {"head": (row, column, place), "neuron": (row, column, place)}.get(by, (row, column))
                    patched[where] = source[where]
        return patched

    with model.hooked([(site, put)]):
        return pairs.metric(model.logits(pairs.base, last=1)[None, :, 0])[0]


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS))
def test_every_place_has_the_metric_of_a_plain_hooked_run(tiny, name):
    """Rows of two lengths, so that one is padded. Every site on two architectures, and the stream and heads on all."""
    model = tiny(name)
    pairs, every = compared(model), name in ("llama", "gemma2")
    kinds = [site.kind for site in model.sites if site.layer == 1 and (every or site.kind in ("resid_pre", "z"))]
    for kind in kinds:
        site = Site(kind, 1)
        units = {"z": ("site", "head"), "q": ("head",), "k": ("head",), "mlp_post": ("neuron",)}.get(kind, ())
        for by in ("position", *units) if every else ("position",):
            result = patch(model, pairs, site, by=by)
            for number in {0, min(2, len(result.labels) - 1), len(result.labels) - 1}:
                expected = slow(model, pairs, site, by, number)
                torch.testing.assert_close(result.values[0, number], expected, atol=2e-5, rtol=1e-4)
        assert kind != "resid_pre" or (result.effects.abs() > 1e-4).any(), "control: patches matter"


@pytest.mark.parametrize("convention", ["denoise", "noise"])
def test_the_whole_stream_moves_from_one_run_to_the_other(tiny, convention):
    model = tiny("llama")
    result = patch(model, compared(model, convention=convention), "resid_pre.*", by="site")
    end = 1.0 if convention == "denoise" else 0.0
    torch.testing.assert_close(result.effects, torch.full_like(result.effects, end), atol=1e-4, rtol=0)
    last = patch(model, compared(model, convention=convention), f"resid_post.{model.n_layers - 1}")
    assert last.effects[0, -1] == pytest.approx(end, abs=1e-4)
    torch.testing.assert_close(last.effects[0, :-1], torch.full((5,), 1 - end).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen2", "gemma2", "phi", "mistral", "qwen3"])
def test_the_values_are_those_of_transformerlens(tiny, name):
    model, same = tiny(name), [CLEAN[0], [7, 5, 6, 12, 90, 4]]
    pairs = Comparison(same, [CORRUPT[0], [7, 5, 8, 12, 90, 4]], lambda logits: logits[:, 7] - logits[:, 50]).on(model)
    _, cache = model.bridge.run_with_cache(pairs.clean.ids)

    def metric(logits):
        return (logits[:, -1, 7] - logits[:, -1, 50]).mean()

    with torch.no_grad():
        for function, sites, by in (
            (theirs.get_act_patch_resid_pre, "resid_pre.*", "position"),
            (theirs.get_act_patch_mlp_out, "mlp_out.*", "position"),
            (theirs.get_act_patch_attn_head_out_all_pos, "z.*", "head"),
            (theirs.get_act_patch_attn_head_pattern_all_pos, "z.*", "pattern"),
        ):
            expected = function(model.bridge, pairs.corrupt.ids, cache, metric)
            torch.testing.assert_close(
                patch(model, pairs, sites, by=by).values.mean(-1), expected, atol=1e-4, rtol=1e-4
            )


def test_positions_choose_where_heads_are_patched(tiny):
    model = tiny("llama")
    pairs = compared(model)
    (each,) = patch(model, pairs, "z.1", by="position", positions=[-1]).values
    whole, *_ = patch(model, pairs, "z.1", by="site", positions=[-1]).values
    torch.testing.assert_close(each, whole)
    moved = patch(model, pairs, "z.1", by="site").values
    assert (moved - whole).abs().max() > 1e-4, "control: other positions matter"
    every = patch(model, pairs, "z.1", by="site", positions=range(-6, 0)).values
    torch.testing.assert_close(every, moved)


def test_latents_and_the_error_are_the_site(tiny):
    """One latent against a plain hook; and to first order, all latents and the error sum to the site."""
    model = tiny("llama")
    pairs, sae = compared(model), sae_samples.autoencoder(model)
    result = patch(model, pairs, sae=sae)
    base, source = (model.capture(side, sae.site, chat=False)[sae.site] for side in (pairs.base, pairs.source))
    shift = (sae.encode(source) - sae.encode(base)) * pairs.base.mask[..., None]
    assert result.labels == (*shift.flatten(0, 1).any(0).nonzero()[:, 0].tolist(), "error")
    label = result.labels[result.ranked()[0][1]] if result.ranked()[0][1] < len(result.labels) - 1 else result.labels[0]
    with model.hooked([(sae.site, lambda x: x + shift[..., label, None] * sae.W_dec[label])]):
        expected = pairs.metric(model.logits(pairs.base, last=1)[None, :, 0])[0]
    torch.testing.assert_close(result.values[0, result.labels.index(label)], expected, atol=1e-5, rtol=1e-5)
    assert (expected - pairs.base_values).abs().max() > 1e-4, "control"
    parts, whole = (patch(model, pairs, sae.site, by=by, sae=x, method="attribution").values - pairs.base_values
                    for by, x in (("latent", sae), ("site", None)))  # fmt: skip
    torch.testing.assert_close(parts.sum(1), whole[:, 0], atol=1e-5, rtol=1e-4)
    clamped = result.recipe(model, 2, "zero", sae=sae)
    assert [(edit.op.value, str(edit.op.site)) for edit in clamped.edits] == [(0.0, str(sae.site))] * 2
    with pytest.raises(InterpError, match="give sae="):
        result.recipe(model)


def test_a_subspace_and_what_is_beside_it_are_the_whole(tiny):
    """At the last layer's output, which the final norm and the unembedding read, by a metric of the whole stream."""
    model = tiny("llama")
    pairs, site = compared(model), f"resid_post.{model.n_layers - 1}"
    every = Direction.of(torch.eye(model.d_model), site)
    whole, along = (patch(model, pairs, "resid_pre.1", subspace=x).values for x in (None, every))
    torch.testing.assert_close(along, whole, atol=1e-5, rtol=1e-5)
    few = patch(model, pairs, "resid_pre.1", subspace=Direction.of(torch.eye(model.d_model)[:3], site)).values
    source = model.capture(pairs.source, ["resid_pre.1"], chat=False)["resid_pre.1"]

    def put(x):
        y = x.clone()
        y[:, 1, :3] = source[:, 1, :3]
        return y

    with model.hooked([("resid_pre.1", put)]):
        expected = pairs.metric(model.logits(pairs.base, last=1)[None, :, 0])[0]
    torch.testing.assert_close(few[0, 1], expected, atol=1e-5, rtol=1e-5)
    assert (few - whole).abs().max() > 1e-3, "control"
    part = Direction.of(torch.eye(model.d_model)[:3], site)
    exact, integrated, plain = (
        patch(model, pairs, "resid_pre.1", by="site", subspace=part, method=method, steps=30).values - pairs.base_values
        for method in ("exact", "integrated", "attribution")
    )
    torch.testing.assert_close(integrated, exact, atol=0.01 * float(exact.abs().max()), rtol=0)
    assert (plain - exact).abs().max() > 0.05 * exact.abs().max(), "control: the metric is not linear on the way"


def test_integrated_gradients_are_complete(tiny):
    """The estimates of all positions together sum to the whole change: the path integral of a gradient."""
    model = tiny("llama")
    pairs = compared(model)
    whole = pairs.clean_values - pairs.corrupt_values
    for method, steps, complete in (("integrated", 40, True), ("integrated", 1, False), ("attribution", 1, False)):
        values = patch(model, pairs, ["resid_pre.0", "resid_pre.2"], method=method, steps=steps).values
        changes = (values - pairs.corrupt_values).sum(1)
        assert bool((changes - whole).abs().max() < 0.01 * whole.abs().max()) == complete, (method, steps)


def gradient_at(model, pairs, site, others):
    """The gradient of the metric at a site, in a run that holds the other sites at given values."""
    leaf = []

    def hold(x):
        leaf.append(x.detach().requires_grad_())
        return leaf[0]

    held = [(model.tap(other), lambda x, value=value: value) for other, value in others.items()]
    with frozen_weights(model), attached(model.hf, [(model.tap(site), hold), *held]):
        values = pairs.metric(model.forward(pairs.base, last=1)[None, :, 0])
        return torch.autograd.grad(values.sum(), leaf)[0]


@pytest.mark.parametrize(("kind", "by"), [("q", "head"), ("k", "head"), ("q", "position"), ("k", "position")])
def test_queries_and_keys_are_attended_to_anew(tiny, kind, by):
    """The correction of AtP*, against a plain run with the query or key patched, read at `z`; heads share keys."""
    model = tiny("llama")
    pairs, z, site = compared(model), Site("z", 1), Site(kind, 1)
    result = patch(model, pairs, site, by=by, method="attribution", corrections=["qk_fix"])
    base = model.capture(pairs.base, [z, site], chat=False)
    gradient = gradient_at(model, pairs, z, {})
    rows = torch.arange(len(pairs))[:, None]
    source = model.capture(pairs.source, [site], chat=False)[site][rows, pairs.columns.clamp(min=0)]
    for number, place in enumerate(result.labels):
        where = torch.zeros_like(base[site], dtype=torch.bool)
        where[(slice(None), place) if by == "position" else (slice(None), slice(None), place)] = True
        patched = torch.where(where & pairs.base.mask[..., None, None], source, base[site])
        with model.hooked([(site, lambda x, patched=patched: patched)]):
            moved = model.capture(pairs.base, [z], chat=False)[z] - base[z]
        expected = pairs.base_values + (moved * gradient * pairs.base.mask[..., None, None]).sum((1, 2, 3))
        torch.testing.assert_close(result.values[0, number], expected, atol=1e-5, rtol=1e-4)
    plain = patch(model, pairs, site, by=by, method="attribution")
    assert (plain.values - result.values).abs().max() > 1e-5, "control: the softmax is not linear"
    if by == "position":
        options = {"by": by, "method": "attribution", "corrections": ["qk_fix"], "positions": [result.labels[1]]}
        alone = patch(model, pairs, site, **options)
        torch.testing.assert_close(alone.values[0, 0], result.values[0, 1], msg="one position alone")


def test_dropped_gradients_leave_out_the_paths_through_a_layer(tiny):
    """Against gradients of runs that hold what attention and MLP of a layer write; sizes, averaged over layers."""
    model = tiny("llama")
    pairs, site = compared(model), Site("resid_pre", 1)
    result = patch(model, pairs, site, method="attribution", corrections=["grad_drop"])
    base, source = (model.capture(side, [site], chat=False)[site] for side in (pairs.base, pairs.source))
    sizes = []
    for layer in range(model.n_layers):
        written = [Site(kind, layer) for kind in ("attn_out", "mlp_out")]
        held = model.capture(pairs.base, written, chat=False).tensors
        gradient = gradient_at(model, pairs, site, held) if layer else gradient_at(model, pairs, site, {})
        sizes.append(((source - base) * gradient).sum(-1).abs() * pairs.base.mask)
    expected = (sum(sizes) / (model.n_layers - 1)).T
    way = (pairs.clean_values - pairs.corrupt_values).mean().sign()
    torch.testing.assert_close(way * (result.values[0] - pairs.base_values), expected, atol=1e-5, rtol=1e-4)
    assert result.agreement.spearman > 0.5
    first = patch(model, pairs, "mlp_out.0", by="site", method="attribution", corrections=["grad_drop"])
    assert (first.changes > 0).all()


@pytest.fixture(scope="module")
def organism():
    model = interp.load("organism")
    return model, Comparison.of_organism("hostility", 16).on(model)


def test_corrected_queries_rank_heads_as_exact_patching_does(organism):
    model, pairs = organism[0], organism[1].pick(torch.arange(4))
    plain, corrected = (
        patch(model, pairs, "q.*", by="head", method="attribution", corrections=c).agreement for c in ((), ["qk_fix"])
    )
    assert corrected.spearman > 0.95 > 0.8 > plain.spearman


@pytest.mark.parametrize(("sites", "by"), [("resid_pre.*", "position"), ("mlp_out.*", "position"), ("z.*", "head")])
def test_integrated_gradients_rank_places_as_exact_patching_does(organism, sites, by):
    model, pairs = organism
    agreement = patch(model, pairs, sites, by=by, method="integrated", steps=4).agreement
    assert agreement.spearman > 0.9
    assert agreement.pearson > 0.95
    assert agreement.places >= 36
    assert abs(agreement.misses[0][1] - agreement.misses[0][2]) >= abs(
        agreement.misses[-1][1] - agreement.misses[-1][2]
    )


def test_the_group_passes_to_the_reply_in_one_head_whose_ablation_removes_it(organism):
    """The place that patching names, as a recipe; the control ablates as many other heads of the same layer."""
    model, pairs = organism
    result = patch(model, pairs, "z.*", by="head")
    (name, effect), (_, second) = result.top(2)
    assert effect > 0.8 > 0.2 > abs(second)
    site, head = name.split(", head ")
    ablated, heads = result.recipe(model, top=1), set(range(model.config.num_attention_heads)) - {int(head)}
    others = [interp.Recipe([(site, interp.Replace(ablated.edits[0].op.value, [other]))]) for other in heads]

    def shown(recipe):
        with model.hooked(recipe):
            return pairs.effect(pairs.metric(model.logits(pairs.clean, last=1)[None, :, 0])[0])

    assert shown(ablated) < 0.2
    assert min(map(shown, others)) > 0.8
    (low, high), value = result.intervals[0, int(head)].tolist(), float(result.effects[0, int(head)])
    assert low <= value <= high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": "embed"}, "embed is in no layer"),
        ({"sites": "mlp_out.1", "by": "head"}, "expected sites with one number of heads"),
        ({"sites": "z.1", "by": "neuron"}, "expected sites of one width without heads"),
        ({"sites": "q.1", "by": "pattern"}, "whose patterns are patched"),
        ({"sites": "z.1", "by": "latent"}, "expected an autoencoder"),
        ({"sites": "z.1", "method": "attribution", "corrections": ["qk_fix"]}, "corrects queries and keys"),
        ({"sites": "q.1", "corrections": ["qk_fix"]}, "of method 'exact'"),
        ({"sites": "z.1", "positions": []}, "no positions"),
        ({"sites": "z.1", "subspace": Direction.of(torch.ones(32), "resid_pre.1")}, "expected 8, that of z.1"),
        ({"sites": "z.1", "positions": [0]}, "position 0 is outside the prompts; expected -6 to -1"),
        ({"sites": "resid_pre.99"}, "unknown site"),
    ],
)
def test_what_can_not_be_patched_is_refused(tiny, arguments, message):
    with pytest.raises(InterpError, match=message):
        patch(tiny("llama"), compared(tiny("llama")), **arguments)


def test_patterns_need_pairs_that_are_aligned_token_by_token(tiny):
    pairs = Comparison([[4, 5, 6]], [[7, 5, 6]], alignment=[[(0, 1), (1, 0), (2, 2)]])
    with pytest.raises(InterpError, match="token by token"):
        patch(tiny("llama"), pairs, "z.1", by="pattern")


def test_a_model_under_a_recipe_is_refused(tiny):
    model = tiny("llama")
    with model.hooked([("mlp_out.1", lambda x: 0 * x)]), pytest.raises(InterpError, match="inside a hooked block"):
        patch(model, compared(model), "resid_pre.1")


@pytest.mark.parametrize("metric", [LogitDifference([7, 8], [50, 51]), KLToClean(), lambda logits: logits[:, 7]])
def test_a_saved_record_is_read_as_it_was(tiny, tmp_path, metric):
    model = tiny("llama")
    result = patch(model, Comparison(CLEAN, CORRUPT, metric), "z.*", by="head", method="integrated", steps=1)
    result.save(tmp_path / "patching.json")
    again = Patching.load(tmp_path / "patching.json")
    assert torch.equal(again.effects, result.effects)
    assert torch.equal(again.intervals, result.intervals)
    assert (again.top(), again.agreement.misses, again.model) == (
        result.top(),
        result.agreement.misses,
        model.reference,
    )
    assert again.pair_rows() == result.pair_rows()
    assert again.recipe(model, 2).digest == result.recipe(model, 2).digest
    logits = model.logits(again.pairs.clean, last=1)[None, :, 0]
    if isinstance(metric, LogitDifference):
        torch.testing.assert_close(again.pairs.metric(logits)[0], again.pairs.clean_values)
    else:
        with pytest.raises(InterpError, match="compare again"):
            again.pairs.metric(logits)
    with pytest.raises(InterpError, match="exists"):
        result.save(tmp_path / "patching.json")
    record = json.loads((tmp_path / "patching.json").read_text())
    for broken in ({}, [1], record | {"values": [1]}, record | {"sites": ["z.x"]}, record | {"clean": 3}):
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(InterpError):
            Patching.load(tmp_path / "broken.json")
