"""The logit effect of a direction against the formula of each family."""

import re

import pytest
import tiny_models
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from interp.models.architectures import table
from interp.models.architectures.unembedding import final_norm, logit_effect, token_text


def _by_hand(model, direction):
    """The logit effect from each family's own formula."""
    hf, kind = model.hf, model.config.model_type
    unembed = hf.get_output_embeddings().weight
    if kind == "llama":
        return unembed @ (direction * hf.model.norm.weight)
    if kind == "gemma2":
        return unembed @ (direction * (1 + hf.model.norm.weight))
    gain = hf.transformer.ln_f.weight if kind == "gpt2" else hf.gpt_neox.final_layer_norm.weight
    return unembed @ ((direction - direction.mean()) * gain)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_the_logit_effect_is_each_familys_formula(tiny, architecture):
    model = tiny(architecture)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0)) + 0.5
    assert torch.allclose(logit_effect(model, direction[None])[0], _by_hand(model, direction), atol=1e-4)
    plain = model.hf.get_output_embeddings().weight @ direction
    assert not torch.allclose(plain, _by_hand(model, direction), atol=1e-2)


CENTRED = {"bloom", "cohere", "cohere2", "falcon", "falcon_new", "falcon_sequential", "gpt2", "gpt_neo", "gpt_neox"}
CENTRED |= {"gpt_neox_sequential", "gptj", "nemotron", "olmo", "opt", "phi", "stablelm", "stablelm_parallel"}
CENTRED |= {"starcoder2"}


@pytest.mark.parametrize("architecture", tiny_models.CONFIGS)
def test_the_effect_of_a_stream_is_its_logits_times_its_scale(architecture):
    """For any stream, scale and cap: logits before the cap = effect / root mean square + what a stream of 0 has."""
    model = tiny_models.build(architecture)
    for name, value in (("final_logit_softcapping", None), ("logits_scaling", 4.0), ("logit_scale", 0.3)):
        for owner in (model.config, model.hf):
            if hasattr(owner, name):
                setattr(owner, name, value)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)) * 100 + 30
    effect, logits = logit_effect(model, x), model.unembed(x, norm=True)
    seen = x - x.mean(1, keepdim=True) if architecture in CENTRED else x
    constant = model.unembed(torch.zeros(1, 32), norm=True)
    expected = effect / seen.square().mean(1, keepdim=True).sqrt() + constant
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
    wrong = x if architecture in CENTRED else x - x.mean(1, keepdim=True)
    other = effect / wrong.square().mean(1, keepdim=True).sqrt() + constant
    assert not torch.allclose(logits, other, atol=1e-3), "control: whether the norm centres shows"


def test_the_final_norm_is_the_rows_and_no_other(tiny):
    """BLOOM has a norm of the embedding before it, Gemma 4 one of other inputs after it."""
    for name in ("bloom", "gemma4"):
        root = tiny(name).hf.get_submodule(table.architecture(tiny(name).config).layers.rpartition(".")[0])
        norms = [path for path, module in root.named_children() if "norm" in type(module).__name__.lower()]
        assert len(norms) == 2, "control"
        assert final_norm(tiny(name)) is getattr(root, {"bloom": "ln_f", "gemma4": "norm"}[name])


@pytest.mark.parametrize("architecture", tiny_models.CONFIGS)
def test_the_last_stream_unembedded_is_the_logits(architecture):
    """With a cap and a scale that show, where the architecture has them."""
    model = tiny_models.build(architecture)
    for name, value in (("final_logit_softcapping", 0.5), ("logits_scaling", 4.0)):
        if hasattr(model.config, name):
            setattr(model.config, name, value)
    ids = torch.randint(4, 128, (2, 7), generator=torch.Generator().manual_seed(1))
    stream, logits = model.capture(ids, "resid_post.2")["resid_post.2"], model.logits(ids)
    assert torch.equal(model.unembed(stream, norm=True), logits)
    assert not torch.allclose(model.unembed(stream), logits, atol=1e-3), "control: the norm matters"
    plain = stream @ model.W_U + model.b_U
    capped = any(hasattr(model.config, name) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"))
    assert capped != torch.allclose(model.unembed(stream), plain, atol=1e-4), "control: cap and scale matter"


def test_parts_of_characters_are_shown_as_the_bytes_that_they_are():
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["abc abc"] * 9, vocab_size=262, special_tokens=["<s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer)
    text = "abc \N{LLAMA} na\u00efve \ufffd"
    shown = [token_text(tokenizer, token) for token in tokenizer(text).input_ids]
    assert "<0xF0>" in shown
    assert "abc" in shown
    joined = re.sub(r"<0x(..)>", lambda byte: chr(0xDC00 + int(byte[1], 16)), "".join(shown))
    assert joined.encode("utf-8", "surrogateescape").decode() == text
