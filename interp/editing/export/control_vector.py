"""Control vectors: `Add` at residual sites as a GGUF file, which llama.cpp applies while it runs (--control-vector).

One tensor a layer, `direction.N`, is added to the stream behind layer N. The format has none behind layer 0, and knows
no positions, gates or other ops: a recipe with such is refused. Needs the extra `gguf`.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.files import new_file
from interp.interventions.ops import Add
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site, resolve

ARCHITECTURE = "controlvector"
_KINDS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def export_control_vector(recipe: Recipe, model: HookedModel | ModelReference, out: str | Path) -> list[int]:
    """Write the file; returns the layers it adds to. `model` says the type and how many layers there are."""
    if find_spec("gguf") is None:
        raise InterpError("writing GGUF needs the package gguf; pip install 'interp[gguf]'")
    from gguf import GGUFWriter

    reference = model.reference if isinstance(model, HookedModel) else model
    recipe.check(reference)
    vectors = _vectors(recipe, reference.n_layers)
    with new_file(out) as staging:
        writer = GGUFWriter(staging, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", reference.model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", reference.n_layers)
        for layer, vector in sorted(vectors.items()):
            writer.add_tensor(f"direction.{layer}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return sorted(vectors)


def read_control_vector(file: str | Path) -> dict[int, Float[Tensor, "d_model"]]:
    """Vectors by layer, from a file of ours or of repeng's."""
    if find_spec("gguf") is None:
        raise InterpError(f"{file}: reading GGUF needs the package gguf; pip install 'interp[gguf]'")
    from gguf import GGUFReader

    try:
        tensors: Iterable[Any] = GGUFReader(file).tensors
    except (OSError, ValueError) as problem:
        raise InterpError(f"{file}: not a GGUF file that can be read ({problem})") from None
    found = {t.name: torch.from_numpy(t.data.copy()) for t in tensors}
    if not found or not all(name.startswith("direction.") for name in found):
        raise InterpError(f"{file}: holds {', '.join(found) or 'nothing'}; expected tensors named direction.LAYER")
    return {int(name.removeprefix("direction.")): vector for name, vector in found.items()}


def _vectors(recipe: Recipe, n_layers: int) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    known = [Site("embed"), *(Site(kind, layer) for layer in range(n_layers) for kind in _KINDS)]
    for edit in recipe.edits:
        if not isinstance(edit.op, Add) or edit.op.relative:
            raise InterpError(
                f"a control vector adds constants, and {type(edit.op).__name__} at {', '.join(edit.sites)} is none; "
                "export a checkpoint, or steer with Add"
            )
        for site in resolve(edit.sites, known):
            if site.kind != "resid_post" or not site.layer:
                raise InterpError(
                    f"a control vector is added behind layers 1 to {n_layers - 1} (resid_post.1 and on), not at {site}"
                )
            found[site.layer] = found.get(site.layer, torch.zeros(len(edit.op.vector))) + edit.op.scale * edit.op.vector
    return found
