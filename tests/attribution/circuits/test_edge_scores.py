"""Scores of edges: TransformerLens', gradients of plain runs, sums that are theorems, and exact effects."""

import pytest
import torch
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

import interp
from interp import InterpError
from interp.attribution import Comparison, EdgeGraph, EdgeScores, attribute_edges, patch

CLEAN = [[5, 9, 77, 12, 30, 8], [12, 99, 101, 4, 7, 6], [3, 9, 5]]
CORRUPT = [[5, 31, 77, 12, 30, 8], [12, 98, 101, 5, 7, 6], [3, 8, 5]]


def metric(logits):
    return logits[:, 7] - logits[:, 50]


def compared(model, rows=3, **options):
    return Comparison(CLEAN[:rows], CORRUPT[:rows], metric, **options).on(model)


def gap(pairs):
    return (pairs.clean_values - pairs.corrupt_values).mean()


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_the_scores_of_one_step_are_those_of_transformerlens(tiny, name):
    model = tiny(name)
    pairs = compared(model, 2)
    scores = attribute_edges(model, pairs, steps=1, sample=False)
    theirs = attribution_patch(
        model.bridge, pairs.clean.ids, pairs.corrupt.ids, lambda x: metric(x[:, -1])[0], EdgeAttributionConfig("edge")
    ).edge_scores
    total = dict.fromkeys(scores.graph.index, 0.0)
    for (writer, reader), score in theirs.items():
        source = {"embed": "input", "mlp_out": f"m{writer.layer}"}.get(writer.kind, f"a{writer.layer}.h{writer.head}")
        target = {"mlp_in": f"m{reader.layer}", "logits": "logits"}.get(
            reader.kind, f"a{reader.layer}.h{reader.head}<{reader.kind[0]}>"
        )
        total[f"{source}->{target}"] += score
    ours = torch.tensor([float(scores.scores[edge]) for edge in scores.graph.index.values()]) * gap(pairs)
    torch.testing.assert_close(ours, torch.tensor(list(total.values())), atol=2e-6, rtol=1e-4)
    assert ours.abs().max() > 1e-3, "control"


@pytest.mark.parametrize(
    ("name", "convention"), [("llama", "noise"), ("cohere", "denoise"), ("granite", "denoise"), ("gemma2", "denoise")]
)
def test_the_edges_of_a_writer_sum_to_its_own_score(tiny, name, convention):
    """To that of attribution patching. Where a norm follows attention, the heads of a layer sum to its output's."""
    model = tiny(name)
    pairs = compared(model, convention=convention)
    sums = attribute_edges(model, pairs, steps=1, sample=False).scores.sum(1)
    blocks = sums[1:].view(model.n_layers, -1)

    def scores(sites, by="site"):
        nodes = patch(model, pairs, sites, by=by, method="attribution")
        return (nodes.effects - pairs.effect(pairs.base_values)).float()

    torch.testing.assert_close(blocks[:, -1:], scores("mlp_out.*"), atol=1e-5, rtol=1e-4)
    heads = blocks[:, :-1]
    heads, whole = (heads.sum(1, keepdim=True), "attn_out.*") if name == "gemma2" else (heads, "z.*")
    torch.testing.assert_close(heads, scores(whole, "site" if name == "gemma2" else "head"), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sums[:1, None], scores("resid_pre.0"), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("convention", ["denoise", "noise"])
def test_integrated_gradients_average_over_embeddings_from_the_base_on(tiny, convention):
    """k / steps of the way, k from 0, by plain runs with the gradient at what the MLP reads."""
    model, steps = tiny("llama"), 3
    pairs = compared(model, convention=convention)
    scores = attribute_edges(model, pairs, steps=steps, sample=False)
    base, source = (
        model.capture(side, ["resid_pre.0", "mlp_out.0"], chat=False) for side in (pairs.base, pairs.source)
    )
    expected = {"input->m1": 0.0, "m0->m1": 0.0}
    for step in range(steps):
        held = []

        def hold(x, held=held):
            held.append(x.detach().requires_grad_())
            return held[-1]

        mixed = base["resid_pre.0"] + step / steps * (source["resid_pre.0"] - base["resid_pre.0"])
        with model.hooked([("resid_pre.0", lambda x, mixed=mixed: mixed), ("resid_mid.1", hold)]):
            values = pairs.metric(model.forward(pairs.base, last=1)[None, :, 0])
            (gradient,) = torch.autograd.grad(values.sum(), held)
        for edge, site in (("input->m1", "resid_pre.0"), ("m0->m1", "mlp_out.0")):
            change = (source[site] - base[site]) * pairs.base.mask[..., None]
            expected[edge] += float((change * gradient).sum()) / steps / len(pairs) / float(gap(pairs))
    for edge, value in expected.items():
        assert float(scores.scores[scores.graph.find(edge)]) == pytest.approx(value, rel=1e-3, abs=1e-6)


def test_pairs_are_scored_alike_in_one_pass_and_in_several(tiny, monkeypatch):
    model = tiny("llama")
    pairs = compared(model)
    whole = attribute_edges(model, pairs, steps=2, sample=False).scores
    monkeypatch.setattr("interp.attribution.circuits.edge_scores._NUMBERS", 1)
    torch.testing.assert_close(attribute_edges(model, pairs, steps=2, sample=False).scores, whole, atol=1e-5, rtol=1e-4)


def test_scores_of_the_organism_agree_with_exact_effects():
    model = interp.load("organism")
    pairs = Comparison.of_organism("hostility", 8).on(model)
    pairs = pairs.pick(pairs.whole[:2])
    scores, plain = attribute_edges(model, pairs, steps=4), attribute_edges(model, pairs, steps=1, sample=False)
    (name, _), *_ = scores.top(1)
    assert name == "input->a0.h5<v>"
    assert scores.agreement.spearman > 0.85
    assert scores.agreement.places == 48
    assert plain.scores[plain.graph.find(name)] < 0.3, "control: one gradient misses what saturates"


def test_a_budget_is_spent_on_the_highest_scores_and_what_they_do_not_connect_is_left_out():
    graph = EdgeGraph(2, 2, 8)
    scores = torch.zeros(graph.edges.shape)
    for number, edge in enumerate(["input->m0", "m0->logits", "a0.h1->m1", "input->a0.h1<v>", "m1->logits"]):
        scores[graph.find(edge)] = (-1) ** number * (1 - number / 10)
    ranked = EdgeScores(graph, scores, "planted")
    assert set(ranked.circuit(3).edges) == {"input->m0", "m0->logits"}
    assert len(ranked.circuit(5)) == 5
    assert [name for name, _ in ranked.top(2)] == ["input->m0", "m0->logits"]


def test_a_metric_without_a_gradient_is_refused_by_name(tiny):
    pairs = Comparison(CLEAN, CORRUPT, lambda logits: metric(logits).detach(), name="parity")
    with pytest.raises(InterpError, match="parity: the metric has no gradient"):
        attribute_edges(tiny("llama"), pairs, sample=False)
