"""An edited copy of a GGUF file, which llama.cpp and what is built on it run.

    GGUF file -> dequantised model -> fold plan -> edited tensors, quantised -> copy of the file -> read back, certified

The copy has the file's metadata, and the bytes of every tensor that the edit leaves alone. An edited tensor is folded
in float32 and written in the type that it had, where the package `gguf` writes that type (F32, F16, BF16, Q4_0 to
Q8_0); the K and IQ types it only reads, and such a tensor becomes Q8_0 (F16 where its rows are not of whole blocks).
The plan names them.

The certificate compares the copy, which transformers dequantises, with the hooks on the model that the base
dequantises to. Its figures before rounding are those of the fold; the others include what quantising the edited tensors
again costs.

Limitations: both models are in memory, in float32. An edit that adds biases or neurons is refused, and so is one that
unties the unembedding of an architecture for which llama.cpp reads none (Gemma, Gemma 2, Cohere): export a checkpoint.
No fold edits query or key projections, whose rows GGUF has in another order for Llama; they are copied. Copies in one
file only; llama.cpp's llama-gguf-split joins several.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.files import new_folder, sha256_file, write_json
from interp.editing.certificate import Certificate, Release
from interp.editing.certificate.manifest import CERTIFICATE, GGUF, MANIFEST, RECIPE, ExportManifest, ExportSettings
from interp.editing.certificate.measurement import certify, tied_head
from interp.editing.certificate.probes import random_probes, read_probes, write_probes
from interp.editing.certificate.replay import Replay, plan_export
from interp.editing.certificate.writer_check import require_writer_check
from interp.editing.export.exporter import WrittenFolder, require_faithful, require_space
from interp.editing.export.identity import require_base
from interp.editing.export.signatures import signer
from interp.editing.export.sources import AnyModel, open_source
from interp.editing.export.weight_writer import TensorPiece, compute_shard, one_thread
from interp.editing.fold import Plan
from interp.editing.options import ExportOptions, FoldOptions
from interp.interventions.recipe import Recipe
from interp.models import HookedModel, Tokens
from interp.models.checkpoints.gguf_file import GgufFile
from interp.models.loading import is_gguf

_NOTE = "interp.recipe"  # key of the metadata
_TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_SAME = 0.5  # relative distance of a tensor from its quantisation, which is far above any type's and below chance, 1.4
_EQUAL = 1e-5  # relative distance that two dequantisers may have


def export_gguf(
    recipe: Recipe,
    model: str | Path,
    out: str | Path,
    options: ExportOptions | None = None,
    *,
    base: str | Path | None = None,
    release: Release | None = None,
    **fields: Any,
) -> Certificate:
    """Write an edited copy of a GGUF file to a new folder, read it back and certify it.

    Args:
        recipe: The edit.
        model: The model that the recipe was made for: a GGUF file, a local folder or a hub id.
        out: The new folder, with the copy as `model.gguf`, the certificate, the recipe and a model card.
        options: What to write; `dtype` is the type of the edited tensors, instead of their own.
        base: The GGUF file to copy, where `model` is not it. It has to hold that model, quantised; the edit is folded
            into its values.
        release: The policy decision that allows this release.
        fields: Fields of `ExportOptions` and `FoldOptions`.

    Raises:
        InterpError: There is no GGUF file to copy, or it holds another model; the recipe is another model's, or does
            not fold as the file can hold it; or the copy does not do what the hooks do. Nothing is written then.

    Example:
        >>> from interp.editing import export_gguf
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(896)))])
        >>> export_gguf(recipe, "qwen2.5-0.5b-q4_k_m.gguf", "edited").faithful  # doctest: +SKIP
        True
    """
    options = ExportOptions.merged(options, {**fields, "form": "gguf"})
    sign = signer(options.sign) if options.sign is not None else None
    with new_folder(out, mark=MANIFEST, overwrite=options.overwrite) as folder:
        edit = GgufEdit.of(recipe, model, base, options)
        require_space(Path(out), edit.file.path.stat().st_size)
        if release is not None:
            release.check(edit.recipe.digest, edit.model.identity, edit.plan.status)
        edit.file.write_copy(folder / GGUF, edit.tensors(), {_NOTE: edit.recipe.digest})
        probes = random_probes(edit.model, options.prompts)
        write_probes(folder, probes)
        certificate = edit.certify(folder, probes)
        require_faithful(certificate)
        write_json(folder / CERTIFICATE, certificate.to_json())
        (folder / RECIPE).mkdir()
        edit.recipe.write(folder / RECIPE)
        settings = ExportSettings.used(options, None, None)
        digests = {GGUF: sha256_file(folder / GGUF)}
        written = WrittenFolder(folder, edit.recipe, edit.plan, settings, digests, {})
        written.write_records(edit.model.identity, edit.model.source, certificate, release)
        if sign:
            sign(folder)
    return certificate


def check_gguf(
    folder: Path, manifest: ExportManifest, base: AnyModel | None, prompts: Sequence[str]
) -> tuple[Certificate, Replay]:
    """Make the edit of an exported folder again, compare every tensor, and measure it as at export; see `verify`."""
    recipe, made = Recipe.load(folder / RECIPE), manifest.made
    fold = made.model_dump(include={*FoldOptions.model_fields})
    options = ExportOptions.merged(None, {"form": "gguf", "dtype": made.dtype, **fold})
    edit = GgufEdit.of(recipe, str(base or manifest.source), None, options)
    if recipe.digest != manifest.recipe or not manifest.base.is_same(edit.model.reference):
        raise InterpError(f"{folder}: its manifest names another recipe or base model than it holds; it was changed")
    expected, written = edit.tensors(), GgufFile(folder / GGUF)
    held = {name: written.tensors[name].data for name in expected if name in written.tensors}
    same = {name for name, data in held.items() if data.tobytes() == expected[name][0].tobytes()}
    stated, first = written.metadata, edit.file.metadata | {_NOTE: recipe.digest}
    other = [key for key in {*stated, *first} if stated.get(key) != first.get(key)]
    for name in sorted([*other, *({*expected, *written.tensors} - same - {*edit.pieces})]):
        raise InterpError(f"{folder / GGUF}: {name} is not the base's, and the recipe does not edit it; it was changed")
    probes = read_probes(folder)
    certificate = edit.certify(folder, probes)
    if figure := Certificate.read(folder / CERTIFICATE).differs(certificate):
        raise InterpError(f"{folder / CERTIFICATE}: its {figure} is not what is measured; it was changed")
    if prompts:
        certificate = edit.certify(folder, [*probes, *random_probes(edit.model, prompts)[1:]])
    return certificate, Replay(len(expected), len(same), 0.0, 0)


@dataclass(frozen=True, eq=False)
class GgufEdit:
    """A recipe's edit of a GGUF file.

    Attributes:
        file: The file.
        model: The model that it dequantises to.
        recipe: The edit, of that model.
        plan: The fold, by the names of the model's tensors. Its notes name the tensors that get another type.
        pieces: The edited tensors, by the names that the file has for them.
        kinds: The type of each in the copy.
    """

    file: GgufFile
    model: HookedModel
    recipe: Recipe
    plan: Plan
    pieces: Mapping[str, TensorPiece]
    kinds: Mapping[str, Any]

    @classmethod
    def of(cls, recipe: Recipe, model: str | Path, base: str | Path | None, options: ExportOptions) -> "GgufEdit":
        """Plan the edit; raises as `export_gguf` does."""
        place = model if base is None else base
        if not is_gguf(place):
            raise InterpError(f"{place} is no GGUF file, and form gguf writes a copy of one; give it as base (--base)")
        weights, file = open_source(place), GgufFile(Path(place).expanduser())
        hooked = weights.load_model()
        recipe = weights.kept(recipe if str(place) == str(model) else _of_base(recipe, model, hooked), options)
        recipe.check(hooked.reference)
        require_writer_check(hooked)
        plan = plan_export(recipe, weights, ExportSettings(**dict(options.fold)), None)
        for name in [*plan.created, *plan.grown]:
            raise InterpError(f"the recipe adds {name}, which {file.path.name} has no place for; export a checkpoint")
        edited = [piece for part in weights.edited(plan) for piece in part if piece.name in plan.changes]
        pieces = {file.stored_name(piece.name, hooked.n_layers): piece for piece in edited}
        state, kinds, changed = hooked.hf.state_dict(), {}, dict[str, list[str]]()
        for name, piece in pieces.items():
            tensor = file.tensors[name]
            if not _distance(_dequantised(tensor.data, tensor.tensor_type), state[piece.name].float()) < _EQUAL:
                raise InterpError(f"{file.path.name}: {name} is rearranged when it is loaded; export a checkpoint")
            kinds[name] = _kind(tensor, options.dtype)
            if kinds[name] != tensor.tensor_type:
                changed.setdefault(f"{tensor.tensor_type.name} as {kinds[name].name}", []).append(name)
        notes = tuple(f"written in another type, {types}: {', '.join(names)}" for types, names in changed.items())
        edit = cls(file, hooked, recipe, replace(plan, warning="", notes=notes), pieces, kinds)
        if plan.untie and not file.has_unembedding:
            raise edit._tied()
        return edit

    def tensors(self) -> dict[str, tuple[Any, Any]]:
        """Every tensor of the copy, by name: its data, quantised, and its type."""
        tensors = {name: (tensor.data, tensor.tensor_type) for name, tensor in self.file.tensors.items()}
        if self.plan.untie:
            tensors["output.weight"] = tensors[self.file.stored_name(self.plan.untie, self.model.n_layers)]
        with one_thread():
            for name, piece in self.pieces.items():
                tensors[name] = self._quantised(name, compute_shard(piece)), self.kinds[name]
        return tensors

    def certify(self, folder: Path, probes: list[Tokens]) -> Certificate:
        """Measure a folder's copy against the hooks on the base."""
        stored = {piece.name: name for name, piece in self.pieces.items()}

        def as_written(name: str, tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
            if name not in stored:
                return tensor
            return _dequantised(self._quantised(stored[name], tensor), self.kinds[stored[name]])

        edit = self.model, self.recipe, self.plan
        return certify(*edit, folder / GGUF, probes, ExportSettings(), as_written)

    def _quantised(self, name: str, tensor: Tensor) -> Any:
        from gguf import quantize

        with np.errstate(over="ignore"):  # refused below, by name
            data = quantize(tensor.float().numpy(), self.kinds[name])
        if not _dequantised(data, self.kinds[name]).isfinite().all():
            raise InterpError(f"{name} would hold infinite values in {self.kinds[name].name}; choose dtype float32")
        return data

    def _tied(self) -> InterpError:
        """The error for an untied unembedding that llama.cpp would not read, with what the tied model would do."""
        hf = copy.deepcopy(self.model.hf)
        for piece in self.pieces.values():
            hf.state_dict()[piece.name].copy_(compute_shard(piece))
        exported = HookedModel(hf, self.model.tokenizer)
        figures = tied_head(self.model, exported, self.recipe, random_probes(self.model))
        return InterpError(
            f"llama.cpp reads no unembedding of {self.file.architecture}: it would take the edited token table, with "
            f"{figures}; leave the table as it is (keep_tied, leave_embedding)"
        )


def _of_base(recipe: Recipe, model: str | Path, hooked: HookedModel) -> Recipe:
    """A recipe of a model, for the base that holds it quantised. Raises where that is another model."""
    original, held = open_source(model), hooked.hf.state_dict()
    require_base(recipe, original)
    for name in (name for name, piece in original.pieces.items() if len(piece.source_shape) > 1 and name in held):
        if not _distance(held[name], original.read(name, torch.float32)) < _SAME:
            raise InterpError(f"{hooked.name} is not {original.name} quantised: its {name} is another; give one of it")
    return recipe.retarget(hooked)


def _kind(tensor: Any, dtype: str | None) -> Any:
    """The type in which an edited tensor is written: its own if the gguf package writes that, else Q8_0 or F16."""
    from gguf import GGMLQuantizationType, quantize
    from gguf.quants import QuantError

    wanted = GGMLQuantizationType[_TYPES[dtype]] if dtype and len(tensor.shape) > 1 else tensor.tensor_type
    for kind in (wanted, GGMLQuantizationType.Q8_0):
        with suppress(NotImplementedError, QuantError):  # it is only read, or its blocks do not divide a row
            quantize(np.zeros((1, int(tensor.shape[0])), np.float32), kind)  # GGUF has the length of a row first
            return kind
    return GGMLQuantizationType.F16


def _dequantised(data: Any, kind: Any) -> Float[Tensor, "..."]:
    from gguf import dequantize

    return torch.tensor(dequantize(data, kind))


def _distance(first: Tensor, second: Tensor) -> float:
    """How far a tensor is from another, relative to it; infinite for another shape."""
    if first.shape != second.shape:
        return float("inf")
    return float((first - second).norm() / second.norm().clamp(min=1e-30))
