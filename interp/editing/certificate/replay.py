"""Replay: an exported folder against its record, and against the recipe applied to the base once more.

The manifest names the base, the recipe, how it was folded and every file's SHA-256. With these the edit can be made
again tensor by tensor, without loading a model, and compared with what is in the folder, and so can the config, the
tokenizer and all else that is copied. On the machine that wrote it not a bit may differ; on another, products may be
rounded otherwise, which moves a weight by a rounding unit, or by what adding in another order makes of a vector
(`interp.editing.fold.rounding_units`).

What it does not know: whether the weights do what the recipe's hooks do. That is `interp.editing.certificate.verifier`.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from interp.core.config import Config
from interp.core.digests import versions
from interp.core.dtypes import dtype_of
from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_file
from interp.editing.approximate.low_rank_factors import FACTORS, Distillation, Distilled
from interp.editing.export.provenance import PROVENANCE, Release, statement
from interp.editing.export.signatures import SIGNATURE
from interp.editing.export.sources import WeightSource
from interp.editing.export.weight_writer import TensorPiece, compute_shard, one_thread
from interp.editing.fold.plan import Plan, Status
from interp.editing.fold.rounding_units import allowed_gap, rounding_reach, rounding_units_of
from interp.editing.fold.steps import fold
from interp.editing.options import ExportOptions, FoldOptions
from interp.interventions.recipe import Recipe
from interp.models.checkpoints.checkpoint import INDEX, Checkpoint
from interp.models.checkpoints.safetensors_file import TensorFile
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.loading import load

MANIFEST = "interp_manifest.json"
RECIPE = "interp_recipe"
CERTIFICATE = "interp_certificate.json"
PROBES = "interp_probes.safetensors"
PATCH = "interp_undo.safetensors"
# What an export writes beside weights, recipe and what the base has.
_OWN = (
    INDEX,
    CERTIFICATE,
    FACTORS,
    PROVENANCE,
    "README.md",
    PROBES,
    PATCH,
)


class ExportSettings(Config):
    """How a recipe was folded: `FoldOptions`, and the type that weights were cast to.

    `loaded` is the type in which the base was in memory, where it was not read from its files. `distilled` says how the
    factors beside the weights were trained, where they were merged in place of a fold.
    """

    dtype: str | None = None
    loaded: str | None = None
    approximate: bool = False
    rehost: bool = False
    leave_embedding: bool = False
    keep_norms: bool = False
    compensate: bool = False
    sharpness: float = 256.0
    dequantise: bool = False
    distilled: Distillation | None = None

    @classmethod
    def used(
        cls, options: ExportOptions, loaded: str | None, distilled: Distillation | None = None
    ) -> "ExportSettings":
        """Those of an export whose base was in memory in the type `loaded`, if it was."""
        return cls(dtype=options.dtype, loaded=loaded, distilled=distilled, **dict(options.fold))

    @property
    def fold(self) -> FoldOptions:
        """As `fold` takes them."""
        return FoldOptions(**{name: getattr(self, name) for name in FoldOptions.model_fields})

    @property
    def cast(self) -> torch.dtype | None:
        """The type, if any."""
        return dtype_of(self.dtype) if self.dtype else None

    def config(self, plan: Plan) -> dict[str, Any]:
        """What of config.json is changed."""
        return dict(plan.config) | ({"dtype": self.dtype} if self.dtype else {})


class ExportManifest(Config):
    """What an export was made from and how, and the SHA-256 of each of its files.

    `source` is where the base came from, `status` how exact the fold is, `release` the decision that let it go out, if
    one was asked for.
    """

    base: ModelReference
    source: str | None
    recipe: str
    made: ExportSettings = ExportSettings()
    status: Status = "exact"
    files: dict[str, str]
    versions: dict[str, str]
    release: Release | None = None

    @classmethod
    def at(cls, folder: Path) -> "ExportManifest":
        """Read it. Raises where the folder has none."""
        if not (folder / MANIFEST).is_file():
            raise InterpError(f"{folder}: no {MANIFEST} in it; expected a folder written by interp export")
        return cls.parse(read_json(folder / MANIFEST), str(folder / MANIFEST))

    def check_files(self, folder: Path) -> None:
        """Raise, by its name, for a file that is missing, changed or added."""
        # A link to a folder is one more file: nothing in it would be looked at.
        found = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_symlink() or not f.is_dir()}
        found -= {MANIFEST, SIGNATURE}  # which covers the manifest, and is checked on its own (`sign`)
        for name in sorted({*self.files, *found}):
            if name not in self.files:
                raise InterpError(f"{folder / name}: not in the manifest; it was added after the export")
            if name not in found or not (folder / name).is_file():
                raise InterpError(f"{folder / name}: missing; the export had it")
            if sha256_file(folder / name) != self.files[name]:
                raise InterpError(f"{folder / name}: changed after the export (SHA-256 differs from the manifest)")


@dataclass(frozen=True)
class Replay:
    """How many tensors were compared, how many are the same to the bit, and the largest gap in rounding units.

    `files` is how many of config, tokenizer and the like were compared byte by byte; 0 where another version of
    transformers wrote them from a model in memory, which need not write the same.
    """

    tensors: int
    identical: int
    units: float
    files: int

    def __str__(self) -> str:
        return (
            f"{self.identical} of {self.tensors} tensors identical, the rest within {self.units:.3g} rounding units; "
            f"{self.files} other files identical"
        )


def replay(folder: str | Path, base: str | Path | HookedModel | None = None) -> Replay:
    """Make the edit again and compare. `base` is the model it was made from, if it has moved.

    Raises InterpError, naming the tensor or file, where one is missing or too many, of another shape or type, a tensor
    off by more than rounding explains, or a file not that of the base.
    """
    return rebuild(Path(folder), base)[0]


def rebuild(path: Path, base: str | Path | HookedModel | None = None) -> tuple[Replay, Plan, str | Path | HookedModel]:
    """As `replay`, with the plan, and the base or where it is."""
    manifest, recipe = ExportManifest.at(path), Recipe.load(path / RECIPE)
    given = base if base is not None else manifest.source
    if given is None:
        raise InterpError(f"{path} was made from a model in memory; give it, or where it is now, as base")
    where = _as_it_was(given, manifest)
    origin = WeightSource.of(where, manifest.made.dequantise and not isinstance(where, HookedModel))
    plan = planned(path, manifest.made, recipe, origin)
    found = _tensors(path, origin, plan, manifest.made)
    files = _companions(path, manifest, origin, plan)
    _require_told(path, manifest, recipe)
    return Replay(*found, files), plan, given if isinstance(given, HookedModel) else where


def planned(folder: Path, made: ExportSettings, recipe: Recipe, origin: WeightSource) -> Plan:
    """The fold that a folder's manifest tells of, planned again; or the merge of the factors that are beside it."""
    if made.distilled is not None:
        distilled = Distilled.load(folder / FACTORS)
        if distilled.record != made.distilled:
            raise InterpError(f"{folder / FACTORS}: not the factors that the manifest tells of; it was changed")
        return distilled.plan(recipe, origin.config, origin.names)
    return fold(recipe, origin.config, origin.names, origin.is_tied, origin.reader(made.cast), made.fold)


def _as_it_was(base: str | Path | HookedModel, manifest: ExportManifest) -> str | Path | HookedModel:
    """The base in the form that the export was made from: a model in memory, in its type then, or its files."""
    loaded = manifest.made.loaded
    if isinstance(base, HookedModel) and not loaded:
        if base.source is None:
            raise InterpError(
                "the export was made from files, which a model in memory does not have; give their folder"
            )
        return base.source
    if isinstance(base, HookedModel):
        return base
    return load(base, dtype=loaded) if loaded else base


def _tensors(path: Path, origin: WeightSource, plan: Plan, how: ExportSettings) -> tuple[int, int, float]:
    expected = {piece.name: piece for file in origin.edited(plan, how.cast) for piece in file}
    found = {name: file for file in Checkpoint.open(path).opened for name in file.entries}
    for name in sorted(set(expected) ^ set(found)):
        what = "is missing" if name in expected else "is one too many"
        raise InterpError(f"{path}: {name} {what}: the recipe applied to {origin.name} does not give these tensors")
    with one_thread():
        gaps = [_gap(piece, plan, found[name]) for name, piece in expected.items()]
    return len(gaps), sum(gap is None for gap in gaps), max((gap for gap in gaps if gap is not None), default=0.0)


def _gap(piece: TensorPiece, plan: Plan, file: TensorFile) -> float | None:
    """The largest difference in rounding units; None where not a bit differs."""
    name, expected = piece.name, compute_shard(piece)
    held = file.read(name)
    if held.shape != expected.shape or held.dtype != expected.dtype:
        raise InterpError(
            f"{file.path}: {name} is {held.dtype} {tuple(held.shape)}; the recipe applied to the base gives "
            f"{expected.dtype} {tuple(expected.shape)}"
        )
    if torch.equal(held, expected):
        return None
    source = compute_shard(replace(piece, change=None, changed_shape=None))
    gap = rounding_units_of(held, expected, held.dtype, rounding_reach(plan, name, source, expected, held.dtype))
    if not gap <= allowed_gap(plan.changes.get(name)):
        raise InterpError(
            f"{file.path}: {name} is not what the recipe makes of the base (off by {gap:.3g} rounding units)"
        )
    return gap


def _companions(path: Path, manifest: ExportManifest, origin: WeightSource, plan: Plan) -> int:
    """How many of the files beside the weights are the base's, with what the plan changes. Raises for others."""
    if origin.model and manifest.versions.get("transformers") != versions()["transformers"]:
        return 0
    with TemporaryDirectory() as made_again:
        origin.write_companions(Path(made_again), manifest.made.config(plan))
        wanted = {str(file.relative_to(made_again)): file for file in Path(made_again).rglob("*") if file.is_file()}
        for name, file in sorted(wanted.items()):
            if not (path / name).is_file() or (path / name).read_bytes() != file.read_bytes():
                raise InterpError(f"{path / name}: not what {origin.name} has, with what the recipe changes in it")
        weights = {file.name for file in Checkpoint.open(path).files}
        for name in sorted(set(manifest.files) - set(wanted) - weights - set(_OWN)):
            if Path(name).parts[0] != RECIPE:
                raise InterpError(f"{path / name}: neither {origin.name} has it nor does an export write it")
    return len(wanted)


def _require_told(path: Path, manifest: ExportManifest, recipe: Recipe) -> None:
    """Raise unless the provenance statement tells what the manifest does: an edit of one alone is seen."""
    told = read_json(path / PROVENANCE)
    weights = {file.name: manifest.files.get(file.name, "") for file in Checkpoint.open(path).files}
    how = manifest.made.model_dump()
    expected = statement(weights, manifest.base, manifest.source, recipe, how, manifest.status, manifest.release)
    expected["predicate"]["runDetails"]["builder"]["version"] = manifest.versions
    if json.loads(json.dumps(expected)) != told:
        raise InterpError(f"{path}: its manifest and {PROVENANCE} tell different things; one of them was changed")
