"""Writers: the tensors of a checkpoint that write the residual stream, and how each product reaches the stream.

    stream = embedding [+ positions] + the sum over layers of attention and MLP outputs
    site   = scale * product, where the product is the tensor times its input
    site   = gain * product / rms(product), with a norm after the writer
    stream gets `stream` * site

`writers` lists the tensors of a checkpoint from its config and its tensor names. It reads both forms of a mixture of
experts: fused as in memory, [expert, out, in] or gpt-oss' [expert, in, out], and one matrix per expert as in most
files. A missing tensor is an error, and so is a quantised one: nothing is skipped. `bias_slots` says which config flag
gives a writer a bias, and which other biases come with the flag.

Limitations: whether the table is right is measured on a model by `interp.editing.certificate.writer_check`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.models.architectures.table import Architecture, architecture
from interp.models.sites import Site

Layout = Literal["table", "bias", "out_in", "in_out"]
_QUANTISED = (".weight_scale", ".weight_scale_inv", ".SCB", ".weight.absmax", ".qweight", "_blocks", "_scales")


@dataclass(frozen=True)
class Writer:
    """A tensor that writes the residual stream.

    Args:
        tensor: Its name in the checkpoint.
        site: Where what it adds to the stream is an activation: after the norm, if one follows.
        layout: "table" (one vector per row), "bias" (one vector, or one per expert), "out_in" (nn.Linear) or "in_out"
            (Conv1D, gpt-oss' experts).
        scale: The activation at the site is `scale` times the product.
        stream: The residual stream receives `stream` times the activation.
        gain: Name of the gain of a norm after the writer.
        offset: The norm multiplies by gain plus `offset`.
    """

    tensor: str
    site: Site
    layout: Layout
    scale: float = 1.0
    stream: float = 1.0
    gain: str | None = None
    offset: float = 0.0


@dataclass(frozen=True)
class BiasSlot:
    """A config flag that gives the writers of `kinds` a bias, and the modules of each layer that get one with it."""

    flag: str
    kinds: tuple[str, ...]
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Experts:
    """Where the experts of a layer are.

    Args:
        count: The config value with the number of experts.
        fused: The tensor of all experts.
        each: The tensor of one expert, with `{}` for its index.
        layout: The layout of the fused tensor.
        shared: The module of an expert that every token uses.
        shares: The config value that says whether there is a shared expert.
        dense: The output projection in layers without experts.
    """

    count: str
    fused: str = "mlp.experts.down_proj"
    each: str = "mlp.experts.{}.down_proj.weight"
    layout: Layout = "out_in"
    shared: str | None = None
    shares: str | None = None
    dense: str = "mlp.down_proj"


_ATTENTION = BiasSlot("attention_bias", ("attn_out",), tuple(f"self_attn.{x}_proj" for x in "qkvo"))
_LATENT = BiasSlot(
    "attention_bias", ("attn_out",), ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.o_proj")
)
_MLP = BiasSlot("mlp_bias", ("mlp_out",), tuple(f"mlp.{x}_proj" for x in ("gate", "up", "down")))
_BOTH = ("attn_out", "mlp_out")
_FALCON = ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
_SLOTS: dict[str, tuple[BiasSlot, ...]] = {
    **dict.fromkeys(("llama", "smollm3", "granite"), (_ATTENTION, _MLP)),
    **dict.fromkeys(("cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "gpt_oss"), (_ATTENTION,)),
    **dict.fromkeys(("olmo", "olmo2", "olmo3", "olmoe", "qwen3", "qwen3_moe"), (_ATTENTION,)),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), (_LATENT,)),
    "nemotron": (_ATTENTION, BiasSlot("mlp_bias", ("mlp_out",), ("mlp.up_proj", "mlp.down_proj"))),
    "seed_oss": (BiasSlot("attention_out_bias", ("attn_out",), ("self_attn.o_proj",)), _MLP),
    "gpt_neox": (BiasSlot("attention_bias", ("attn_out",), ("attention.query_key_value", "attention.dense")),),
    "starcoder2": (BiasSlot("use_bias", _BOTH, (*_ATTENTION.modules, "mlp.c_fc", "mlp.c_proj")),),
    "falcon": (BiasSlot("bias", _BOTH, _FALCON),),
}  # fmt: skip
_EXPERTS = {
    "deepseek_v2": Experts("n_routed_experts", shared="mlp.shared_experts.down_proj", shares="n_shared_experts"),
    "deepseek_v3": Experts("n_routed_experts", shared="mlp.shared_experts.down_proj", shares="n_shared_experts"),
    "gpt_oss": Experts("num_local_experts", layout="in_out"),
    "mixtral": Experts("num_local_experts", each="block_sparse_moe.experts.{}.w2.weight"),
    "olmoe": Experts("num_experts"),
    "qwen2_moe": Experts("num_experts", shared="mlp.shared_expert.down_proj", shares="shared_expert_intermediate_size"),
    "qwen3_moe": Experts("num_experts"),
}
_GAIN_OFFSET = {"gemma2": 1.0, "gemma3_text": 1.0}  # their norms multiply by 1 + weight
_SCALED_TABLE = ("gemma", "gemma2", "gemma3_text")  # the embedding module multiplies by sqrt(d_model)
_EMBED_MULTIPLIER = {"granite": "embedding_multiplier"}  # the model multiplies what the module returns
_UNEMBEDDING = {"gpt_neox": "embed_out.weight"}
# llama.cpp's converters and vLLM leave lm_head out for some of these and load the token table in its place.
_TIED_ELSEWHERE = ("cohere", "cohere2", "gemma", "gemma2", "gemma3_text")
_UNCOVERED = {"gemma4_text": "adds per-layer inputs to the residual stream after its MLP, which no site covers"}


def unembedding_name(config: Any) -> str:
    """The name of the unembedding in checkpoints."""
    return _UNEMBEDDING.get(config.model_type, "lm_head.weight")


def is_tied_elsewhere(config: Any) -> bool:
    """Whether other programs use the token table as the unembedding of this architecture, whatever the config says."""
    return config.model_type in _TIED_ELSEWHERE


def bias_slots(config: Any) -> tuple[BiasSlot, ...]:
    """The config flags that add biases to this architecture's writers."""
    return _SLOTS.get(config.model_type, ())


def writers(config: Any, names: Iterable[str]) -> list[Writer]:
    """Every tensor of a checkpoint that writes the residual stream.

    Args:
        config: The Hugging Face config.
        names: The names of the tensors in the checkpoint.

    Raises:
        InterpError: Not all writers of the architecture are known, or the checkpoint lacks one, or one is quantised.
    """
    arch, present = architecture(config), set(names)
    _refuse_unknown(arch, config)
    expected = _tables(arch, config)
    for layer in range(config.num_hidden_layers):
        expected += _linear(arch, config, Site("attn_out", layer), arch.attn_write)
        expected += _mlp(arch, config, layer, present)
    missing = [w.tensor for w in expected if w.layout != "bias" and w.tensor not in present]
    packed = [name for name in sorted(present) if name.endswith(_QUANTISED)] if missing else []
    packed += [x for w in expected for kind in _QUANTISED if (x := w.tensor.removesuffix(".weight") + kind) in present]
    if packed:
        raise InterpError(
            f"the checkpoint is quantised ({packed[0]!r} beside its writers); dequantise it before the edit"
        )
    if missing:
        lacks = f"no tensor {missing[0]!r} ({len(missing)} missing)"
        raise InterpError(f"the checkpoint has {lacks}, so the fold would be partial; restore it")
    return [writer for writer in expected if writer.tensor in present]


def writer_of(config: Any, site: Site, tensor: str, layout: Layout = "bias") -> Writer:
    """The writer that a tensor with this name would be, at a site of attention or MLP."""
    arch = architecture(config)
    norm = arch.attn_post_norm if site.kind == "attn_out" else arch.mlp_post_norm
    if norm is None:
        return Writer(tensor, site, layout, arch.scale(config))
    gain, offset = f"{arch.layers}.{site.layer}.{norm}.weight", _GAIN_OFFSET.get(config.model_type, 0.0)
    return Writer(tensor, site, layout, arch.scale(config), gain=gain, offset=offset)


def before_norm(op: Any, site: Site, config: Any, read: Callable[[str], Tensor]) -> Any:
    """An op, or another function, as it acts at a site; hooks and folds alike call this.

    At a raw output, an op that is given in vectors of the stream becomes one in the coordinates before the norm
    (`interp.interventions.Op.before_norm`). What is no op, or acts elsewhere, stays as it is.

    Args:
        op: The op or function.
        site: Where it acts.
        config: The Hugging Face config.
        read: Gives a tensor of the model by its name, for the gain of the norm.

    Raises:
        InterpError: The op has no form before a norm.
    """
    convert = getattr(op, "before_norm", None)
    return convert(_gain(config, site.normed, read)) if site.is_raw and convert else op


def _gain(config: Any, site: Site, read: Callable[[str], Tensor]) -> Float[Tensor, "d_model"]:
    """What the norm before a site multiplies by."""
    writer = writer_of(config, site, "")
    return read(str(writer.gain)).detach().cpu().double() + writer.offset


def bias_name(config: Any, site: Site) -> str | None:
    """The name of the bias of a site's output projection; None where several modules write the site."""
    arch = architecture(config)
    path = {"attn_out": arch.attn_write, "mlp_out": arch.mlp_write}.get(site.kind)
    return None if path is None else f"{arch.layers}.{site.layer}.{path}.bias"


def _refuse_unknown(arch: Architecture, config: Any) -> None:
    if config.model_type in _UNCOVERED:
        raise InterpError(f"{config.model_type} {_UNCOVERED[config.model_type]}; run the recipe with hooks")
    if arch.embed_norm:
        raise InterpError(
            f"{config.model_type} normalises its embeddings, so a projection can't be folded into its weights exactly; "
            "run the recipe with hooks instead (model.hooked(recipe))"
        )


def _tables(arch: Architecture, config: Any) -> list[Writer]:
    scale = sqrt(config.hidden_size) if config.model_type in _SCALED_TABLE else 1.0
    key = _EMBED_MULTIPLIER.get(config.model_type)
    stream = float(getattr(config, key)) if key else 1.0
    tables = [Writer(f"{arch.embed}.weight", Site("embed"), "table", scale, stream)]
    if arch.pos_embed:
        tables.append(Writer(f"{arch.pos_embed}.weight", Site("pos_embed"), "table"))
    return tables


def _mlp(arch: Architecture, config: Any, layer: int, present: set[str]) -> list[Writer]:
    site, base = Site("mlp_out", layer), f"{arch.layers}.{layer}."
    if arch.mlp_write is not None:
        return _linear(arch, config, site, arch.mlp_write)
    experts = _EXPERTS[config.model_type]
    if f"{base}{experts.dense}.weight" in present:
        return _linear(arch, config, site, experts.dense)
    fused = base + experts.fused
    if fused in present:
        written = [writer_of(config, site, fused, experts.layout), writer_of(config, site, f"{fused}_bias")]
    else:
        indices = range(getattr(config, experts.count))
        written = [writer_of(config, site, base + experts.each.format(index), "out_in") for index in indices]
    if experts.shared and experts.shares and getattr(config, experts.shares):
        written += _linear(arch, config, site, experts.shared)
    return written


def _linear(arch: Architecture, config: Any, site: Site, path: str) -> list[Writer]:
    module = f"{arch.layers}.{site.layer}.{path}"
    weight = writer_of(config, site, f"{module}.weight", "in_out" if arch.transposed else "out_in")
    return [weight, writer_of(config, site, f"{module}.bias")]
