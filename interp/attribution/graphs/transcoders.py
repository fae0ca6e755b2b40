"""Sets of transcoders: one per layer, or a cross-layer one, read from a folder.

    interp, SAELens, sparsify   a folder with one, or with a folder for each layer (`SparseAutoencoder.load`)
    circuit-tracer              config.yaml, and layer_0.safetensors, … or W_enc_0.safetensors, W_dec_0.safetensors, …

circuit-tracer's decoder rows keep their norms, so that values of latents and edges are those that it shows.

Limitations: of circuit-tracer's files, those on disk are read, and only with one site of the stream or `mlp.hook_in`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.activations.columns import SiteColumns
from interp.core.config import plain_value
from interp.core.errors import InterpError
from interp.core.files import read_tensors
from interp.core.inputs import bounded_text
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.file_formats import detected_tool
from interp.sae.nonlinearities import JumpReLU

_CONFIG = "config.yaml"
_NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def load_transcoders(path: str | Path, model: HookedModel) -> list[SparseAutoencoder]:
    """Read a set of transcoders.

    Args:
        path: A folder of interp, SAELens or sparsify with one transcoder, or with a folder for each layer; or one of
            circuit-tracer, with its config.yaml.
        model: The model that they belong to. Files of other tools don't say which weights they were trained on.

    Returns:
        The transcoders, in the order of the layers that they read.

    Raises:
        InterpError: There are none, they are damaged or of another model, or a setting can't be read.

    Example:
        >>> interp.attribution.load_transcoders(tmp, model)
        Traceback (most recent call last):
        interp.core.errors.InterpError: ...
    """
    folder = Path(path)
    if (folder / _CONFIG).is_file():
        return _circuit_tracer(folder, model)
    inner = [item for item in folder.iterdir() if detected_tool(item)] if folder.is_dir() else []
    coders = [SparseAutoencoder.load(item, model) for item in inner or [folder]]
    return sorted(coders, key=lambda coder: Site.parse(coder.reads[0].site).order)


def _circuit_tracer(folder: Path, model: HookedModel) -> list[SparseAutoencoder]:
    settings = plain_value(bounded_text(folder / _CONFIG, "YAML"), str(folder / _CONFIG))
    kind = settings.get("model_kind") if isinstance(settings, dict) else None
    if kind not in ("transcoder_set", "cross_layer_transcoder"):
        expected = "expected transcoder_set or cross_layer_transcoder"
        raise InterpError(f"{folder / _CONFIG}: model_kind is {kind!r}; {expected}")
    sites = [_kind(str(settings.get(f"feature_{end}_hook")), folder, model) for end in ("input", "output")]
    try:
        if kind == "transcoder_set":
            layers = range(_count(folder, r"layer_(\d+)\.safetensors"))
            parts = [read_tensors(folder / f"layer_{layer}.safetensors") for layer in layers]
            return [_coder(x, range(n, n + 1), sites, model) for n, x in zip(layers, parts, strict=True)]
        layers = range(_count(folder, r"W_enc_(\d+)\.safetensors"))
        files = [folder / f"W_{part}_{layer}.safetensors" for layer in layers for part in ("enc", "dec")]
        tensors = {name: x for file in files for name, x in read_tensors(file).items()}
        _require_shapes(tensors, layers, model.d_model, folder)
        return [_coder(_joined(tensors, len(layers)), layers, sites, model)]
    except KeyError as missing:
        raise InterpError(f"{folder}: no tensor {missing} in its files; download them again") from None


def _kind(hook: str, folder: Path, model: HookedModel) -> str:
    """The kind of site of a hook. Where no norm follows the MLP, its raw output is its output."""
    if hook == "ln2.hook_normalized":
        raise InterpError(f"{folder}: it reads {hook}, before the gain of the norm, which is no site here")
    kind = Site.parse(f"blocks.0.{hook}").kind
    return "mlp_out" if kind == "mlp_raw" and Site(kind, 0) not in model.sites else kind


def _coder(x: Mapping[str, Tensor], layers: range, kinds: list[str], model: HookedModel) -> SparseAutoencoder:
    tensors: dict[str, Any] = {name: x[name].float() for name in _NAMES}
    tensors["W_skip"] = x["W_skip"].float() if "W_skip" in x else None
    threshold = x.get("activation_function.threshold", torch.zeros(x["b_enc"].numel())).float().flatten()
    reads, writes = (
        tuple(SiteColumns(site=f"{kind}.{layer}", model=model.reference, width=model.d_model) for layer in layers)
        for kind in kinds
    )
    return SparseAutoencoder(nonlinearity=JumpReLU(), reads=reads, writes=writes, threshold=threshold, **tensors)


def _require_shapes(x: Mapping[str, Tensor], layers: range, width: int, folder: Path) -> None:
    """Raise for a tensor of a cross-layer transcoder that has another shape than the rest and the model ask for."""
    size = x["b_enc_0"].numel()
    for layer in layers:
        shapes = {"W_enc": (size, width), "b_enc": (size,), "b_dec": (width,), "W_skip": (width, width)}
        for name, shape in (shapes | {"W_dec": (size, len(layers) - layer, width)}).items():
            tensor = x.get(f"{name}_{layer}") if name == "W_skip" else x[f"{name}_{layer}"]
            if tensor is not None and tensor.shape != shape:
                problem = f"{name}_{layer} has the shape {tuple(tensor.shape)}; expected {shape}"
                raise InterpError(f"{folder}: {problem}, so download it again, or load its own model")


def _joined(x: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The tensors of all layers of a cross-layer transcoder as one; its skip matrices come after what they multiply."""
    size, width = x["W_enc_0"].shape
    decoder = torch.zeros(layers, size, layers, width)
    for layer in range(layers):
        decoder[layer, :, layer:] = x[f"W_dec_{layer}"]
    joined = {name: torch.cat([x[f"{name}_{n}"] for n in range(layers)]) for name in ("W_enc", "b_enc", "b_dec")}
    if "threshold_0" in x:
        joined["activation_function.threshold"] = torch.cat([x[f"threshold_{n}"].flatten() for n in range(layers)])
    if "W_skip_0" in x:
        joined["W_skip"] = torch.block_diag(*(x[f"W_skip_{n}"].T for n in range(layers)))
    return joined | {"W_dec": decoder.flatten(0, 1).flatten(1)}


def _count(folder: Path, pattern: str) -> int:
    """The number of layers of the files with names of a pattern. Raises where one is missing."""
    layers = sorted(int(match[1]) for item in folder.iterdir() if (match := re.fullmatch(pattern, item.name)))
    if not layers or layers != list(range(len(layers))):
        raise InterpError(f"{folder}: it has files of the layers {layers}; expected one for each layer from 0 on")
    return len(layers)
