"""Adapters: what PEFT itself computes, merged at load, and refused by name where they are another model's."""

import json

import pytest
import torch

import interp
from interp import InterpError, Project, Recipe
from interp.editing.export.adapter import export_adapter

peft = pytest.importorskip("peft")
IDS = torch.randint(4, 128, (2, 9), generator=torch.Generator().manual_seed(0))
TARGETS = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "base"
    tiny("llama").hf.save_pretrained(folder)
    tiny("llama").tokenizer.save_pretrained(folder)
    return folder


def saved(base, folder, **settings):
    """A random adapter of the base, and the logits of PEFT's own model with it."""
    torch.manual_seed(0)
    hf = interp.load(base).hf
    adapted = peft.get_peft_model(hf, peft.LoraConfig(r=2, init_lora_weights=False, target_modules=TARGETS, **settings))
    adapted.save_pretrained(folder)
    with torch.no_grad():
        return adapted.eval()(IDS).logits


def test_the_merged_model_computes_what_peft_computes(base, tmp_path):
    theirs = saved(base, tmp_path / "adapter")
    model = interp.load(base, adapter=tmp_path / "adapter")
    torch.testing.assert_close(model.logits(IDS), theirs, atol=1e-5, rtol=0)
    assert (theirs - interp.load(base).logits(IDS)).abs().max() > 1e-2, "control: the adapter does something"
    assert (model.name, model.source) == ("base with adapter", None)
    assert model.digest != interp.load(base).digest
    assert not any("lora" in name for name in model.hf.state_dict())


def test_our_own_adapter_merged_at_load_is_the_exported_checkpoint(base, tmp_path):
    recipe = Recipe([("mlp_out.*", Project(torch.eye(32)[:1]))])
    assert export_adapter(recipe, base, tmp_path / "adapter").merges
    interp.export(recipe, base, tmp_path / "edited")
    merged = interp.load(base, adapter=tmp_path / "adapter").logits(IDS)
    torch.testing.assert_close(merged, interp.load(tmp_path / "edited").logits(IDS), atol=1e-5, rtol=0)


def test_export_and_verify_take_an_adapter_on_the_command_line(base, tmp_path, run):
    saved(base, tmp_path / "adapter")
    merged = interp.load(base, adapter=tmp_path / "adapter")
    Recipe([("mlp_out.1", Project(torch.eye(32)[:1]))], merged.reference).save(tmp_path / "recipe")
    words = ["--adapter", tmp_path / "adapter"]
    code, _, problem = run("export", base, "--recipe", tmp_path / "recipe", "--out", tmp_path / "plain")
    assert code == 2
    assert "was made for base with adapter" in problem, "control: the recipe is the merged model's"
    code, _, _ = run("export", base, "--recipe", tmp_path / "recipe", "--out", tmp_path / "edited", *words)
    assert code == 0
    code, _, _ = run("verify", tmp_path / "edited", "--base", base, *words)
    assert code == 0
    code, _, problem = run("verify", tmp_path / "edited", *words)
    assert (code, "give that as base" in problem) == (2, True)


def changed(folder, other, **values):
    """A copy of an adapter with another config; `None` removes a file of that name."""
    import shutil

    shutil.copytree(folder, other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(config | values))
    return other


def test_what_is_not_the_models_lora_is_refused_by_name(base, tiny, tmp_path):
    saved(base, tmp_path / "adapter")
    adapter = tmp_path / "adapter"
    pickled = changed(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    cases = (
        (tmp_path / "absent", "no adapter_config.json in it"),
        (
            changed(adapter, tmp_path / "b", base_model_name_or_path="meta/Llama-9"),
            "was made for meta/Llama-9, and the",
        ),
        (changed(adapter, tmp_path / "c", peft_type="IA3"), "an adapter of type IA3; expected LORA"),
        (pickled, r"no adapter_model\.safetensors in it"),
        (changed(adapter, tmp_path / "d", target_modules=["q_proj"]), "in the adapter or in the model, not in both"),
        (changed(adapter, tmp_path / "e", target_modules=["absent"]), "PEFT can't merge it"),
        (changed(adapter, tmp_path / "f", r=3), "PEFT can't merge it"),
    )
    for folder, problem in cases:
        with pytest.raises(InterpError, match=problem):
            interp.load(base, adapter=folder)
    interp.load(base, adapter=changed(adapter, tmp_path / "g", base_model_name_or_path="org/Base"))


def test_an_adapter_of_a_tied_table_is_refused(tiny, tmp_path):
    import tiny_models
    import transformers

    config = transformers.LlamaConfig(**tiny_models._GROUPED, tie_word_embeddings=True)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    hf.save_pretrained(tmp_path / "tied")
    adapted = peft.get_peft_model(hf, peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["embed_tokens"]))
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InterpError, match="tie"):
        interp.load(tmp_path / "tied", adapter=tmp_path / "adapter")
