"""What two models or recipes differ in: the divergence of each next token, against its definition."""

import pytest
import torch

import interp
from interp import InterpError, Project, Recipe
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
