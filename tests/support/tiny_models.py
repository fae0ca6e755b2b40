"""Small random models of every architecture that interp supports, and of its variants, made offline."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from interp.activations.columns import SiteColumns
from interp.models.architectures.table import architecture
from interp.models.hooked import HookedModel

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
_GPT = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**_GROUPED),
    "mistral": lambda: transformers.MistralConfig(**_GROUPED, head_dim=8, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**_GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(**_GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=16),
    "gemma3": lambda: transformers.Gemma3TextConfig(**_GROUPED, head_dim=8, query_pre_attn_scalar=8, sliding_window=16),
    "smollm3": lambda: transformers.SmolLM3Config(**_GROUPED),
    "granite": lambda: transformers.GraniteConfig(
        **_GROUPED, residual_multiplier=0.5, attention_bias=True, mlp_bias=True
    ),
    "olmo2": lambda: transformers.Olmo2Config(**_GROUPED),
    "phi3": lambda: transformers.Phi3Config(**_GROUPED),
    "mixtral": lambda: transformers.MixtralConfig(**_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **_GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_SMALL),
    "gpt_neox_sequential": lambda: transformers.GPTNeoXConfig(**_SMALL, use_parallel_residual=False),
    "gpt2": lambda: transformers.GPT2Config(**_GPT),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        **_SMALL | {"num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local"], 1], [["global"], 1]]},
        window_size=16,
    ),
    "gptj": lambda: transformers.GPTJConfig(**_GPT, rotary_dim=4),
    "phi": lambda: transformers.PhiConfig(**_GROUPED),
    "cohere": lambda: transformers.CohereConfig(**_GROUPED, logit_scale=0.5),
    "cohere2": lambda: transformers.Cohere2Config(**_GROUPED, sliding_window=16),
    "stablelm": lambda: transformers.StableLmConfig(**_GROUPED),
    "stablelm_parallel": lambda: transformers.StableLmConfig(**_GROUPED, use_parallel_residual=True),
    "opt": lambda: transformers.OPTConfig(**_SMALL, ffn_dim=64, word_embed_proj_dim=32),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0
    ),
    "falcon": lambda: transformers.FalconConfig(**_SMALL),
    "falcon_new": lambda: transformers.FalconConfig(**_SMALL, new_decoder_architecture=True, num_kv_heads=2),
    "falcon_sequential": lambda: transformers.FalconConfig(**_SMALL, parallel_attn=False, alibi=True),
    "gemma": lambda: transformers.GemmaConfig(**_GROUPED, head_dim=8),
    "gemma4": lambda: transformers.Gemma4TextConfig(
        **_GROUPED,
        head_dim=8,
        global_head_dim=8,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCABULARY,
        sliding_window=16,
        num_kv_shared_layers=0,
    ),
    "glm": lambda: transformers.GlmConfig(**_GROUPED, head_dim=8),
    "glm4": lambda: transformers.Glm4Config(**_GROUPED, head_dim=8),
    "olmo": lambda: transformers.OlmoConfig(**_GROUPED),
    "olmo3": lambda: transformers.Olmo3Config(**_GROUPED, sliding_window=16),
    "exaone4": lambda: transformers.Exaone4Config(**_GROUPED, sliding_window=16),
    "ministral": lambda: transformers.MinistralConfig(**_GROUPED, head_dim=8, sliding_window=16),
    "nemotron": lambda: transformers.NemotronConfig(**_GROUPED, head_dim=8),
    "seed_oss": lambda: transformers.SeedOssConfig(**_GROUPED, head_dim=8),
    "starcoder2": lambda: transformers.Starcoder2Config(**_GROUPED),
    "olmoe": lambda: transformers.OlmoeConfig(**_GROUPED, num_experts=4, num_experts_per_tok=2),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **_GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=32
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **_GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=16
    ),
    "deepseek_v2": lambda: transformers.DeepseekV2Config(**_SMALL, **_LATENT),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(**_SMALL, **_LATENT, n_group=2, topk_group=1),
}

# Where TransformerLens 4.3 lacks the architecture, or its bridge does not compute what the model does (Falcon's ALiBi
# and its new block, DeepSeek V3's router), hidden states are the reference.
NO_BRIDGE = {"ministral", "falcon_new", "falcon_sequential", "deepseek_v3"}


def build(architecture: str, seed: int = 0) -> HookedModel:
    """A random model of an architecture, with a tokenizer whose words are w4 to w127."""
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(CONFIGS[architecture]())
    with torch.no_grad():
        # Fresh models have zero biases and unit gains, under which a forgotten bias or gain would show nowhere.
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.05))
    return HookedModel(hf.float(), tokenizer(), name=f"tiny {architecture} {seed}")


@contextmanager
def eagerly(model: HookedModel) -> Iterator[None]:
    """Attention as TransformerLens computes it, for a while: tests share the model."""
    usual = model.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(usual)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A word is a token; nothing is prepended."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = special + [f"w{number}" for number in range(len(special), VOCABULARY)]
    words_only = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    words_only.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words_only.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words_only, **names)


@contextmanager
def cubed_logits(model: HookedModel) -> Iterator[None]:
    """A model that computes its logits in another way than from the stream by its final norm and unembedding."""

    def cubed(module: Any, arguments: Any, output: Any) -> None:
        output.logits = output.logits**3

    handle = model.hf.register_forward_hook(cubed)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def at_layer(model: HookedModel, layer: int, function: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """A function on what a layer computes, by torch's own hook: for faults, where a `hooked` block would be refused."""
    modules = model.hf.get_submodule(architecture(model.config).layers)

    def hook(module, args, output):
        return function(output)

    handle = modules[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def one_site(width, site, model):
    """What an autoencoder of one site reads and writes, as its constructor takes it."""
    place = SiteColumns(site=str(site), model=model, width=width)
    return {"reads": (place,), "writes": (place,)}
