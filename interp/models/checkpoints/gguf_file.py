"""GGUF files: the metadata and tensors that transformers ignores, read into the model or refused by name.

transformers dequantises the tensors and reads part of the metadata; it ignores the rest without a warning. So:

1. every key under the architecture's name is set in the config, or is harmless (`_HARMLESS`), or is refused by its name
2. the frequency factors of `rope_freqs.weight` (Llama 3.1 and later) are set in the config, as factors of "longrope"
3. every other tensor has a place in the model, or is a rotary buffer, or is refused by its name
4. a byte-level tokenizer splits text as `tokenizer.ggml.pre` says; an unknown name is refused
5. a reply ends at each token that the file calls the end of a text, a turn or a message

The names are those of llama.cpp (https://github.com/ggml-org/llama.cpp).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError, nearest, note
from interp.models.checkpoints.checkpoint import refuse_lost, require_layers

_PLACES: dict[str, tuple[str, ...]] = {  # key: the names that configs have for it
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    "attention.scale": ("attention_multiplier",),
    "attention.sliding_window": ("sliding_window",),
    "block_count": ("num_hidden_layers",),
    "context_length": ("max_position_embeddings", "n_ctx"),
    "embedding_length": ("hidden_size",),
    "embedding_scale": ("embedding_multiplier",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_used_count": ("num_experts_per_tok",),
    "feed_forward_length": ("intermediate_size", "ffn_hidden_size", "n_inner"),
    "residual_scale": ("residual_multiplier",),
    **dict.fromkeys(("attention.key_length", "attention.value_length"), ("global_head_dim", "head_dim")),
    **dict.fromkeys(("attention.key_length_swa", "attention.value_length_swa"), ("head_dim",)),
    **{name: (name,) for name in ("attn_logit_softcapping", "final_logit_softcapping", "logit_scale")},
    **{name: (name,) for name in ("use_parallel_residual", "vocab_size")},
}
_HARMLESS = {  # the value with which a key changes nothing; `...` is any value
    "attention.causal": True, "expert_count": 0, "expert_used_count": 0, "logit_scale": 1.0,
    "context_length": ..., "tensor_data_layout": ..., "rope.scaling.finetuned": ...,
    "rope.scaling.attn_factor": 1.0, "rope.scaling.yarn_ext_factor": 1.0, "rope.scaling.yarn_attn_factor": 1.0,
}  # fmt: skip
_ABSENT_IF_ZERO = {
    "attention.clamp_kqv", "attention.scale", "attention.sliding_window", "attn_logit_softcapping", "embedding_scale",
    "final_logit_softcapping", "logit_scale", "pooling_type", "residual_scale", "rope.scale_linear",
    "rope.scaling.factor", "rope.scaling.original_context_length",
}  # fmt: skip
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id", "eog_token_ids")
_ROPE_FACTORS = "rope_freqs.weight"
_ROTARY = re.compile(r"(blk\.\d+\.)?attn_rot_embd(\.weight)?")
_SCALING = {  # key: its name among the rope parameters of a config
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}
_ROPE = ("rope.freq_base", "rope.scale_linear", "rope.scaling.type", *_SCALING)
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

    @property
    def metadata(self) -> dict[str, Any]:
        """What the file states, by key."""
        return {name: x.contents() for name, x in self._reader.fields.items() if not name.startswith("GGUF.")}

    @property
    def types(self) -> dict[str, str]:
        """The type of each tensor, as GGUF calls it."""
        return {name: tensor.tensor_type.name for name, tensor in self.tensors.items()}

    @property
    def ends(self) -> list[int]:
        """The tokens that end a reply: those that end a text, a turn and a message."""
        values = [self._value(f"tokenizer.ggml.{name}") for name in _ENDS]
        return [x for value in values for x in (value if isinstance(value, list) else [value]) if isinstance(x, int)]

    def complete(self, config: Any) -> None:
        """Set in a config what the file states. Raises, by its name, for what the config has no place for."""
        if (parts := self._value("split.count") or 1) > 1:
            raise InterpError(f"{self.path}: one of {parts} parts; join them with llama.cpp's llama-gguf-split --merge")
        require_layers(config.num_hidden_layers, len(self.tensors), str(self.path))
        prefix = f"{self.architecture}."
        stated = {key.removeprefix(prefix): self._value(key) for key in self._reader.fields if key.startswith(prefix)}
        for key in [key for key in _ABSENT_IF_ZERO if stated.get(key) == 0]:
            if any(getattr(config, name, None) == 0 for name in _PLACES.get(key, ())):
                raise self._refusal(key)
            del stated[key]
        width = config.hidden_size // config.num_attention_heads
        if "attention.key_length" not in stated and getattr(config, "head_dim", width) != width:
            config.head_dim = width
        left = {key: value for key, value in stated.items() if not _set(config, key, value)}
        rope = getattr(config, "rope_parameters", None) or {}
        full = rope.get("full_attention", rope)
        share = full.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1
        size = round((getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads) * share)
        harmless = _HARMLESS | {
            "feed_forward_length": 4 * config.hidden_size,
            "attention.head_count_kv": config.num_attention_heads,
            "rope.dimension_count": size,
            "rope.freq_base_swa": rope.get("sliding_attention", {}).get("rope_theta"),
        }
        for key, value in left.items():
            of_rope = key.startswith("rope.")
            if (of_rope and not rope) or not (key in _ROPE or harmless.get(key) in (..., value)):
                raise self._refusal(key)
        if rope and (stated_rope := self._rope(config, left, size)):
            merged = full | stated_rope
            config.rope_parameters = merged if full is rope else {**rope, "full_attention": merged}

    def require_places(self, hf: Any) -> None:
        """Raise, by its name, for a tensor that the loaded model has no place for."""
        rotary = [_ROPE_FACTORS] * bool(getattr(hf.config, "rope_parameters", None))
        known = {name.removesuffix(".weight") for name in [*self._places(hf), *rotary, "output"]}
        lost = [x for x in self.tensors if x.removesuffix(".weight") not in known and not _ROTARY.fullmatch(x)]
        refuse_lost(self.path, lost, "use the checkpoint that it was made from")

    def names(self, name: str, layers: int) -> list[str]:
        """The names that GGUF has for a tensor of a model with so many layers, the likeliest first."""
        from gguf import get_tensor_name_map

        if self._number is None:
            return []
        table, parts = get_tensor_name_map(self._number, layers), name.split(".")
        tails = (".".join(parts[start:]) for start in range(len(parts)))  # some files lack the base's prefix
        return [*filter(None, (table.get_name(tail, (".weight", ".bias")) for tail in tails))]

    @property
    def _number(self) -> Any:
        """The gguf package's number of the architecture; None for one that it does not know."""
        from gguf import MODEL_ARCH_NAMES

        return next((number for number, name in MODEL_ARCH_NAMES.items() if name == self.architecture), None)

    @property
    def has_unembedding(self) -> bool:
        """Whether llama.cpp reads an unembedding of this architecture; it takes the token table of others."""
        from gguf import MODEL_TENSOR, MODEL_TENSORS

        return MODEL_TENSOR.OUTPUT in MODEL_TENSORS.get(self._number, ())

    def stored_name(self, name: str, layers: int) -> str:
        """The name that the file has for a tensor of a model with so many layers; raises where it has none."""
        known = (known + end for known in self.names(name, layers) for end in ("", ".weight", ".bias"))
        stored = next((each for each in known if each in self.tensors), None)
        if stored is None:
            raise InterpError(f"{self.path}: none of its tensors is {name}; use the checkpoint that it was made from")
        return stored

    def write_copy(self, out: Path, edited: Mapping[str, tuple[Any, Any]], notes: Mapping[str, str]) -> None:
        """Write the file again with other tensors; what is not named keeps its bytes.

        Args:
            out: The new file.
            edited: Tensors by name: the array that `gguf.quantize` makes, and its type. New names come last.
            notes: Texts for the metadata.
        """
        from gguf import GGUFValueType, GGUFWriter

        writer = GGUFWriter(out, self.architecture, endianess=self._reader.endianess)
        writer.data_alignment = self._reader.alignment
        for key, value in self.metadata.items():
            kinds = self._reader.fields[key].types
            if key not in ("general.architecture", *notes):
                writer.add_key_value(key, value, kinds[0], kinds[-1] if kinds[0] is GGUFValueType.ARRAY else None)
        for key, text in notes.items():
            writer.add_string(key, text)
        tensors = {name: (tensor.data, tensor.tensor_type) for name, tensor in self.tensors.items()}
        tensors |= edited
        for name, (values, kind) in tensors.items():
            writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values, _ in tensors.values():
            writer.write_tensor_data(values)
        writer.close()

    def _places(self, hf: Any) -> Iterator[str]:
        """The names that GGUF has for a model's tensors."""
        for name in hf.state_dict():
            yield from self.names(name, hf.config.num_hidden_layers)
            if name.endswith("experts.gate_up_proj"):
                layer = next(part for part in name.split(".") if part.isdigit())
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
        with suppress(ImportError):  # a later version of transformers, which sets more of them itself
            from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

            if splits is None and name in GGUF_PRE_TOKENIZER_SPLITS:
                return
        if splits is None:
            names = [name for names in _SPLITS for name in names]
            raise InterpError(
                f"{self.path}: its tokenizer splits text by {name!r} (tokenizer.ggml.pre), which is not known; "
                f"{nearest(str(name), names)}; pass the model's own tokenizer (interp.load(…, tokenizer=…))"
            )
        parts, merged = [Split(Regex(split), "isolated") for split in splits], ByteLevel(False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([*parts, merged])

    def _rope(self, config: Any, stated: dict[str, Any], size: int) -> dict[str, Any]:
        """The rope parameters that the file states, of which `size` numbers of a head are rotated."""
        rope = {"rope_theta": stated["rope.freq_base"]} if "rope.freq_base" in stated else {}
        scaling = {"factor": stated.get("rope.scale_linear", 1.0)}
        scaling |= {name: stated[key] for key, name in _SCALING.items() if key in stated}
        kind = stated.get("rope.scaling.type", "linear")
        if kind not in ("none", "linear", "yarn"):
            raise self._refusal("rope.scaling.type")
        if kind == "none" or scaling["factor"] == 1.0:
            kind = "none"
        else:
            rope |= {"rope_type": kind, **scaling}
        if _ROPE_FACTORS not in self.tensors:
            return rope
        # Factors that divide the rotary frequencies, which transformers reads from configs of "longrope".
        factors = self.tensors[_ROPE_FACTORS].data.astype(float).tolist()
        if kind != "none" or len(factors) != size // 2:
            raise InterpError(
                f"{self.path}: {_ROPE_FACTORS} has {len(factors)} factors, and the scaling is {kind!r}; expected "
                f"{size // 2} and no other scaling; use the checkpoint that it was made from"
            )
        both, context = {"short_factor": factors, "long_factor": factors}, config.max_position_embeddings
        longrope = {"rope_type": "longrope", "attention_factor": 1.0, "original_max_position_embeddings": context}
        return rope | both | longrope

    def _value(self, key: str) -> Any:
        """A value, and of one per layer that is the same in each, that one; None if it is not stated."""
        field = self._reader.fields.get(key)
        value = None if field is None else field.contents()
        return value[0] if isinstance(value, list) and len({*value}) == 1 else value

    def _refusal(self, key: str) -> InterpError:
        name = f"{self.architecture}.{key}"
        return InterpError(
            f"{self.path}: its {name} is {str(self._value(name))[:40]}, which is not read, so that another function "
            "would be computed; use the checkpoint that it was made from"
        )


def _set(config: Any, key: str, value: Any) -> bool:
    """Set a value in a config; whether that has a place for it."""
    name = next((name for name in _PLACES.get(key, ()) if hasattr(config, name)), None)
    if name is None or isinstance(value, list):
        return False
    if getattr(config, name) != value:  # some are derived, and can't be set
        setattr(config, name, value)
    return True
