"""Edited copies of GGUF files: bytes, types, logits (ours and llama.cpp's), and what is refused."""

import json
import shutil
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import tiny_gguf
import torch

import interp
from interp import Add, InterpError, Project, Recipe
from interp.core.files import sha256_file, write_json
from interp.editing.certificate import ExportManifest
from interp.editing.export.gguf_writer import GgufEdit, _kind, export_gguf
from interp.editing.options import ExportOptions
from interp.interventions.affine_ops import LowRank
from interp.models.checkpoints.gguf_file import GgufFile

ROWS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
RECIPE = Recipe([("mlp_out.*", Project(ROWS)), ("attn_out.1", Project(ROWS[:1]))])
PROMPTS = [[5, 9, 33, 20], [100, 7, 8, 9, 10, 66]]
EDITED = {f"blk.{layer}.ffn_down.weight" for layer in range(3)} | {"blk.1.attn_output.weight"}
WRITTEN = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def tensors(file):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def last(model, recipe=None):
    with model.hooked(recipe or []):
        return torch.stack([model.logits(torch.tensor([prompt]))[0, -1].log_softmax(-1) for prompt in PROMPTS])


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_copy_computes_what_the_hooks_compute_in_transformers_and_in_llama_cpp(architecture, tiny, tmp_path):
    base = tiny_gguf.write(tiny(architecture), tmp_path / "base.gguf")
    certificate = export_gguf(RECIPE, base, tmp_path / "edited")
    assert certificate.faithful
    assert certificate.dtype == "F32"
    assert certificate.backend.startswith("transformers, of the GGUF file")
    model, copy = interp.load(base), tmp_path / "edited" / "model.gguf"
    torch.testing.assert_close(last(interp.load(copy)), last(model, RECIPE), atol=1e-5, rtol=0)
    pytest.importorskip("xllamacpp", reason="llama.cpp: pip install xllamacpp")
    theirs = tiny_gguf.log_probs(copy, PROMPTS, 128)
    torch.testing.assert_close(theirs, last(model, RECIPE), atol=2e-3, rtol=0)
    assert (theirs - tiny_gguf.log_probs(base, PROMPTS, 128)).abs().max() > 0.02, "control: the edit shows"


def test_all_but_edited_tensors_keeps_its_bytes_and_edited_ones_their_types(tiny, tmp_path):
    for kind in WRITTEN:
        base, copy = tiny_gguf.write(tiny("llama"), tmp_path / f"{kind}.gguf", kind=kind), tmp_path / "copy.gguf"
        edit = GgufEdit.of(RECIPE, base, None, ExportOptions(form="gguf"))
        edit.file.write_copy(copy, edit.tensors(), {"interp.recipe": edit.recipe.digest})
        before, after = tensors(base), tensors(copy)
        assert {name for name in before if before[name].data.tobytes() != after[name].data.tobytes()} == EDITED
        assert {name: t.tensor_type for name, t in before.items()} == {name: t.tensor_type for name, t in after.items()}
        assert edit.plan.notes == ()
    first, second = gguf.GGUFReader(base).fields, gguf.GGUFReader(copy).fields
    assert second.pop("interp.recipe").contents() == edit.recipe.digest
    for name in (name for name in first if not name.startswith("GGUF.")):
        assert second[name].contents() == first[name].contents()


def reader_tensor(shape, kind):
    return SimpleNamespace(shape=shape, tensor_type=gguf.GGMLQuantizationType[kind])


def k_types(model, file):
    """A file of which one matrix is Q6_K, which the package gguf reads and does not write, and one Q4_K."""
    rows, generator = model.d_model, np.random.default_rng(0)
    tiny_gguf.write(model, file)
    written = gguf.GGUFReader(file)
    replaced = {}
    for name, kind in (("blk.0.ffn_down.weight", "Q6_K"), ("blk.2.ffn_down.weight", "Q4_K")):
        kind = gguf.GGMLQuantizationType[kind]
        size = gguf.GGML_QUANT_SIZES[kind][1]
        data = generator.integers(0, 255, (rows, size), dtype=np.uint8)
        scale = np.frombuffer(np.float16(1e-5).tobytes(), np.uint8)
        data[:, slice(-2, None) if kind.name == "Q6_K" else slice(0, 2)] = scale
        data[:, 2:4] = scale if kind.name == "Q4_K" else data[:, 2:4]
        replaced[name] = data, kind
    other = file.with_name("k.gguf")
    GgufFile(file).write_copy(other, replaced, {})
    assert len(written.tensors) == len(tensors(other))
    return other


def test_types_that_are_only_read_become_another_which_the_plan_names(tmp_path):
    import tiny_models
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**tiny_models._GROUPED | {"intermediate_size": 256})
    wide = interp.HookedModel(transformers.AutoModelForCausalLM.from_config(config), tiny_models.tokenizer())
    base = k_types(wide, tmp_path / "f32.gguf")
    plan = GgufEdit.of(RECIPE, base, None, ExportOptions(form="gguf")).plan
    assert plan.notes == (
        "written in another type, Q6_K as Q8_0: blk.0.ffn_down.weight",
        "written in another type, Q4_K as Q8_0: blk.2.ffn_down.weight",
    )
    assert plan.notes[0] in str(plan)
    certificate = export_gguf(RECIPE, base, tmp_path / "edited")
    assert certificate.faithful
    assert certificate.dtype == "F32, Q8_0"
    assert certificate.fold.kl < certificate.kl < certificate.effect_kl, "quantising again costs something"
    assert "Q6_K as Q8_0" in (tmp_path / "edited" / "README.md").read_text()
    finer = export_gguf(RECIPE, base, tmp_path / "finer", dtype="float32")
    assert finer.kl < certificate.kl / 10, "control: in float32 it costs nothing"
    tensor = tensors(base)["output_norm.weight"]
    assert _kind(tensor, "float16").name == "F32", "llama.cpp has norms and biases in float32 only"
    assert [_kind(reader_tensor(shape, "Q6_K"), None).name for shape in ([512, 2], [40, 2])] == ["Q8_0", "F16"]


def test_a_tied_architecture_is_refused_with_what_the_tied_model_would_do(tiny, tmp_path, run):
    base = tiny_gguf.write(tiny("gemma2"), tmp_path / "gemma.gguf")
    recipe = Recipe([("writers", Project(ROWS))])
    with pytest.raises(
        InterpError, match=r"no unembedding of gemma2: .* KL to the hooked model [0-9.e-]+ nats.*keep_tied"
    ):
        export_gguf(recipe, base, tmp_path / "edited")
    assert [path.name for path in tmp_path.iterdir()] == ["gemma.gguf"]
    assert export_gguf(recipe, base, tmp_path / "edited", keep_tied=True).faithful
    assert "output.weight" not in tensors(tmp_path / "edited" / "model.gguf")
    pytest.importorskip("xllamacpp", reason="llama.cpp: pip install xllamacpp")
    untied = {"output.weight": (np.zeros((128, 32), np.float32), gguf.GGMLQuantizationType.F32)}
    GgufFile(base).write_copy(tmp_path / "untied.gguf", untied, {})
    with pytest.raises(RuntimeError):  # control: llama.cpp does not load it
        tiny_gguf.log_probs(tmp_path / "untied.gguf", PROMPTS, 128)


def test_an_untied_unembedding_is_written_where_llama_cpp_reads_one(tiny, tmp_path):
    import tiny_models
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen2Config(**tiny_models._GROUPED, tie_word_embeddings=True)
    model = interp.HookedModel(transformers.AutoModelForCausalLM.from_config(config), tiny_models.tokenizer())
    base = tiny_gguf.write(model, tmp_path / "tied.gguf", kind="Q8_0")
    recipe = Recipe([("writers", Project(ROWS))])
    assert export_gguf(recipe, base, tmp_path / "edited").faithful
    before, after = tensors(base), tensors(tmp_path / "edited" / "model.gguf")
    assert after["output.weight"].data.tobytes() == before["token_embd.weight"].data.tobytes()
    assert after["token_embd.weight"].data.tobytes() != before["token_embd.weight"].data.tobytes()
    pytest.importorskip("xllamacpp", reason="llama.cpp: pip install xllamacpp")
    theirs = tiny_gguf.log_probs(tmp_path / "edited" / "model.gguf", PROMPTS, 128)
    torch.testing.assert_close(theirs, last(interp.load(base), recipe), atol=0.05, rtol=0)


def test_a_recipe_of_a_folder_goes_into_a_gguf_file_that_holds_it_quantised(tiny, tmp_path, run):
    model = tiny("llama")
    model.hf.save_pretrained(tmp_path / "folder")
    model.tokenizer.save_pretrained(tmp_path / "folder")
    Recipe(RECIPE.edits, model.reference).save(tmp_path / "recipe")
    base = tiny_gguf.write(model, tmp_path / "q8.gguf", kind="Q8_0")
    words = ["export", tmp_path / "folder", "--recipe", tmp_path / "recipe", "--form", "gguf", "--base", base, "--json"]
    code, said, _ = run(*words, "--out", tmp_path / "edited")
    assert code == 0
    assert json.loads(said)["backend"].startswith("transformers, of the GGUF")
    code, said, _ = run("verify", tmp_path / "edited", "--json")
    assert code == 0
    assert json.loads(said)["made again"]["identical"] == len(tensors(base))
    code, said, _ = run(*words, "--dry-run")
    assert (code, json.loads(said)["tensors"], json.loads(said)["disk"]) == (0, 4, base.stat().st_size)
    other = tiny_gguf.write(tiny("llama", seed=1), tmp_path / "other.gguf")
    code, _, problem = run(*words[:-2], other, "--out", tmp_path / "wrong")
    assert code == 2
    assert "folder quantised: its lm_head.weight is another" in problem
    assert not (tmp_path / "wrong").exists()


def test_verify_finds_a_tensor_that_was_changed(tiny, tmp_path):
    base, folder = tiny_gguf.write(tiny("llama"), tmp_path / "base.gguf"), tmp_path / "edited"
    export_gguf(RECIPE, base, folder)
    for name, problem in (
        ("blk.0.attn_q.weight", "attn_q.weight is not the base's"),
        ("blk.1.ffn_down.weight", "norm"),
    ):
        data = tensors(folder / "model.gguf")[name].data * 1.5
        copy = folder.with_name(problem)
        shutil.copytree(folder, copy)
        changed = {name: (data, gguf.GGMLQuantizationType.F32)}
        GgufFile(folder / "model.gguf").write_copy(copy / "model.gguf", changed, {})
        with pytest.raises(InterpError, match="changed after the export"):
            interp.verify(copy)
        manifest = ExportManifest.at(copy)
        manifest.files["model.gguf"] = sha256_file(copy / "model.gguf")
        write_json(copy / "interp_manifest.json", manifest.model_dump())
        with pytest.raises(InterpError, match=problem):
            interp.verify(copy)


def test_bad_input_is_refused_by_name_and_leaves_nothing(tiny, tmp_path, run):
    base = tiny_gguf.write(tiny("llama"), tmp_path / "base.gguf")
    biased = tiny_gguf.write(tiny("llama"), tmp_path / "parts.gguf", change=lambda w: w.add_uint16("split.count", 3))
    for recipe, file, problem in (
        (Recipe([("mlp_out.1", Add(ROWS[0]))]), base, r"adds model\.layers\.\d\.\S+bias, which base\.gguf has no"),
        (Recipe(RECIPE.edits, tiny("llama", seed=1).reference), base, "was made for tiny llama 1"),
        (RECIPE, tmp_path / "absent.gguf", "no such file"),
        (RECIPE, "organism", "organism is no GGUF file, and form gguf writes a copy of one"),
        (RECIPE, biased, "one of 3 parts; join them"),
    ):
        with pytest.raises(InterpError, match=problem):
            export_gguf(recipe, file, tmp_path / "edited")
    (tmp_path / "edited").mkdir()
    with pytest.raises(InterpError, match="exists already"):
        export_gguf(RECIPE, base, tmp_path / "edited")
    with pytest.raises(InterpError, match=r"streamed, shard_size|shard_size, streamed"):
        ExportOptions(form="gguf", streamed=True, shard_size=10)
    big = Recipe([("mlp_out.1", LowRank(torch.eye(32)[:1], 1e7 * ROWS[:1], torch.zeros(1)))])
    with pytest.raises(InterpError, match=r"infinite values in F16; choose dtype float32"):
        export_gguf(big, tiny_gguf.write(tiny("llama"), tmp_path / "f16.gguf", kind="F16"), tmp_path / "big")
    assert {path.name for path in tmp_path.iterdir()} == {"base.gguf", "parts.gguf", "f16.gguf", "edited"}
    code, _, problem = run("export", base, "--recipe", tmp_path, "--base", base, "--out", tmp_path / "x")
    assert code == 2
    assert "base is the GGUF file of --form gguf" in problem
