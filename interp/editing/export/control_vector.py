"""Control vectors and steering: recipes as files that other programs apply at run time.

    GGUF            llama.cpp (--control-vector) and EasySteer: a tensor per layer, `direction.N`, added after layer N.
                    There is none for layer 0. Needs the extra `gguf`.
    vllm-lens       the fields of its SteeringVector (PyPI, vllm-lens 1.3) as JSON: a row per layer, in base64
    interp-engine   what its server and its `SteeringWire` take as "steering" (PyPI, interp-engine 1.14), as JSON: for
                    each edit the ops by layer at one point

The first two add vectors after layers. The last has `Add`, `Project` and `Cap`, in the residual stream and at what
attention and MLP write. None has positions or gates, so a recipe with these is refused.
"""

from base64 import b64encode
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.files import new_file, write_json
from interp.interventions.affine_ops import Add, Cap, Project
from interp.interventions.op import Op
from interp.interventions.recipe import Recipe
from interp.models import HookedModel, ModelReference
from interp.models.architectures.table import architecture_of_type, normalises_outputs
from interp.models.sites import Site, resolve

ARCHITECTURE = "controlvector"
_KINDS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def export_control_vector(
    recipe: Recipe, model: HookedModel | ModelReference, out: str | Path, overwrite: bool = False
) -> list[int]:
    """Write added vectors as a control vector for llama.cpp.

    Args:
        recipe: A recipe of `Add` ops at resid_post sites from layer 1 on.
        model: The model, or its reference, which has its type and number of layers.
        out: The new GGUF file.
        overwrite: Replace a control vector.

    Returns:
        The layers to which vectors are added.

    Raises:
        InterpError: The recipe has another op or site, the package gguf is missing, or `out` exists.

    Example:
        >>> from interp.editing import export_control_vector, read_control_vector
        >>> recipe = interp.Recipe([("resid_post.2", interp.Add(torch.ones(model.d_model)))])
        >>> export_control_vector(recipe, model, tmp / "steer.gguf")
        [2]
        >>> {layer: tuple(vector.shape) for layer, vector in read_control_vector(tmp / "steer.gguf").items()}
        {2: (192,)}
    """
    gguf = _gguf()
    reference = _checked(recipe, model)
    vectors = _vectors(recipe, reference.n_layers)
    if overwrite and Path(out).is_file():
        read_control_vector(out)
    with new_file(out, overwrite) as staging:
        writer = gguf.GGUFWriter(staging, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", reference.model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", reference.n_layers)
        for layer, vector in sorted(vectors.items()):
            writer.add_tensor(f"direction.{layer}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return sorted(vectors)


def export_vllm_lens(
    recipe: Recipe, model: HookedModel | ModelReference, out: str | Path, overwrite: bool = False
) -> list[int]:
    """Write added vectors as a steering vector of vllm-lens, whose `SteeringVector.model_validate` takes the JSON.

    Args:
        recipe: A recipe of `Add` ops at resid_post sites.
        model: The model, or its reference.
        out: The new JSON file.
        overwrite: Replace a file.

    Returns:
        The layers to which vectors are added.

    Raises:
        InterpError: The recipe has another op or site, or `out` exists.

    Example:
        >>> from interp.editing import export_vllm_lens
        >>> recipe = interp.Recipe([("resid_post.2", interp.Add(torch.ones(model.d_model)))])
        >>> export_vllm_lens(recipe, model, tmp / "steer.json")
        [2]
    """
    reference = _checked(recipe, model)
    vectors = _vectors(recipe, reference.n_layers, first=0)
    rows = torch.stack([vectors[layer].float() for layer in sorted(vectors)])
    values = {
        "activations": _payload(rows),
        "layer_indices": sorted(vectors),
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
    }
    with new_file(out, overwrite) as staging:
        write_json(staging, values)
    return sorted(vectors)


def export_interp_engine(
    recipe: Recipe, model: HookedModel | ModelReference, out: str | Path, overwrite: bool = False
) -> list[int]:
    """Write a recipe as steering of interp-engine: what a request to its server has under "steering".

    Args:
        recipe: A recipe of `Add`, `Project` and `Cap` ops in the residual stream; where no norm, factor or position
            embedding comes between, also at the embedding, attn_out and mlp_out, so also at the writers.
        model: The model, or its reference.
        out: The new JSON file.
        overwrite: Replace a file.

    Returns:
        The layers that are steered.

    Raises:
        InterpError: The recipe has another op or site, or `out` exists.

    Example:
        >>> from interp.editing import export_interp_engine
        >>> recipe = interp.Recipe([("resid_post.2", interp.Project(torch.ones(model.d_model)))])
        >>> export_interp_engine(recipe, model, tmp / "engine.json")
        [2]
    """
    reference = _checked(recipe, model)
    steering = list[dict[str, Any]]()
    for edit in recipe.edits:
        operations, points = _engine_operations(edit.op), dict[str, dict[int, Any]]()
        for site in resolve(edit.sites, _sites(reference.n_layers)):
            if not (site.kind.startswith("resid") or _writes_plainly(reference.model_type)):
                place = f"{site} of a {reference.model_type} model at another place than this recipe"
                raise InterpError(f"interp-engine has {place}; edit resid_post instead, or export a checkpoint")
            points.setdefault("embeddings" if site.kind == "embed" else site.kind, {})[site.layer or 0] = operations
        steering += [{"point": point, "layers": layers} for point, layers in points.items()]
    with new_file(out, overwrite) as staging:
        write_json(staging, steering)
    return sorted({layer for spec in steering for layer in spec["layers"]})


def _writes_plainly(model_type: str) -> bool:
    """Whether the stream is the sum of one embedding and what attention and MLP put out, as they put it out."""
    row = architecture_of_type(model_type)
    return not (row.pos_embed or row.embed_norm or row.write_scale or normalises_outputs(model_type))


def _engine_operations(op: Op) -> list[dict[str, Any]]:
    """An op as interp-engine's, which have one vector each: projections along orthonormal rows follow each other."""
    if isinstance(op, Add) and not op.relative:
        return [{"method": "additive", "vector": _payload(op.vector), "scale": op.scale}]
    if isinstance(op, Project):
        kept = {"method": "ablate"} if op.scale == 1 else {"method": "orthogonal", "coeff": 1 - op.scale}
        return [{**kept, "vector": _payload(row)} for row in op.rows]
    if isinstance(op, Cap):
        return [{"method": "projection_cap", "vector": _payload(op.row), "min": op.low, "max": op.high}]
    name = type(op).__name__
    raise InterpError(f"interp-engine adds constants, projects and caps; {name} does not: export a checkpoint instead")


def _payload(values: Float[Tensor, "..."]) -> dict[str, Any]:
    """A tensor as vllm-lens and interp-engine read it from JSON."""
    data = b64encode(values.float().numpy().astype("<f4").tobytes()).decode()
    return {"data": data, "dtype": "float32", "shape": list(values.shape)}


def read_control_vector(file: str | Path) -> dict[int, Float[Tensor, "d_model"]]:
    """Read a control vector file, of interp or of repeng.

    Args:
        file: A GGUF file with tensors named `direction.LAYER`.

    Returns:
        The vector that is added after each layer, by layer.

    Raises:
        InterpError: The file cannot be read, or holds other tensors.

    Example:
        >>> from interp.editing import read_control_vector
        >>> read_control_vector("steer.gguf")[2].shape  # doctest: +SKIP
        torch.Size([192])
    """
    gguf = _gguf()
    try:
        tensors = gguf.GGUFReader(file).tensors
    except (OSError, ValueError) as problem:
        raise InterpError(f"{file}: not a GGUF file that can be read ({problem})") from None
    named = {t.name: torch.from_numpy(t.data.copy()) for t in tensors}
    if not named or not all(name.startswith("direction.") for name in named):
        raise InterpError(f"{file}: holds {', '.join(named) or 'nothing'}; expected tensors named direction.LAYER")
    return {int(name.removeprefix("direction.")): vector for name, vector in named.items()}


def _gguf() -> Any:
    if find_spec("gguf") is None:
        raise InterpError("GGUF files need the package gguf; pip install 'interp[gguf]'")
    return import_module("gguf")


def _checked(recipe: Recipe, model: HookedModel | ModelReference) -> ModelReference:
    """The model's reference. Raises if the recipe is not for it."""
    reference = model.reference if isinstance(model, HookedModel) else model
    recipe.check(reference)
    return reference


def _sites(n_layers: int) -> list[Site]:
    return [Site("embed"), *(Site(kind, layer) for layer in range(n_layers) for kind in _KINDS)]


def _vectors(recipe: Recipe, n_layers: int, first: int = 1) -> dict[int, Tensor]:
    vectors: dict[int, Tensor] = {}
    for edit in recipe.edits:
        if not isinstance(edit.op, Add) or edit.op.relative:
            op = type(edit.op).__name__
            raise InterpError(f"a control vector adds constants, and {op} does not; export a checkpoint instead")
        for site in resolve(edit.sites, _sites(n_layers)):
            if site.kind != "resid_post" or site.layer is None or site.layer < first:
                raise InterpError(f"a control vector is added after layers (resid_post.{first} and on), not at {site}")
            before = vectors.get(site.layer, torch.zeros(len(edit.op.vector)))
            vectors[site.layer] = before + edit.op.scale * edit.op.vector
    return vectors
