"""Fixtures that many tests share: small random models of several architectures, with a tokenizer, made offline."""

import os
from collections.abc import Callable
from functools import cache

# Before transformers is imported: no test may depend on the network, or wait for it.
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from interp.models.hooked import HookedModel

# The same examples each time, and no deadline: how fast an example runs says more about the machine than about the
# code.
hypothesis.settings.register_profile("interp", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("interp")

VOCABULARY = 128
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = _SMALL | {"num_key_value_heads": 2}
_CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**_GROUPED),
    "mistral": lambda: transformers.MistralConfig(**_GROUPED, head_dim=8, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**_GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(**_GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=16),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=16),
    "smollm3": lambda: transformers.SmolLM3Config(**_GROUPED),
    "granite": lambda: transformers.GraniteConfig(**_GROUPED, residual_multiplier=0.5),
    "olmo2": lambda: transformers.Olmo2Config(**_GROUPED),
    "phi3": lambda: transformers.Phi3Config(**_GROUPED),
    "mixtral": lambda: transformers.MixtralConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **_GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_SMALL),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
}


@pytest.fixture(scope="session")
def tiny() -> Callable[..., HookedModel]:
    """`tiny("llama", seed=0)`: a random model of an architecture whose words are w4 to w127."""
    return cache(_tiny)


def _tiny(architecture: str, seed: int = 0) -> HookedModel:
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(_CONFIGS[architecture]())
    with torch.no_grad():
        # Fresh models have zero biases and unit gains, under which a forgotten bias or gain would show nowhere.
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.05))
    return HookedModel(hf.float(), _tokenizer(), name=f"tiny {architecture} {seed}")


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = special + [f"w{number}" for number in range(len(special), VOCABULARY)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
