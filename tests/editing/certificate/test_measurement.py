"""Certificates on folds that are wrong: each is refused at a hundredth of its effect, and the right one is accepted."""

import dataclasses

import pytest
import torch
from folding import rows
from safetensors.torch import load_file, save_file

import interp
from interp import Add, InterpError, Project, Recipe
from interp.core.files import read_json, sha256_file, write_json
from interp.editing.certificate.manifest import MANIFEST
from interp.editing.fold import steps
from interp.editing.fold.plan import Plan
from interp.editing.fold.steps import Gains
from interp.editing.options import FoldOptions
from interp.interventions import Erase, Replace
from interp.models.checkpoints.checkpoint import Checkpoint

LOOSE = FoldOptions(approximate=True)
EVERYWHERE = ("resid_pre.*", "resid_mid.*", "resid_post.*")


def ablation(seed=0, scale=1.0):
    return Recipe([("writers", Project(rows(seed), scale))])


def refused(recipe, model, tmp_path, **options):
    with pytest.raises(InterpError, match="do not do what the recipe's hooks do") as told:
        interp.export(recipe, model, tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()
    return str(told.value)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("factor", [-5.0, 1.02])
def test_what_is_exact_up_to_a_scale_is_compared_without_it(tiny, tmp_path, monkeypatch, scale, factor):
    model, recipe = tiny("gemma2"), ablation(scale=scale)
    right = interp.export(recipe, model, tmp_path / "right", fold=LOOSE)
    assert right.faithful
    assert right.status == "scale"
    assert right.writer_gap > 1e-2, "control: without the factor they differ"
    assert right.fold.off < 1e-6
    through = Gains.through

    def other(gains, edit, writer):
        edit, status, reason = through(gains, edit, writer)
        return dataclasses.replace(edit, write=factor * edit.write), status, reason

    monkeypatch.setattr(Gains, "through", other)
    assert "a writer is off by" in refused(recipe, model, tmp_path, fold=LOOSE)


def test_an_exact_op_beside_one_up_to_a_scale_is_compared_too(tiny, tmp_path, monkeypatch):
    model, recipe = tiny("gemma2"), Recipe([("writers", Project(rows())), ("z.1", Replace(units=[0]))])
    assert interp.export(recipe, model, tmp_path / "right", fold=LOOSE).faithful
    monkeypatch.setattr(
        "interp.editing.fold.ablation.inputs_of", lambda ops, width: (torch.zeros(0, dtype=torch.long), False)
    )
    refused(recipe, model, tmp_path, fold=LOOSE)


@pytest.mark.parametrize("seed", range(3))
def test_rounding_to_16_bits_hides_no_wrong_fold(tiny, tmp_path, monkeypatch, seed):
    """P W behind a norm leaves 4e-2 of what is written, the right fold 1e-3 in bfloat16: refused for the former."""
    model, recipe = tiny("gemma2"), ablation(seed)
    right = interp.export(recipe, model, tmp_path / "right", fold=LOOSE, dtype="bfloat16")
    assert right.dtype == "BF16"
    assert right.leak < 5e-3
    assert right.fold.leak < 1e-6
    monkeypatch.setattr(Gains, "through", lambda gains, edit, writer: (edit, "scale", "naive"))
    assert "left along what was removed" in refused(recipe, model, tmp_path, fold=LOOSE, dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
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
    for status in ("exact", "scale", "approximate"):
        (said,) = dataclasses.replace(right, kl=right.effect_kl, status=status).unmet
        assert "no nearer to the hooked model" in said
        assert ("hides the edit" in said) == (status != "approximate")
    assert not dataclasses.replace(right, kl=float("nan")).faithful
    assert not dataclasses.replace(right, fold=None).faithful


A, B = rows(5, 2), rows(6, 2)
OBLIQUE = Erase(A, torch.linalg.solve((A + 0.3 * B) @ A.T, A + 0.3 * B), rows(7)[0])
HELD = {
    "an addition behind a block": Recipe([("resid_pre.2", Add(rows(1)[0]))]),
    "ablate and steer": Recipe([("writers", Project(rows())), ("resid_post.1", Add(rows(1)[0]))]),
    "table and first input": Recipe([("embed", Project(rows())), ("resid_pre.0", Add(rows(1)[0]))]),
    "eraser behind a projection": Recipe([(EVERYWHERE, OBLIQUE), ("attn_out.1", Project(rows()))]),
}


@pytest.mark.parametrize("what", HELD)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
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
