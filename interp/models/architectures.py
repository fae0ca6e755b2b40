"""Which module of a Hugging Face model is which site, and which tensors write into the residual stream.

One row per family of architectures, data only. `sites` says where to hook; `writers` says what an edit must change. A
model type that is not in the table is refused by name, never guessed at.

What it does not know: mixture-of-experts tensors can be hooked here but not yet folded (`writers` refuses), and
architectures outside the table.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from interp.core.errors import InterpError, nearest
from interp.models.sites import Site


@dataclass(frozen=True)
class Architecture:
    """Paths of modules: of the model's parts from its root, of a layer's parts from the layer."""

    layers: str = "model.layers"
    embed: str = "model.embed_tokens"
    pos_embed: str | None = None
    attn: str = "self_attn"
    attn_write: str = "self_attn.o_proj"
    mlp: str = "mlp"
    mlp_write: str | None = "mlp.down_proj"
    mlp_norm: str = "post_attention_layernorm"
    attn_post_norm: str | None = None
    mlp_post_norm: str | None = None
    separate_qkv: bool = True
    transposed: bool = False
    experts: bool = False


_LLAMA = Architecture()
_SANDWICH = replace(
    _LLAMA,
    mlp_norm="pre_feedforward_layernorm",
    attn_post_norm="post_attention_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
_TABLE = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "granite": _LLAMA,
    "phi3": replace(_LLAMA, separate_qkv=False),
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
    "olmo2": replace(_SANDWICH, mlp_norm="mlp"),
    "mixtral": replace(_LLAMA, mlp_write=None, experts=True),
    "qwen3_moe": replace(_LLAMA, mlp_write=None, experts=True),
    "gpt2": Architecture(
        layers="transformer.h",
        embed="transformer.wte",
        pos_embed="transformer.wpe",
        attn="attn",
        attn_write="attn.c_proj",
        mlp_write="mlp.c_proj",
        mlp_norm="ln_2",
        separate_qkv=False,
        transposed=True,
    ),
    "gpt_neox": Architecture(
        layers="gpt_neox.layers",
        embed="gpt_neox.embed_in",
        attn="attention",
        attn_write="attention.dense",
        mlp_write="mlp.dense_4h_to_h",
        separate_qkv=False,
    ),
}


def architecture(config: Any) -> Architecture:
    """The table's row for a Hugging Face config. Raises for a model type that is not in the table."""
    return architecture_of_type(config.model_type)


def architecture_of_type(model_type: str) -> Architecture:
    """The table's row for a config's `model_type`."""
    if model_type not in _TABLE:
        raise InterpError(
            f"architecture {model_type!r} is not supported; {nearest(model_type, _TABLE)}. "
            f"Supported: {', '.join(sorted(_TABLE))}"
        )
    return _TABLE[model_type]


@dataclass(frozen=True)
class Tap:
    """A place in the module tree: a module's input or output, split into heads if `heads` is given."""

    path: str
    end: Literal["in", "out"]
    heads: int | None = None


def sites(config: Any) -> dict[Site, Tap]:
    """Every site of a model and its tap, in the order of the forward pass."""
    arch = architecture(config)
    taps = {Site("embed"): Tap(arch.embed, "out")}
    if arch.pos_embed:
        taps[Site("pos_embed")] = Tap(arch.pos_embed, "out")
    for layer in range(config.num_hidden_layers):
        for kind, tap in _layer_taps(arch, config):
            taps[Site(kind, layer)] = replace(tap, path=f"{arch.layers}.{layer}.{tap.path}".rstrip("."))
    return taps


def _layer_taps(arch: Architecture, config: Any) -> Iterator[tuple[str, Tap]]:
    heads = config.num_attention_heads
    yield "resid_pre", Tap("", "in")
    if arch.separate_qkv:
        shared = getattr(config, "num_key_value_heads", None) or heads
        yield "q", Tap(f"{arch.attn}.q_proj", "out", heads)
        yield "k", Tap(f"{arch.attn}.k_proj", "out", shared)
        yield "v", Tap(f"{arch.attn}.v_proj", "out", shared)
    yield "z", Tap(arch.attn_write, "in", heads)
    yield "attn_out", Tap(arch.attn_post_norm or arch.attn, "out")
    # Parallel blocks add attention and MLP to the same input: there is no residual stream between them.
    if not getattr(config, "use_parallel_residual", False):
        yield "resid_mid", Tap(arch.mlp_norm, "in")
    if arch.mlp_write:
        yield "mlp_post", Tap(arch.mlp_write, "in")
    yield "mlp_out", Tap(arch.mlp_post_norm or arch.mlp, "out")
    yield "resid_post", Tap("", "out")


@dataclass(frozen=True)
class Writer:
    """A tensor whose product is added to the residual stream.

    `layout` says along which axis it is written: "rows" (a table, one vector a row; or a bias), "out_in" (nn.Linear) or
    "in_out" (GPT-2's Conv1D).
    """

    tensor: str
    site: Site
    layout: Literal["rows", "out_in", "in_out"]


def writers(config: Any) -> list[Writer]:
    """Every tensor that writes the residual stream of a model; biases are listed whether or not the model has them.

    Raises where the model's writers are not plain tensors of a pre-norm block, with the reason: a norm behind the
    writer makes an exact fold impossible, and fused experts need their own fold.
    """
    arch = architecture(config)
    if arch.attn_post_norm or arch.mlp_post_norm:
        raise InterpError(
            f"{config.model_type} normalises what attention and MLP write, so a projection can't be folded into its "
            "weights exactly; run the recipe with hooks instead (model.hooked(recipe))"
        )
    if arch.experts or arch.mlp_write is None:
        raise InterpError(
            f"{config.model_type} has fused expert tensors, which can't be folded; run the recipe with hooks"
        )
    found = [Writer(f"{arch.embed}.weight", Site("embed"), "rows")]
    if arch.pos_embed:
        found.append(Writer(f"{arch.pos_embed}.weight", Site("pos_embed"), "rows"))
    layout: Literal["out_in", "in_out"] = "in_out" if arch.transposed else "out_in"
    for layer in range(config.num_hidden_layers):
        for kind, path in (("attn_out", arch.attn_write), ("mlp_out", arch.mlp_write)):
            module, site = f"{arch.layers}.{layer}.{path}", Site(kind, layer)
            found += [Writer(f"{module}.weight", site, layout), Writer(f"{module}.bias", site, "rows")]
    return found
