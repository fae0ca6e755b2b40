"""Latents are found by what they do: attribution equals a slow gradient, and planted latents come first."""

import json

import pytest
import torch
from latent_samples import SITE, choices, dictionary
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import Clamp, Contrast, InterpError, SparseAutoencoder
from interp.data._pairs import Turn, TurnPair
from interp.directions.contrast_activations import Sides
from interp.directions.methods._answers import answer_continuations
from interp.directions.methods.latents import BySeparation, attributions, by_attribution, by_label, read_labels
from interp.models.continuations import logprobs
from interp.sae.nonlinearities import JumpReLU


def slow(model, sae, contrast, share=1.0):
    """Pair by pair: the margin with the site rebuilt from latents and error, differentiated by the latents."""
    total = torch.zeros(sae.d_sae)
    for pair in contrast.pairs:
        for sign, turn in ((1, pair.positive), (-1, pair.negative)):
            text = turn.prompt + turn.answer
            prompt_length, x = len(model.tokens(turn.prompt).ids[0]), model.capture(text, SITE)[SITE][0]
            prompt = x[1:prompt_length]
            latents = sae.encode(prompt)
            error = prompt - sae.decode(latents)
            leaf = (share * latents).clone().requires_grad_()

            def rebuilt(h, x=x, leaf=leaf, error=error, prompt_length=prompt_length):
                return torch.cat([h[:, :1], (sae.decode(leaf) + error)[None], x[None, prompt_length:]], dim=1)

            with torch.enable_grad(), model.hooked([(SITE, rebuilt)]):
                batch = model.tokens(text)
                logprob = model.forward(batch)[0].log_softmax(-1)
                score = sum(logprob[place - 1, batch.ids[0, place]] for place in range(prompt_length, len(x)))
            total += sign * (latents * torch.autograd.grad(score, leaf)[0]).sum(0)
    return total / len(contrast)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_attribution_is_activation_times_the_gradient_through_the_reconstruction(tiny, name):
    model = tiny(name)
    sae, pairs = dictionary(model), choices()
    shares = attributions(model, sae, pairs, batch_size=4)
    torch.testing.assert_close(shares, slow(model, sae, pairs), atol=1e-5, rtol=1e-3)
    assert shares.abs().max() > 0.01, "control: some latents matter"


def test_several_points_sum_to_what_the_latents_do_together(tiny):
    """Integrated gradients are complete; a single point is not."""
    model = tiny("llama")
    sae, pairs = dictionary(model), choices()
    halves = (slow(model, sae, pairs, share) for share in (0.25, 0.75))
    torch.testing.assert_close(attributions(model, sae, pairs, points=2), sum(halves) / 2, atol=1e-5, rtol=1e-3)

    def margin(keep):
        sides = answer_continuations(model, pairs)
        values = []
        for side in sides:
            counted = side.tokens.mask & ~side.scored & (side.tokens.position_ids > 0)

            def without(x, counted=counted):
                return x - (1 - keep) * counted[:, :, None] * (sae.encode(x) @ sae.W_dec)

            with torch.no_grad(), model.hooked([(SITE, without)]):
                values.append(logprobs(model, side))
        return float((values[0] - values[1]).mean())

    gap = margin(1) - margin(0)
    assert float(attributions(model, sae, pairs, points=64).sum()) == pytest.approx(gap, abs=2e-3)
    assert abs(float(attributions(model, sae, pairs).sum()) - gap) > 0.01, "control"


def test_a_small_clamp_does_what_attribution_says(tiny):
    """By intervention: each latent a hundredth weaker."""
    model = tiny("llama")
    sae, pairs = dictionary(model), choices()
    shares, best = attributions(model, sae, pairs), by_attribution(model, sae, pairs, count=3)
    # A hundredth of an effect is lost in float32's rounding, so the interventions run in float64.
    model.hf.double()
    try:
        sides = answer_continuations(model, pairs)

        def margin(edits):
            with torch.no_grad(), model.hooked(edits):
                positive, negative = (logprobs(model, side) for side in sides)
            return float((positive - negative).mean())

        for latent in best:
            op = Clamp(sae, latent.latent, scale=0.0)

            def on_prompts(x, op=op):
                side = next(s for s in sides if s.tokens.ids.shape == x.shape[:2])
                counted = side.tokens.mask & ~side.scored & (side.tokens.position_ids > 0)
                return x + 1e-2 * counted[:, :, None] * (op(x) - x)

            effect = (margin([]) - margin([(SITE, on_prompts)])) / 1e-2
            assert effect == pytest.approx(latent.score, rel=0.05, abs=1e-3)
            assert latent.score == pytest.approx(float(shares[latent.latent]))
    finally:
        model.hf.float()


def test_the_latent_that_speaks_for_the_answer_comes_first(tiny):
    """Its decoder row is the gradient of the margin itself, so no random row can match its share."""
    model = tiny("llama")
    sae, pairs = dictionary(model), choices()
    leaf = torch.zeros(model.d_model, requires_grad=True)
    with torch.enable_grad(), model.hooked([(SITE, lambda x: x + leaf)]):
        positive, negative = (logprobs(model, side) for side in answer_continuations(model, pairs))
        gradient = torch.autograd.grad((positive - negative).mean(), leaf)[0]
    planted = sae.W_dec.clone()
    planted[17] = normalize(gradient, dim=0)
    bias = sae.b_enc.clone()
    bias[17] = 3.0
    place = one_site(model.d_model, SITE, model.reference)
    known = SparseAutoencoder(sae.W_enc, bias, planted, sae.b_dec, JumpReLU(), threshold=sae.threshold, **place)
    best = by_attribution(model, known, pairs, count=5)
    assert best[0].latent == 17
    assert best[0].score > 0
    assert [abs(b.score) for b in best] == sorted((abs(b.score) for b in best), reverse=True)
    assert by_attribution(model, sae, pairs, count=1)[0].latent != 17, "control: it did not before"


def test_the_latent_that_separates_is_found(tiny):
    model = tiny("llama")
    sae = dictionary(model)
    draw = torch.Generator().manual_seed(1)
    negative = torch.randn(60, model.d_model, generator=draw)
    positive = torch.randn(60, model.d_model, generator=draw) + 4 * sae.W_enc[23]
    fit = BySeparation(sae)
    assert fit.latent(Sides(positive, negative)) == 23
    torch.testing.assert_close(fit(positive, negative), sae.W_dec[23])


def test_labels_are_searched_by_whole_words_rare_ones_first():
    labels = {3: "Insults and name-calling", 8: "insult in a list of words", 9: "lists of colours", 11: "insulation"}
    assert [latent.latent for latent in by_label(labels, "insult list")] == [8, 3, 9]
    assert [latent.latent for latent in by_label(labels, "Colour")] == [9]
    assert len(by_label(labels, "insult list", count=1)) == 1
    with pytest.raises(InterpError, match="no label has 'insulate'; did you mean insult or insulation"):
        by_label(labels, "insulate")
    with pytest.raises(InterpError, match="expected words to look for, and labels"):
        by_label(labels, " ,.")
    with pytest.raises(InterpError, match="on 0 labels"):
        by_label({}, "insult")


def test_labels_are_read_from_neuronpedias_files(tmp_path):
    features = [
        {"index": "4", "explanations": [{"description": "rivers"}, {"description": "water"}]},
        {"index": "5", "explanations": []},
    ]
    exported = [{"index": "7", "description": "towns"}, {"index": "7", "description": "places"}]
    for name, content in (("features", features), ("batch", {"features": features}), ("exported", exported)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert read_labels(tmp_path / "features.json") == read_labels(tmp_path / "batch.json") == {4: "rivers; water"}
    assert read_labels(tmp_path / "exported.json") == {7: "towns; places"}
    for content, message in (
        ("[]", "none of 0 features"),
        ("3", "expected Neuronpedia's JSON"),
        ('[{"description": "x"}]', "belongs to latent None"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InterpError, match=message):
            read_labels(tmp_path / "bad.json")


def test_bad_requests_are_named(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match="this SAE was made for tiny llama 0"):
        attributions(tiny("llama", seed=1), dictionary(model), choices())
    with pytest.raises(InterpError, match="points is 0"):
        attributions(model, dictionary(model), choices(), points=0)
    with pytest.raises(InterpError, match="has no answers"):
        attributions(model, dictionary(model), Contrast.of([("w5 w6", "w5 w7")]))
    pair = TurnPair(Turn("w5 w6", " w7"), Turn("w5 w8", " w9"))
    with pytest.raises(InterpError, match="the sides have two prompts"):
        attributions(model, dictionary(model), Contrast((pair,)))
