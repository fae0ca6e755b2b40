"""Undo patches restore the original weights, of the folder that was written and of no other."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import interp
from interp import Add, InterpError, Project, Recipe
from interp.core.files import read_json, sha256_file, write_json
from interp.editing.certificate.manifest import MANIFEST, PATCH
from interp.editing.export._tensor_difference import factors
from interp.editing.export.exporter import export_streamed
from interp.editing.export.restoring import undo
from interp.editing.export.sources import open_source
from interp.editing.fold.steps import fold
from interp.editing.options import FoldOptions
from interp.interventions import Replace
from interp.models.checkpoints.checkpoint import Checkpoint

IDS = torch.randint(4, 128, (3, 11), generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
PROJECT = Recipe([("writers", Project(ROWS))])
HEAD = Recipe([("z.1", Replace(units=[1])), ("mlp_post.0", Replace(units=[3, 5]))])


@pytest.fixture
def saved(tiny, tmp_path):
    def save(name, dtype=torch.float32):
        folder = tmp_path / f"source-{name}"
        copy.deepcopy(tiny(name).hf).to(dtype).save_pretrained(folder)  # tests share the model
        return folder

    return save


def tensors(folder):
    return {name: x for file in Checkpoint.open(folder).files for name, x in load_file(file).items()}


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "recipe", "choices"), [
    ("llama", PROJECT, FoldOptions()),
    ("gpt2", Recipe([("writers", Project(ROWS)), ("mlp_out.1", Add(ROWS[0]))]), FoldOptions()),
    ("qwen3", HEAD, FoldOptions()),
    ("gemma2", Recipe([("writers", Project(ROWS[:1]))]), FoldOptions()),
])  # fmt: skip
def test_an_undo_patch_brings_the_original_back(saved, tmp_path, name, recipe, choices, dtype):
    source = saved(name, dtype)
    export_streamed(recipe, source, tmp_path / "edited", fold=choices, undo=True)
    undo(tmp_path / "edited", tmp_path / "again")
    before, edited, after = (tensors(folder) for folder in (source, tmp_path / "edited", tmp_path / "again"))
    assert set(before) == set(after)
    worst = 0.0
    for key, original in before.items():
        larger = torch.maximum(original.abs(), edited[key].abs()).float()
        unit = torch.finfo(dtype).eps * torch.maximum(larger, torch.tensor(1e-3))
        worst = max(worst, float(((after[key].float() - original.float()).abs() / unit).max()))
    assert worst <= 1.0
    assert any(not torch.equal(edited[key], original) for key, original in before.items()), "control"
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert (tmp_path / "edited" / PATCH).stat().st_size < 2 * size
    AutoModelForCausalLM.from_pretrained(tmp_path / "again")


@pytest.mark.parametrize(
    ("stored", "cast"), [("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "bfloat16")]
)
def test_undo_of_a_cast_says_what_is_rounded_and_the_config_is_true(saved, tmp_path, capsys, stored, cast):
    source = saved("llama", getattr(torch, stored))
    export_streamed(PROJECT, source, tmp_path / "edited", dtype=cast, undo=True)
    undo(tmp_path / "edited", tmp_path / "again")
    said = f"what returns is the original rounded to {cast}" in capsys.readouterr().err
    assert said == (cast == "bfloat16"), "control: a wider type loses nothing"
    for folder in (tmp_path / "edited", tmp_path / "again"):
        assert json.loads((folder / "config.json").read_text())["dtype"] == cast
        assert {str(x.dtype) for x in tensors(folder).values()} == {f"torch.{cast}"}
    before, after = tensors(source), tensors(tmp_path / "again")
    unit = torch.finfo(getattr(torch, cast)).eps if said else torch.finfo(torch.bfloat16).eps / 256
    assert all(((after[name].float() - x.float()).abs() <= 2 * unit * x.float().abs() + 1e-3 * unit).all()
               for name, x in before.items() if "layernorm" in name or "q_proj" in name)  # fmt: skip


def test_what_can_not_be_undone_says_so(saved, tiny, tmp_path):
    source = saved("llama")
    export_streamed(PROJECT, source, tmp_path / "edited")
    with pytest.raises(InterpError, match=r"no interp_undo\.safetensors in it"):
        undo(tmp_path / "edited", tmp_path / "again")
    origin = open_source(source)
    plan = fold(
        PROJECT,
        origin.config,
        origin.pieces,
        origin.is_tied,
        origin.read,
        FoldOptions(approximate=True, keep_norms=True),
    )
    name = "model.layers.0.mlp.down_proj.weight"
    assert factors(name, plan.changes[name], origin.read(name)).rank > 8, "control: norms kept take more than the rows"
    with pytest.raises(InterpError, match="has a rank above 8"):
        factors(name, plan.changes[name], origin.read(name), limit=8)
    interp.export(PROJECT, source, tmp_path / "loaded", undo=True)
    undo(tmp_path / "loaded", tmp_path / "again")
    again = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again"))
    torch.testing.assert_close(again, tiny("llama").logits(IDS), atol=1e-4, rtol=1e-3)


def test_a_folder_that_was_changed_is_not_undone(saved, tmp_path):
    export_streamed(PROJECT, saved("llama"), tmp_path / "edited", undo=True)
    undo(tmp_path / "edited", tmp_path / "again")  # control
    file = tmp_path / "edited" / "model.safetensors"
    changed = load_file(file)
    changed["lm_head.weight"] += 1
    save_file(changed, file, metadata={"format": "pt"})
    with pytest.raises(InterpError, match=r"model\.safetensors: changed after the export"):
        undo(tmp_path / "edited", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def repatched(folder, change):
    """Change the tensors and metadata of a patch, and make the manifest agree."""
    with safe_open(folder / PATCH, "pt") as opened:
        metadata = opened.metadata()
    factors = load_file(folder / PATCH)
    change(factors, metadata)
    save_file(factors, folder / PATCH, metadata)
    manifest = read_json(folder / MANIFEST)
    manifest["files"][PATCH] = sha256_file(folder / PATCH)
    write_json(folder / MANIFEST, manifest)


LEFT = "model.layers.0.mlp.down_proj.weight.left"


@pytest.mark.parametrize(("change", "problem"), [
    (lambda tensors, metadata: metadata.pop("config"), "config is missing"),
    (lambda tensors, metadata: metadata.pop("dropped"), "dropped is missing"),
    (lambda tensors, metadata: metadata.update(config="[]"), "config is"),
    (lambda tensors, metadata: metadata.update(dropped="5"), "dropped is 5"),
    (lambda tensors, metadata: metadata.update(dtypes='["X"]'), "'X' is no dtype"),
    (lambda tensors, metadata: metadata.update(dropped='["model.nor.weight"]'), "names model.nor.weight, which"),
    (lambda tensors, metadata: tensors.update({LEFT: tensors[LEFT][:3].clone()}), "is not restored by left"),
    (lambda tensors, metadata: tensors.update({LEFT: tensors[LEFT][:, 0].clone()}), "is not restored by left"),
    (lambda tensors, metadata: tensors.pop(LEFT), "is not restored by right"),
])  # fmt: skip
def test_a_patch_of_another_form_is_refused_by_name(saved, tmp_path, change, problem):
    export_streamed(PROJECT, saved("llama"), tmp_path / "edited", undo=True)
    repatched(tmp_path / "edited", change)
    with pytest.raises(InterpError, match=problem):
        undo(tmp_path / "edited", tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("factor", [1, -50])
def test_what_returns_is_compared_with_the_base_that_the_manifest_names(saved, tmp_path, capsys, name, factor):
    """Said if, and only if, it has another digest; rounding alone can give it one."""
    source = saved(name)
    recipe = Recipe([("writers", Project(ROWS[:1]))], model=interp.load(source).reference)
    export_streamed(recipe, source, tmp_path / "edited", undo=True)
    repatched(tmp_path / "edited", lambda tensors, metadata: tensors.update({LEFT: tensors[LEFT] * factor}))
    undo(tmp_path / "edited", tmp_path / "again")
    said, returned = capsys.readouterr().err, interp.load(tmp_path / "again").reference.fits
    assert (f"{returned[:12]}, those of the base {recipe.model.fits[:12]}" in said) == (returned != recipe.model.fits)
    assert returned != recipe.model.fits or factor == 1
