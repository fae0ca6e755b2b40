"""Folders whose weights are not what transformers would load: an adapter, which is refused with a way to merge it."""

import json
import shutil

import fsspec
import pytest
import torch

import interp
from interp import InterpError, Project, Recipe
from interp.editing.export.adapter import export_adapter
from interp.editing.export.exporter import export_streamed

RECIPE = Recipe([("writers", Project(torch.randn(2, 32, generator=torch.Generator().manual_seed(0))))])


def test_an_adapter_names_its_base_and_what_it_takes_to_merge_it(tiny, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is what merges")
    from transformers import AutoModelForCausalLM

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny("llama").hf.save_pretrained(base)
    export_adapter(RECIPE, base, adapter)
    for use in (interp.load, lambda folder: export_streamed(RECIPE, folder, tmp_path / "out")):
        with pytest.raises(InterpError, match=rf"an adapter \(LORA\) to {base}, not a model; merge it first"):
            use(adapter)
    merged = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    interp.export(RECIPE, base, tmp_path / "exported")
    ids = torch.arange(4, 20).view(1, -1)
    found, expected, before = (interp.load(tmp_path / name).logits(ids) for name in ("merged", "exported", "base"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert float((found - before).abs().max()) > 0.01, "control: the adapter does something"


def test_one_beside_a_config_or_at_a_url_is_refused_too(tiny, tmp_path):
    """transformers would load such a folder on the base that the adapter names, not on what is in it."""
    tiny("llama").hf.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')
    with pytest.raises(InterpError, match=r"an adapter \(LORA\) to a/b"):
        interp.load(tmp_path / "m")
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/unmerged/adapter_config.json", b"{}")
    with pytest.raises(InterpError, match=r"memory://unmerged: an adapter \(unknown\) to the model"):
        export_streamed(RECIPE, "memory://unmerged", tmp_path / "out")
    fs.rm("/unmerged", recursive=True)


def test_a_config_that_names_other_weights_is_refused(tiny, tmp_path):
    """transformers would load those, and not the file that was checked."""
    tiny("llama", seed=1).hf.save_pretrained(tmp_path / "m")
    tiny("llama", seed=2).hf.save_pretrained(tmp_path / "other")
    interp.load(tmp_path / "m")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "m" / "second.safetensors")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"transformers_weights": "second.safetensors"}))
    for use in (interp.load, lambda folder: export_streamed(RECIPE, folder, tmp_path / "out")):
        with pytest.raises(InterpError, match="names other weights"):
            use(tmp_path / "m")
