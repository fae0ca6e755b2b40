"""Autoencoders of other tools, read and written: SAELens, sparsify, dictionary_learning, Gemma Scope.

    SAELens              a folder with cfg.json and sae_weights.safetensors         read and written
    sparsify             a folder with cfg.json and sae.safetensors                 read and written (topk)
    dictionary_learning  a folder with ae.pt and config.json                        read
    Gemma Scope          a file params.npz                                          read

What is read becomes an autoencoder on raw activations with one bias before the nonlinearity: a decoder bias that the
other tool takes off its input moves into the encoder's, a gate becomes a threshold (the two are one where they share
their direction: Rajamanoharan et al. 2024, appendix), and decoder rows are given norm one where that changes nothing.
Fields that change what is computed and are not known here are refused by name; nothing pickled is run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from interp.core.errors import InterpError, nearest
from interp.core.files import new_folder, read_json, write_json
from interp.models.reference import ModelReference
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder, require_shapes
from interp.sae.nonlinearities import JumpReLU, TopK

_SAELENS = ("standard", "gated", "topk", "jumprelu")
_GATED = ("b_gate", "b_mag", "r_mag")


def read(path: str | Path, model: ModelReference, site: str | Site | None = None) -> SparseAutoencoder:
    """An autoencoder of another tool, which its files tell. `model` and `site` are what it belongs to.

    `site` may be left out where the file names a TransformerLens hook. Raises for files of no known tool, for kinds
    that can't be represented exactly (transcoders, group maxima, normalised inputs), and for missing or misshapen
    tensors.
    """
    where = Path(path)
    name = next((name for name, (detect, _) in _READERS.items() if detect(where)), None)
    if name is None:
        raise InterpError(f"{where}: not a file or folder of {', '.join(_READERS)}; give one that is")
    try:
        tensors, nonlinearity, hook = _READERS[name][1](where)
    except RuntimeError as problem:
        reason = str(problem).partition("\n")[0]
        raise InterpError(f"{where} ({name}): its tensors do not go together ({reason}); download it again") from None
    at = site or hook
    if at is None:
        raise InterpError(f"{where} ({name}) does not say where in the model it reads; give site=, say resid_post.3")
    at = at if isinstance(at, Site) else Site.parse(at)
    if at.in_residual_basis and (width := tensors["W_dec"].shape[1]) != model.d_model:
        raise InterpError(f"{where} has width {width} at {at}, but {model.name} has d_model {model.d_model}")
    require_shapes(tensors, str(where))
    # TopK ranks latents by size, so its rows stay as they are; elsewhere rows of norm one change nothing.
    found = tensors if isinstance(nonlinearity, TopK) else _with_unit_rows(tensors)
    plain: dict[str, Any] = {name: x.float().contiguous() for name, x in found.items()}
    return SparseAutoencoder(**plain, nonlinearity=nonlinearity, site=at, model=model)


def write_saelens(sae: SparseAutoencoder, folder: str | Path) -> None:
    """Write an autoencoder as SAELens reads it (`SAE.load_from_disk`), into a new folder."""
    config: dict[str, Any] = {
        "architecture": sae.nonlinearity.kind,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"model_name": sae.model.name, "hook_name": sae.site.hook_name},
    }
    if isinstance(sae.nonlinearity, TopK):
        config |= {"k": sae.nonlinearity.k, "rescale_acts_by_decoder_norm": False}
    tensors = sae.tensors()
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    with new_folder(folder) as out:
        write_json(out / "cfg.json", config)
        safetensors.torch.save_file(tensors, out / "sae_weights.safetensors")


def write_sparsify(sae: SparseAutoencoder, folder: str | Path) -> None:
    """Write a TopK autoencoder as sparsify reads it (`SparseCoder.load_from_disk`), into a new folder."""
    if not isinstance(sae.nonlinearity, TopK):
        raise InterpError(f"sparsify has no {sae.nonlinearity.kind} autoencoders; write it for saelens")
    tensors = sae.tensors()
    named = {
        "encoder.weight": tensors["W_enc"],
        # It takes the decoder's bias off its input, which its encoder's bias makes up for.
        "encoder.bias": tensors["b_enc"] + tensors["W_enc"] @ tensors["b_dec"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    config = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": sae.d_sae,
        "k": sae.nonlinearity.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": sae.d_in,
    }
    with new_folder(folder) as out:
        write_json(out / "cfg.json", config)
        safetensors.torch.save_file(named, out / "sae.safetensors")


WRITERS: dict[str, Callable[[SparseAutoencoder, str | Path], None]] = {
    "interp": lambda sae, folder: sae.save(folder),
    "saelens": write_saelens,
    "sparsify": write_sparsify,
}


def write(sae: SparseAutoencoder, folder: str | Path, kind: str) -> None:
    """Write an autoencoder in the format of a tool, by its name."""
    if kind not in WRITERS:
        raise InterpError(f"format {kind!r} can't be written; {nearest(kind, WRITERS)}")
    WRITERS[kind](sae, folder)


Found = tuple[dict[str, Tensor], TopK | JumpReLU, str | None]


def _read_saelens(folder: Path) -> Found:
    config, tensors = read_json(folder / "cfg.json"), _safetensors(folder / "sae_weights.safetensors")
    kind = config.get("architecture", "standard")
    if kind not in _SAELENS:
        raise InterpError(f"{folder}: architecture {kind!r} can't be read; known: {', '.join(_SAELENS)}")
    for name in ("normalize_activations", "reshape_activations"):
        if config.get(name, "none") != "none":
            raise InterpError(f"{folder}: {name} is {config[name]!r}, which is not in the weights; fold it there first")
    if config.get("activation_fn", config.get("activation_fn_str", "relu")) not in ("relu", "topk"):
        raise InterpError(f"{folder}: activation {config.get('activation_fn', config.get('activation_fn_str'))!r}")
    gated = kind == "gated"
    needed = ("W_enc", "W_dec", "b_dec", *(_GATED if gated else ("b_enc",)))
    _require(folder, tensors, (*needed, "threshold") if kind == "jumprelu" else needed)
    W_enc, b_dec = tensors["W_enc"].T, tensors["b_dec"]
    shift = W_enc @ b_dec if config.get("apply_b_dec_to_input", True) else torch.zeros(len(W_enc))
    hook = config.get("metadata", {}).get("hook_name", config.get("hook_name"))
    common = {"W_dec": tensors["W_dec"], "b_dec": b_dec}
    if gated:
        return _gated(W_enc, shift, tensors) | common, JumpReLU(), hook
    common |= {"W_enc": W_enc, "b_enc": tensors["b_enc"] - shift}
    if kind == "topk" or config.get("activation_fn_str") == "topk":
        k = config.get("k", config.get("activation_fn_kwargs", {}).get("k"))
        if config.get("rescale_acts_by_decoder_norm"):
            # It ranks latents by what they add, as rows of norm one do by themselves.
            common = _with_unit_rows(common)
        return common, TopK(k=k), hook
    return common | {"threshold": tensors.get("threshold", torch.zeros(len(W_enc))).relu()}, JumpReLU(), hook


def _read_sparsify(folder: Path) -> Found:
    config, tensors = read_json(folder / "cfg.json"), _safetensors(folder / "sae.safetensors")
    for name, plain in (("activation", "topk"), ("transcode", False), ("skip_connection", False)):
        if config.get(name, plain) != plain:
            raise InterpError(f"{folder}: {name} is {config[name]!r}, and only {plain!r} can be read")
    _require(folder, tensors, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"))
    W_enc, b_dec = tensors["encoder.weight"], tensors["b_dec"]
    b_enc = tensors["encoder.bias"] - W_enc @ b_dec
    return {"W_enc": W_enc, "b_enc": b_enc, "W_dec": tensors["W_dec"], "b_dec": b_dec}, TopK(k=config["k"]), None


def _read_dictionary_learning(folder: Path) -> Found:
    tensors = _unpickled(folder / "ae.pt")
    kind = read_json(folder / "config.json").get("trainer", {}).get("dict_class", "")
    if "group_sizes" in tensors or "W_enc" in tensors:
        _require(folder, tensors, ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"))
        W_enc, b_dec = tensors["W_enc"].T, tensors["b_dec"]
        # Matryoshka takes the decoder's bias off its input, JumpReLU does not.
        shift = W_enc @ b_dec if "group_sizes" in tensors else 0
        threshold = tensors["threshold"].expand(len(W_enc)).relu()
        common = {"W_enc": W_enc, "b_enc": tensors["b_enc"] - shift, "W_dec": tensors["W_dec"], "b_dec": b_dec}
        return common | {"threshold": threshold}, JumpReLU(), None
    _require(folder, tensors, ("encoder.weight", "decoder.weight"))
    W_enc, W_dec = tensors["encoder.weight"], tensors["decoder.weight"].T
    if "r_mag" in tensors:
        _require(folder, tensors, ("decoder_bias", "gate_bias", "mag_bias"))
        gates = {"b_gate": tensors["gate_bias"], "b_mag": tensors["mag_bias"], "r_mag": tensors["r_mag"]}
        b_dec = tensors["decoder_bias"]
        return _gated(W_enc, W_enc @ b_dec, gates) | {"W_dec": W_dec, "b_dec": b_dec}, JumpReLU(), None
    bias = "b_dec" if "b_dec" in tensors else "bias"
    _require(folder, tensors, (bias, "encoder.bias"))
    b_dec = tensors[bias]
    common = {"W_enc": W_enc, "b_enc": tensors["encoder.bias"] - W_enc @ b_dec, "W_dec": W_dec, "b_dec": b_dec}
    if "k" in tensors and "Batch" not in kind:
        return common, TopK(k=int(tensors["k"])), None
    threshold = tensors.get("threshold", torch.zeros(())).expand(len(W_enc)).relu()
    return common | {"threshold": threshold}, JumpReLU(), None


def _read_gemma_scope(file: Path) -> Found:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
    except (OSError, ValueError) as problem:
        raise InterpError(f"{file}: not a plain npz file ({problem}); download it again") from None
    _require(file, tensors, ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"))
    common = {name: tensors[name] for name in ("b_enc", "W_dec", "b_dec")}
    return common | {"W_enc": tensors["W_enc"].T, "threshold": tensors["threshold"].relu()}, JumpReLU(), None


_READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Found]]] = {
    "SAELens": (lambda path: (path / "sae_weights.safetensors").is_file(), _read_saelens),
    "sparsify": (lambda path: (path / "cfg.json").is_file() and (path / "sae.safetensors").is_file(), _read_sparsify),
    "dictionary_learning": (lambda path: (path / "ae.pt").is_file(), _read_dictionary_learning),
    "Gemma Scope": (lambda path: path.suffix == ".npz" and path.is_file(), _read_gemma_scope),
}


def _gated(W_enc: Tensor, shift: Tensor, gates: dict[str, Tensor]) -> dict[str, Tensor]:
    """A gate as a threshold: it is open where the magnitude is above what it is at the gate's edge."""
    growth = gates["r_mag"].exp()
    threshold = (gates["b_mag"] - growth * gates["b_gate"]).relu()
    return {"W_enc": W_enc * growth[:, None], "b_enc": gates["b_mag"] - growth * shift, "threshold": threshold}


def _with_unit_rows(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    norms = tensors["W_dec"].norm(dim=1).clamp(min=1e-12)
    scaled = {name: tensors[name] * norms for name in ("b_enc", "threshold") if name in tensors}
    rows = {"W_enc": tensors["W_enc"] * norms[:, None], "W_dec": tensors["W_dec"] / norms[:, None]}
    return tensors | scaled | rows


def _require(where: Path, tensors: dict[str, Tensor], names: tuple[str, ...]) -> None:
    if missing := [name for name in names if name not in tensors]:
        raise InterpError(f"{where}: no tensor {', '.join(missing)}; it holds {', '.join(sorted(tensors))}")


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return {name: x.float() for name, x in safetensors.torch.load_file(file).items()}
    except (OSError, SafetensorError) as problem:
        raise InterpError(f"{file}: not a valid safetensors file ({problem}); download it again") from None


def _unpickled(file: Path) -> dict[str, Tensor]:
    """A state dict, by torch's loader that runs nothing."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # a pickle that wants more than tensors raises whatever it likes
        reason = str(problem).strip().partition("\n")[0]
        raise InterpError(f"{file}: holds more than tensors, or is damaged ({reason}); it is not read") from None
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise InterpError(f"{file}: not a dictionary of tensors; expected what dictionary_learning saves")
    return {name: x.float() if x.is_floating_point() else x for name, x in found.items()}
