"""GGUF files: what they state beyond what transformers reads of them, read into the model or refused by name.

transformers dequantises the tensors and reads part of the metadata; it passes over the rest without a word. So:

1. every key under the architecture's name is set in the config, or is harmless (`_HARMLESS`), or is refused by its name
2. the frequency factors of `rope_freqs.weight` (Llama 3.1 and later) are set in the config, as factors of "longrope"
3. every other tensor has a place in the model, or is a rotary buffer, or is refused by its name
4. a byte-level tokenizer splits text as `tokenizer.ggml.pre` says; an unknown name is refused

The names are those of llama.cpp (https://github.com/ggml-org/llama.cpp).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError, nearest, note
from interp.models.checkpoints.checkpoint import require_layers

_PLACES: dict[str, tuple[str, ...]] = {  # key: the names that configs have for it
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
    "attention.key_length": ("global_head_dim", "head_dim"),
    "attention.key_length_swa": ("head_dim",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    "attention.scale": ("attention_multiplier",),
    "attention.sliding_window": ("sliding_window",),
    "attention.value_length": ("global_head_dim", "head_dim"),
    "attention.value_length_swa": ("head_dim",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "block_count": ("num_hidden_layers",),
    "context_length": ("max_position_embeddings", "n_ctx"),
    "embedding_length": ("hidden_size",),
    "embedding_scale": ("embedding_multiplier",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_used_count": ("num_experts_per_tok",),
    "feed_forward_length": ("intermediate_size", "ffn_hidden_size", "n_inner"),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale",),
    "residual_scale": ("residual_multiplier",),
    "use_parallel_residual": ("use_parallel_residual",),
    "vocab_size": ("vocab_size",),
}
# Values with which a key changes nothing; None: any value.
_HARMLESS = {
    "attention.causal": True, "expert_count": 0, "expert_used_count": 0, "attention.clamp_kqv": 0.0, "logit_scale": 1.0,
    "context_length": None,
    "pooling_type": 0, "tensor_data_layout": None, "rope.scaling.finetuned": None, "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0,
}  # fmt: skip
_ROPE_FACTORS = "rope_freqs.weight"
_ROTARY = re.compile(r"(blk\.\d+\.)?attn_rot_embd(\.weight)?")
_SCALING = {  # key: its name among the rope parameters of a config
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _SPACES
_WORDS = r" ?[^(\s|.,!?…。，、।۔،)]+"
_SPLITS: dict[tuple[str, ...], tuple[str, ...]] = {  # names: expressions that split text one after the other
    ("gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "gigachat", "roberta-bpe"): (_GPT2,),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"): (r"\p{N}", _GPT2),
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "dbrx", "smaug-bpe", "chatglm-bpe", "glm4"): (_LLAMA3,),
    ("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"): (_LLAMA3.replace("{1,3}", ""),),
    ("default",): (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    ("falcon",): (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    ("bloom", "poro-chat", "gpt3-finnish"): (_WORDS,),
    ("viking",): (_WORDS, r"\p{N}"),
}


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file's metadata and the names of its tensors.

    Args:
        path: The file.
    """

    path: Path

    @cached_property
    def _reader(self) -> Any:
        from gguf import GGUFReader

        return GGUFReader(self.path)

    @cached_property
    def architecture(self) -> str:
        """Its name of the architecture."""
        return str(self._value("general.architecture"))

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """The tensors by name, not yet dequantised."""
        return {tensor.name: tensor for tensor in self._reader.tensors}

    def complete(self, config: Any) -> None:
        """Set in a config what the file states. Raises, by its name, for what the config has no place for."""
        require_layers(config.num_hidden_layers, len(self.tensors), str(self.path))
        prefix = f"{self.architecture}."
        keys = [name.removeprefix(prefix) for name in self._reader.fields if name.startswith(prefix)]
        usual = config.hidden_size // config.num_attention_heads
        if "attention.key_length" not in keys and getattr(config, "head_dim", usual) != usual:
            config.head_dim = usual
        for key in keys:
            if not key.startswith("rope.") and not self._is_set(config, key):
                raise self._refusal(key)
        rope = dict(self._rope(config, {key for key in keys if key.startswith("rope.")}))
        if rope:
            nested = config.rope_parameters.get("full_attention")
            both = {**(nested or config.rope_parameters), **rope}
            config.rope_parameters = {**config.rope_parameters, "full_attention": both} if nested else both

    def require_places(self, hf: Any) -> None:
        """Raise, by its name, for a tensor that the loaded model has no place for."""
        known = {*self._places(hf), "output", _ROPE_FACTORS.removesuffix(".weight")}
        lost = [x for x in self.tensors if x.removesuffix(".weight") not in known and not _ROTARY.fullmatch(x)]
        if lost:
            raise InterpError(
                f"{self.path}: the model has no place for {len(lost)} of its tensors ({', '.join(lost[:3])}), which "
                "would be dropped; use the checkpoint that it was made from"
            )

    def _places(self, hf: Any) -> Iterator[str]:
        """The names that GGUF has for a model's tensors, without `.weight`."""
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

        number = next((number for number, name in MODEL_ARCH_NAMES.items() if name == self.architecture), None)
        if number is None:
            return
        table = get_tensor_name_map(number, hf.config.num_hidden_layers)
        for name in hf.state_dict():
            stem, suffix = name.removesuffix(".weight").removesuffix(".bias"), ".bias" * name.endswith(".bias")
            parts = stem.split(".")
            tails = (".".join(parts[start:]) for start in range(len(parts)))  # some files lack the base's prefix
            yield from (f"{place}{suffix}" for tail in tails if (place := table.get_name(tail)))
            if stem.endswith("experts.gate_up_proj"):
                layer = next(part for part in parts if part.isdigit())
                yield from (f"blk.{layer}.ffn_{half}_exps" for half in ("gate", "up"))

    def split_text(self, tokenizer: Any) -> None:
        """Have a byte-level tokenizer split text before the merges as the file says; raises for an unknown name."""
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

        if self._value("tokenizer.ggml.model") != "gpt2":  # only byte-level merges begin with such a split
            return
        name = self._value("tokenizer.ggml.pre")
        if name is None:
            note(f"{self.path.name} does not say how its tokenizer splits text (tokenizer.ggml.pre); taken as GPT-2's")
            name = "gpt-2"
        splits = next((splits for names, splits in _SPLITS.items() if name in names), None)
        if splits is None and name in _by_transformers():
            return
        if splits is None:
            names = [name for names in _SPLITS for name in names]
            raise InterpError(
                f"{self.path}: its tokenizer splits text by {name!r} (tokenizer.ggml.pre), which is not known; "
                f"{nearest(str(name), names)}; pass the model's own tokenizer (interp.load(…, tokenizer=…))"
            )
        parts, merged = [Split(Regex(split), "isolated") for split in splits], ByteLevel(False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([*parts, merged])

    def _is_set(self, config: Any, key: str) -> bool:
        """Set one key; whether the config has a place for it, or its value is harmless."""
        value = self._value(f"{self.architecture}.{key}")
        if isinstance(value, list) and len({*value}) == 1:
            value = value[0]
        name = next((name for name in _PLACES.get(key, ()) if hasattr(config, name)), None)
        if name is None or isinstance(value, list):
            usual = {
                "feed_forward_length": 4 * config.hidden_size,
                "attention.head_count_kv": config.num_attention_heads,
            }
            return usual.get(key) == value or _is_harmless(key, value)
        if getattr(config, name) != value:  # some are derived, and can't be set
            setattr(config, name, value)
        return True

    def _rope(self, config: Any, keys: set[str]) -> Iterator[tuple[str, Any]]:
        """The rope parameters that the file states."""
        values = {key: self._value(f"{self.architecture}.{key}") for key in keys}
        present = getattr(config, "rope_parameters", None) or {}
        full = present.get("full_attention", present)
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = round(head * (full.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1))
        if values and not present:
            raise self._refusal(min(keys))
        if "rope.freq_base" in values:
            yield "rope_theta", values.pop("rope.freq_base")
        linear = values.pop("rope.scale_linear", 1.0)
        kind = values.pop("rope.scaling.type", "linear" if "rope.scaling.factor" in values else "none")
        scaling = {name: values.pop(f"rope.scaling.{key}", None) for key, name in _SCALING.items()}
        other = present.get("sliding_attention", {}).get("rope_theta")
        usual = {"rope.dimension_count": size, "rope.freq_base_swa": other}
        for key, value in values.items():
            if usual.get(key) != value and not _is_harmless(key, value):
                raise self._refusal(key)
        if kind == "none" and linear != 1:
            kind, scaling = "linear", {"factor": linear}
        if kind not in ("none", "linear", "yarn"):
            raise self._refusal("rope.scaling.type")
        if kind != "none" and scaling["factor"] not in (None, 1.0):
            yield "rope_type", kind
            yield from ((name, value) for name, value in scaling.items() if value is not None)
        if _ROPE_FACTORS in self.tensors:
            yield from self._frequency_factors(config, size, kind)

    def _frequency_factors(self, config: Any, size: int, kind: str) -> Iterator[tuple[str, Any]]:
        """Factors that divide the rotary frequencies, which transformers reads from configs of "longrope"."""
        factors = self.tensors[_ROPE_FACTORS].data.astype(float).tolist()
        if kind != "none" or len(factors) != size // 2:
            raise InterpError(
                f"{self.path}: {_ROPE_FACTORS} has {len(factors)} factors, and the scaling is {kind!r}; expected "
                f"{size // 2} and no other scaling; use the checkpoint that it was made from"
            )
        yield "rope_type", "longrope"
        yield from ((name, factors) for name in ("short_factor", "long_factor"))
        yield "attention_factor", 1.0
        yield "original_max_position_embeddings", config.max_position_embeddings

    def _value(self, key: str) -> Any:
        field = self._reader.fields.get(key)
        return None if field is None else field.contents()

    def _refusal(self, key: str) -> InterpError:
        name = f"{self.architecture}.{key}"
        return InterpError(
            f"{self.path}: its {name} is {str(self._value(name))[:40]}, which is not read, so that another function "
            "would be computed; use the checkpoint that it was made from"
        )


def _is_harmless(key: str, value: Any) -> bool:
    """Whether a key with this value changes nothing in what the model computes."""
    return key in _HARMLESS and _HARMLESS[key] in (None, value)


def _by_transformers() -> set[str]:
    """The names of splits that this version of transformers sets itself."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:
        return set()
    return {*GGUF_PRE_TOKENIZER_SPLITS}
