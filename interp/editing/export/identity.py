"""The digests of a checkpoint's weights, equal to those of the loaded model, without loading the model.

`HookedModel.digest` hashes names, shapes and values of the loaded model, in name order. Which tensors these are, and
what transformers calls the tensors of the files, is taken from transformers itself: from a model without weights, made
from the checkpoint's config, and from its own table of names. Experts that it stacks are hashed one after the other,
which equals the stack. So memory does not grow with the model.

Limitations: where transformers rearranges a tensor's values at load, the digests are unknown before the model is
loaded, and `Unknown` names the tensor.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.core.digests import WeightDigests, WeightHash, wider_types
from interp.core.errors import InterpError
from interp.editing.export.sources import CheckpointSource, ModelSource, WeightSource
from interp.editing.export.weight_writer import TensorPiece, compute_shard, read_parts
from interp.interventions.recipe import Recipe
from interp.models.checkpoints.checkpoint import refuse_lost, without_place
from interp.models.checkpoints.remote_files import RemoteFile
from interp.models.checkpoints.safetensors_file import DTYPES
from interp.models.identity import UNEMBEDDING, ModelReference

_CHUNK = 1 << 20  # bytes; a multiple of every type's size, small enough for the processor's cache
_FAR = 32 << 20  # bytes per request to a remote file, each of which takes long whatever its size


class Unknown(InterpError):
    """The digest is unknown unless the model is loaded."""


def checkpoint_digests(source: WeightSource, copies: Mapping[str, TensorPiece] | None = None) -> WeightDigests:
    """The digests of a checkpoint's weights; `copies` are all its tensors, where they are faster to read.

    Raises `Unknown` where the model has to be loaded for it.
    """
    whole, pieces = WeightHash(), copies or source.pieces
    for name, shape, parts in sorted(_assembled(source, pieces)):
        kinds = {kind: None for part in parts for kind in wider_types(DTYPES[pieces[part].dtype])}
        whole.add(name, shape, (values for part in parts for values in _values(pieces[part])), tuple(kinds))
    return whole.digests()


def require_base(
    recipe: Recipe, source: WeightSource, copies: Mapping[str, TensorPiece] | None = None
) -> ModelReference:
    """The base model, with its digests if the recipe names one. Raises where it is not the recipe's model.

    Where the model has to be loaded for the digests, they are left empty with a warning. `copies` are as for
    `checkpoint_digests`.
    """
    reference = source.reference(recipe.model)
    recipe.check(reference)
    if isinstance(source, ModelSource) or not reference.digest:
        return reference
    try:
        digests = checkpoint_digests(source, copies)
    except Unknown as problem:
        warnings.warn(f"{problem}; so only its type and shape were compared with the recipe's", stacklevel=3)
        return reference.without_weights()
    reference = reference.model_copy(update={"digest": digests.exact, "storage_digest": digests.storage})
    recipe.check(reference)
    return reference


def _assembled(
    source: WeightSource, pieces: Mapping[str, TensorPiece]
) -> Iterator[tuple[str, tuple[int, ...], list[str]]]:
    """Each tensor of the loaded model: its name, its shape, and the pieces that it consists of, in order."""
    model = _without_weights(source)
    state = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    if source.is_tied:
        state.pop(UNEMBEDDING, None)
    stored = _parts(model, list(pieces))
    for name, shape in state.items():
        parts = stored.get(name, [])
        shapes = [pieces[part].source_shape for part in parts]
        if len(parts) == 1 and shapes != [shape]:
            stored_as = f"{parts[0]} has shape {shapes[0]} in the files of {source.name}"
            raise InterpError(f"{stored_as}, and {shape} by its config; restore it")
        fits = len(parts) == 1 or all(each[1:] == shape[2:] for each in shapes)
        if not fits or sum(map(prod, shapes)) != prod(shape):
            raise Unknown(f"{name} is not in the files of {source.name} as transformers has it in memory")
        yield name, shape, parts


def require_places(source: WeightSource) -> None:
    """Raise, by its name, for a tensor of a checkpoint that its model has no place for."""
    if not isinstance(source, CheckpointSource) or not source.is_written_down:
        return
    model = _without_weights(source)
    state, ignored = model.state_dict(), model._keys_to_ignore_on_load_unexpected or ()
    left = [name for name, target, _ in _targets(model, [*source.pieces]) if target not in state]
    lost = [x for x in without_place(left, source.config) if not any(re.search(pattern, x) for pattern in ignored)]
    refuse_lost(source.name, lost)


def _without_weights(source: WeightSource) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(source.config)


def _targets(model: Any, names: list[str]) -> Iterator[tuple[str, str, tuple[Any, int] | None]]:
    """For each name in the files, that of the tensor which transformers makes of it, and by which converter, if any."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    table = get_model_conversion_mapping(model)
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    state = model.state_dict()
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if pattern is not None:
            converter = next(entry for entry in converters if pattern in entry.source_patterns)
            yield name, target, (converter, converter.source_patterns.index(pattern))
        else:
            yield name, name if target not in state and name in state else target, None


def _parts(model: Any, names: list[str]) -> dict[str, list[str]]:
    """For each tensor of a model, the names in the files that transformers makes it from, in order."""
    sources: dict[str, list[tuple[list[int], int, str]]] = {}
    for name, target, converted in _targets(model, names):
        if converted is not None and not _stacks(converted[0].operations):
            raise Unknown(f"transformers rearranges {name} when it loads it")
        place = converted[1] if converted else 0
        numbers = [int(number) for number in re.findall(r"\.(\d+)(?=\.)", name)]
        sources.setdefault(target, []).append((numbers, place, name))
    # Expert by expert, each with the gate's rows before the up projection's.
    return {target: [name for *_, name in sorted(parts)] for target, parts in sources.items()}


def _stacks(operations: list[Any]) -> bool:
    """Whether experts are only stacked along the first axis, and weights of each joined along the rows."""
    known = [("MergeModulelist", 0), ("Concatenate", 1)]
    return [(type(each).__name__, getattr(each, "dim", None)) for each in operations] in (known, known[:1])


def _values(piece: TensorPiece) -> Iterator[Shaped[Tensor, "..."]]:
    """A piece's values in order, part by part in one buffer."""
    if not isinstance(piece.source, tuple):
        yield compute_shard(piece)
        return
    file, entry = piece.source
    size = _FAR if isinstance(file.path, RemoteFile) else _CHUNK
    yield from (part.view(DTYPES[entry.dtype]) for part in read_parts(file, entry, size))
