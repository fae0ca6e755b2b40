"""Identity: the digest of a checkpoint's weights, as the loaded model has it, without loading the model.

`HookedModel.digest` hashes names, shapes and values (as bfloat16) of the loaded model, in name order. Which tensors
those are, and what those of the files are called in it, transformers says itself: by a model without weights made of
the checkpoint's config, and by its own table of names. Experts that it stacks are hashed one behind the other, which is
the stack. So memory does not grow with the model.

What it does not do: follow transformers where it rearranges a tensor's values at load. There the digest is not to be
had this way, and `Unknown` names the tensor.
"""

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.core.errors import InterpError
from interp.editing.export.sources import ModelSource, WeightSource
from interp.editing.export.weight_writer import TensorPiece, compute_shard
from interp.editing.fold.steps import UNEMBEDDING
from interp.interventions.recipe import Recipe
from interp.models.checkpoints.remote_files import RemoteFile
from interp.models.checkpoints.safetensors_file import DTYPES, as_bytes
from interp.models.identity import ModelReference

_CHUNK = 1 << 20  # bytes; a multiple of every type's size, and small enough to be hashed in the processor's cache
_FAR = 32 << 20  # a request takes its time, whatever its size


class Unknown(InterpError):
    """The digest can't be told without loading the model."""


def checkpoint_digest(source: WeightSource, pieces: Mapping[str, TensorPiece]) -> str:
    """The digest of a checkpoint's weights, given each of its tensors. Raises `Unknown` where only loading would tell.

    The pieces are the checkpoint's own, or copies of them that are nearer.
    """
    whole = hashlib.sha256()
    for name, shape, parts in sorted(_assembled(source, pieces)):
        whole.update(f"{name}{list(shape)}".encode())
        for part in parts:
            for values in _values(pieces[part]):
                whole.update(as_bytes(values.to(torch.bfloat16).contiguous()))
    return whole.hexdigest()


def identified(source: WeightSource) -> str:
    """The digest of a source's weights. Raises `Unknown` as `digest` does."""
    every = {piece.name: piece for file in source.files for piece in file}
    return source.model.digest if isinstance(source, ModelSource) else checkpoint_digest(source, every)


def require_base(
    recipe: Recipe, source: WeightSource, pieces: Mapping[str, TensorPiece] | None = None
) -> ModelReference:
    """The base model, by its digest if the recipe names one. Raises where that is another model's.

    Where only loading would tell the digest it is left empty, and a warning says so. `pieces` are as for `digest`.
    """
    reference = source.reference(recipe.model)
    recipe.check(reference)
    if isinstance(source, ModelSource) or not reference.digest:
        return reference
    try:
        found = checkpoint_digest(source, pieces) if pieces else identified(source)
    except Unknown as problem:
        warnings.warn(f"{problem}; so it was not compared with the recipe's but by type and shape", stacklevel=3)
        return reference.model_copy(update={"digest": ""})
    reference = reference.model_copy(update={"digest": found})
    recipe.check(reference)
    return reference


def _assembled(
    source: WeightSource, pieces: Mapping[str, TensorPiece]
) -> Iterator[tuple[str, tuple[int, ...], list[str]]]:
    """Each tensor of the loaded model: its name, its shape, and the pieces that it is made of, in order."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(source.config)
    state = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    if source.is_tied:
        state.pop(UNEMBEDDING, None)
    found = _parts(model, list(pieces))
    for name, shape in state.items():
        parts = found.get(name, [])
        shapes = [pieces[part].source_shape for part in parts]
        if len(parts) == 1 and shapes != [shape]:
            raise InterpError(
                f"{parts[0]} has shape {shapes[0]} in the files of {source.name}, and {shape} by its config; restore "
                "the checkpoint"
            )
        fits = len(parts) == 1 or all(each[1:] == shape[2:] for each in shapes)
        if not fits or sum(map(prod, shapes)) != prod(shape):
            raise Unknown(f"{name} is not in the files of {source.name} as transformers has it in memory")
        yield name, shape, parts


def _parts(model: Any, names: list[str]) -> dict[str, list[str]]:
    """For each tensor of a model the names in files that transformers makes it of, in order."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    table = get_model_conversion_mapping(model)
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    state = model.state_dict()
    found: dict[str, list[tuple[list[int], int, str]]] = {}
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        place = 0
        if pattern is not None:
            converter = next(entry for entry in converters if pattern in entry.source_patterns)
            if not _stacks(converter.operations):
                raise Unknown(f"transformers rearranges {name} when it loads it")
            place = converter.source_patterns.index(pattern)
        elif target not in state and name in state:
            target = name
        numbers = [int(number) for number in re.findall(r"\.(\d+)(?=\.)", name)]
        found.setdefault(target, []).append((numbers, place, name))
    # Expert by expert, and of each the gate's rows before the up projection's.
    return {target: [name for *_, name in sorted(parts)] for target, parts in found.items()}


def _stacks(operations: list[Any]) -> bool:
    """Whether experts are stacked along the first axis, and of each several weights joined row-wise; no more."""
    known = [("MergeModulelist", 0), ("Concatenate", 1)]
    return [(type(one).__name__, getattr(one, "dim", None)) for one in operations] in (known, known[:1])


def _values(piece: TensorPiece) -> Iterator[Shaped[Tensor, "..."]]:
    """A piece's values in order, some at a time, in one buffer."""
    if not isinstance(piece.source, tuple):
        yield compute_shard(piece)
        return
    file, entry = piece.source
    size = _FAR if isinstance(file.path, RemoteFile) else _CHUNK
    buffer = torch.empty(min(size, entry.nbytes), dtype=torch.uint8)
    for start in range(entry.start, entry.stop, size):
        part = buffer[: min(size, entry.stop - start)]
        file.read_into(part, start)
        yield part.view(DTYPES[entry.dtype])
