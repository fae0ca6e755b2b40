"""Files of lenses: our own folder, the folder of tuned-lens, and the file of a Jacobian lens."""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from interp.core.config import Config
from interp.core.display import brief
from interp.core.errors import InterpError
from interp.core.files import read_json, read_pickle, read_tensors
from interp.directions.direction import residual_sites
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site

MARK, TENSORS = "lens.json", "lens.safetensors"
# How numpy prints where nothing is set.
_PRINTED: dict[str, Any] = {"edgeitems": 3, "threshold": 1000, "linewidth": 75, "suppress": False}


class LensRecord(Config):
    """What a saved lens is, beside its tensors."""

    kind: Literal["logit", "tuned", "jacobian"] = Field(description="kind of lens")
    model: ModelReference = Field(description="the model that it was fitted in")
    data: str = Field("", description="digest of what it was fitted on")
    settings: dict[str, int | float] = Field({}, description="how it was fitted")


def read(
    path: Path, model: HookedModel, accept: Collection[str]
) -> tuple[LensRecord, dict[Site, Tensor], dict[Site, Tensor]]:
    """The record, W and b by site, from any of the formats. Raises where they do not fit the model."""
    if path.is_file():
        record, tensors = _jacobian_file(path, model, accept)
    elif (path / "params.pt").is_file():
        record, tensors = _tuned_lens(path, model, accept)
    elif (path / MARK).is_file():
        record, tensors = LensRecord.parse(read_json(path / MARK), str(path / MARK)), read_tensors(path / TENSORS)
        record.model.check(model.reference, f"{path}: this lens")
    else:
        raise InterpError(f"{path}: no lens in it; expected {MARK} (lens.save writes it), params.pt, or a file")
    maps: dict[str, dict[Site, Tensor]] = {"weight": {}, "bias": {}}
    identity = torch.eye(model.d_model)  # which a lens adds, and the J of a file has in it
    for name, x in tensors.items():
        place, _, part = name.rpartition(".")
        (site,), shape = residual_sites(model, Site.parse(place)), (model.d_model,) * (1 if part == "bias" else 2)
        if part not in maps or not isinstance(x, Tensor) or tuple(x.shape) != shape or not torch.isfinite(x).all():
            raise InterpError(f"{path}: {name} is {brief(x)}; expected finite numbers of shape {shape}")
        if site == Site("resid_post", model.n_layers - 1):
            raise InterpError(f"{path}: holds {site}, the last layer, which a lens leaves as it is")
        maps[part][site] = x.float() - identity if path.is_file() else x.float()
    if not maps["weight"] or maps["bias"].keys() - maps["weight"].keys():
        raise InterpError(f"{path}: a weight is missing; it holds {', '.join(tensors) or 'nothing'}")
    return record, maps["weight"], maps["bias"]


def _tuned_lens(path: Path, model: HookedModel, accept: Collection[str]) -> tuple[LensRecord, dict[str, Any]]:
    """The folder of tuned-lens: translator i reads what block i reads, and W x + b is added to that."""
    config, stored = read_json(path / "config.json"), read_pickle(path / "params.pt")
    sites = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(model.n_layers - 1))]
    names = {f"{layer}.{part}": f"{site}.{part}" for layer, site in enumerate(sites) for part in ("weight", "bias")}
    if not (isinstance(config, dict) and isinstance(stored, dict) and stored.keys() <= names.keys()):
        raise InterpError(f"{path}: expected a config of tuned-lens and its translators 0 to {model.n_layers - 1}")
    if (kind := config.get("lens_type", "linear_tuned_lens")) != "linear_tuned_lens":
        raise InterpError(f"{path}: its lens_type is {kind!r}; only linear_tuned_lens can be read")
    ours, theirs = unembedding_hash(model), config.get("unembed_hash")
    if theirs != ours and "unembed_hash" not in accept:
        raise InterpError(
            f"{path}: this lens was trained for {config.get('base_model_name_or_path')}, with the unembed_hash "
            f"{str(theirs)[:12]}, but {model.name} has {ours[:12]}; if they are one model, accept unembed_hash"
        )
    return LensRecord(kind="tuned", model=model.reference), {names[name]: x for name, x in stored.items()}


def _jacobian_file(path: Path, model: HookedModel, accept: Collection[str]) -> tuple[LensRecord, dict[str, Any]]:
    """The file of a Jacobian lens: the matrices J by layer, read after each block."""
    stored = read_pickle(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("J"), dict):
        raise InterpError(f"{path}: not the file of a Jacobian lens; expected its matrices by layer under J")
    if "model" not in accept:
        raise InterpError(f"{path}: does not say which model it is of; if it is {model.name}, accept model")
    record = LensRecord(kind="jacobian", model=model.reference, settings={"prompts": stored.get("n_prompts", 0)})
    return record, {f"resid_post.{layer}.weight": x for layer, x in stored["J"].items()}


def unembedding_hash(model: HookedModel) -> str:
    """The hash by which tuned-lens knows a model: SHA-256 of numpy's text of the unembedding, to one digit."""
    weight = model.hf.get_output_embeddings().weight.detach().float().cpu().numpy()
    with np.printoptions(**_PRINTED):
        return hashlib.sha256(np.array_str(weight, precision=1).encode()).hexdigest()
