"""Undo: a patch beside an edited checkpoint, of low-rank factors, that brings the original weights back.

    original = edited + left right

computed in float64 and rounded once, so that each weight is the original one to within a rounding unit (of the larger
of the two, where the edit made it larger), or two where the edit was rounded with compensation, which shifts an entry
by half a unit first. For that the factors of 16-bit weights are kept in float32, and those of
float32 weights in float64. What the edit created is dropped, what it untied is tied, and config.json is the original
one. The patch takes a few percent of the checkpoint's size.

The folder's files have to be those that were written: of a changed weight it would make another model.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.files import new_folder, write_json
from interp.editing.certificate.manifest import PATCH, ExportManifest
from interp.editing.export.sources import WeightSource, open_source
from interp.editing.export.tensor_difference import factors
from interp.editing.export.weight_writer import TensorPiece, cut_shards, write_weights
from interp.editing.fold.plan import Plan
from interp.models.checkpoints.safetensors_file import TensorFile


def write_patch(folder: Path, source: WeightSource, plan: Plan) -> None:
    """Write the patch of a plan that `folder` has the result of. Raises where an edit has no low rank."""
    if plan.grown:
        raise InterpError("added neurons make tensors grow, for which there is no undo patch; keep the original")
    tensors: dict[str, Tensor] = {}
    for name, change in plan.changes.items():
        if name in plan.created:
            continue
        original = source.read(name)
        kept = torch.float32 if original.element_size() == 2 else torch.float64
        if original.ndim == 1:
            tensors[f"{name}.difference"] = (original.double() - change.apply(original.double())).to(kept)
        elif original.ndim == 2:
            found = factors(name, change, original)
            for end, factor in (("left", found.left), ("right", found.right)):
                tensors[f"{name}.{end}"] = factor.to(kept).contiguous()
        else:
            raise InterpError(f"{name} holds several experts, for which there is no undo patch; keep the original")
    dropped = [*plan.created, *([plan.unembedding] if plan.untie else [])]
    metadata = {"format": "pt", "dropped": json.dumps(dropped), "config": json.dumps(source.config_values)}
    save_file(tensors, folder / PATCH, metadata=metadata)


def undo(folder: str | Path, out: str | Path) -> None:
    """Write the original checkpoint again from an edited one and its patch. Raises where there is none."""
    path = Path(folder)
    if not (path / PATCH).is_file():
        raise InterpError(f"{path}: no {PATCH} in it, so the edit can't be undone; export with undo to have one")
    ExportManifest.at(path).check_files(path)
    patch, edited = TensorFile.open(path / PATCH), open_source(path)
    edited.refuse_overlap(Path(out))
    with new_folder(out) as staging:
        write_weights(cut_shards(_restored(edited, patch), None), staging)
        edited.write_companions(staging, {})
        config: dict[str, Any] = json.loads(patch.metadata["config"])
        write_json(staging / "config.json", config)


def _restored(edited: WeightSource, patch: TensorFile) -> Iterator[list[TensorPiece]]:
    dropped = set(json.loads(patch.metadata["dropped"]))
    for file in edited.files:
        kept = [piece for piece in file if piece.name not in dropped]
        if kept:
            yield [replace(piece, change=_added(piece.name, patch)) for piece in kept]


def _added(name: str, patch: TensorFile) -> partial[Tensor] | None:
    if f"{name}.difference" in patch.entries:
        return partial(_plus, patch, f"{name}.difference", None)
    if f"{name}.left" in patch.entries:
        return partial(_plus, patch, f"{name}.left", f"{name}.right")
    return None


def _plus(patch: TensorFile, first: str, second: str | None, tensor: Tensor) -> Tensor:
    """The tensor plus the product, in its own type; in pieces of rows, since float64 takes four times bfloat16."""
    left, right = patch.read(first).double(), patch.read(second).double() if second else None
    for start in range(0, len(tensor), 4096):
        part = tensor[start : start + 4096]
        added = left[start : start + 4096]
        part.copy_(part.double() + (added if right is None else added @ right))
    return tensor
