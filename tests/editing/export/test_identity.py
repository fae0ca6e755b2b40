"""The digest of weights taken from files is that of the loaded model; recipes of other models are refused."""

import shutil

import fsspec
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file

import interp
from interp import InterpError, Project, Recipe
from interp.core.digests import weight_digests
from interp.directions.direction import Direction
from interp.editing.certificate.manifest import ExportManifest
from interp.editing.export.exporter import export_streamed
from interp.editing.export.identity import checkpoint_digests
from interp.editing.export.sources import open_source
from interp.models.identity import loaded_weights

ROWS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))


def told(folder):
    origin = open_source(folder)
    return checkpoint_digests(origin, {piece.name: piece for file in origin.files for piece in file})


def recipe_for(model):
    made = Direction(ROWS, model.sites[1], -1, "diff_means", model.reference, "data")
    return Recipe([("writers", Project(made))])


@pytest.mark.parametrize("architecture", tiny_models.CONFIGS)
def test_it_is_what_the_loaded_model_has(tiny, architecture, tmp_path):
    tiny(architecture).hf.save_pretrained(tmp_path / "m", max_shard_size="30KB")
    assert told(tmp_path / "m") == weight_digests(loaded_weights(tiny(architecture).hf))
    assert told(tmp_path / "m").exact == tiny(architecture).digest


def test_sixteen_bits_and_a_bare_checkpoint_have_the_same(tiny, tmp_path):
    model = tiny("gpt2")
    model.hf.transformer.save_pretrained(tmp_path / "bare")  # whose names lack the prefix
    assert told(tmp_path / "bare").exact == model.digest
    loaded = interp.load(tmp_path / "bare", dtype="bfloat16")
    loaded.hf.save_pretrained(tmp_path / "half")
    assert told(tmp_path / "half").storage == model.reference.storage_digest == loaded.reference.storage_digest
    assert told(tmp_path / "half").exact == loaded.digest == interp.load(tmp_path / "half").digest != model.digest


def test_a_recipe_of_another_model_of_the_same_shape_is_refused(tiny, tmp_path):
    """Control: where nothing is compared, it is let through."""
    for seed in (0, 1):
        tiny("llama", seed).hf.save_pretrained(tmp_path / str(seed))
    recipe = recipe_for(tiny("llama"))
    manifest = export_streamed(recipe, tmp_path / "0", tmp_path / "right")
    assert manifest.base.digest == tiny("llama").digest
    with pytest.raises(InterpError, match=r"recipe was made for tiny llama 0 with weights .* but 1 has weights"):
        export_streamed(recipe, tmp_path / "1", tmp_path / "wrong")
    assert not list(tmp_path.glob("*wrong*")), "nothing is left"
    trusted = export_streamed(recipe, tmp_path / "1", tmp_path / "trusted", trust_base=True)
    assert trusted.base.digest == "", "the record does not say what nobody saw"
    # One value of one tensor that the edit leaves alone.
    tensors = load_file(tmp_path / "0" / "model.safetensors")
    tensors["model.layers.1.self_attn.q_proj.weight"][3, 5] += 0.5
    shutil.copytree(tmp_path / "0", tmp_path / "near")
    save_file(tensors, tmp_path / "near" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InterpError, match="but near has weights"):
        export_streamed(recipe, tmp_path / "near", tmp_path / "wrong", dtype="bfloat16")


def test_of_a_url_only_what_the_edit_changes_is_read_twice(tiny, tmp_path, monkeypatch):
    model = tiny("llama")
    model.hf.save_pretrained(tmp_path / "m")
    fs = fsspec.filesystem("memory")
    fs.put(str(tmp_path / "m"), "/identity", recursive=True)
    read = []
    whole = type(fs).cat_file

    def watched(self, path, start=None, end=None, **options):
        data = whole(self, path, start, end, **options)
        if path.endswith(".safetensors"):
            read.append(len(data))
        return data

    monkeypatch.setattr(type(fs), "cat_file", watched)
    manifest = export_streamed(recipe_for(model), "memory://identity", tmp_path / "out")
    fs.rm("/identity", recursive=True)
    assert ExportManifest.at(tmp_path / "out").base.digest == manifest.base.digest == model.digest
    size = (tmp_path / "m" / "model.safetensors").stat().st_size
    changed = sum(
        x.nbytes for name, x in load_file(tmp_path / "m" / "model.safetensors").items()
        if "o_proj" in name or "down_proj" in name or "embed" in name
    )  # fmt: skip
    assert sum(read) < size + changed + 10_000


def test_where_transformers_rearranges_it_says_that_it_can_not_tell(tiny, tmp_path, monkeypatch):
    tiny("mixtral").hf.save_pretrained(tmp_path / "m")
    monkeypatch.setattr("interp.editing.export.identity._stacks", lambda operations: False)
    with pytest.warns(UserWarning, match=r"rearranges model\.layers\.0.*only its type and shape were compared"):
        manifest = export_streamed(recipe_for(tiny("mixtral")), tmp_path / "m", tmp_path / "out")
    assert manifest.base.digest == ""


TIED = ("llama", "gpt2", "gpt_neox")


@pytest.fixture(params=TIED)
def tied(request, tmp_path):
    """A folder whose config ties the unembedding, as saved; and a function that puts another head into its file."""
    model = tiny_models.build(request.param)
    model.config.tie_word_embeddings = True
    model.hf.tie_weights()
    model.hf.save_pretrained(tmp_path / "tied")
    model.tokenizer.save_pretrained(tmp_path / "tied")

    def with_head(name, change):
        shutil.copytree(tmp_path / "tied", tmp_path / name)
        tensors = load_file(tmp_path / "tied" / "model.safetensors")
        head = change(model.hf.get_input_embeddings().weight.detach()).clone()
        save_file(tensors | {"lm_head.weight": head}, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        return tmp_path / name

    return tmp_path / "tied", with_head


def test_a_head_of_its_own_counts_whatever_the_config_says(tied, tmp_path):
    folder, with_head = tied
    torch.manual_seed(0)
    others = [with_head(name, lambda table: 2 * torch.randn_like(table)) for name in "ab"]
    near = with_head("near", lambda table: table * torch.where(torch.arange(len(table)) == 5, 1.0001, 1.0)[:, None])
    folders = [folder, with_head("equal", lambda table: table), *others, near]
    references = [interp.load(each).reference for each in folders]
    assert references[0].digest == references[1].digest, "equal heads tie"
    assert len({reference.digest for reference in references}) == 4
    assert len({reference.storage_digest for reference in references}) in (3, 4), "near differs below bfloat16"
    for each, reference in zip(folders, references, strict=True):
        assert told(each) == (reference.digest, reference.storage_digest)
    with pytest.raises(InterpError, match="but b has weights"):
        export_streamed(recipe_for(interp.load(others[0])), others[1], tmp_path / "wrong")
    with pytest.raises(InterpError, match="but a has weights"):
        export_streamed(recipe_for(interp.load(folder)), others[0], tmp_path / "wrong")


@pytest.mark.parametrize("write", ["memory", "folder", "streamed"])
def test_an_export_computes_what_is_hooked_with_a_head_of_its_own(tied, write, tmp_path):
    _, with_head = tied
    folder = with_head("other", lambda table: table.flip(0) * 2)
    model = interp.load(folder)
    recipe, out = recipe_for(model), tmp_path / "out"
    if write == "streamed":
        export_streamed(recipe, folder, out, undo=True)
    else:
        interp.export(recipe, model if write == "memory" else folder, out, undo=True)
    ids, edited = torch.tensor([[5, 9, 17]]), interp.load(out)
    with model.hooked(recipe):
        hooked = model.logits(ids)
    torch.testing.assert_close(edited.logits(ids), hooked, atol=1e-4, rtol=1e-4)
    assert not edited.config.tie_word_embeddings, "programs that go by the config keep the head"
    assert interp.verify(out, model if write == "memory" else None).faithful
    interp.undo(out, tmp_path / "undone")
    torch.testing.assert_close(interp.load(tmp_path / "undone").logits(ids), model.logits(ids), atol=1e-4, rtol=1e-4)
