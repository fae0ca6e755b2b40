"""Ops are saved by their declared fields as they were before there were any: the same keys, values and digests.

`one_of_every_op` was saved, and the digests taken, when each op still wrote its own settings and tensors.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import interp.interventions as ops
from interp import Direction, InterpError, Recipe, SparseAutoencoder
from interp.activations.columns import SiteColumns
from interp.interventions.op import OPS, Op, op_class
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.sae import JumpReLU, TopK

SAVED = Path(__file__).parent / "one_of_every_op"
DIGEST = "7d1c88a7d84c811146c81dbc90d4dfc71020b43872f05c5a0e2f947d8114c712"
DIGESTS = """
    Project 9187e7157f20bb9a706f3ad99056d9a9f1cfdea4f4468900eaf0d2a1d2947372
    Project 08217048de69cf0248f20e8f96269b8f5da6168b21389ab61519e8a6a9443bd5
    Add 2aedc7f4acd7333fece7aa4e1fb49f9abbefbfe73c47aaf94d65f6bead30a4d8
    Add ff92118225b4ccc3f28cfccae9b1f304e48cf018781364c30a0c8fb17e457d16
    Erase 7541d869f2549e136a9ab49abfe0b1b75c84205e0a5195a24a4ed0e7a955b763
    LowRank aa271102bdf4482e93d0aa2da1ce8fd3ea98ffa3ee829649a4a0832cfa65c6d1
    Replace 879fcd0577cc9cbaf5fc072e812595b6a94fcf98c28bd038fd475bf937174c1e
    Replace 05fa9c7772b7abf0acbdd1cb5154dc668bc98777af3177c24441adb809315be2
    Resample d8c10ae8b7448163fa4293258b9dfbf9228b7d77a2164a90f46b94971c39a35d
    Scale d9b9a368d852d10f21c9e831007e79235a9d79f8806b4951b6d28ef1a69edda1
    Clamp ac10f1f28916312281afa5d9e832e7efe6278f36b98db09f215e4492c3e44c9b
    Clamp e218d6a879f8d648c5b7079b393ed830a6edd7a6d7bdf96995e0d47c0f8faf38
    Suppress f681bbc74b4a0433679727df5a869d9dc3a8cc362078e50aa2e1c98f26ee7cc8
    Knockout 9aa8d3fad06ddc2d5e5fb670fc09628a52d205749198d5f83aa4198e4f854080
    Knockout 3e4d7f8915dd74bdd161273dd715eead6ca562420ae60b887fd68a77b20f6a1f
    At b2ffde51b089876a5391f96c6abe5ae258fd06817c6597b32c62c6ab9a5fff75
    At 84aa81c289bd7871eaa3df6231f6d14b60730771800cd8dba2d7d28b70a48214
    Schedule 79c9f31349087b998a164da0325535860b1121f5d998abcc8b763fb40695d334
    Gate 17d497ea63ceabc20f534afb4ca04c6af0b02fc06f8e817c3ee48162303e6164
    Gate f40ad8daba37e18409f865a8f2fdc63ecc53a0425054aba677fd7992995659aa
"""
# Those of the ops that mean something else in format 2, by their number.
CHANGED = {
    13: "4ebfe728f76ed5a63891afd254e46745defbb5e9b8d9f72c39c290a996c12d7c",  # Knockout
    14: "32c4f740743c6a5cffc33e47cee3c5a25ebd5243df93d8d8ed3df3f0cfc81ac7",  # Knockout
    16: "56ba208648465d22a5fee48511c790edffeb6cc14012a3a381e0f4fa4421cb5f",  # At
    17: "c5773a2ca8ee31e6471123bddfedbeac967df5bffc584aad3a337f91ff5366b7",  # Schedule
    19: "e00edd64dfb9719855c17e744ccb0fd036c95f2eebe5cd3643fc766c40d1f9e8",  # Gate
}


def one_of_every_op() -> Recipe:
    generator = torch.Generator().manual_seed(0)
    model = ModelReference(name="tiny", digest="a" * 64, model_type="llama", d_model=8, n_layers=3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    def coder(nonlinearity, reads, writes, **tensors):
        columns = [(SiteColumns(site=site, model=model, width=8),) for site in (reads, writes)]
        drawn = {"W_enc": draw(3, 8), "b_enc": draw(3), "W_dec": draw(3, 8), "b_dec": draw(8)} | tensors
        return SparseAutoencoder(nonlinearity=nonlinearity, reads=columns[0], writes=columns[1], **drawn)

    direction = Direction(draw(1, 8), Site("resid_post", 1), -1, "diff_means", model, "d" * 64, {"auroc": 0.9})
    sae = coder(TopK(k=2), "resid_post.1", "resid_post.1")
    threshold = draw(3).abs()
    transcoder = coder(JumpReLU(), "mlp_input.1", "mlp_out.1", threshold=threshold)
    reads = ops.Reads(direction, 0.5, cosine=True)
    edits = [
        ("writers", ops.Project(direction, 0.5)),
        ("writers", ops.Project(draw(2, 8))),
        ("resid_post.1", ops.Add(direction, 2.0)),
        ("resid_post.1", ops.Add(draw(8), 0.25, relative=True)),
        ("resid_post.2", ops.Erase(draw(2, 8), draw(2, 8), draw(8), model)),
        ("mlp_out.1", ops.LowRank(torch.eye(8)[:2], draw(2, 8), draw(2), model)),
        ("z.0", ops.Replace(draw(4, 2), units=[0, 3], model=model)),
        (["mlp_out.0", "mlp_out.1"], ops.Replace()),
        ("mlp_post.1", ops.Resample(draw(5, 8), units=range(2, 4), seed=7, model=model)),
        ("z.1", ops.Scale(draw(4), model)),
        ("resid_post.1", ops.Clamp(sae, [0, 2], value=1.5)),
        ("resid_post.1", ops.Clamp(sae, 1, scale=0.5)),
        ("mlp_out.1", ops.Suppress(transcoder, [1, 2], 0.25)),
        ("z.*", ops.Knockout(ops.Positions("generated", [9, 12]), keys=[0, -2], heads=[2, 1])),
        ("z.*", ops.Knockout("last", keys="prompt")),
        ("resid_post.1", ops.At(ops.Add(direction), ["last", 3], tokens=[7, 4])),
        ("resid_post.1", ops.At(ops.Replace(draw(8)), "assistant", turns=ops.Turns((5, 6), 2))),
        ("resid_post.1", ops.Schedule(ops.Project(direction), [1.0, 0.5], prompt=0.25)),
        ("resid_post.2", ops.Gate(ops.Project(direction), reads, "token", site="resid_post.0")),
        ("resid_post.2", ops.Gate(ops.At(ops.Add(draw(8)), "prompt"), ops.Fires(sae, 2, 0.1), reduce="mean")),
    ]
    return Recipe(edits, note="one of every op")


@pytest.mark.parametrize("recipe", [Recipe.load(SAVED), one_of_every_op()], ids=["loaded", "constructed"])
def test_digests_are_those_of_before_where_the_meaning_is(recipe):
    changed = {} if recipe.edits[0].format == 1 else CHANGED
    expected = [changed.get(number, line.split()[1]) for number, line in enumerate(DIGESTS.strip().splitlines())]
    assert [Recipe([edit]).digest for edit in recipe.edits] == expected
    assert [recipe.digest == DIGEST, len(set(expected) & set(changed.values()))] == [not changed, len(changed)]
    changed = Recipe([*recipe.edits[1:], recipe.edits[0]], recipe.model, recipe.note)
    assert changed.digest != DIGEST, "control: the order counts"


def test_a_recipe_of_before_is_saved_again_to_the_byte(tmp_path):
    Recipe.load(SAVED).save(tmp_path / "recipe")
    assert (tmp_path / "recipe" / "recipe.json").read_bytes() == (SAVED / "recipe.json").read_bytes()
    tensors, expected = (load_file(folder / "recipe.safetensors") for folder in (tmp_path / "recipe", SAVED))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_settings_that_came_later_have_their_default(tmp_path):
    Recipe.load(SAVED).save(tmp_path / "recipe")
    file = tmp_path / "recipe" / "recipe.json"
    plain = json.loads(file.read_text())
    del plain["edits"][2]["settings"]["relative"], plain["edits"][10]["settings"]["factor"]
    file.write_text(json.dumps(plain))
    assert Recipe.load(tmp_path / "recipe").digest == DIGEST
    del plain["edits"][10]["settings"]["value"]
    file.write_text(json.dumps(plain))
    with pytest.raises(InterpError, match=r"edit 10 \(Clamp\) is incomplete: 'value'"):
        Recipe.load(tmp_path / "recipe")


def test_the_table_holds_every_op():
    since = {"Cap"}  # ops that came after the recipe was saved
    assert {type(edit.op).__name__ for edit in Recipe.load(SAVED).edits} == set(OPS) - since
    exported = {name for name in ops.__all__ if isinstance(cls := getattr(ops, name), type) and issubclass(cls, Op)}
    assert exported - {"Op"} == set(OPS)
    assert all(op_class(name) is getattr(ops, name) for name in OPS)


def test_ops_are_frozen_and_print_their_fields():
    gate = Recipe.load(SAVED).edits[18].op
    with pytest.raises(AttributeError):
        gate.per = "sequence"
    assert "when=Reads(row=tensor[8], threshold=0.5, cosine=True, model=tiny), per=token" in repr(gate)
    assert "resid_post.0" in gate._repr_html_()
