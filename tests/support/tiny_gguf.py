"""Tiny GGUF files in GGUF's own names, float32, with a byte-level tokenizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from interp.models.hooked import HookedModel


def write(
    model: HookedModel,
    file: Path,
    pre: str | None = "gpt-2",
    change: Callable[[Any], object] = lambda writer: None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """A tiny Llama's file; `change` may add metadata, and `tensors` are added to the model's own."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    single = [chr(33 + number) for number in range(94)]
    writer.add_token_list(single + [f"a{letter}" for letter in single[: config.vocab_size - len(single)]])
    writer.add_token_merges([f"a {letter}" for letter in single[: config.vocab_size - len(single)]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    change(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, x in model.hf.state_dict().items():
        if "q_proj" in name or "k_proj" in name:  # GGUF keeps the halves of rotary pairs side by side
            heads = x.shape[0] // config.head_dim
            x = x.view(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(x.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), x.numpy())
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
