"""Autoencoders of other tools, read: SAELens, sparsify, dictionary_learning, Gemma Scope.

    SAELens              a folder with cfg.json and sae_weights.safetensors, transcoders too
    sparsify             a folder with cfg.json and sae.safetensors, transcoders too
    dictionary_learning  a folder with ae.pt and config.json
    Gemma Scope          a file params.npz, or a folder with it

`interp.sae.format_writers` writes them.

An autoencoder that is read works on raw activations with one bias before the nonlinearity. A decoder bias that the
other tool subtracts from its input moves into the encoder's bias. A gate becomes a threshold; the two are equivalent
where they share their direction (Rajamanoharan et al. 2024, appendix). Decoder rows are scaled to norm one where that
changes nothing. Unknown fields that change the computation raise, by name. No pickled code is run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from interp.activations.columns import SiteColumns
from interp.core.errors import InterpError
from interp.core.files import read_json
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder, require_shapes, unit_rows
from interp.sae.nonlinearities import JumpReLU, TopK

_SAELENS = ("standard", "gated", "topk", "jumprelu")
# Transcoders of SAELens, and the kind of each.
_TRANSCODERS = {
    "transcoder": "standard",
    "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_GATED = ("b_gate", "b_mag", "r_mag")


@dataclass(frozen=True)
class _Content:
    """The content of a file; `hook` and `hook_out` are the sites that it names, for a transcoder or not."""

    tensors: dict[str, Tensor]
    nonlinearity: TopK | JumpReLU
    hook: str | None = None
    hook_out: str | None = None
    transcodes: bool = False


def read_autoencoder(
    path: str | Path, model: ModelReference, site: str | Site | None = None, writes: str | Site | None = None
) -> SparseAutoencoder:
    """Read an autoencoder of another tool; its files show which.

    Args:
        path: A folder, or a file of Gemma Scope.
        model: The model that it belongs to, such as `model.reference`.
        site: The site that it reads; needed only if the file names no TransformerLens hook.
        writes: The site that it writes, for transcoders only.

    Raises:
        InterpError: The tool is unknown, the kind cannot be represented exactly (group maxima, normalised inputs), or
            tensors are missing, misshapen or not finite.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import SparseAutoencoder, TopK, read_autoencoder, write_autoencoder
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> write_autoencoder(sae, tmp / "saelens", "saelens")
        >>> read_autoencoder(tmp / "saelens", model.reference)
        <autoencoder of resid_post.1: 4 latents, kind='topk' k=1, width 192>
    """
    where = Path(path)
    name = next((name for name, (detect, _) in _READERS.items() if detect(where)), None)
    if name is None:
        raise InterpError(f"{where}: not a file or folder of {', '.join(_READERS)}; give one of these")
    try:
        content = _READERS[name][1](where)
    except InterpError:
        raise
    except RuntimeError as problem:
        reason = str(problem).partition("\n")[0]
        raise InterpError(f"{where} ({name}): its tensors do not go together ({reason}); download it again") from None
    except (LookupError, TypeError, AttributeError, ValueError) as problem:
        # The settings of other tools may have any type, in any place.
        reason = f"{type(problem).__name__}: {problem}".replace("\n", " ")
        raise InterpError(
            f"{where} ({name}): its settings are not of this format ({reason}); expected {name}'s"
        ) from None
    if writes is not None and not content.transcodes:
        raise InterpError(f"{where} ({name}) is not a transcoder, and writes is {writes}; leave it out")
    tensors = content.tensors
    if bad := [tensor for tensor, values in tensors.items() if not values.isfinite().all()]:
        raise InterpError(f"{where} ({name}): {', '.join(bad)} hold NaN or infinite entries; download it again")
    for side in ("W_enc", "W_dec"):
        if tensors[side].ndim != 2:
            raise InterpError(f"{where} ({name}): {side} has shape {tuple(tensors[side].shape)}; expected two axes")
    reads = (_place(site or content.hook, "reads; give site=", tensors["W_enc"].shape[1], model, f"{where} ({name})"),)
    written = reads
    if content.transcodes:
        label = f"{where} ({name})"
        written = (_place(writes or content.hook_out, "writes; give writes=", tensors["W_dec"].shape[1], model, label),)
    require_shapes(tensors, reads, written, str(where))
    # TopK ranks latents by size, so its rows stay as they are; elsewhere rows of norm one change nothing.
    scaled = tensors if isinstance(content.nonlinearity, TopK) else unit_rows(tensors)
    named: dict[str, Any] = {name: x.float().contiguous() for name, x in scaled.items()}
    return SparseAutoencoder(**named, nonlinearity=content.nonlinearity, reads=reads, writes=written)


def _place(site: str | Site | None, what: str, width: int, model: ModelReference, where: str) -> SiteColumns:
    if site is None:
        raise InterpError(f"{where} does not name the site that it {what}, such as resid_post.3")
    at = site if isinstance(site, Site) else Site.parse(site)
    if at.in_residual_basis and width != model.d_model:
        raise InterpError(f"{where} has width {width} at {at}, but {model.name} has d_model {model.d_model}")
    return SiteColumns(site=str(at), model=model, width=width)


def _read_saelens(folder: Path) -> _Content:
    """Today's layout, or older ones, whose settings are flat and whose hook_name is hook_point."""
    config, tensors = read_json(folder / "cfg.json"), _safetensors(folder / "sae_weights.safetensors")
    named = config.get("architecture", "standard")
    kind = _TRANSCODERS.get(named, named)
    if kind not in _SAELENS:
        raise InterpError(
            f"{folder}: architecture {named!r} can't be read; known: {', '.join((*_SAELENS, *_TRANSCODERS))}"
        )
    if config.get("normalize_activations") not in (None, "none"):
        raise InterpError(
            f"{folder}: normalize_activations is {config['normalize_activations']!r}, which is not in the weights; "
            "fold it there first"
        )
    if config.get("reshape_activations", "none") not in ("none", "hook_z"):  # heads side by side, as here
        raise InterpError(f"{folder}: reshape_activations is {config['reshape_activations']!r}, which is not known")
    if config.get("activation_fn", config.get("activation_fn_str", "relu")) not in ("relu", "topk"):
        raise InterpError(f"{folder}: activation {config.get('activation_fn', config.get('activation_fn_str'))!r}")
    gated = kind == "gated"
    needed = ("W_enc", "W_dec", "b_dec", *(_GATED if gated else ("b_enc",)))
    _require(folder, tensors, (*needed, "threshold") if kind == "jumprelu" else needed)
    if unknown := sorted(set(tensors) - {*needed, "threshold", "W_skip", "scaling_factor"}):
        raise InterpError(
            f"{folder}: holds {', '.join(unknown)}, which {named} does not use; it cannot be read exactly"
        )
    W_enc, W_dec, b_dec = tensors["W_enc"].T, tensors["W_dec"], tensors["b_dec"]
    if "scaling_factor" in tensors and config.get("finetuning_scaling_factor"):
        W_dec = W_dec * tensors["scaling_factor"][:, None]
    shifts = config.get("apply_b_dec_to_input", True) and named == kind
    shift = W_enc @ b_dec if shifts else torch.zeros(len(W_enc))
    common = {"W_dec": W_dec, "b_dec": b_dec}
    if "skip" in named:
        _require(folder, tensors, ("W_skip",))
        common["W_skip"] = tensors["W_skip"]
    metadata = config | config.get("metadata", {})
    hook, hook_out = metadata.get("hook_name", metadata.get("hook_point")), metadata.get("hook_name_out")

    def content(tensors: dict[str, Tensor], nonlinearity: TopK | JumpReLU) -> _Content:
        return _Content(tensors, nonlinearity, hook, hook_out, named != kind)

    if gated:
        return content(_gated(W_enc, shift, tensors) | common, JumpReLU())
    common |= {"W_enc": W_enc, "b_enc": tensors["b_enc"] - shift}
    if kind == "topk" or config.get("activation_fn_str") == "topk":
        k = config.get("k", config.get("activation_fn_kwargs", {}).get("k"))
        if config.get("rescale_acts_by_decoder_norm"):
            # SAELens ranks latents by what they add, which equals their values for rows of norm one.
            common = unit_rows(common)
        return content(common, TopK(k=k))
    return content(common | {"threshold": tensors.get("threshold", torch.zeros(len(W_enc))).relu()}, JumpReLU())


def _read_sparsify(folder: Path) -> _Content:
    config, tensors = read_json(folder / "cfg.json"), _safetensors(folder / "sae.safetensors")
    if config.get("activation", "topk") != "topk":
        raise InterpError(f"{folder}: activation is {config['activation']!r}, but only 'topk' can be read")
    skips, transcodes = config.get("skip_connection", False), config.get("transcode", False)
    _require(folder, tensors, ("encoder.weight", "encoder.bias", "W_dec", "b_dec", *(("W_skip",) if skips else ())))
    W_enc, b_dec, b_enc = tensors["encoder.weight"], tensors["b_dec"], tensors["encoder.bias"]
    if not transcodes:
        b_enc = b_enc - W_enc @ b_dec
    named = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": tensors["W_dec"], "b_dec": b_dec}
    if skips:
        named["W_skip"] = tensors["W_skip"]
    return _Content(named, TopK(k=config["k"]), transcodes=transcodes)


def _read_dictionary_learning(folder: Path) -> _Content:
    tensors = _unpickled(folder / "ae.pt")
    kind = read_json(folder / "config.json").get("trainer", {}).get("dict_class", "")
    if "group_sizes" in tensors or "W_enc" in tensors:
        _require(folder, tensors, ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"))
        W_enc, b_dec = tensors["W_enc"].T, tensors["b_dec"]
        # Matryoshka subtracts the decoder's bias from its input, JumpReLU does not.
        shift = W_enc @ b_dec if "group_sizes" in tensors else 0
        threshold = tensors["threshold"].expand(len(W_enc)).relu()
        common = {"W_enc": W_enc, "b_enc": tensors["b_enc"] - shift, "W_dec": tensors["W_dec"], "b_dec": b_dec}
        return _Content(common | {"threshold": threshold}, JumpReLU())
    _require(folder, tensors, ("encoder.weight", "decoder.weight"))
    W_enc, W_dec = tensors["encoder.weight"], tensors["decoder.weight"].T
    if "r_mag" in tensors:
        _require(folder, tensors, ("decoder_bias", "gate_bias", "mag_bias"))
        gates = {"b_gate": tensors["gate_bias"], "b_mag": tensors["mag_bias"], "r_mag": tensors["r_mag"]}
        b_dec = tensors["decoder_bias"]
        return _Content(_gated(W_enc, W_enc @ b_dec, gates) | {"W_dec": W_dec, "b_dec": b_dec}, JumpReLU())
    bias = "b_dec" if "b_dec" in tensors else "bias"
    _require(folder, tensors, (bias, "encoder.bias"))
    b_dec = tensors[bias]
    common = {"W_enc": W_enc, "b_enc": tensors["encoder.bias"] - W_enc @ b_dec, "W_dec": W_dec, "b_dec": b_dec}
    if "k" in tensors and "Batch" not in kind:
        return _Content(common, TopK(k=int(tensors["k"])))
    threshold = tensors.get("threshold", torch.zeros(())).expand(len(W_enc)).relu()
    return _Content(common | {"threshold": threshold}, JumpReLU())


def _npz(path: Path) -> Path:
    """The file itself, or the one in a folder."""
    return path if path.suffix == ".npz" else path / "params.npz"


def _read_gemma_scope(path: Path) -> _Content:
    file = _npz(path)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as problem:
        raise InterpError(f"{file}: not a plain npz file ({problem}); download it again") from None
    _require(file, tensors, ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"))
    common = {name: tensors[name] for name in ("b_enc", "W_dec", "b_dec")}
    return _Content(common | {"W_enc": tensors["W_enc"].T, "threshold": tensors["threshold"].relu()}, JumpReLU())


_READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], _Content]]] = {
    "SAELens": (lambda path: (path / "sae_weights.safetensors").is_file(), _read_saelens),
    "sparsify": (lambda path: (path / "cfg.json").is_file() and (path / "sae.safetensors").is_file(), _read_sparsify),
    "dictionary_learning": (lambda path: (path / "ae.pt").is_file(), _read_dictionary_learning),
    "Gemma Scope": (lambda path: _npz(path).is_file(), _read_gemma_scope),
}


def _gated(W_enc: Tensor, shift: Tensor, gates: dict[str, Tensor]) -> dict[str, Tensor]:
    """A gate as a threshold: it is open where the magnitude exceeds its value at the gate's edge."""
    growth = gates["r_mag"].exp()
    threshold = (gates["b_mag"] - growth * gates["b_gate"]).relu()
    return {"W_enc": W_enc * growth[:, None], "b_enc": gates["b_mag"] - growth * shift, "threshold": threshold}


def _require(where: Path, tensors: dict[str, Tensor], names: tuple[str, ...]) -> None:
    if missing := [name for name in names if name not in tensors]:
        raise InterpError(f"{where}: no tensor {', '.join(missing)}; it holds {', '.join(sorted(tensors))}")


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return {name: x.float() for name, x in safetensors.torch.load_file(file).items()}
    except (OSError, SafetensorError) as problem:
        raise InterpError(f"{file}: not a valid safetensors file ({problem}); download it again") from None


def _unpickled(file: Path) -> dict[str, Tensor]:
    """A state dict, read by torch's loader that runs no code."""
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # a pickle of more than tensors raises exceptions of any type
        reason = str(problem).strip().partition("\n")[0]
        raise InterpError(f"{file}: holds more than tensors, or is damaged ({reason}); it is not read") from None
    if not isinstance(tensors, dict) or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise InterpError(f"{file}: not a dictionary of tensors; expected what dictionary_learning saves")
    return {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}
