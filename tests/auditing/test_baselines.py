"""Random recipes: the same shapes, norms and angles at the same sites, other contents."""

import pytest
import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import Add, InterpError, Project, Recipe, SparseAutoencoder
from interp.auditing._random_recipes import randomise
from interp.interventions import At, Clamp, Erase, Gate, Knockout, LowRank, Reads, Replace, Resample, Scale, Schedule
from interp.sae.nonlinearities import TopK


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ops(recipe):
    return [edit.op for edit in recipe.edits]


def test_vectors_keep_their_norms_and_angles_over_the_whole_recipe(tiny):
    model = tiny("llama")
    rows, vector, read, write = drawn(2, 32), 3 * drawn(32, seed=1), drawn(1, 32, seed=2), drawn(1, 32, seed=3)
    low = torch.linalg.qr(drawn(32, 2, seed=4)).Q.T
    recipe = Recipe(
        [
            ("writers", Project(rows, scale=0.7)),
            ("resid_post.0", Add(vector, scale=2.0)),
            ("resid_post.1", At(Add(vector), "generated")),
            ("resid_post.1", Erase(read, write, drawn(32, seed=5))),
            ("resid_post.2", Schedule(LowRank(low, drawn(2, 32, seed=6), drawn(2, seed=7)), [1.0, 0.5])),
        ]
    )
    other = randomise(recipe, model, seed=1)

    def stacked(of):
        first, second, third, fourth, fifth = ops(of)
        inner = fifth.op
        parts = first.rows, second.vector[None], third.op.vector[None], fourth.read, fourth.write, inner.rows
        return torch.cat([*parts, inner.weight])

    old, new = stacked(recipe), stacked(other)
    torch.testing.assert_close(new @ new.T, old @ old.T, atol=1e-4, rtol=1e-4)
    assert (new - old).norm(dim=1).min() > 0.5, "control: they are others"
    torch.testing.assert_close(ops(other)[1].vector, ops(other)[2].op.vector)
    assert (ops(other)[0].scale, ops(other)[1].scale, ops(other)[4].scales) == (0.7, 2.0, [1.0, 0.5])
    assert [e.sites for e in other.edits] == [e.sites for e in recipe.edits]
    with model.hooked(other):
        assert torch.isfinite(model.logits("w5 w6")).all()


def test_the_same_seed_draws_the_same_and_another_does_not(tiny):
    recipe = Recipe([("writers", Project(drawn(32)))])
    first, again, other = (randomise(recipe, tiny("llama"), seed).digest for seed in (0, 0, 1))
    assert first == again != other
    assert first != recipe.digest


def test_units_factors_and_latents_are_others_as_many(tiny):
    model = tiny("llama")
    sae = SparseAutoencoder(
        W_enc=drawn(40, 32),
        b_enc=torch.zeros(40),
        W_dec=normalize(drawn(40, 32, seed=1), dim=1),
        b_dec=torch.zeros(32),
        nonlinearity=TopK(k=5),
        **one_site(32, "resid_post.1", model.reference),
    )
    factors = torch.tensor([0.0, 0.5, 1.0, 2.0])
    edits = [
        ("z.1", Scale(factors)),
        ("mlp_post.1", Replace(units=[1, 2, 3])),
        ("mlp_out.0", Replace(drawn(32))),
        ("mlp_out.2", Resample(drawn(5, 32), units=[4])),
        ("resid_post.1", Clamp(sae, [0, 1])),
    ]
    seeds = [ops(randomise(Recipe(edits), model, seed)) for seed in range(6)]
    for scale, units, value, bank, clamp in seeds:
        assert sorted(scale.factors.tolist()) == sorted(factors.tolist())
        assert len(set(units.units) - {1, 2, 3}) == 3
        assert max(units.units) < 64
        assert sorted(value.value.tolist()) == pytest.approx(sorted(edits[2][1].value.tolist()))
        assert len(set(bank.units) - {4}) == 1
        assert len(set(clamp.latents) - {0, 1}) == 2
    assert len({tuple(found[0].factors.tolist()) for found in seeds}) > 1
    assert len({tuple(found[1].units) for found in seeds}) > 1
    assert len({tuple(found[4].latents) for found in seeds}) > 1
    assert max(unit for found in seeds for unit in found[1].units) > 31, "neurons are drawn from all of them"


def test_chance_that_gives_the_edit_itself_is_refused(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match="nothing but the recipe itself"):
        randomise(Recipe([("z.1", Scale(torch.full((4,), 0.5)))]), model)
    one = torch.tensor([0.0, 1.0, 1.0, 1.0])
    drawn_factors = [ops(randomise(Recipe([("z.1", Scale(one))]), model, seed))[0].factors for seed in range(8)]
    assert not any(torch.equal(factors, one) for factors in drawn_factors)


def test_a_gate_keeps_its_condition(tiny):
    row = drawn(32, seed=3)
    gate = Gate(Add(drawn(32)), Reads(row, 0.5), site="resid_post.0")
    found = ops(randomise(Recipe([("resid_post.1", gate)]), tiny("llama")))[0]
    torch.testing.assert_close(found.when.row, gate.when.row)
    assert found.op.vector.norm() == pytest.approx(float(gate.op.vector.norm()), rel=1e-5)
    assert (found.op.vector - gate.op.vector).norm() > 1


def test_what_has_no_random_counterpart_says_so(tiny):
    for sites, op in (("z.1", Knockout("last", keys=0)), ("mlp_out.1", Replace())):
        with pytest.raises(InterpError, match="has no random counterpart"):
            randomise(Recipe([(sites, op)]), tiny("llama"))
