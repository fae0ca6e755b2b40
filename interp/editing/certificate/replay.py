"""Replay: a recipe applied to the base again, and compared with what an exported folder holds.

The manifest names the base, the recipe, how it was folded and every file's SHA-256. From these the edit is made again
tensor by tensor, without loading a model, and compared with what is in the folder; so are the config, the tokenizer
and everything else that is copied. On the machine that wrote the folder every bit agrees. Another machine may round
products differently, which moves a weight by a rounding unit, or by what another order of summation makes of a vector
(`interp.editing.fold.rounding`).

Limitations: a replay does not show that the weights do what the recipe's hooks do.
`interp.editing.certificate.verifier` does.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from interp.core.digests import versions
from interp.core.errors import InterpError
from interp.core.files import read_json
from interp.editing.approximate.low_rank_factors import FACTORS, Distilled
from interp.editing.certificate.manifest import PROVENANCE, RECIPE, WRITTEN, ExportManifest, ExportSettings
from interp.editing.export.provenance import provenance_statement
from interp.editing.export.sources import AnyModel, WeightSource, open_source
from interp.editing.export.weight_writer import TensorPiece, compute_shard, one_thread
from interp.editing.fold import Plan, fold
from interp.interventions.recipe import Recipe
from interp.models import HookedModel, load
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.checkpoints.safetensors_file import TensorFile


@dataclass(frozen=True)
class Replay:
    """How many tensors were compared, how many agree to the bit, and the largest gap in rounding units.

    `files` counts the config, tokenizer and other files that were compared byte by byte. It is 0 where another version
    of transformers wrote them from a model in memory, since versions write them differently.
    """

    tensors: int
    identical: int
    units: float
    files: int

    def __str__(self) -> str:
        rest = f"the rest within {self.units:.3g} rounding units"
        return f"{self.identical} of {self.tensors} tensors identical, {rest}; {self.files} other files identical"


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """An edit that was made again: what the comparison showed, and what it was made from, for later steps."""

    replay: Replay
    manifest: ExportManifest
    recipe: Recipe
    plan: Plan
    base: AnyModel


def replay(folder: str | Path, base: AnyModel | None = None) -> Replay:
    """Make an exported edit again, and compare it with the folder.

    Args:
        folder: A checkpoint written by `export` or `export_streamed`.
        base: The model that it was made from, if that has moved since or was in memory.

    Raises:
        InterpError: A tensor or file, named in the message, is missing, additional, of another shape or type, or
            differs by more than rounding explains.
    """
    return rebuild(Path(folder), base).replay


def rebuild(folder: Path, base: AnyModel | None = None) -> Rebuilt:
    """As `replay`, with everything that was read and planned for it."""
    manifest, recipe = ExportManifest.at(folder), Recipe.load(folder / RECIPE)
    named = base if base is not None else manifest.source
    if named is None:
        raise InterpError(f"{folder} was made from a model in memory; give it, or where it is now, as base")
    original = _as_exported(named, manifest)
    source = open_source(original, manifest.made.dequantise and not isinstance(original, HookedModel))
    distilled = Distilled.load(folder / FACTORS) if manifest.made.distilled else None
    if distilled is not None and distilled.record != manifest.made.distilled:
        raise InterpError(f"{folder / FACTORS}: not the factors that the manifest names; it was changed")
    plan = plan_export(recipe, source, manifest.made, distilled)
    tensors = _match_tensors(folder, source, plan, manifest.made)
    files = _compare_companions(folder, manifest, source, plan)
    _require_same_provenance(folder, manifest, recipe)
    model = named if isinstance(named, HookedModel) else original
    return Rebuilt(Replay(*tensors, files), manifest, recipe, plan, model)


def plan_export(recipe: Recipe, source: WeightSource, settings: ExportSettings, distilled: Distilled | None) -> Plan:
    """The fold of a recipe into a source's tensors, or the merge of distilled factors in its place.

    Raises InterpError where the recipe does not fold as the settings demand.
    """
    if distilled is not None:
        return distilled.plan(recipe, source.config, source.pieces)
    read = partial(source.read, dtype=settings.cast)
    return fold(recipe, source.config, source.pieces, source.is_tied, read, settings)


def _as_exported(base: AnyModel, manifest: ExportManifest) -> AnyModel:
    """The base in the form that the export was made from: a model in memory in its type then, or its files."""
    loaded = manifest.made.loaded
    if not isinstance(base, HookedModel):
        return load(base, dtype=loaded) if loaded else base
    if loaded:
        return base
    if base.source is None:
        raise InterpError("the export was made from files, which a model in memory does not have; give their folder")
    return base.source


def _match_tensors(folder: Path, source: WeightSource, plan: Plan, settings: ExportSettings) -> tuple[int, int, float]:
    """How many tensors the folder has, how many agree to the bit, and the largest gap. Raises for others."""
    expected = {piece.name: piece for file in source.edited(plan, settings.cast) for piece in file}
    stored = {name: file for file in Checkpoint.open(folder).opened for name in file.entries}
    for name in sorted(set(expected) ^ set(stored)):
        what = "is missing" if name in expected else "is one too many"
        raise InterpError(f"{folder}: {name} {what}: the recipe applied to {source.name} does not give these tensors")
    with one_thread():
        gaps = [_gap(piece, plan, stored[name]) for name, piece in expected.items()]
    return len(gaps), sum(gap is None for gap in gaps), max((gap for gap in gaps if gap is not None), default=0.0)


def _gap(piece: TensorPiece, plan: Plan, file: TensorFile) -> float | None:
    """The largest difference in rounding units; None where not a bit differs."""
    name, expected = piece.name, compute_shard(piece)
    stored = file.read(name)
    held, given = (f"{x.dtype} {tuple(x.shape)}" for x in (stored, expected))
    if held != given:
        raise InterpError(f"{file.path}: {name} is {held}; the recipe applied to the base gives {given}")
    unchanged = replace(piece, change=None, changed_shape=None)
    return plan.gap(name, stored, expected, partial(compute_shard, unchanged), stored.dtype, f"{file.path}: ")


def _compare_companions(folder: Path, manifest: ExportManifest, source: WeightSource, plan: Plan) -> int:
    """How many of the files next to the weights are the base's, with what the plan changes. Raises for others."""
    if source.loaded and manifest.versions.get("transformers") != versions()["transformers"]:
        return 0
    with TemporaryDirectory() as scratch:
        source.write_companions(Path(scratch))
        source.write_config(Path(scratch), manifest.made.config(plan))
        expected = {str(file.relative_to(scratch)): file for file in Path(scratch).rglob("*") if file.is_file()}
        if manifest.left_out is None:  # an older export, which brought only some files along
            expected = {name: file for name, file in expected.items() if name in manifest.files}
        for name, file in sorted(expected.items()):
            if not (folder / name).is_file() or (folder / name).read_bytes() != file.read_bytes():
                raise InterpError(f"{folder / name}: not what {source.name} has, with what the recipe changes in it")
        weights = {file.name for file in Checkpoint.open(folder).files}
        for name in sorted(set(manifest.files) - set(expected) - weights - set(WRITTEN)):
            if Path(name).parts[0] != RECIPE:
                raise InterpError(f"{folder / name}: neither {source.name} has it nor does an export write it")
    return len(expected)


def _require_same_provenance(folder: Path, manifest: ExportManifest, recipe: Recipe) -> None:
    """Raise unless the provenance statement agrees with the manifest, which shows that neither was edited alone."""
    weights = {file.name: manifest.files.get(file.name, "") for file in Checkpoint.open(folder).files}
    expected = json.loads(json.dumps(provenance_statement(manifest, recipe, weights)))
    if expected != read_json(folder / PROVENANCE):
        raise InterpError(f"{folder}: its manifest and {PROVENANCE} tell different things; one of them was changed")
