"""Trained directions do better on what they are trained for than others of their length, and stay in their bounds."""

import random

import pytest
import torch
from tiny_models import at_layer
from torch.nn.functional import normalize, softplus

from interp import Add, Contrast, Direction, InterpError, Recipe, find
from interp.data._pairs import Turn, TurnPair
from interp.directions.methods._answers import answer_continuations
from interp.directions.methods.closed_form import diff_means
from interp.directions.methods.reft import ReftR1, reft_r1
from interp.directions.methods.steering_vectors import steering_vector
from interp.directions.methods.unsupervised_candidates import unsupervised
from interp.directions.scores import auroc
from interp.models.continuations import logprobs

SITE, NORM = "resid_post.1", 2.0


def words(rng, n=4):
    return " ".join(f"w{rng.randint(20, 127)}" for _ in range(n))


def choices(n=24, seed=0):
    """One prompt with two answers, of two tokens and of one."""
    rng = random.Random(seed)
    return Contrast(tuple(TurnPair(Turn(p, " w5 w6"), Turn(p, " w9")) for p in (words(rng) for _ in range(n))))


def sentences(n=40, seed=0):
    """Two texts that differ in one word in the middle."""
    rng = random.Random(seed)
    return Contrast.of([(f"{a} w5 {b}", f"{a} w9 {b}") for a, b in ((words(rng), words(rng, 3)) for _ in range(n))])


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


def test_reft_detects_on_other_texts_and_not_where_labels_are_drawn(tiny):
    model = tiny("llama")
    trained = reft_r1(model, sentences(), SITE)
    positive, negative = (trained.detect(model, side) for side in sentences(40, seed=1).texts(model.render))
    assert auroc(positive, negative) > 0.95
    assert (positive > 0).double().mean() + (negative <= 0).double().mean() > 1.7, "and its threshold serves them"
    draw = torch.Generator().manual_seed(0)
    row = normalize(torch.randn(model.d_model, generator=draw), dim=0)
    x = [model.capture(list(side), SITE)[SITE][:, 1:] @ row for side in sentences(40, seed=1).texts(model.render)]
    by_chance = auroc(*(side.amax(1) for side in x))
    assert max(by_chance, 1 - by_chance) < 0.85, "control: a random direction does not"
    rng = random.Random(3)
    drawn = Contrast.of([(words(rng, 8), words(rng, 8)) for _ in range(40)])
    chance = reft_r1(model, drawn, SITE)
    other = [chance.detect(model, [words(rng, 8) for _ in range(40)]) for _ in range(2)]
    assert 0.3 < auroc(*other) < 0.7


def test_refts_losses_are_those_of_slow_definitions(tiny):
    """Detection and steering of the first step, text by text, with what the seed draws."""
    model, pairs = tiny("llama"), choices(5)
    trained = reft_r1(model, pairs, SITE, steps=1, k=2, batch_size=5)
    w = normalize(torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)), dim=0)
    rows = [[model.capture(text, SITE)[SITE][0, 1:] for text in side] for side in pairs.texts(model.render)]
    every = torch.cat([x for side in rows for x in side])
    scale = (every - every.mean(0)).square().mean().sqrt()
    levels = [[((x - every.mean(0)) @ w) / scale for x in side] for side in rows]
    detection = [softplus(-sign * x.max()) for sign, side in zip((1, -1), levels, strict=True) for x in side]
    assert trained.losses[0][0] == pytest.approx(float(torch.stack(detection).mean()), rel=1e-4)
    steered = []
    for side, texts, prompts in zip(levels, pairs.texts(model.render), pairs.prompts(model.render), strict=True):
        losses = []
        for level, text, prompt in zip(side, texts, prompts, strict=True):
            length = scale * level.relu().topk(2).values.mean()
            asked, ids = len(model.tokens(prompt).ids[0]), model.tokens(text).ids[0]
            with model.hooked([(SITE, lambda x, length=length: x + length * w)]):
                logprob = model.logits(text)[0].log_softmax(-1)
            losses += [-logprob[place - 1, ids[place]] for place in range(asked, len(ids))]
        steered.append(torch.stack(losses).mean())
    assert trained.losses[0][1] == pytest.approx(float(torch.stack(steered).mean()), rel=1e-4)


def test_reft_is_one_unit_row_and_survives_saving(tiny, tmp_path):
    model = tiny("llama")
    trained = reft_r1(model, choices(8), SITE, steps=5)
    assert trained.direction.rows.norm() == pytest.approx(1, abs=1e-6)
    trained.save(tmp_path / "reft")
    kept = ReftR1.load(tmp_path / "reft")
    texts = ["w5 w6 w7", "w8 w9"]
    assert torch.equal(kept.detect(model, texts), trained.detect(model, texts))
    assert (kept.losses, kept.magnitude, kept.accuracy) == (trained.losses, trained.magnitude, trained.accuracy)
    with pytest.raises(InterpError, match="this direction was made for tiny llama 0"):
        kept.detect(tiny("llama", seed=1), texts)
    with at_layer(model, 2, lambda x: x * float("nan")), pytest.raises(InterpError, match="diverged at step 1"):
        reft_r1(model, choices(8), SITE, steps=5)


def test_a_search_trains_what_is_named(tiny):
    model = tiny("llama")
    found = find(model, sentences(), sites=SITE, methods=("diff_means", "reft_r1", "steering_vector"))
    assert found.methods == ["diff_means", "reft_r1"]
    assert [failure.method for failure in found.failures] == ["steering_vector"]
    assert "has no answers" in found.failures[0].reason
    assert found.best(1, "reft_r1")[0].stability is None, "training again is not worth a stability"
    pairs = choices()
    chosen = find(model, pairs, sites=SITE, methods=("steering_vector",)).best()[0].direction
    train, _ = pairs.split(0.3, seed=0)
    gap = torch.linalg.vector_norm(chosen.means[0] - chosen.means[1])
    torch.testing.assert_close(chosen.rows, steering_vector(model, train, SITE, float(gap)).direction.rows)


PROMPTS = [words(random.Random(seed), 5) for seed in range(6)]


def test_candidates_are_orthogonal_and_move_the_target_more_than_random_vectors(tiny):
    model = tiny("llama")
    found = unsupervised(model, PROMPTS, "resid_post.0", "resid_post.2", norm=1.0, count=5)
    rows = torch.cat([candidate.direction.rows for candidate in found])
    torch.testing.assert_close(rows @ rows.T, torch.eye(5), atol=1e-5, rtol=0)
    assert all(candidate.change > candidate.random for candidate in found)
    assert found[0].change > 2 * found[0].random
    plain = model.capture(PROMPTS, "resid_post.2")["resid_post.2"][:, 1:]
    with model.hooked([("resid_post.0", Add(found[0].direction, found[0].norm))]):
        moved = model.capture(PROMPTS, "resid_post.2")["resid_post.2"][:, 1:]
    assert found[0].change == pytest.approx(float((moved - plain).square().sum(-1).mean()), rel=1e-4)


def test_small_candidates_are_the_singular_vectors_of_the_map_between_the_sites(tiny):
    model, norm = tiny("gpt2"), 1e-3
    found = unsupervised(model, PROMPTS, "resid_post.0", "resid_post.2", norm=norm, count=2, steps=300)
    columns = []
    for e in torch.eye(model.d_model):
        ends = []
        for sign in (1, -1):
            with model.hooked([("resid_post.0", lambda x, add=sign * 1e-2 * e: x + add)]):
                ends.append(model.capture(PROMPTS, "resid_post.2")["resid_post.2"][:, 1:])
        columns.append((ends[0] - ends[1]).flatten() / 2e-2)
    _, values, rows = torch.linalg.svd(torch.stack(columns, 1), full_matrices=False)
    assert values[0] > 1.02 * values[1] > 1.02**2 * values[2], "control: one vector leads, and one comes second"
    for candidate, row in zip(found, rows, strict=False):
        assert float((candidate.direction.rows[0] @ row).abs()) > 0.99


def test_bad_candidates_are_named(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match=r"resid_post\.0 does not come after resid_post\.1"):
        unsupervised(model, PROMPTS, "resid_post.1", "resid_post.0", 1.0)
    with pytest.raises(InterpError, match="norm is 0"):
        unsupervised(model, PROMPTS, "resid_post.0", "resid_post.1", 0.0)
    with pytest.raises(InterpError, match="at most 32 vectors are orthogonal"):
        unsupervised(model, PROMPTS, "resid_post.0", "resid_post.1", 1.0, count=33)
    with pytest.raises(InterpError, match="every prompt has one token"):
        unsupervised(model, ["w5"], "resid_post.0", "resid_post.1", 1.0)
