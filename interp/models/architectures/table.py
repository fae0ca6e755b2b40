"""The table of architectures: which module of a Hugging Face model is which site.

There is one row per family, data only. `site_taps` says where to hook each site; `writers` says which tensors write the
residual stream. A model type outside the table is refused by name unless `recognition` finds a row that fits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

from interp.core.calls import shown
from interp.core.errors import InterpError, nearest
from interp.models.sites import Site

_OF_MLP = ("resid_mid", "mlp_input", "mlp_post", "mlp_out")


@dataclass(frozen=True)
class Architecture:
    """One row: module paths. The parts of the model count from its root, the parts of a layer from the layer.

    Args:
        layers: The list of layers.
        embed: The token embedding.
        embed_norm: A norm after the token embedding.
        pos_embed: The position embedding.
        final_norm: The norm between the last layer and the unembedding.
        attn: The attention module.
        qkv: Separate query, key and value projections, with `{}` for the letter; None if they are fused.
        attn_write: The output projection of attention.
        mlp: The MLP module.
        mlp_read: The module whose input the MLP reads.
        mlp_write: The output projection of the MLP; None for experts.
        mlp_norm: The norm before the MLP.
        attn_post_norm: A norm between attention and the residual stream.
        mlp_post_norm: A norm between the MLP and the residual stream.
        parallel: Whether attention and MLP read the same input, or the config flags any of which says so.
        flat_mlp: Whether the MLP runs on (batch * pos, d_model).
        write_scale: The config value that multiplies the outputs of attention and MLP before they are added.
        transposed: Whether projections are Conv1D, with weights (in, out).
        experts: Whether the MLP is a mixture of experts.
        packs: Whether position ids that restart within a row keep its documents independent.
        requires: Config values, or names of others, without which the sites would mean something else.
    """

    layers: str = "model.layers"
    embed: str = "model.embed_tokens"
    embed_norm: str | None = None
    pos_embed: str | None = None
    final_norm: str = "model.norm"
    attn: str = "self_attn"
    qkv: str | None = "self_attn.{}_proj"
    attn_write: str = "self_attn.o_proj"
    mlp: str = "mlp"
    mlp_read: str = "mlp"
    mlp_write: str | None = "mlp.down_proj"
    mlp_norm: str = "post_attention_layernorm"
    attn_post_norm: str | None = None
    mlp_post_norm: str | None = None
    parallel: bool | tuple[str, ...] = False
    flat_mlp: bool = False
    write_scale: str | None = None
    transposed: bool = False
    experts: bool = False
    packs: bool = True
    requires: tuple[tuple[str, Any], ...] = ()

    def is_parallel(self, config: Any) -> bool:
        """Whether a config's blocks add attention and MLP to the same input."""
        return self.parallel if isinstance(self.parallel, bool) else any(getattr(config, x) for x in self.parallel)

    def scale(self, config: Any) -> float:
        """The factor by which a config multiplies the outputs of attention and MLP before they are added."""
        return getattr(config, self.write_scale) if self.write_scale else 1.0


_LLAMA = Architecture()
_EXPERTS = replace(_LLAMA, mlp_write=None, experts=True)
_SANDWICH = replace(
    _LLAMA,
    mlp_norm="pre_feedforward_layernorm",
    attn_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
_POST = replace(_SANDWICH, mlp_norm="mlp")
_GPT = Architecture(
    layers="transformer.h",
    embed="transformer.wte",
    final_norm="transformer.ln_f",
    attn="attn",
    qkv=None,
    attn_write="attn.c_proj",
    mlp_write="mlp.c_proj",
    mlp_norm="ln_2",
)
_TABLE = {
    **dict.fromkeys(("cohere", "cohere2"), replace(_LLAMA, parallel=True)),
    **dict.fromkeys(
        ("gemma", "glm", "llama", "ministral", "mistral", "nemotron", "olmo", "qwen2", "qwen3", "seed_oss", "smollm3"),
        _LLAMA,
    ),
    "granite": replace(_LLAMA, write_scale="residual_multiplier"),
    "phi": replace(
        _LLAMA, final_norm="model.final_layernorm", attn_write="self_attn.dense", mlp_write="mlp.fc2", parallel=True
    ),
    "phi3": replace(_LLAMA, qkv=None),
    "stablelm": replace(_LLAMA, parallel=("use_parallel_residual",)),
    "starcoder2": replace(_LLAMA, mlp_write="mlp.c_proj"),
    **dict.fromkeys(("exaone4", "olmo2", "olmo3"), _POST),
    **dict.fromkeys(("gemma2", "gemma3_text"), _SANDWICH),
    "gemma4_text": replace(_SANDWICH, qkv=None),
    "glm4": replace(_LLAMA, attn_post_norm="post_self_attn_layernorm", mlp_post_norm="post_mlp_layernorm"),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), replace(_EXPERTS, qkv=None)),
    "gpt_oss": replace(_EXPERTS, packs=False),
    **dict.fromkeys(("mixtral", "olmoe", "qwen2_moe", "qwen3_moe"), _EXPERTS),
    "bloom": replace(
        _GPT,
        embed="transformer.word_embeddings",
        embed_norm="transformer.word_embeddings_layernorm",
        # The residual is added inside attention and MLP, so their last layers are what writes.
        attn="self_attention.dense",
        attn_write="self_attention.dense",
        mlp="mlp.dense_4h_to_h",
        mlp_write="mlp.dense_4h_to_h",
        mlp_norm="post_attention_layernorm",
        packs=False,
        requires=(("apply_residual_connection_post_layernorm", False),),
    ),
    "falcon": replace(
        _GPT,
        embed="transformer.word_embeddings",
        attn="self_attention",
        attn_write="self_attention.dense",
        mlp_write="mlp.dense_4h_to_h",
        mlp_norm="post_attention_layernorm",
        parallel=("parallel_attn", "new_decoder_architecture"),
        packs=False,
    ),
    "gpt2": replace(_GPT, pos_embed="transformer.wpe", transposed=True),
    "gpt_neo": replace(
        _GPT, pos_embed="transformer.wpe", qkv="attn.attention.{}_proj", attn_write="attn.attention.out_proj"
    ),
    "gpt_neox": replace(
        _GPT,
        layers="gpt_neox.layers",
        embed="gpt_neox.embed_in",
        final_norm="gpt_neox.final_layer_norm",
        attn="attention",
        attn_write="attention.dense",
        mlp_write="mlp.dense_4h_to_h",
        mlp_norm="post_attention_layernorm",
        parallel=("use_parallel_residual",),
    ),
    "gptj": replace(_GPT, qkv="attn.{}_proj", attn_write="attn.out_proj", mlp_write="mlp.fc_out", parallel=True),
    "opt": replace(
        _LLAMA,
        layers="model.decoder.layers",
        embed="model.decoder.embed_tokens",
        pos_embed="model.decoder.embed_positions",
        final_norm="model.decoder.final_layer_norm",
        attn_write="self_attn.out_proj",
        mlp="fc2",
        mlp_read="fc1",
        mlp_write="fc2",
        mlp_norm="final_layer_norm",
        flat_mlp=True,
        packs=False,
        requires=(("do_layer_norm_before", True), ("word_embed_proj_dim", "hidden_size")),
    ),
}


_BUILT_IN = frozenset(_TABLE)


def was_recognised(model_type: str) -> bool:
    """Whether a model type's row comes from recognition, not from this table."""
    return model_type in _TABLE and model_type not in _BUILT_IN


def architecture(config: Any) -> Architecture:
    """The table's row for a Hugging Face config.

    Args:
        config: The config of the model.

    Raises:
        InterpError: The model type is not in the table, or the config is an unsupported variant of it.

    Example:
        >>> interp.models.architecture(model.config).mlp_write
        'mlp.down_proj'
    """
    if not hasattr(config, "model_type"):
        raise InterpError(f"config is {shown(config)}; expected a Hugging Face config, such as model.config")
    row = architecture_of_type(config.model_type)
    for name, expected in row.requires:
        if getattr(config, name) != (getattr(config, expected) if isinstance(expected, str) else expected):
            raise InterpError(
                f"{config.model_type} with {name}={getattr(config, name)!r} adds up its residual stream in another "
                f"way and is not supported; expected {name}={expected!r}"
            )
    return row


def architecture_of_type(model_type: str) -> Architecture:
    """The table's row for a config's `model_type`."""
    if model_type not in _TABLE:
        known = ", ".join(sorted(_TABLE))
        raise InterpError(f"architecture {model_type!r} is not supported, only {known}; {nearest(model_type, _TABLE)}")
    return _TABLE[model_type]


def normalises_outputs(model_type: str) -> bool:
    """Whether a norm follows what attention and MLP write, so that `writers` names their raw outputs."""
    row = _TABLE.get(model_type)
    return row is not None and (row.attn_post_norm or row.mlp_post_norm) is not None


def known_architectures() -> dict[str, Architecture]:
    """The table, by model type."""
    return dict(_TABLE)


@contextmanager
def register(model_type: str, row: Architecture) -> Iterator[Callable[[], None]]:
    """Add a row for a model type for as long as the block lasts, and for good if the yielded function is called."""
    if model_type in _TABLE:
        raise InterpError(f"architecture {model_type!r} is in the table already")
    kept: list[bool] = []
    _TABLE[model_type] = row
    try:
        yield lambda: kept.append(True)
    finally:
        if not kept:
            del _TABLE[model_type]


@dataclass(frozen=True)
class Tap:
    """A place in the module tree where a hook attaches.

    Args:
        path: Path of the module.
        end: Its input ("in"), its output ("out"), or, for an attention module, its attention mask ("mask").
        heads: Number of heads to split the last axis into.
        scale: The site is `scale` times the tensor at this place.
        batch_of: Path of a module whose input has batch and pos axes, where this place has them flattened to one.
        layer: The index of an attention module's keys in a cache.
    """

    path: str
    end: Literal["in", "out", "mask"]
    heads: int | None = None
    scale: float = 1.0
    batch_of: str | None = None
    layer: int | None = None


def site_taps(config: Any) -> dict[Site, Tap]:
    """Every site of a model and its tap, in the order of the forward pass."""
    arch = architecture(config)
    taps = {Site("embed"): Tap(arch.embed_norm or arch.embed, "out")}
    if arch.pos_embed:
        taps[Site("pos_embed")] = Tap(arch.pos_embed, "out")
    for layer in range(config.num_hidden_layers):
        whole = f"{arch.layers}.{layer}"
        for kind, tap in _layer_taps(arch, config):
            flat = whole if arch.flat_mlp and kind in _OF_MLP else None
            taps[Site(kind, layer)] = replace(tap, path=f"{whole}.{tap.path}".rstrip("."), batch_of=flat)
    return taps


def attention_mask_tap(config: Any, layer: int) -> Tap:
    """The tap of a layer's attention mask: which earlier tokens each token attends to, in each head."""
    arch = architecture(config)
    module = arch.attn_write.rpartition(".")[0]
    return Tap(f"{arch.layers}.{layer}.{module}", "mask", config.num_attention_heads, layer=layer)


def _layer_taps(arch: Architecture, config: Any) -> Iterator[tuple[str, Tap]]:
    heads = config.num_attention_heads
    yield "resid_pre", Tap("", "in")
    if arch.qkv:
        shared = getattr(config, "num_key_value_heads", None) or heads
        for letter, count in (("q", heads), ("k", shared), ("v", shared)):
            yield letter, Tap(arch.qkv.format(letter), "out", count)
    yield "z", Tap(arch.attn_write, "in", heads)
    scale = arch.scale(config)
    if arch.attn_post_norm:
        yield "attn_raw", Tap(arch.attn_post_norm, "in")
    yield "attn_out", Tap(arch.attn_post_norm or arch.attn, "out", scale=scale)
    # Parallel blocks add attention and MLP to the same input: there is no residual stream between them.
    if not arch.is_parallel(config):
        yield "resid_mid", Tap(arch.mlp_norm, "in")
    yield "mlp_input", Tap(arch.mlp_read, "in")
    if arch.mlp_write:
        yield "mlp_post", Tap(arch.mlp_write, "in")
    if arch.mlp_post_norm:
        yield "mlp_raw", Tap(arch.mlp_post_norm, "in")
    yield "mlp_out", Tap(arch.mlp_post_norm or arch.mlp, "out", scale=scale)
    yield "resid_post", Tap("", "out")
