"""The scale that `Add.auto` chooses is the largest within its limit, and its parts do what they say."""

import pytest
import torch

import interp
from interp import Add, Direction, InterpError, Recipe
from interp.interventions.steering_scale import OPENINGS, mean_loss, neutral_text, typical_norm
from interp.models import Continuations
from interp.models.sites import Site
from interp.organism import everyday as organism_texts

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def organism():
    return interp.load("organism")


@pytest.fixture(scope="module")
def text(organism):
    return neutral_text(organism).rows(0, 3)


@pytest.fixture(scope="module")
def direction(organism):
    row = torch.randn(organism.d_model, generator=torch.Generator().manual_seed(0))
    return Direction.of(row, SITE, organism)


@pytest.fixture(scope="module")
def rise(organism, text):
    def measure(op):
        with organism.hooked([(SITE, op)]):
            return mean_loss(organism, text) - before

    before = mean_loss(organism, text)
    return measure


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_it_is_the_largest_scale_within_the_limit(organism, text, direction, rise, sign, relative):
    loss = 0.2
    op = Add.auto(organism, direction, sign=sign, relative=relative, loss=loss, texts=text)
    assert op.scale * sign > 0
    assert rise(op) <= loss
    assert rise(Add(direction, 1.16 * op.scale, relative)) > loss, "a step of 4.4 %, and rounding to two digits"


def test_a_vector_of_any_norm_is_added_at_the_same_length(organism, text, direction):
    row = direction.rows[0]
    unit = Add.auto(organism, direction, texts=text).scale
    assert Add.auto(organism, row, SITE, texts=text).scale == unit
    assert Add.auto(organism, 4 * row, SITE, texts=text).scale == pytest.approx(unit / 4, rel=0.1)


def test_the_default_text_is_what_the_model_writes_itself(organism, direction):
    text = neutral_text(organism)
    plain = organism.generate(OPENINGS[0], max_new_tokens=24, chat=False)[0]
    first = text.rows(0, 1)
    assert first.tokens.unpadded() == organism.tokens(OPENINGS[0] + plain).unpadded()
    assert first.skipped.tolist() == organism.tokens(OPENINGS[0]).lengths.tolist()
    assert Add.auto(organism, direction).scale == Add.auto(organism, direction, texts=text).scale
    assert mean_loss(organism, text) < organism.loss(list(OPENINGS)) / 4, "control: other text is not predicted so well"


def test_own_texts_are_scored_from_their_second_token(organism, direction):
    texts = organism_texts(2, seed=1)
    tokens = Continuations.whole(organism.tokens(texts))
    assert mean_loss(organism, tokens) == pytest.approx(organism.loss(texts), abs=1e-4)
    assert Add.auto(organism, direction, texts=texts).scale == Add.auto(organism, direction, texts=tokens).scale


def test_the_typical_norm_leaves_padding_out(organism, text):
    rows = [organism.capture(torch.tensor([ids]), SITE)[SITE][0] for ids in text.tokens.unpadded()]
    expected = torch.cat(rows).norm(dim=1).median()
    assert typical_norm(organism, text, Site.parse(SITE)) == pytest.approx(float(expected), rel=1e-4)


def test_the_number_is_saved(organism, text, direction, tmp_path):
    op = Add.auto(organism, direction, sign=-1, texts=text)
    Recipe([(SITE, op)]).save(tmp_path / "recipe")
    assert Recipe.load(tmp_path / "recipe").edits[0].op.scale == op.scale
    assert f"{abs(op.scale):.2g}" == f"{abs(op.scale):.6g}", "two digits"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": 0.0}, "loss is 0.0; expected nats per token above 0"),
        ({"loss": 100.0}, "raises the loss of neutral text by no more than 100.0 nats; choose another loss="),
        ({"sign": 2}, "sign is 2; expected 1 to add the direction"),
        ({"site": "resid_post.9"}, "unknown site 'resid_post.9'"),
        ({"site": "mlp_post.1"}, "not in the residual stream's basis"),
        ({"direction": [1.0, 2.0], "site": SITE}, "direction has width 2, but organism has d_model 192"),
        ({"direction": [1.0, 2.0]}, "a bare vector does not say where it is added; give site="),
    ],
)
def test_what_has_no_scale_is_refused(organism, text, direction, options, message):
    with pytest.raises(InterpError, match=message):
        Add.auto(organism, **{"direction": direction, "texts": text} | options)


def test_auto_without_a_model_names_the_call(direction):
    with pytest.raises(InterpError, match=r"measured in a model; write interp\.Add\.auto\(model, direction\)"):
        Add(direction, scale="auto")
