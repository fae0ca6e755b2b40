"""A fold as a user gets it: the tensors of a saved checkpoint, changed by a plan, loaded by plain transformers."""

import json
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from interp import Project, Recipe
from interp.editing.fold.steps import fold, plan_fold
from interp.editing.options import FoldOptions
from interp.models.hooked import HookedModel

IDS = torch.randint(4, 128, (3, 11), generator=torch.Generator().manual_seed(1))
PRE_NORM = [
    "llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3", "granite", "phi3", "phi", "cohere", "cohere2",
    "gemma", "glm", "nemotron", "olmo", "seed_oss", "stablelm", "stablelm_parallel", "starcoder2", "gpt2", "gpt_neo",
    "gptj", "gpt_neox", "gpt_neox_sequential", "opt", "falcon", "falcon_new", "falcon_sequential", "mixtral",
    "qwen3_moe", "qwen2_moe", "olmoe", "gpt_oss", "deepseek_v2", "deepseek_v3",
]  # fmt: skip
POST_NORM = ["gemma2", "gemma3", "olmo2", "olmo3", "glm4", "exaone4"]
EXPERTS = ["mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "gpt_oss", "deepseek_v2", "deepseek_v3"]


def rows(seed=0, k=1, d=32):
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed))


def ablation(scale=1.0, k=1, sites="writers"):
    return Recipe([(sites, Project(rows(k=k), scale))])


@cache
def _saved(hf):
    with tempfile.TemporaryDirectory() as folder:
        hf.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors"), json.loads((Path(folder) / "config.json").read_text())


def on_disk(model: HookedModel):
    """The tensors by the names that they have in a file, and config.json."""
    return _saved(model.hf)


def planned(model, recipe, planner=fold, **choices):
    tensors, _ = on_disk(model)
    tied = model.config.tie_word_embeddings
    return planner(recipe, model.config, tensors, tied, tensors.__getitem__, FoldOptions(**choices))


def examined(model, recipe, **choices):
    return planned(model, recipe, plan_fold, **choices)


def written(model, plan, dtype=torch.float32):
    """Edited tensors, with those that the plan unties or creates."""
    tensors = {name: x.to(dtype) for name, x in on_disk(model)[0].items()}
    edited = {name: plan.apply(name, x) for name, x in tensors.items()}
    if plan.untie:
        edited[plan.unembedding] = tensors[plan.untie]
    biases = {name: torch.zeros_like(tensors[weight][:, 0]) for name, weight in plan.created.items()}
    return edited | {name: plan.apply(name, bias) for name, bias in biases.items()}


def loaded(tensors, config, dtype=torch.float32):
    """A checkpoint as transformers loads it. Fails for tensors that it does not know or misses."""
    with tempfile.TemporaryDirectory() as folder:
        save_file(
            {n: x.contiguous().clone() for n, x in tensors.items()},
            Path(folder) / "model.safetensors",
            {"format": "pt"},
        )
        (Path(folder) / "config.json").write_text(json.dumps(config))
        hf, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return HookedModel(hf)


def reloaded(model, plan, dtype=torch.float32):
    return loaded(written(model, plan, dtype), on_disk(model)[1] | plan.config, dtype)


def gap(model, recipe, plan):
    """Largest difference of logits between hooks and weights, the edit's own effect, and the logits' range."""
    with model.hooked(recipe):
        hooked = model.logits(IDS)
    plain = model.logits(IDS)
    after = reloaded(model, plan).logits(IDS)
    span = float(hooked.max() - hooked.min())
    return float((after - hooked).abs().max()) / span, float((plain - hooked).abs().max()) / span
