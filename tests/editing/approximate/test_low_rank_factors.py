"""Low-rank factors: merged weights compute what the model does with the factors, and files that hold none are named."""

import pytest
import torch
from distilling import FRESH, QUICK, TEXTS, gated
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from interp import InterpError
from interp.editing.approximate.distillation import distil
from interp.editing.approximate.low_rank_factors import Distilled
from interp.editing.export.exporter import export


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gemma2"])
def test_the_merged_checkpoint_is_the_model_with_factors(tiny, tmp_path, architecture):
    model = tiny(architecture)
    found = distil(gated(model), model, TEXTS[:40], **QUICK | {"steps": 60}, lr=0.003)
    export(gated(model), model, tmp_path / "out", distilled=found)
    tokens = model.tokens(FRESH[:4])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(**tokens.model_inputs(model.device)).logits
    with found.running(model):
        torch.testing.assert_close(merged[tokens.mask], model.logits(tokens)[tokens.mask], atol=1e-4, rtol=1e-4)
    assert (merged - model.logits(tokens))[tokens.mask].abs().max() > 1e-3, "control"


def test_files_without_factors_are_refused(tmp_path):
    (tmp_path / "broken").write_bytes(b"no factors")
    with pytest.raises(InterpError, match="cannot be read"):
        Distilled.load(tmp_path / "broken")
    save_file({"x.left": torch.zeros(2, 1)}, tmp_path / "other")
    with pytest.raises(InterpError, match="does not say how"):
        Distilled.load(tmp_path / "other")
