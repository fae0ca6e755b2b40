"""Ops at the stream's own sites: what is the same as an op at every writer, and what is not."""

import pytest
import torch
from folding import IDS, PRE_NORM, gap, on_disk, planned, reloaded, rows

import interp
from interp import Add, InterpError, Project, Recipe
from interp.editing.fold.steps import fold
from interp.interventions import Erase
from interp.models.architectures.table import architecture

EVERYWHERE = ("resid_pre.*", "resid_mid.*", "resid_post.*")


def sites(model):
    parallel = architecture(model.config).is_parallel(model.config)
    return ("resid_pre.*", "resid_post.*") if parallel else EVERYWHERE


def oblique(k=3, seed=0):
    """x -> x - A (x - mu) with A² = A of rank k, and A not symmetric, as LEACE's is."""
    write = rows(seed, k).double()
    read = write + 0.3 * rows(seed + 5, k).double()
    read = torch.linalg.solve(read @ write.T, read)
    return Erase(read.float(), write.float(), rows(seed + 9)[0])


@pytest.mark.parametrize("name", PRE_NORM)
def test_an_eraser_at_every_site_needs_no_biases(tiny, name):
    model = tiny(name)
    recipe = Recipe([(sites(model), oblique())])
    plan = planned(model, recipe)
    off, effect = gap(model, recipe, plan)
    assert (plan.status, dict(plan.created)) == ("exact", {})
    assert off < 1e-5 < 0.1 < effect


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "granite"])
def test_the_identity_in_float64_and_the_constant_once(tiny, name):
    """Every writer (I - A) W, the table's rows (I - A) e + A mu: an identity. Two tables with the constant are not."""
    model = tiny(name)
    wide = interp.HookedModel(type(model.hf)(model.config).double())
    state = {n: x.double() for n, x in model.hf.state_dict().items()}
    wide.hf.load_state_dict(state)
    # Exactly idempotent, which tensors of float32 are not.
    op = oblique()
    write = op.write.double()
    read = torch.linalg.solve(op.read.double() @ write.T, op.read.double())
    for field, tensor in (("read", read), ("write", write), ("mean", op.mean.double())):
        object.__setattr__(op, field, tensor)
    plan = fold(Recipe([(sites(model), op)]), model.config, state, tied=False)
    with wide.hooked([(pattern, op) for pattern in sites(model)]):
        hooked = wide.logits(IDS)
    edited = interp.HookedModel(type(model.hf)(model.config).double())
    new = {n: plan.apply(n, x) for n, x in state.items()}
    if model.config.tie_word_embeddings:
        edited.hf.lm_head.weight = torch.nn.Parameter(state["lm_head.weight"].clone())
    edited.hf.load_state_dict(new | {n: state[n] for n in state if n == "lm_head.weight"})
    assert (edited.logits(IDS) - hooked).abs().max() < 1e-12 * hooked.abs().max()
    if name == "gpt2":
        constant = (op.mean @ op.read.T) @ op.write
        edited.hf.transformer.wpe.weight.data += constant
        assert (edited.logits(IDS) - hooked).abs().max() > 1e-2 * hooked.abs().max()


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_a_projection_at_every_site_is_one_at_every_writer(tiny, name):
    model, op = tiny(name), Project(rows(k=2))
    one, two = (planned(model, Recipe([(at, op)]), approximate=True) for at in (sites(model), "writers"))
    for tensor in on_disk(model)[0]:
        x = on_disk(model)[0][tensor]
        assert torch.equal(one.apply(tensor, x), two.apply(tensor, x))
    assert set(one.changes) == set(two.changes)


def test_a_scale_at_sites_compounds_and_at_writers_counts_once(tiny):
    """What one writer put along r is carried by every site: (1 - s)^n is left there, 1 - s where it is written."""
    model, r = tiny("llama"), Project(rows())
    only_embedding = reloaded(model, planned(model, Recipe([(("attn_out.*", "mlp_out.*"), r)])))
    along = {}
    for where in ("none", "writers", "resid_post.*"):
        edits = [] if where == "none" else [(where, Project(rows(), 0.3))]
        with only_embedding.hooked(edits):
            along[where] = only_embedding.capture(IDS, "resid_post.2")["resid_post.2"] @ r.rows[0]
    ratio = {where: float((x / along["none"]).median()) for where, x in along.items()}
    assert ratio["writers"] == pytest.approx(0.7, abs=1e-4)
    assert ratio["resid_post.*"] == pytest.approx(0.7**3, abs=1e-4)


def test_sites_left_out_or_different_at_each_do_not_fold(tiny):
    model = tiny("llama")
    for edits, message in [
        ([(("resid_pre.*", "resid_post.*"), oblique())], "no single tensor writes"),
        ([(("resid_mid.*", "resid_post.*"), oblique())], "no single tensor writes"),
        ([("resid_post.1", oblique())], "no single tensor writes"),
        ([(f"resid_post.{n}", oblique(seed=n)) for n in range(3)], "no single tensor writes"),
        ([(EVERYWHERE, oblique()), ("resid_post.1", Add(rows()[0]))], "which no writer does"),
        ([("resid_post.1", Add(rows()[0])), (EVERYWHERE, oblique())], "which no writer does"),
        ([(EVERYWHERE, oblique()), (EVERYWHERE, oblique(seed=2))], "which no writer does"),
        ([(EVERYWHERE, Erase(rows(), 2 * rows(), rows(3)[0]))], "compounds"),
    ]:
        with pytest.raises(InterpError, match=message):
            planned(model, Recipe(edits))


def test_erasers_that_do_not_meet_fold_together_and_beside_additions_at_writers(tiny):
    eye = torch.eye(32)
    apart = [(EVERYWHERE, Erase(eye[:2], eye[:2], rows(3)[0])), (EVERYWHERE, Project(eye[5:7]))]
    for recipe in (Recipe(apart), Recipe([*apart, ("mlp_out.1", Add(rows()[0])), ("writers", Project(rows(2), 0.5))])):
        plan = planned(tiny("llama"), recipe)
        off, effect = gap(tiny("llama"), recipe, plan)
        assert off < 1e-5 < 0.1 < effect


def test_the_first_site_is_the_tables(tiny):
    for name in ("llama", "gpt2"):
        recipe = Recipe([("resid_pre.0", oblique()), ("resid_pre.0", Add(rows()[0])), ("writers", Project(rows(4)))])
        off, effect = gap(tiny(name), recipe, planned(tiny(name), recipe))
        assert off < 1e-5 < 0.1 < effect
