"""Undo: a patch of low-rank factors next to an edited checkpoint, which restores the original weights.

    original = edited + left right

computed in float64 and rounded once. Each weight is then the original one to within a rounding unit (of the larger of
the two, where the edit made it larger), or two units where the edit was rounded with compensation, which first shifts
an entry by half a unit. For this the factors of 16-bit weights are stored in float32, and those of float32 weights in
float64. What the edit created is dropped, what it untied is tied, and config.json is the original one. Where the export
cast the weights to another type, they return in that type, which config.json then names; in a narrower type, what
returns is the original rounded to it, and `undo` says so. The patch takes a few percent of the checkpoint's size,
and as much memory while it is written.

The folder's files have to be those that were written: a changed weight would give a different model. A manifest that
was rewritten with them is not noticed by that, so `undo` compares what it restored with the base that the manifest
names, and says where the digests (of the values as bfloat16) differ. Rounding alone can make them differ.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from interp.core.config import Config
from interp.core.errors import InterpError, note
from interp.core.files import new_folder, write_json, write_tensors
from interp.core.inputs import parse_json
from interp.editing.certificate.manifest import PATCH, ExportManifest
from interp.editing.export._tensor_difference import factors
from interp.editing.export.identity import Unknown, checkpoint_digests
from interp.editing.export.sources import WeightSource, open_source
from interp.editing.export.weight_writer import TensorPiece, cut_shards, write_weights
from interp.editing.fold.plan import Plan
from interp.models.checkpoints.safetensors_file import DTYPES, TensorFile
from interp.models.identity import ModelReference
from interp.models.loading import dtype_of


def _known_dtype(name: str) -> str:
    if name not in DTYPES:
        raise ValueError(f"{name!r} is no dtype of safetensors; expected one of {', '.join(DTYPES)}")
    return name


class _Settings(Config):
    """What a patch holds beside factors: tensors to drop, the original config.json, and the types of its weights."""

    dropped: tuple[str, ...] = Field(strict=False)
    config: dict[str, Any]
    dtypes: tuple[Annotated[str, AfterValidator(_known_dtype)], ...] = Field((), strict=False)


def write_patch(folder: Path, source: WeightSource, plan: Plan) -> None:
    """Write the patch of a plan into a folder that has its result. Raises where a change does not have a low rank."""
    if plan.grown:
        raise InterpError("added neurons make tensors grow, for which there is no undo patch; keep the original")
    tensors: dict[str, Tensor] = {}
    for name, change in plan.changes.items():
        if name in plan.created:
            continue
        original = source.read(name)
        wide = torch.float32 if original.element_size() == 2 else torch.float64
        if original.ndim == 1:
            tensors[f"{name}.difference"] = (original.double() - change.apply(original.double())).to(wide)
        elif original.ndim == 2:
            pair = factors(name, change, original)
            for end, factor in (("left", pair.left), ("right", pair.right)):
                tensors[f"{name}.{end}"] = factor.to(wide).contiguous()
        else:
            raise InterpError(f"{name} holds several experts, for which there is no undo patch; keep the original")
    dropped = [*plan.created, *([plan.unembedding] if plan.untie else [])]
    dtypes = sorted({piece.dtype for piece in source.pieces.values()})
    values = {"dropped": dropped, "config": source.config_values, "dtypes": dtypes}
    write_tensors(folder / PATCH, tensors, {"format": "pt", **{name: json.dumps(x) for name, x in values.items()}})


def undo(folder: str | Path, out: str | Path) -> None:
    """Restore the original checkpoint from an edited one and its undo patch.

    Args:
        folder: A checkpoint that was exported with `undo=True`.
        out: The new folder for the original checkpoint.

    Raises:
        InterpError: The folder has no patch, one of its files was changed, or `out` exists.

    Example:
        >>> from interp.editing import export_streamed
        >>> recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> manifest = export_streamed(recipe, model, tmp / "edited", undo=True)
        >>> interp.undo(tmp / "edited", tmp / "original")
        >>> interp.load(tmp / "original").digest == model.digest
        True
    """
    path = Path(folder)
    if not (path / PATCH).is_file():
        raise InterpError(f"{path}: no {PATCH} in it, so the edit cannot be undone; export with undo=True (--undo)")
    manifest = ExportManifest.at(path)
    manifest.check_files(path)
    patch, edited = TensorFile.open(path / PATCH), open_source(path)
    texts = {name: text for name, text in patch.metadata.items() if name != "format"}
    values = {name: parse_json(text, patch.path, constants=True) for name, text in texts.items()}
    settings = _Settings.parse(values, str(patch.path))
    edited.refuse_overlap(Path(out))
    with new_folder(out) as staging:
        write_weights(cut_shards(_restored(edited, patch, settings), None), staging)
        edited.write_companions(staging)
        write_json(staging / "config.json", _config(settings, manifest.made.cast))
        _compare(open_source(staging), manifest.base)


def _compare(restored: WeightSource, base: ModelReference) -> None:
    """Say where the weights that return are not, as far as bfloat16 shows, those of the base."""
    try:
        digest = checkpoint_digests(restored).storage
    except Unknown:
        digest = "unknown"
    if digest != base.fits:
        note(
            f"what returns is the base to within rounding only if the patch is what the export wrote: its weights have "
            f"the digest {digest[:12]}, those of the base {base.fits[:12] or 'unknown'}; compare it with the base"
        )


def _config(settings: _Settings, cast: torch.dtype | None) -> dict[str, Any]:
    """The original config.json, with the dtype that the restored weights have; a note reports a narrower one."""
    config = dict(settings.config)
    if cast is None:
        return config
    before = config.pop("torch_dtype", None) or config.get("dtype")
    originals = [DTYPES[name] for name in settings.dtypes] or [dtype_of(str(before or "float32"))]
    name = str(cast).removeprefix("torch.")
    if any(x.is_floating_point and torch.promote_types(x, cast) != cast for x in originals):
        note(f"the export cast the weights to {name}, so what returns is the original rounded to {name}")
    return config | {"dtype": name}


def _restored(edited: WeightSource, patch: TensorFile, settings: _Settings) -> Iterator[list[TensorPiece]]:
    names = {key.rpartition(".")[0] for key in patch.entries} | set(settings.dropped)
    if unknown := sorted(names - set(edited.pieces)):
        raise InterpError(f"{patch.path}: it names {unknown[0]}, which {edited.name} does not have; export again")
    for file in edited.files:
        kept = [piece for piece in file if piece.name not in settings.dropped]
        if kept:
            yield [replace(piece, change=_added(piece, patch)) for piece in kept]


def _added(piece: TensorPiece, patch: TensorFile) -> partial[Tensor] | None:
    ends = [end for end in ("difference", "left", "right") if f"{piece.name}.{end}" in patch.entries]
    if not ends:
        return None
    shapes, whole = [patch.entries[f"{piece.name}.{end}"].shape for end in ends], piece.source_shape
    rank = shapes[0][-1:]
    if shapes != {"difference": [whole], "left right": [whole[:1] + rank, rank + whole[1:]]}.get(" ".join(ends)):
        given = ", ".join(f"{end} {list(shape)}" for end, shape in zip(ends, shapes, strict=True))
        raise InterpError(f"{patch.path}: {piece.name} {list(whole)} is not restored by {given}; export again")
    return partial(_plus, patch, [f"{piece.name}.{end}" for end in ends])


def _plus(patch: TensorFile, keys: list[str], tensor: Tensor) -> Tensor:
    """The tensor plus the product, in its own type; by rows, since float64 takes four times the memory of bfloat16."""
    left, *right = (patch.read(key).double() for key in keys)
    for start in range(0, len(tensor), 4096):
        part = tensor[start : start + 4096]
        added = left[start : start + 4096]
        part.copy_(part.double() + (added @ right[0] if right else added))
    return tensor
