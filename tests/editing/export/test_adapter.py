"""Adapters: PEFT loads them, and they do what the hooks do."""

import pytest
import torch
from folding import POST_NORM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from interp import InterpError, Project, Recipe
from interp.editing.export.adapter import LoraAdapter, export_adapter
from interp.editing.export.exporter import export_streamed
from interp.interventions import Replace
from interp.models.checkpoints.checkpoint import Checkpoint

IDS = torch.randint(4, 128, (3, 11), generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
PROJECT = Recipe([("writers", Project(ROWS))])
HEAD = Recipe([("z.1", Replace(units=[1])), ("mlp_post.0", Replace(units=[3, 5]))])


@pytest.mark.parametrize(("name", "recipe", "rank"), [
    ("llama", PROJECT, 3), ("gpt_neox", Recipe([("mlp_out.1", Project(ROWS[:1], 0.5))]), 1), ("qwen3", HEAD, 8),
    *((name, PROJECT, 3) for name in POST_NORM),
])  # fmt: skip
def test_an_adapter_has_the_edits_rank_and_does_what_the_hooks_do(tiny, tmp_path, name, recipe, rank):
    peft = pytest.importorskip("peft")
    model = tiny(name)
    with model.hooked(recipe):
        expected = model.logits(IDS)
    plain = model.logits(IDS)
    if name == "gpt_neox":
        with pytest.raises(InterpError, match="LoRA has factors for weights"):
            export_adapter(recipe, model, tmp_path / "adapter")
        return
    folder = tmp_path / "source"
    model.hf.save_pretrained(folder)
    assert export_adapter(recipe, folder, tmp_path / "adapter") == LoraAdapter(
        rank, not model.config.tie_word_embeddings
    )
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter")
    assert (expected - plain).abs().max() > 0.05, "control"
    torch.testing.assert_close(logits(adapted), expected, atol=2e-5, rtol=1e-4)
    if name != "qwen3":
        return
    merged = dict(adapted.merge_and_unload().state_dict())
    export_streamed(recipe, folder, tmp_path / "edited")
    for key, tensor in tensors(tmp_path / "edited").items():
        torch.testing.assert_close(merged[key], tensor, atol=1e-6, rtol=1e-5)


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def tensors(folder):
    return {name: x for file in Checkpoint.open(folder).files for name, x in load_file(file).items()}
