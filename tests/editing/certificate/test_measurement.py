"""Certificates on folds that are wrong: each is refused at a hundredth of its effect, and the right one is accepted."""

import dataclasses

import pytest
import tiny_models
import torch
from folding import POST_NORM, rows
from safetensors.torch import load_file, save_file

import interp
from interp import Add, InterpError, Project, Recipe
from interp.core.files import read_json, sha256_file, write_json
from interp.editing.certificate.manifest import MANIFEST
from interp.editing.fold import steps
from interp.editing.fold.plan import Plan
from interp.editing.options import FoldOptions
from interp.interventions import Erase, Replace
from interp.models.architectures.writers import writers
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.losses import kl_divergence

EVERYWHERE = ("resid_pre.*", "resid_mid.*", "resid_post.*")


def ablation(seed=0, scale=1.0):
    return Recipe([("writers", Project(rows(seed), scale))])


def refused(recipe, model, tmp_path, **options):
    with pytest.raises(InterpError, match="do not do what the recipe's hooks do") as told:
        interp.export(recipe, model, tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()
    return str(told.value)


@pytest.mark.parametrize(("name", "scale"), [*zip(POST_NORM, [1.0, 0.5] * 3, strict=True), ("gemma2", 0.5)])
def test_a_fold_by_another_gain_is_refused(tiny, tmp_path, monkeypatch, name, scale):
    model, recipe = tiny(name), ablation(scale=scale)
    right = interp.export(recipe, model, tmp_path / "right")
    assert (right.faithful, right.status) == (True, "exact")
    assert right.fold.off < 2e-6
    monkeypatch.setattr(steps, "before_norm", lambda op, site, config, read: op)
    assert "a writer is off by" in refused(recipe, model, tmp_path)


@pytest.mark.parametrize("name", POST_NORM)
def test_a_coordinate_a_thousand_times_the_others_folds_as_exactly(name, tmp_path):
    """Real models have such; what is left along it is a small difference. The hook after the norm is another edit."""
    model, direction = tiny_models.build(name), 0.15 * rows()[0]
    direction[7] = 1.0
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[:, 7] *= 1000
        for writer in writers(model.config, model.hf.state_dict()):
            if writer.gain:
                model.hf.get_parameter(writer.gain)[7] = 1000.0
    certificate = interp.export(Recipe([("writers", Project(direction))]), model, tmp_path / "out")
    assert (certificate.faithful, certificate.status) == (True, "exact")
    assert certificate.fold.off < 1e-6
    assert certificate.fold.leak < 1e-6
    ids = torch.randint(4, 128, (3, 11), generator=torch.Generator().manual_seed(1))
    with model.hooked(Recipe([(("embed", "attn_out.*", "mlp_out.*"), Project(direction))])):
        after_norm = model.logits(ids).double()
    apart = kl_divergence(after_norm, interp.load(tmp_path / "out").logits(ids).double()).mean()
    assert certificate.kl < 1e-9 < 1e-2 < apart


def test_an_ablation_before_a_norm_is_compared_too(tiny, tmp_path, monkeypatch):
    model, recipe = tiny("gemma2"), Recipe([("writers", Project(rows())), ("z.1", Replace(units=[0]))])
    assert interp.export(recipe, model, tmp_path / "right").faithful
    monkeypatch.setattr(
        "interp.editing.fold.ablation.inputs_of", lambda ops, width: (torch.zeros(0, dtype=torch.long), False)
    )
    refused(recipe, model, tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_rounding_to_16_bits_hides_no_wrong_fold(tiny, tmp_path, monkeypatch, seed):
    """P W behind a norm leaves 4e-2 of what is written, the right fold 1e-3 in bfloat16: refused for the former."""
    model, recipe = tiny("gemma2"), ablation(seed)
    right = interp.export(recipe, model, tmp_path / "right", dtype="bfloat16")
    assert right.dtype == "BF16"
    assert right.leak < 5e-3
    assert right.fold.leak < 1e-6
    monkeypatch.setattr(steps, "before_norm", lambda op, site, config, read: op)
    assert "left along what was removed" in refused(recipe, model, tmp_path, dtype="bfloat16")


@pytest.mark.parametrize(
    ("name", "dtype"), [("llama", "float32"), ("llama", "bfloat16"), ("llama", "float16"), ("gpt2", "float16")]
)
def test_a_weak_edit_is_accepted_and_a_hundredth_of_it_missing_is_not(tiny, tmp_path, monkeypatch, name, dtype):
    model, recipe = tiny(name), ablation(scale=0.2)
    assert interp.export(recipe, model, tmp_path / "right", dtype=dtype).faithful
    map_of = steps.map_of

    def less(op, site, width):
        edit = map_of(op, site, width)
        return dataclasses.replace(edit, write=0.99 * edit.write)

    monkeypatch.setattr(steps, "map_of", less)
    refused(recipe, model, tmp_path, dtype=dtype)


def test_an_export_has_to_be_nearer_to_the_hooked_model_than_the_base(tiny, tmp_path):
    right = interp.export(ablation(), tiny("llama"), tmp_path / "right", dtype="bfloat16")
    assert right.faithful
    (said,) = dataclasses.replace(right, kl=right.effect_kl).unmet
    assert "no nearer to the hooked model" in said
    assert "hides the edit" in said
    assert not dataclasses.replace(right, kl=float("nan")).faithful
    assert not dataclasses.replace(right, fold=None).faithful


def test_what_is_approximate_is_refused_unless_it_is_small_beside_the_edit(tiny, tmp_path, monkeypatch):
    """Leaving the table is half of this edit, keeping norms a hundredth; verify fails what was let out before."""
    model, left = tiny("llama"), FoldOptions(approximate=True, leave_embedding=True)
    kept = interp.export(ablation(), model, tmp_path / "kept", approximate=True, keep_norms=True)
    assert kept.faithful
    assert 0.001 < kept.kl / kept.effect_kl < 0.25
    assert any("must be at most 25% of it" in row[2] for row in kept.rows())
    assert "is more than 25% of what the edit does to the base" in refused(ablation(), model, tmp_path, fold=left)
    monkeypatch.setattr("interp.editing.export.exporter.require_faithful", lambda certificate: None)
    let_out = interp.export(ablation(), model, tmp_path / "left", fold=left)
    assert 0.25 < let_out.kl / let_out.effect_kl < 1
    assert not interp.verify(tmp_path / "left", model).faithful
    assert interp.verify(tmp_path / "kept", model).faithful


A, B = rows(5, 2), rows(6, 2)
OBLIQUE = Erase(A, torch.linalg.solve((A + 0.3 * B) @ A.T, A + 0.3 * B), rows(7)[0])
HELD = {
    "an addition behind a block": Recipe([("resid_pre.2", Add(rows(1)[0]))]),
    "ablate and steer": Recipe([("writers", Project(rows())), ("resid_post.1", Add(rows(1)[0]))]),
    "table and first input": Recipe([("embed", Project(rows())), ("resid_pre.0", Add(rows(1)[0]))]),
    "eraser behind a projection": Recipe([(EVERYWHERE, OBLIQUE), ("attn_out.1", Project(rows()))]),
}


@pytest.mark.parametrize(("what", "dtype"), [*((what, "bfloat16") for what in HELD), ("ablate and steer", "float32")])
def test_what_writers_hold_of_the_streams_ops_is_no_error_of_theirs(tiny, tmp_path, monkeypatch, what, dtype):
    model, recipe = tiny("llama"), HELD[what]
    right = interp.export(recipe, model, tmp_path / "right", dtype=dtype)
    assert right.status == "exact"
    assert right.fold.kl < 1e-10 < right.effect_kl
    apply = Plan.apply
    missed = "embed_tokens.weight" if what.startswith("table") else "1.mlp.down_proj.bias"
    missed = "1.self_attn.o_proj.weight" if what.startswith("eraser") else missed

    def partly(plan, name, tensor, **options):
        return tensor if name.endswith(missed) else apply(plan, name, tensor, **options)

    monkeypatch.setattr(Plan, "apply", partly)
    refused(recipe, model, tmp_path, dtype=dtype)


def test_weights_that_are_not_the_fold_rounded_are_named_by_a_model_in_memory_too(tiny, tmp_path):
    model, out = tiny("llama"), tmp_path / "out"
    interp.export(ablation(), model, out, fold=FoldOptions(approximate=True, keep_norms=True))
    file = Checkpoint.open(out).opened[0].path
    noise = {name: 0.1 * torch.randn_like(x) for name, x in load_file(file).items()}
    save_file(noise, file, metadata={"format": "pt"})
    manifest = read_json(out / MANIFEST)
    manifest["files"][file.name] = sha256_file(file)
    write_json(out / MANIFEST, manifest)
    with pytest.raises(InterpError, match="is not what the recipe makes of the base"):
        interp.verify(out, model)
