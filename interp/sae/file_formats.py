"""Files of autoencoders, read: those of interp, SAELens, sparsify, dictionary_learning and Gemma Scope.

    interp               a folder with sae.json and sae.safetensors
    SAELens              a folder with cfg.json and sae_weights.safetensors, transcoders too
    sparsify             a folder with cfg.json and sae.safetensors, transcoders too
    dictionary_learning  a folder with ae.pt and config.json
    Gemma Scope          a file params.npz, or a folder with it

`SparseAutoencoder.load` reads them all, and `interp.sae.format_writers` writes them.

What is read of another tool works on raw activations with one bias before the nonlinearity. A decoder bias that the
other tool subtracts from its input moves into the encoder's bias. A gate becomes a threshold; the two are equivalent
where they share their direction (Rajamanoharan et al. 2024, appendix). Decoder rows are scaled to norm one where that
changes nothing. Unknown fields that change the computation raise, by name. No pickled code is run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from interp.activations.columns import SiteColumns
from interp.core.errors import InterpError, first_line
from interp.core.files import read_json, sha256_file
from interp.models.identity import ModelReference
from interp.models.sites import Site
from interp.sae.config import SaeCard
from interp.sae.nonlinearities import JumpReLU, TopK

WEIGHTS = "sae.safetensors"
CARD = "sae.json"
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
OPTIONAL = ("threshold", "W_skip")
# The files by which each tool is known.
_FILES = {
    "interp": (CARD,),
    "SAELens": ("sae_weights.safetensors",),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "dictionary_learning": ("ae.pt",),
    "Gemma Scope": ("params.npz",),
}
_SAELENS = ("standard", "gated", "topk", "jumprelu")
# Transcoders of SAELens, and the kind of each.
_TRANSCODERS = {
    "transcoder": "standard",
    "skip_transcoder": "standard",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
# Settings of SAELens that change the computation, and the values under which it is the one here.
_SAELENS_SETTINGS = {
    "normalize_activations": ("none",),
    "reshape_activations": ("none", "hook_z"),  # heads side by side, as here
    "activation_fn": ("relu", "topk"),
    "activation_fn_str": ("relu", "topk"),
}
_GATED = ("b_gate", "b_mag", "r_mag")
_MATRICES = ("W_enc", "W_dec", "W_skip", "encoder.weight", "decoder.weight")


@dataclass(frozen=True)
class _Content:
    """The content of a file, under the names of `SparseAutoencoder`; a gate in place of the encoder's bias.

    `centred` means that the decoder's bias is subtracted from the input. The hooks are the sites that the file names.
    """

    tensors: dict[str, Tensor]
    nonlinearity: TopK | JumpReLU = field(default_factory=JumpReLU)
    centred: bool = False
    transcodes: bool = False
    hook: str | None = None
    hook_out: str | None = None

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


def read_files(
    path: Path, model: ModelReference | None, site: str | Site | None, writes: str | Site | None
) -> tuple[SaeCard, Mapping[str, Tensor]]:
    """The card and tensors of a saved autoencoder. The arguments are those of `SparseAutoencoder.load`."""
    where = path.parent if path.is_file() and path.suffix != ".npz" else path
    name = _tool(where)
    if name == "interp":
        return _read_interp(where, model, site, writes)
    label = f"{where} ({name})"
    if model is None:
        raise InterpError(f"{label} does not say which weights it was trained on; give the model (model=, --model)")
    content = _read_content(where, name, label)
    tensors = content.tensors
    if writes is not None and not content.transcodes:
        raise InterpError(f"{label} is not a transcoder, and writes is {writes}; leave it out")
    if bad := [tensor for tensor, values in tensors.items() if not values.isfinite().all()]:
        raise InterpError(f"{label}: {', '.join(bad)} hold NaN or infinite entries; download it again")
    reads = (_place(site or content.hook, "reads; give site=", tensors["W_enc"].shape[1], model, label),)
    written = reads
    if content.transcodes:
        written = (_place(writes or content.hook_out, "writes; give writes=", tensors["W_dec"].shape[1], model, label),)
    require_shapes(tensors, reads, written, label)
    # Elsewhere than in TopK, rows of norm one change nothing.
    scaled = tensors if isinstance(content.nonlinearity, TopK) else unit_rows(tensors)
    card = SaeCard(reads=reads, writes=written, nonlinearity=content.nonlinearity, config=None, metrics=None)
    return card, {name: x.float().contiguous() for name, x in scaled.items()}


def _tool(where: Path) -> str:
    """The tool whose files these are. Raises, with what was looked for, if there are none."""
    if (tool := _detected(where)) is not None:
        return tool
    inside = [item.name for item in (sorted(where.iterdir()) if where.is_dir() else ()) if _detected(item)]
    if inside:
        shown = ", ".join(inside[:6]) + (", …" if len(inside) > 6 else "")
        raise InterpError(f"{where}: the autoencoders are in folders of it ({shown}); give the path of one")
    known = "; ".join(f"{' and '.join(files)} ({name})" for name, files in _FILES.items())
    state = "no autoencoder there" if where.exists() else "no such file or folder"
    raise InterpError(f"{where}: {state}; looked for {known}")


def _detected(where: Path) -> str | None:
    if where.suffix == ".npz" and where.is_file():
        return "Gemma Scope"
    return next((name for name, files in _FILES.items() if all((where / file).is_file() for file in files)), None)


def _read_content(where: Path, name: str, label: str) -> _Content:
    """What the files of another tool hold, for raw activations. Errors begin with the label."""
    try:
        content = _READERS[name](where)
        return replace(content, tensors=content.folded())
    except InterpError as problem:
        raise InterpError(f"{label}: {problem}") from None
    except RuntimeError as problem:
        raise InterpError(
            f"{label}: its tensors do not go together ({first_line(problem)}); download it again"
        ) from None
    except (LookupError, TypeError, AttributeError, ValueError) as problem:
        # The settings of other tools may have any type, in any place.
        reason = f"{type(problem).__name__}: {problem}".replace("\n", " ")
        raise InterpError(f"{label}: its settings are not of this format ({reason}); expected {name}'s") from None


def _read_interp(
    where: Path, model: ModelReference | None, site: str | Site | None, writes: str | Site | None
) -> tuple[SaeCard, dict[str, Tensor]]:
    file = where / WEIGHTS
    record = SaeCard.parse(read_json(where / CARD), source=str(where / CARD))
    if not file.is_file() or sha256_file(file) != record.sha256:
        raise InterpError(f"{file}: missing or damaged (its SHA-256 differs from {CARD}); restore it")
    if site is not None or writes is not None:
        raise InterpError(f"{where / CARD} names the sites; leave site and writes out")
    if model is not None:
        for place in (*record.reads, *record.writes):
            place.model.check(model, "this SAE")
    try:
        tensors = safetensors.torch.load_file(file)
    except SafetensorError as problem:
        raise InterpError(f"{file}: not a valid safetensors file ({problem})") from None
    if set(tensors) - set(OPTIONAL) != set(TENSORS):
        raise InterpError(f"{file}: holds {', '.join(sorted(tensors))}; expected {', '.join(TENSORS)}")
    require_shapes(tensors, record.reads, record.writes, str(file))
    return record, tensors


def _place(site: str | Site | None, what: str, width: int, model: ModelReference, label: str) -> SiteColumns:
    if site is None:
        raise InterpError(f"{label} does not name the site that it {what}, such as resid_post.3")
    at = site if isinstance(site, Site) else Site.parse(site)
    if at.in_residual_basis and width != model.d_model:
        raise InterpError(f"{label} has width {width} at {at}, but {model.name} has d_model {model.d_model}")
    return SiteColumns(site=str(at), model=model, width=width)


def _read_saelens(folder: Path) -> _Content:
    """Today's layout, or older ones, whose settings are flat and whose hook_name is hook_point."""
    config, tensors = read_json(folder / "cfg.json"), _safetensors(folder / "sae_weights.safetensors")
    named = config.get("architecture", "standard")
    kind = _TRANSCODERS.get(named, named)
    if kind not in _SAELENS:
        raise InterpError(f"architecture {named!r} can't be read; known: {', '.join((*_SAELENS, *_TRANSCODERS))}")
    for key, known in _SAELENS_SETTINGS.items():
        if config.get(key) not in (None, *known):
            raise InterpError(f"{key} is {config[key]!r}, not {' or '.join(known)}; fold it into the weights first")
    names = ["W_enc", "W_dec", "b_dec", *(_GATED if kind == "gated" else ("b_enc",))]
    if kind == "jumprelu" or "threshold" in tensors:
        names.append("threshold")
    if "skip" in named:
        names.append("W_skip")
    content = _renamed(tensors, {name: name for name in names})
    if unknown := sorted(set(tensors) - {*names, "W_skip", "scaling_factor"}):
        raise InterpError(f"it holds {', '.join(unknown)}, which {named} does not use; it cannot be read exactly")
    content["W_enc"] = tensors["W_enc"].T
    if "scaling_factor" in tensors and config.get("finetuning_scaling_factor"):
        content["W_dec"] = tensors["W_dec"] * tensors["scaling_factor"][:, None]
    nonlinearity: TopK | JumpReLU = JumpReLU()
    if kind == "topk" or config.get("activation_fn_str") == "topk":
        nonlinearity = TopK(k=config.get("k", config.get("activation_fn_kwargs", {}).get("k")))
        if config.get("rescale_acts_by_decoder_norm"):
            # SAELens ranks latents by what they add, which equals their values for rows of norm one.
            content = unit_rows(content)
    metadata = config | config.get("metadata", {})
    hook, hook_out = metadata.get("hook_name", metadata.get("hook_point")), metadata.get("hook_name_out")
    centred = config.get("apply_b_dec_to_input", True) and named == kind
    return _Content(content, nonlinearity, centred, named != kind, hook, hook_out)


def _read_sparsify(folder: Path) -> _Content:
    config, tensors = read_json(folder / "cfg.json"), _safetensors(folder / "sae.safetensors")
    if config.get("activation", "topk") != "topk":
        raise InterpError(f"activation is {config['activation']!r}, but only 'topk' can be read")
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
    if config.get("skip_connection", False):
        names["W_skip"] = "W_skip"
    transcodes = config.get("transcode", False)
    return _Content(_renamed(tensors, names), TopK(k=config["k"]), not transcodes, transcodes)


def _read_dictionary_learning(folder: Path) -> _Content:
    tensors = _unpickled(folder / "ae.pt")
    kind = read_json(folder / "config.json").get("trainer", {}).get("dict_class", "")
    if "group_sizes" in tensors or "W_enc" in tensors:
        # Matryoshka subtracts the decoder's bias from its input, JumpReLU does not.
        return _Content(_jumprelu(tensors), centred="group_sizes" in tensors)
    names = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
    if "r_mag" in tensors:
        names |= {"b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
    else:
        names |= {"b_dec": "b_dec" if "b_dec" in tensors else "bias", "b_enc": "encoder.bias"}
        names |= {"threshold": "threshold"} if "threshold" in tensors else {}
    content = _renamed(tensors, names)
    content["W_dec"] = content["W_dec"].T
    ranks = "k" in tensors and "Batch" not in kind
    return _Content(content, TopK(k=int(tensors["k"])) if ranks else JumpReLU(), centred=True)


def _read_gemma_scope(path: Path) -> _Content:
    file = path if path.suffix == ".npz" else path / "params.npz"
    try:
        with np.load(file, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as problem:
        raise InterpError(f"{file.name} is not a plain npz file ({problem}); download it again") from None
    return _Content(_jumprelu(tensors))


_READERS: dict[str, Callable[[Path], _Content]] = {
    "SAELens": _read_saelens,
    "sparsify": _read_sparsify,
    "dictionary_learning": _read_dictionary_learning,
    "Gemma Scope": _read_gemma_scope,
}


def _jumprelu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a JumpReLU autoencoder, whose encoder is stored transposed."""
    content = _renamed(tensors, {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")})
    return content | {"W_enc": content["W_enc"].T}


def _renamed(tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors under their names here. Raises if one is missing, or if a matrix is not one."""
    if missing := [name for name in names.values() if name not in tensors]:
        raise InterpError(f"no tensor {', '.join(missing)}; it holds {', '.join(sorted(tensors))}")
    for name in names.values():
        if name in _MATRICES and tensors[name].ndim != 2:
            raise InterpError(f"{name} has shape {tuple(tensors[name].shape)}; expected two axes")
    return {name: tensors[there] for name, there in names.items()}


def _safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return {name: x.float() for name, x in safetensors.torch.load_file(file).items()}
    except (OSError, SafetensorError) as problem:
        raise InterpError(f"{file.name} is not a valid safetensors file ({problem}); download it again") from None


def _unpickled(file: Path) -> dict[str, Tensor]:
    """A state dict, read by torch's loader that runs no code."""
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # a pickle of more than tensors raises exceptions of any type
        reason = first_line(problem)
        raise InterpError(f"{file.name} holds more than tensors, or is damaged ({reason}); it is not read") from None
    if not isinstance(tensors, dict) or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise InterpError(f"{file.name} is not a dictionary of tensors; expected what dictionary_learning saves")
    return {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}


def require_shapes(
    tensors: Mapping[str, Tensor], reads: Sequence[SiteColumns], writes: Sequence[SiteColumns], where: str
) -> None:
    """Raise unless an autoencoder's tensors fit together; the error names the one that does not."""
    d_in, d_out = (sum(place.width for place in side) for side in (reads, writes))
    d_sae, d_read = tensors["W_enc"].shape
    if d_read != d_in and (d_sae % len(reads) or {place.width for place in reads} != {d_read}):
        raise InterpError(f"{where}: W_enc has shape {(d_sae, d_read)}; expected rows of width {d_in}")
    shapes = {"b_enc": (d_sae,), "W_dec": (d_sae, d_out), "b_dec": (d_out,), "threshold": (d_sae,)}
    for name, shape in (shapes | {"W_skip": (d_out, d_in)}).items():
        if name in tensors and (actual := tuple(tensors[name].shape)) != shape:
            raise InterpError(f"{where}: {name} has shape {actual}; expected {shape}, to go with W_enc")


def unit_rows(tensors: Mapping[str, Tensor], norms: Tensor | None = None) -> dict[str, Tensor]:
    """The same autoencoder with decoder rows divided by their norms, or by these, and latents multiplied by them."""
    norms = tensors["W_dec"].norm(dim=1).clamp(min=1e-12) if norms is None else norms
    scaled = {name: tensors[name] * norms for name in ("b_enc", "threshold") if name in tensors}
    rows = {"W_enc": tensors["W_enc"] * norms[:, None], "W_dec": tensors["W_dec"] / norms[:, None]}
    return {**tensors, **scaled, **rows}
