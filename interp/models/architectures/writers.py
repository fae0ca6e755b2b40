"""Which tensors of a checkpoint write the residual stream, along which axis, and through what they pass on the way.

    stream = embedding [+ positions] + the sum over layers of attention and MLP outputs
    what a tensor's product is multiplied by: `scale` up to its site, `stream` from there to the stream
    a norm behind the writer: site = gain * product / rms(product)

`writers` names the tensors of one checkpoint from its config and the names in it. Both forms of a mixture of experts
are read: fused as in memory, [expert, out, in] or gpt-oss' [expert, in, out], and one matrix an expert as most files
have them. A layer without a tensor that it must have is an error, and so is a quantised one: nothing is skipped.
`bias_slots` says which config flag gives a site's writer a bias, and which other biases come with the flag.

What it does not know: whether the table is right. `interp.editing.certificate.writer_check` measures that on a model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from interp.core.errors import InterpError
from interp.models.architectures.table import Architecture, architecture
from interp.models.sites import Site

Layout = Literal["table", "bias", "out_in", "in_out"]
_QUANTISED = (".weight_scale", ".weight_scale_inv", ".SCB", ".weight.absmax", ".qweight", "_blocks", "_scales")


@dataclass(frozen=True)
class Writer:
    """A tensor whose product, times `scale`, is the activation at `site`; times `stream`, what the stream gets.

    `layout`: "table" (one vector a row), "bias" (a vector, or one an expert), "out_in" (nn.Linear) or "in_out" (Conv1D,
    gpt-oss' experts). `gain` names the gain of a norm behind the writer; the norm multiplies by it plus `offset`.
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
    """A config flag that gives writers of `kinds` a bias, and the modules of every layer that get one with it."""

    flag: str
    kinds: tuple[str, ...]
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Experts:
    """Where a layer's experts are: `{}` stands for the expert's number, `count` is the config value that says how many.

    `shared` is the module of an expert that every token uses, `shares` the config value that says whether there is one.
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
_SLOTS: dict[str, tuple[BiasSlot, ...]] = {
    **dict.fromkeys(("llama", "smollm3", "granite"), (_ATTENTION, _MLP)),
    **dict.fromkeys(
        (
            "cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "gpt_oss", "olmo", "olmo2", "olmo3", "olmoe",
            "qwen3", "qwen3_moe",
        ),
        (_ATTENTION,),
    ),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), (_LATENT,)),
    "nemotron": (_ATTENTION, BiasSlot("mlp_bias", ("mlp_out",), ("mlp.up_proj", "mlp.down_proj"))),
    "seed_oss": (BiasSlot("attention_out_bias", ("attn_out",), ("self_attn.o_proj",)), _MLP),
    "gpt_neox": (BiasSlot("attention_bias", ("attn_out",), ("attention.query_key_value", "attention.dense")),),
    "starcoder2": (
        BiasSlot("use_bias", ("attn_out", "mlp_out"), (*_ATTENTION.modules, "mlp.c_fc", "mlp.c_proj")),
    ),
    "falcon": (
        BiasSlot(
            "bias",
            ("attn_out", "mlp_out"),
            ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        ),
    ),
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
_MORE = {"gemma4_text": "adds per-layer inputs to the residual stream behind its MLP, which no site covers"}


def unembedding_name(config: Any) -> str:
    """The name that checkpoints give the unembedding."""
    return _UNEMBEDDING.get(config.model_type, "lm_head.weight")


def bias_slots(config: Any) -> tuple[BiasSlot, ...]:
    """Config flags that add biases to this architecture's writers."""
    return _SLOTS.get(config.model_type, ())


def has_post_norms(config: Any) -> bool:
    """Whether what attention or MLP write passes through a norm."""
    arch = architecture(config)
    return bool(arch.attn_post_norm or arch.mlp_post_norm)


def writers(config: Any, names: Iterable[str]) -> list[Writer]:
    """Every tensor of a checkpoint, of these names, that writes the residual stream.

    Raises InterpError for an architecture whose writers are not all known, and for a checkpoint that lacks one.
    """
    arch, present = architecture(config), set(names)
    _refuse_unknown(arch, config)
    found = _tables(arch, config)
    for layer in range(config.num_hidden_layers):
        found += _linear(arch, config, Site("attn_out", layer), arch.attn_write)
        found += _mlp(arch, config, layer, present)
    missing = [w.tensor for w in found if w.layout != "bias" and w.tensor not in present]
    if missing:
        raise InterpError(_why_missing(missing, present))
    listed = [writer for writer in found if writer.tensor in present]
    _refuse_quantised(listed, present)
    return listed


def writer_of(config: Any, site: Site, tensor: str) -> Writer:
    """The writer that a bias of that name would be, at a site of attention or MLP."""
    arch = architecture(config)
    return Writer(tensor, site, "bias", arch.scale(config), 1.0, *_gain(arch, config, site))


def bias_name(config: Any, site: Site) -> str | None:
    """The name of the bias on a site's one output projection; None where several modules write the site."""
    arch = architecture(config)
    path = {"attn_out": arch.attn_write, "mlp_out": arch.mlp_write}.get(site.kind)
    return None if path is None else f"{arch.layers}.{site.layer}.{path}.bias"


def _refuse_unknown(arch: Architecture, config: Any) -> None:
    if config.model_type in _MORE:
        raise InterpError(f"{config.model_type} {_MORE[config.model_type]}; run the recipe with hooks")
    if arch.embed_norm:
        raise InterpError(
            f"{config.model_type} normalises its embeddings, so a projection can't be folded into its weights exactly; "
            "run the recipe with hooks instead (model.hooked(recipe))"
        )
    if getattr(config, "word_embed_proj_dim", config.hidden_size) != config.hidden_size:
        raise InterpError(f"{config.model_type} with narrower embeddings projects them; run the recipe with hooks")


def _tables(arch: Architecture, config: Any) -> list[Writer]:
    scale = sqrt(config.hidden_size) if config.model_type in _SCALED_TABLE else 1.0
    key = _EMBED_MULTIPLIER.get(config.model_type)
    stream = float(getattr(config, key)) if key else 1.0
    found = [Writer(f"{arch.embed}.weight", Site("embed"), "table", scale, stream)]
    if arch.pos_embed:
        found.append(Writer(f"{arch.pos_embed}.weight", Site("pos_embed"), "table"))
    return found


def _mlp(arch: Architecture, config: Any, layer: int, present: set[str]) -> list[Writer]:
    site, base = Site("mlp_out", layer), f"{arch.layers}.{layer}."
    if arch.mlp_write is not None:
        return _linear(arch, config, site, arch.mlp_write)
    experts = _EXPERTS[config.model_type]
    if f"{base}{experts.dense}.weight" in present:
        return _linear(arch, config, site, experts.dense)
    if base + experts.fused in present:
        fused = base + experts.fused
        found = [Writer(fused, site, experts.layout), Writer(f"{fused}_bias", site, "bias")]
    else:
        numbers = range(getattr(config, experts.count))
        found = [Writer(base + experts.each.format(number), site, "out_in") for number in numbers]
    if experts.shared and experts.shares and getattr(config, experts.shares):
        found += _linear(arch, config, site, experts.shared)
    return found


def _linear(arch: Architecture, config: Any, site: Site, path: str) -> list[Writer]:
    module, layout = f"{arch.layers}.{site.layer}.{path}", "in_out" if arch.transposed else "out_in"
    layouts: list[tuple[str, Any]] = [("weight", layout), ("bias", "bias")]
    passes = (arch.scale(config), 1.0, *_gain(arch, config, site))
    return [Writer(f"{module}.{name}", site, layout, *passes) for name, layout in layouts]


def _gain(arch: Architecture, config: Any, site: Site) -> tuple[str | None, float]:
    norm = arch.attn_post_norm if site.kind == "attn_out" else arch.mlp_post_norm
    if norm is None:
        return None, 0.0
    return f"{arch.layers}.{site.layer}.{norm}.weight", _GAIN_OFFSET.get(config.model_type, 0.0)


def _why_missing(missing: list[str], present: set[str]) -> str:
    packed = sorted(name for name in present if name.endswith(_QUANTISED))
    if packed:
        return f"the checkpoint is quantised ({packed[0]!r} in place of plain weights); dequantise it before the edit"
    return f"the checkpoint has no tensor {missing[0]!r} ({len(missing)} missing), so the fold would be partial"


def _refuse_quantised(found: list[Writer], present: set[str]) -> None:
    for writer in found:
        stem = writer.tensor.removesuffix(".weight")
        kinds = [kind for kind in _QUANTISED if stem + kind in present]
        if kinds:
            raise InterpError(f"{writer.tensor} is quantised ({kinds[0]} beside it); dequantise the checkpoint first")
