"""Token heat shows what is read: each reading is the one that is computed by hand, and says what it cannot read."""

import pytest
import torch
from sae_samples import autoencoder
from torch.nn.functional import cross_entropy

import interp
from interp import Direction, InterpError
from interp.attribution import Lens
from interp.models.sites import Site
from interp.views import TokenHeat, tokens

TEXT, SITE = "w5 w9 w77 w8 w30", "resid_post.1"


def direction(model, k=1):
    return Direction(torch.eye(model.d_model)[3 : 3 + k], Site.parse(SITE), -1, "given", model.reference, data="")


def stream(model, text=TEXT):
    return model.capture(text, SITE)[SITE][0]


def logits(model):
    return model.logits(TEXT)[0]


# What each reading is, by its definition.
READINGS = {
    "direction": (direction, lambda m: stream(m)[:, 3]),
    "subspace": (lambda m: direction(m, k=2), lambda m: stream(m)[:, 3:5].norm(dim=1)),
    "latent": (lambda m: (autoencoder(m), 7), lambda m: autoencoder(m).encode(stream(m))[:, 7]),
    "norm": (lambda m: SITE, lambda m: stream(m).norm(dim=1)),
    "norm of heads": (lambda m: "z.1", lambda m: m.capture(TEXT, "z.1")["z.1"][0].flatten(1).norm(dim=1)),
}
PREDICTED = {
    "loss": (lambda m: "loss", lambda m: cross_entropy(logits(m)[:-1], m.tokens(TEXT).ids[0, 1:], reduction="none")),
    "lens": (
        lambda m: (Lens(), "resid_post.0"),
        lambda m: (
            Lens()
            .logits(m, m.capture(TEXT, "resid_post.0")["resid_post.0"][0], Site("resid_post", 0))
            .softmax(-1)[range(len(stream(m)) - 1), m.tokens(TEXT).ids[0, 1:]]
        ),
    ),
}


@pytest.mark.parametrize("name", [*READINGS, *PREDICTED])
def test_a_reading_is_what_its_definition_says(tiny, name):
    model = tiny("llama")
    by, expected = (READINGS | PREDICTED)[name]
    values = tokens(model, TEXT, by(model)).values
    assert len(values) == len(model.tokens(TEXT).ids[0])
    if name in PREDICTED:
        assert torch.isnan(values[0])
        values = values[1:]
    torch.testing.assert_close(values, expected(model), rtol=1e-5, atol=1e-5)
    assert values.std() > 0, "control"


def test_the_last_sites_lens_has_the_models_probabilities(tiny):
    model = tiny("llama")
    lens = tokens(model, TEXT, (Lens(), f"resid_post.{model.n_layers - 1}")).values[1:]
    torch.testing.assert_close(-lens.log(), tokens(model, TEXT, "loss").values[1:], rtol=1e-4, atol=1e-5)


def test_hooks_and_the_chat_template_apply():
    model = interp.load("organism")
    by = Direction.of(torch.eye(192)[0], "resid_post.3", model)
    heat = tokens(model, "hello there.", by, chat=True)
    assert heat.tokens[:2] == ("<|bos|>", "<|user|>")
    with model.hooked([("writers", interp.Project(by))]):
        assert tokens(model, "hello there.", by, chat=True).values.abs().max() < 1e-3 < heat.values.abs().max()


def test_hovering_shows_the_value_and_strong_tokens_are_named():
    heat = TokenHeat("a reading", ("one", " </script>", "three"), torch.tensor([float("nan"), -2.5, 1.0]))
    html = heat._repr_html_()
    assert "title='-2.5'" in html
    assert "&lt;/script&gt;" in html
    assert "<script" not in html
    assert heat.largest(2) == [(" </script>", -2.5), ("three", 1.0)]
    assert repr(heat).startswith("TokenHeat(a reading: ")
    assert TokenHeat("nothing", (), torch.zeros(0))._repr_html_()


@pytest.mark.parametrize(
    ("by", "problem"),
    [
        (lambda m: "los", "by is neither 'loss' nor a site: .*los"),
        (lambda m: "resid_pots.1", "did you mean resid_post"),
        (lambda m: "resid_post.*", r"names 3 sites; give one, such as resid_post.2"),
        (lambda m: (autoencoder(m), 40), r"latent 40 does not exist; .* has latents 0 to 39"),
        (lambda m: (autoencoder(m), -1), "latent -1 does not exist"),
        (lambda m: (Lens(), "z.1"), r"not in the residual stream's basis"),
        (lambda m: (Lens(), "mlp_out.1", 3), "by"),
        (lambda m: (Lens(), 3), "by"),
        (lambda m: torch.ones(32), "by"),
    ],
)
def test_what_cannot_be_read_is_said(tiny, by, problem):
    with pytest.raises(InterpError, match=problem):
        tokens(tiny("llama"), TEXT, by(tiny("llama")))


def test_another_models_reading_and_texts_without_tokens_are_refused(tiny):
    model, other = tiny("llama"), tiny("llama", seed=1)
    for by in (direction(other), (autoencoder(other), 3)):
        with pytest.raises(InterpError, match="for tiny llama 1"):
            tokens(model, TEXT, by)
    with pytest.raises(InterpError, match=r"empty|no token"):
        tokens(model, "")
    with pytest.raises(InterpError, match="one text, not 2"):
        tokens(model, ["w5", "w6"])
