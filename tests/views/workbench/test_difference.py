"""What two models or recipes differ in: the divergence of each next token, against its definition."""

import dataclasses
import shutil

import pytest
import torch
from sae_samples import autoencoder, draw
from tiny_models import one_site

import interp
from interp import InterpError, Project, Recipe, SparseAutoencoder
from interp.features import FeatureLabel, ScanOptions, scan
from interp.sae import TopK
from interp.views import compare

TEXT = "w5 w9 w77 w8 w30"


def recipe(scale=1.0, seed=0):
    return Recipe([("writers", Project(torch.randn(32, generator=torch.Generator().manual_seed(seed)), scale))])


def logprobs(model, edit=()):
    with model.hooked(edit):
        return model.logits(TEXT)[0].double().log_softmax(-1)


def test_the_divergence_is_its_definition(tiny):
    model, other = tiny("llama"), tiny("llama", seed=1)
    pairs = {
        "models": (compare(model, other, TEXT), logprobs(model), logprobs(other)),
        "a recipe": (compare(model, recipe(), TEXT), logprobs(model), logprobs(model, recipe())),
        "recipes": (
            compare(recipe(), recipe(0.5), TEXT, model=model), logprobs(model, recipe()), logprobs(model, recipe(0.5)),
        ),
    }  # fmt: skip
    for name, (difference, p, q) in pairs.items():
        expected = (p.exp() * (p - q)).sum(-1)
        torch.testing.assert_close(difference.heat.values, expected.float(), msg=name)
        assert difference.mean == pytest.approx(float(expected.mean()), rel=1e-5)
        place, number = difference.largest(1)[0], int(expected.argmax())
        assert place.nats == pytest.approx(float(expected[number]))
        for side, chances in ((place.first, p), (place.second, q)):
            assert [chance for _, chance in side] == pytest.approx(chances[number].exp().topk(3).values.tolist())
            assert side[0][0].strip() == model.to_string(int(chances[number].argmax())).strip()


def test_one_and_the_same_do_not_differ(tiny):
    model = tiny("llama")
    assert compare(model, model, TEXT).mean == 0
    assert compare(recipe(), recipe(), TEXT, model=model).mean == 0
    assert compare(model, recipe(0.0), TEXT).mean == 0


def test_a_notebook_shows_text_as_text():
    model = interp.load("organism")
    edit = Recipe([("writers", Project(torch.ones(192)))])
    html = compare(model, edit, "</script><b>\u202e is the river", chat=True)._repr_html_()
    assert "<script" not in html
    assert "</script" not in html
    assert "\u202e" not in html
    assert "second recipe" in html


def test_what_cannot_be_compared_is_said(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match="two recipes need the model that they edit; give model="):
        compare(recipe(), recipe(), TEXT)
    with pytest.raises(InterpError, match="one text, not 2"):
        compare(model, model, ["w5", "w6"])
    with pytest.raises(InterpError, match="vocabular"):
        compare(model, interp.load("organism"), TEXT)
    with pytest.raises(InterpError, match="d_model"):
        compare(interp.load("organism"), recipe(), "hello", chat=True)


def coder(model, rows, zero=0.0):
    return dataclasses.replace(
        autoencoder(model), W_enc=rows, W_dec=rows, b_enc=torch.full((len(rows),), zero), nonlinearity=TopK(k=2)
    )


def test_latents_are_shared_where_each_is_the_others_nearest(tiny):
    model = tiny("llama")
    first, second = draw(24, 32, seed=1), draw(20, 32, seed=2)
    second[:6] = 3 * first[[9, 8, 7, 6, 5, 4]] + 0.1 * draw(6, 32, seed=3)
    second[6] = -first[0]
    difference = compare(coder(model, first), coder(model, second), least=0.9)
    slow = torch.tensor([[float(torch.cosine_similarity(a, b, dim=0)) for b in second] for a in first])
    mutual = {
        (i, j)
        for i in range(24)
        for j in range(20)
        if slow[i, j] == slow[i].max() == slow[:, j].max() and slow[i, j] >= 0.9
    }
    assert {pair[:2] for pair in difference.shared} == mutual == {(9 - n, n) for n in range(6)}
    expected = sorted((float(slow[i, j]) for i, j in mutual), reverse=True)
    assert [cosine for *_, cosine in difference.shared] == pytest.approx(expected)
    for side, nearest in zip(difference.alone, (slow.max(1).values, slow.max(0).values), strict=True):
        assert dict(side) == pytest.approx({n: float(x) for n, x in enumerate(nearest) if x < 0.9}, abs=1e-6)
        assert [x for _, x in side] == sorted(x for _, x in side)
    same = compare(coder(model, first), coder(model, first))
    assert (len(same.shared), same.alone) == (24, ((), ()))


def test_books_say_what_latents_are_and_leave_out_those_that_never_fire(tiny, tmp_path):
    model = tiny("llama")
    rows = draw(12, 32, seed=1)
    live, dead = coder(model, rows), coder(model, rows, zero=-1e6)
    for name, sae in {"live": live, "dead": dead}.items():
        sae.save(tmp_path / name)
    saes = {name: SparseAutoencoder.load(tmp_path / name, model) for name in ("live", "dead")}
    texts = [" ".join(f"w{4 + (7 * n + k) % 60}" for n in range(30)) for k in range(20)]
    paths = {name: str(tmp_path / name) for name in saes}
    book = scan(saes, model, tmp_path / "book", ScanOptions(context=32), texts=texts, paths=paths)
    texts = {"ana": "</td><script>numbers", "ben": "sums", "cai": "sums"}
    book.labels.add([FeatureLabel(sae="live", latent=3, text=text, rater=rater) for rater, text in texts.items()])
    fire = {row["latent"] for row in book.latents("sae = 'live' AND count > 0")}
    assert 3 in fire
    difference = compare((book, "live"), live)
    assert {first for first, *_ in difference.shared} == fire
    html = difference._repr_html_()
    assert "&lt;script&gt;numbers; sums<" in html, "of all raters, each text once"
    assert "<script" not in html
    assert compare((book, "dead"), live).shared == ()
    with pytest.raises(InterpError, match="2 autoencoders; name one"):
        compare(book, live)
    shutil.rmtree(tmp_path / "live")
    with pytest.raises(InterpError, match="autoencoder live"):
        compare((book, "live"), live)


def test_sides_of_two_kinds_are_refused(tiny):
    model = tiny("llama")
    sae = autoencoder(model)
    for a, b, text in ((sae, model, TEXT), (recipe(), sae, TEXT), (model, model, None)):
        with pytest.raises(InterpError, match="expected two autoencoders or books, or two models or recipes and a"):
            compare(a, b, text)
    with pytest.raises(InterpError, match="decoder rows have 32 and 16 entries"):
        compare(sae, dataclasses.replace(coder(model, draw(4, 32)), **narrow(model)))


def narrow(model):
    return {
        "W_enc": draw(4, 16),
        "W_dec": draw(4, 16),
        "b_dec": torch.zeros(16),
        **one_site(16, "z.1", model.reference),
    }
