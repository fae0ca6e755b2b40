"""Autoencoders in the files of other tools, as their tools compute them: tensors under one set of names.

`interp.sae.file_formats` makes them autoencoders of this model and its sites.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.files import read_json, read_pickle, read_tensors
from interp.sae._settings import loading_options, require_sizes, unknown_keys
from interp.sae.nonlinearities import JumpReLU, TopK

_GATED = ("b_gate", "b_mag", "r_mag")
_SAELENS = {  # architecture: its tensors beside W_enc, W_dec and b_dec
    "standard": ("b_enc",),
    "gated": _GATED,
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "transcoder": ("b_enc",),
    "skip_transcoder": ("b_enc", "W_skip"),
    "jumprelu_transcoder": ("b_enc", "threshold"),
    "jumprelu_skip_transcoder": ("b_enc", "threshold", "W_skip"),
}
# Settings of SAELens that change the computation, and the values under which it is the one here.
_SAELENS_SETTINGS = {
    "normalize_activations": ("none", False),
    "reshape_activations": ("none", "hook_z"),  # heads side by side, as here
    "activation_fn": ("relu", "topk"),
    "activation_fn_str": ("relu", "topk"),
    "hook_head_index": (),
    "hook_head_index_out": (),
    "hook_point_head_index": (),
    "model_kwargs": ({},),
}
_SAELENS_READ = (
    *_SAELENS_SETTINGS, "architecture", "d_in", "d_sae", "d_out", "k", "apply_b_dec_to_input", "activation_fn_kwargs",
    "rescale_acts_by_decoder_norm", "finetuning_scaling_factor", "metadata", "model_name", "hook_name", "hook_point",
    "hook_name_out", "prepend_bos", "model_from_pretrained_kwargs", "center_writing_weights", "fold_ln",
)  # fmt: skip
_DICTIONARIES = (
    "AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "GatedAutoEncoder", "JumpReluAutoEncoder",
    "MatryoshkaBatchTopKSAE",
)  # fmt: skip
_NAMES = {  # names of tensors in sparsify and dictionary_learning: those of `SparseAutoencoder`
    "encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec", "bias": "b_dec",
    "decoder_bias": "b_dec", "gate_bias": "b_gate", "mag_bias": "b_mag",
}  # fmt: skip
_TRANSPOSED = ("W_enc", "decoder.weight")
_NO_TENSORS = ("scaling_factor", "k", "group_sizes", "threshold")  # that are read elsewhere, or not needed


@dataclass(frozen=True)
class ToolContent:
    """The content of a file, under the names of `SparseAutoencoder`; a gate in place of the encoder's bias.

    `centred` means that the decoder's bias is subtracted from the input, `rescales` that TopK ranks latents by what
    they add, which equals their values for rows of norm one. The hooks are the sites that the file names,
    `model` is the key and the name of the model, `loading` how TransformerLens loaded it, `doubts` what is in doubt.
    """

    tensors: dict[str, Tensor]
    nonlinearity: TopK | JumpReLU = field(default_factory=JumpReLU)
    centred: bool = False
    transcodes: bool = False
    rescales: bool = False
    hook_key: str = "hook_name"
    hook: str | None = None
    hook_out: str | None = None
    model: tuple[str, Any] = ("model_name", None)
    loading: Mapping[str, Any] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)

    def folded(self) -> dict[str, Tensor]:
        """The tensors for raw activations, with one bias before the nonlinearity."""
        tensors, W_enc = dict(self.tensors), self.tensors["W_enc"]
        shift = W_enc @ tensors["b_dec"] if self.centred else torch.zeros(len(W_enc))
        if "r_mag" in tensors:
            # A gate as a threshold: it is open where the magnitude exceeds its value at the gate's edge.
            gate, magnitude, growth = (tensors.pop(name) for name in _GATED)
            growth = growth.exp()
            threshold = (magnitude - growth * gate).relu()
            rows, bias = W_enc * growth[:, None], magnitude - growth * shift
            return tensors | {"W_enc": rows, "b_enc": bias, "threshold": threshold}
        tensors["b_enc"] = tensors["b_enc"] - shift
        threshold = tensors.pop("threshold", torch.zeros(()))
        if isinstance(self.nonlinearity, TopK):
            return tensors  # TopK ranks latents by size, so its rows stay as they are
        return tensors | {"threshold": threshold.expand(len(W_enc)).relu()}


def _read_saelens(folder: Path) -> ToolContent:
    """Today's layout, or older ones, whose settings are flat and whose hook_name is hook_point."""
    config, tensors = read_json(folder / "cfg.json"), _safetensors(folder / "sae_weights.safetensors")
    named = config.get("architecture", "standard")
    if named not in _SAELENS:
        raise InterpError(f"architecture {named!r} can't be read; known: {', '.join(_SAELENS)}")
    if (transcodes := named.endswith("transcoder")) and config.get("apply_b_dec_to_input"):
        raise InterpError(f"a {named} with apply_b_dec_to_input can't be read; expected one without it")
    metadata = config | config.get("metadata", {})
    for key, known in _SAELENS_SETTINGS.items():
        if metadata.get(key) not in (None, *known):
            expected = " or ".join(map(str, known)) or "none"
            raise InterpError(f"{key} is {metadata[key]!r}; expected {expected}: fold it into the weights first")
    content = _content(tensors, _SAELENS[named], named)
    require_sizes(config, d_sae=len(tensors["W_dec"]), d_in=len(tensors["W_enc"]), d_out=tensors["W_dec"].shape[1])
    if (factor := tensors.get("scaling_factor", torch.ones(()))).ne(1).any():
        if not config.get("finetuning_scaling_factor"):
            raise InterpError("it holds scaling_factor, but finetuning_scaling_factor is not true; drop the wrong one")
        content["W_dec"] = tensors["W_dec"] * factor[:, None]
    doubts = unknown_keys(config, _SAELENS_READ)
    if metadata.get("prepend_bos") is False:
        doubts["prepend_bos"] = "prepend_bos is false, so it was trained on text without a beginning token"
    return ToolContent(
        content,
        _saelens_nonlinearity(config, named),
        centred=config.get("apply_b_dec_to_input", True) and not transcodes,
        transcodes=transcodes,
        rescales=bool(config.get("rescale_acts_by_decoder_norm")),
        hook=metadata.get("hook_name", metadata.get("hook_point")),
        hook_out=metadata.get("hook_name_out"),
        model=("model_name", metadata.get("model_name")),
        loading=loading_options(config),
        doubts=doubts,
    )


def _saelens_nonlinearity(config: Mapping[str, Any], named: str) -> TopK | JumpReLU:
    """Raises for settings of topk where it is none, and for two values of k."""
    kwargs, rescales = config.get("activation_fn_kwargs") or {}, config.get("rescale_acts_by_decoder_norm")
    k = config.get("k", kwargs.get("k"))
    ranks = named == "topk" or "topk" in (config.get("activation_fn"), config.get("activation_fn_str"))
    foreign = named not in ("topk", "standard") if ranks else kwargs or rescales
    if foreign or kwargs not in ({}, {"k": k}):
        settings = f"k {k!r}, activation_fn_kwargs {kwargs!r} and rescale_acts_by_decoder_norm {rescales!r}"
        raise InterpError(f"architecture {named!r} with {settings}; expected one k, for topk alone")
    return TopK(k=k) if ranks else JumpReLU()


def _read_sparsify(folder: Path) -> ToolContent:
    config, tensors = read_json(folder / "cfg.json"), _safetensors(folder / "sae.safetensors")
    if config.get("activation", "topk") != "topk":
        raise InterpError(f"activation is {config['activation']!r}, but only 'topk' can be read")
    transcodes, skip = config.get("transcode", False), ("W_skip",) if config.get("skip_connection") else ()
    content = _content(tensors, ("b_enc", *skip))
    require_sizes(config, num_latents=len(content["W_enc"]), d_in=content["W_enc"].shape[1])
    doubts = unknown_keys(config, ("activation", "k", "d_in", "num_latents", "skip_connection", "transcode"))
    return ToolContent(content, TopK(k=config["k"]), not transcodes, transcodes, doubts=doubts)


def _read_dictionary_learning(folder: Path) -> ToolContent:
    tensors, config = _unpickled(folder / "ae.pt"), read_json(folder / "config.json")
    trainer = config.get("trainer", {})
    kind, origin = trainer.get("dict_class", ""), _origin(trainer, config.get("buffer", {}))
    if kind not in ("", *_DICTIONARIES):
        raise InterpError(f"dict_class {kind!r} can't be read; known: {', '.join(_DICTIONARIES)}")
    plain = "W_enc" in tensors  # JumpReLU, or Matryoshka: of these, JumpReLU does not subtract b_dec from its input
    needed = _GATED if "r_mag" in tensors else ("b_enc", "threshold") if plain else ("b_enc",)
    content, k = _content(tensors, needed), 0 if plain else int(tensors.get("k", 0))
    require_sizes(trainer, dict_size=len(content["W_enc"]), activation_dim=content["W_enc"].shape[1], k=k)
    nonlinearity = TopK(k=k) if k and "Batch" not in kind else JumpReLU()
    return ToolContent(content, nonlinearity, centred=not plain or "group_sizes" in tensors, **origin)


def _origin(trainer: Mapping[str, Any], buffer: Mapping[str, Any]) -> dict[str, Any]:
    """The hook, the model and the doubts that dictionary_learning's settings give."""
    read = ("dict_class", "activation_dim", "dict_size", "k", "layer", "lm_name", "submodule_name")
    doubts, layer = unknown_keys(trainer, read), trainer.get("layer")
    name = trainer.get("submodule_name") or (None if layer is None else f"resid_post_layer_{layer}")
    place = re.fullmatch(r"(resid_(?:pre|mid|post)|attn_out|mlp_out)_layer_(\d+)", str(name))
    if buffer.get("io", "out") != "out":
        doubts["io"] = f"io is {buffer['io']!r}, so it was trained on the input of {name}"
    hook = f"{place[1]}.{place[2]}" if place else name
    return {"hook_key": "submodule_name", "hook": hook, "model": ("lm_name", trainer.get("lm_name")), "doubts": doubts}


def _read_gemma_scope(path: Path) -> ToolContent:
    file = path if path.suffix == ".npz" else path / "params.npz"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as problem:
        raise InterpError(f"{file.name} is not a plain npz file ({problem}); download it again") from None
    return ToolContent(_content(tensors, ("b_enc", "threshold")))


# By tool: the files by which its autoencoders are known, and what reads their folder.
TOOLS: dict[str, tuple[tuple[str, ...], Callable[[Path], ToolContent]]] = {
    "SAELens": (("sae_weights.safetensors",), _read_saelens),
    "sparsify": (("cfg.json", "sae.safetensors"), _read_sparsify),
    "dictionary_learning": (("ae.pt",), _read_dictionary_learning),
    "Gemma Scope": (("params.npz",), _read_gemma_scope),
}


def _content(tensors: dict[str, Tensor], needed: Sequence[str], tool: str = "its tool") -> dict[str, Tensor]:
    """Encoder, decoder and the tensors needed beside them, and a threshold if there is one, named and laid out as here.

    Raises for a tensor that is missing or not used, and for a matrix that does not have two axes.
    """
    content, unknown, needed = dict[str, Tensor](), set(tensors) - {*_NO_TENSORS}, ("W_enc", "W_dec", "b_dec", *needed)
    for name, x in tensors.items():
        here = _NAMES.get(name, name)
        if here in (*needed, "threshold") and here not in content:
            if here.startswith("W_") and x.ndim != 2:
                raise InterpError(f"{name} has shape {tuple(x.shape)}; expected two axes")
            content[here] = x.T if name in _TRANSPOSED else x
            unknown.discard(name)
    if missing := [name for name in needed if name not in content]:
        raise InterpError(f"no tensor {', '.join(missing)}; it holds {', '.join(sorted(tensors))}")
    if unknown:
        names = ", ".join(sorted(unknown))
        raise InterpError(f"it holds {names}, which {tool} does not use; it cannot be read exactly")
    return content


def _safetensors(file: Path) -> dict[str, Tensor]:
    return {name: x.float() for name, x in read_tensors(file).items()}


def _unpickled(file: Path) -> dict[str, Tensor]:
    """A state dict, read by torch's loader that runs no code."""
    tensors = read_pickle(file)
    if not isinstance(tensors, dict) or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise InterpError(f"{file.name} is not a dictionary of tensors; expected what dictionary_learning saves")
    return {name: x.float() for name, x in tensors.items()}
