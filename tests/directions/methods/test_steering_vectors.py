"""Trained directions do better on what they are trained for than others of their length, and stay in their bounds."""

import pytest
import torch
from tiny_models import at_layer
from torch.nn.functional import normalize
from word_contrasts import choices, sentences

from interp import Add, Contrast, Direction, InterpError, Recipe
from interp.data._pairs import Turn, TurnPair
from interp.directions.methods._answers import answer_continuations
from interp.directions.methods.closed_form import diff_means
from interp.directions.methods.steering_vectors import steering_vector
from interp.models.continuations import logprobs

SITE, NORM = "resid_post.1", 2.0


@torch.no_grad()
def objective(model, contrast, vector, name):
    """The objectives from their definitions, on all pairs at once."""
    pairs = answer_continuations(model, contrast)

    def scored(v):
        with model.hooked([(SITE, lambda x: x + v)]):
            return logprobs(model, pairs.positive), logprobs(model, pairs.negative)

    positive, negative = scored(vector)
    if name == "promote":
        return float(-positive.mean() / 2)
    if name == "margin":
        return float((negative - positive).mean())
    if name == "suppress":
        return float(-torch.log(1 - negative.exp()).mean())
    (plain, other), (up, low) = scored(torch.zeros_like(vector)), scored(-vector)
    added, taken = positive - negative - (plain - other), up - low - (plain - other)
    return float((-torch.log(torch.sigmoid(0.1 * added)) - torch.log(torch.sigmoid(-0.1 * taken))).mean() / 2)


@pytest.mark.parametrize("name", ["promote", "suppress", "margin", "preference"])
def test_it_beats_the_difference_of_means_and_random_vectors_of_the_same_norm(tiny, name):
    model, pairs = tiny("llama"), choices()
    trained = steering_vector(model, pairs, SITE, NORM, objective=name)
    assert trained.vector.norm() <= NORM * (1 + 1e-6), "the norm is a bound"
    sides = [model.capture(list(side), SITE, positions=-1)[SITE][:, 0] for side in pairs.texts(model.render)]
    means = NORM * normalize(diff_means(*sides), dim=0)
    draw = torch.Generator().manual_seed(0)
    drawn = [NORM * normalize(torch.randn(model.d_model, generator=draw), dim=0) for _ in range(5)]
    reached = objective(model, pairs, trained.vector, name)
    assert trained.after == pytest.approx(reached, rel=1e-4)
    assert trained.before == pytest.approx(objective(model, pairs, torch.zeros(model.d_model), name), rel=1e-4)
    others = [objective(model, pairs, vector, name) for vector in (means, *drawn)]
    assert reached < min(others)
    assert max(others[1:]) > trained.before, "control: a random vector may well make it worse"


@pytest.mark.parametrize("name", ["promote", "suppress", "margin", "preference"])
def test_its_gradient_is_that_of_finite_differences(tiny, name):
    """After one small step the vector has followed the gradient at zero."""
    model, pairs = tiny("gpt2"), choices(6)
    step = steering_vector(model, pairs, SITE, norm=1e-3, steps=1, rate=1.0, objective=name)
    model.hf.double()
    try:
        eye = torch.eye(model.d_model, dtype=torch.float64)
        slopes = [
            (objective(model, pairs, 1e-4 * e, name) - objective(model, pairs, -1e-4 * e, name)) / 2e-4 for e in eye
        ]
    finally:
        model.hf.float()
    # The objective takes losses in float32, which limits what differences can tell.
    assert torch.cosine_similarity(-step.direction.rows[0].double(), torch.tensor(slopes).double(), dim=0) > 0.999


def test_it_comes_to_rest_where_nothing_is_left_to_gain(tiny):
    model, pairs = tiny("llama"), choices()
    whole = {"objective": "margin", "batch_size": len(pairs)}
    short, long = (steering_vector(model, pairs, SITE, NORM, steps=steps, **whole) for steps in (2, 60))
    assert not short.converged, "control"
    assert long.converged
    assert long.after < short.after
    assert long.norm == pytest.approx(NORM, rel=1e-5)


def test_towards_the_negative_it_removes(tiny):
    model, pairs = tiny("llama"), choices()
    away = steering_vector(model, pairs, SITE, NORM, objective="margin", towards="negative")
    plain = objective(model, pairs, torch.zeros(model.d_model), "margin")
    assert objective(model, pairs, away.vector, "margin") > plain + 0.5
    both = steering_vector(model, pairs, SITE, NORM, objective="preference")
    assert objective(model, pairs, both.vector, "margin") < plain < objective(model, pairs, -both.vector, "margin")


def test_the_model_is_left_as_it_was_and_the_seed_decides(tiny):
    model, pairs = tiny("llama"), choices()
    before = model.digest
    few = {"steps": 4, "batch_size": 8}
    first, again, other = (steering_vector(model, pairs, SITE, NORM, seed=seed, **few) for seed in (0, 0, 1))
    assert torch.equal(first.vector, again.vector)
    assert not torch.equal(first.vector, other.vector)
    assert model.digest == before
    assert all(p.requires_grad and p.grad is None for p in model.hf.parameters())


def test_a_vector_survives_saving(tiny, tmp_path):
    model = tiny("llama")
    trained = steering_vector(model, choices(8), SITE, NORM, steps=4)
    Recipe([(SITE, Add(trained.direction, trained.norm))]).save(tmp_path / "recipe")
    trained.direction.save(tmp_path / "direction")
    kept = Direction.load(tmp_path / "direction")
    assert torch.equal(kept.rows, trained.direction.rows)
    assert (kept.method, kept.data) == ("steering_vector", trained.direction.data)
    with model.hooked(Recipe.load(tmp_path / "recipe")):
        hooked = model.logits("w5 w6 w7")
    with model.hooked([(SITE, lambda x: x + trained.vector)]):
        torch.testing.assert_close(hooked, model.logits("w5 w6 w7"))


def test_bad_training_is_named(tiny):
    model, pairs = tiny("llama"), choices(4)
    for norm in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InterpError, match="norm is"):
            steering_vector(model, pairs, SITE, norm)
    with pytest.raises(InterpError, match="has no answers"):
        steering_vector(model, sentences(4), SITE, NORM)
    two = Contrast((TurnPair(Turn("w5 w6", " w7"), Turn("w5 w8", " w9")),))
    with pytest.raises(InterpError, match="row 1: the sides have two prompts"):
        steering_vector(model, two, SITE, NORM)
    with pytest.raises(InterpError, match="some turns have an answer and others have none"):
        steering_vector(model, Contrast((TurnPair(Turn("w5 w6", " w7"), Turn("w5 w6")),)), SITE, NORM)
    with pytest.raises(InterpError, match="did you mean margin"):
        steering_vector(model, pairs, SITE, NORM, objective="margins")
    with pytest.raises(InterpError, match="expected one site in the residual stream's basis"):
        steering_vector(model, pairs, "mlp_post.1", NORM)
    with at_layer(model, 2, lambda x: x * float("nan")), pytest.raises(InterpError, match="the objective is nan"):
        steering_vector(model, pairs, SITE, NORM)
    with at_layer(model, 2, lambda x: x * 0), pytest.raises(InterpError, match="nothing there reaches the answers"):
        steering_vector(model, pairs, SITE, NORM, objective="margin", steps=2)
