"""Tiny GGUF files in GGUF's own names, with a byte-level tokenizer, and llama.cpp's answers from a file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.models.hooked import HookedModel


def write(
    model: HookedModel,
    file: Path,
    pre: str | None = "gpt-2",
    change: Callable[[Any], object] = lambda writer: None,
    tensors: dict[str, np.ndarray] | None = None,
    kind: str = "F32",
) -> Path:
    """The file of a tiny Llama, Qwen 2 or Gemma 2, its matrices of a kind.

    `change` may add metadata, and `tensors` are added to the model's own.
    """
    import gguf

    config, writer = model.config, gguf.GGUFWriter(str(file), model.config.model_type)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gemma2":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    single = [chr(33 + number) for number in range(94)]
    writer.add_token_list(single + [f"a{letter}" for letter in single[: config.vocab_size - len(single)]])
    writer.add_token_merges([f"a {letter}" for letter in single[: config.vocab_size - len(single)]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    change(writer)
    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, x in model.hf.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = x.shape[0] // config.head_dim  # GGUF keeps the halves of rotary pairs side by side
            x = x.view(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(x.shape)
        if config.model_type == "gemma2" and "norm" in name:
            x = x + 1  # the gain, where transformers has what is added to 1
        stored = gguf.GGMLQuantizationType[kind if x.ndim > 1 else "F32"]
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), gguf.quantize(x.numpy(), stored), None, stored)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def log_probs(file: Path, prompts: Sequence[Sequence[int]], vocabulary: int) -> torch.Tensor:
    """What llama.cpp gives as the log-probabilities of the next token after each prompt, on one thread."""
    import xllamacpp

    options = xllamacpp.CommonParams()
    options.model.path, options.n_ctx, options.n_parallel, options.warmup = str(file), 64, 1, False
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    server, rows = xllamacpp.Server(options), torch.full((len(prompts), vocabulary), float("nan"))
    for row, prompt in zip(rows, prompts, strict=True):
        request = {"prompt": list(prompt), "max_tokens": 1, "temperature": 0, "logprobs": vocabulary}
        for token in server.handle_completions(request)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            row[token["id"]] = token["logprob"]
    return rows
