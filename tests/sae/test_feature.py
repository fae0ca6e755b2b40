"""A feature's page: where the latent fires, on what, and what it promotes, each checked by another route."""

import random
from dataclasses import replace

import pytest
import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp.core.errors import InterpError
from interp.models.architectures.unembedding import token_text
from interp.sae.coder import SparseAutoencoder
from interp.sae.feature import Snippet, feature_page, feature_pages
from interp.sae.nonlinearities import TopK

LATENTS = 40


@pytest.fixture(scope="module")
def corpus():
    draw = random.Random(0)
    return [" ".join(f"w{draw.randint(4, 60)}" for _ in range(draw.randint(1, 40))) for _ in range(40)]


@pytest.fixture(scope="module")
def words(tiny):
    """An SAE at the embedding whose latent i fires on w(10 + i) and on little else."""
    model = tiny("llama")
    rows = model.hf.get_input_embeddings().weight.detach()[10 : 10 + LATENTS].float()
    unit = normalize(rows - rows.mean(0), dim=1)
    own = one_site(32, "embed", model.reference)
    return SparseAutoencoder(unit, torch.zeros(LATENTS), unit, torch.zeros(32), TopK(k=1), **own)


def _expected(sae, model, text, latent):
    """Activations of a latent on a document alone, that of the first token left out."""
    ids = torch.tensor([1, *model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    values = sae.encode(model.capture(ids, sae.site)[sae.site][0])[:, latent]
    values[0] = 0
    return values


@pytest.mark.parametrize("context", [64, 41])
def test_density_histogram_and_snippets_are_those_of_the_documents(tiny, words, corpus, context):
    model, latent = tiny("llama"), 7
    page = feature_page(words, model, corpus, latent, top=5, context=context)
    by_document = [_expected(words, model, text, latent) for text in corpus]
    every = torch.cat([values[1:] for values in by_document])
    assert page.density == pytest.approx(float((every > 0).float().mean()))
    assert sum(page.counts) == int((every > 0).sum())
    assert page.edges[0] == 0
    assert page.edges[-1] == pytest.approx(float(every.max()), rel=1e-5)
    best = sorted((float(values.max()) for values in by_document), reverse=True)[:5]
    assert [max(snippet.activations) for snippet in page.snippets] == pytest.approx(best, rel=1e-5)
    assert len({snippet.document for snippet in page.snippets}) == 5
    for snippet in page.snippets:
        assert snippet.activations[snippet.peak] == max(snippet.activations)
        assert snippet.tokens[snippet.peak] == " w17"
        assert "".join(snippet.tokens).removeprefix(" <s>").strip() in corpus[snippet.document]
        inside = by_document[snippet.document].tolist()
        assert any(
            inside[start : start + len(snippet.activations)] == pytest.approx(list(snippet.activations), abs=1e-4)
            for start in range(len(inside))
        )


def test_first_tokens_do_not_count(tiny, words):
    model = tiny("llama")
    start = model.hf.get_input_embeddings().weight.detach()[1].float()
    # A latent that reads BOS above all else.
    unit = normalize(torch.stack([start, *words.W_dec[1:]]), dim=1)
    sae = replace(words, W_enc=unit, W_dec=unit)
    assert sae.encode(model.capture("<s> w11", "embed")["embed"])[0, 0, 0] > 0
    page = feature_page(sae, model, ["w11 w12 w13", "w12 w14"], 0, context=64)
    assert all(snippet.peak > 0 and snippet.activations[0] == 0 for snippet in page.snippets)
    assert page.density < 1


def test_many_pages_at_once_are_the_same_pages(tiny, words, corpus):
    model = tiny("llama")
    pages = feature_pages(words, model, corpus, [3, 30, 3, 0], context=64)
    assert [page.latent for page in pages] == [3, 30, 3, 0]
    assert pages == [feature_page(words, model, corpus, latent, context=64) for latent in (3, 30, 3, 0)]


def test_a_latent_that_never_fires_has_an_empty_page(tiny, words, corpus):
    silent = replace(words, b_enc=words.b_enc.index_fill(0, torch.tensor([5]), -1e6))
    page = feature_page(silent, tiny("llama"), corpus, 5, context=64)
    assert (page.density, sum(page.counts), page.snippets) == (0, 0, ())
    assert page.promoted
    assert "fires on" in page._repr_html_()


def test_nearest_latents_have_the_largest_cosines(tiny, words, corpus):
    page = feature_page(words, tiny("llama"), corpus, 4, context=64)
    cosine = normalize(words.W_dec, dim=1) @ normalize(words.W_dec, dim=1)[4]
    expected = [latent for latent in cosine.argsort(descending=True).tolist() if latent != 4][:5]
    assert [latent for latent, _ in page.nearest] == expected
    assert [value for _, value in page.nearest] == pytest.approx(cosine[expected].tolist(), abs=1e-5)


def test_promoted_tokens_are_what_a_strong_push_makes_likeliest(tiny, words, corpus):
    model = tiny("llama")
    sae = replace(words, **one_site(32, "resid_post.2", words.model))
    page = feature_page(sae, model, corpus, 9, context=64)
    with model.hooked([("resid_post.2", lambda x: x + 1e5 * sae.W_dec[9])]):
        logits = model.logits("w5 w6")[0, -1]
    read = [token_text(model.tokenizer, token) for token in range(len(logits))]
    assert [token for token, _ in page.promoted] == [read[token] for token in logits.topk(10).indices.tolist()]
    assert [token for token, _ in page.suppressed] == [read[token] for token in (-logits).topk(10).indices.tolist()]


def test_sites_outside_the_residual_stream_promote_nothing(tiny, words, corpus):
    page = feature_page(replace(words, **one_site(32, "z.1", words.model)), tiny("llama"), corpus, 0, context=64)
    assert (page.promoted, page.suppressed) == ((), ())


def test_wrong_latents_and_models_are_refused(tiny, words, corpus):
    with pytest.raises(InterpError, match="latent 40 does not exist; this autoencoder has latents 0 to 39"):
        feature_page(words, tiny("llama"), corpus, LATENTS, context=64)
    with pytest.raises(InterpError, match="was made for tiny llama 0"):
        feature_page(words, tiny("llama", seed=1), corpus, 0, context=64)


def test_the_page_is_escaped(tiny, words, corpus):
    page = feature_page(words, tiny("llama"), corpus, 0, context=64)
    hostile = Snippet(("<script>alert(1)</script>", "a\nb"), (0.5, 0.0), 0, 0)
    shown = replace(page, snippets=(hostile,), promoted=(("<img src=x>", 1.0),))._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "a↵b" in shown
    assert "<script" not in shown
    assert "<img" not in shown
