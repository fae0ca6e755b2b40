"""Replay: an exported folder against its record, and against the recipe applied to the base once more.

The manifest names the base, the recipe, how it was folded and every file's SHA-256. With these the edit can be made
again tensor by tensor, without loading a model, and compared with what is in the folder. On the machine that wrote it
not a bit may differ; on another, products may be rounded otherwise, which moves a weight by a rounding unit at most.

What it does not know: whether the weights do what the recipe's hooks do. That is `interp.editing.verify`.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from interp.core.config import Config
from interp.core.dtypes import dtype_of
from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_file
from interp.editing.distilled import FACTORS, Distillation, Distilled
from interp.editing.fold import fold
from interp.editing.origin import Origin
from interp.editing.plan import Choices, Plan, Status
from interp.editing.release import Release
from interp.editing.sign import SIGNATURE
from interp.editing.stream import made, one_thread
from interp.interventions.recipe import Recipe
from interp.models.checkpoint import Checkpoint
from interp.models.hooked import HookedModel
from interp.models.load import load
from interp.models.reference import ModelReference
from interp.models.tensorfile import TensorFile

MANIFEST = "interp_manifest.json"
RECIPE = "interp_recipe"


class Made(Config):
    """How a recipe was folded: `Choices`, and the type that weights were cast to.

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

    @property
    def choices(self) -> Choices:
        """As `fold` takes them."""
        return Choices(**{choice.name: getattr(self, choice.name) for choice in fields(Choices)})

    @property
    def cast(self) -> torch.dtype | None:
        """The type, if any."""
        return dtype_of(self.dtype) if self.dtype else None


class Manifest(Config):
    """What an export was made from and how, and the SHA-256 of each of its files.

    `source` is where the base came from, `status` how exact the fold is, `release` the decision that let it go out, if
    one was asked for.
    """

    base: ModelReference
    source: str | None
    recipe: str
    made: Made = Made()
    status: Status = "exact"
    files: dict[str, str]
    versions: dict[str, str]
    release: Release | None = None

    @classmethod
    def at(cls, folder: Path) -> "Manifest":
        """Read it. Raises where the folder has none."""
        if not (folder / MANIFEST).is_file():
            raise InterpError(f"{folder}: no {MANIFEST} in it; expected a folder written by interp export")
        return cls.parse(read_json(folder / MANIFEST), str(folder / MANIFEST))

    def check_files(self, folder: Path) -> None:
        """Raise, by its name, for a file that is missing, changed or added."""
        found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        found -= {MANIFEST, SIGNATURE}  # which covers the manifest, and is checked on its own (`sign`)
        for name in sorted({*self.files, *found}):
            if name not in self.files:
                raise InterpError(f"{folder / name}: not in the manifest; it was added after the export")
            if name not in found:
                raise InterpError(f"{folder / name}: missing; the export had it")
            if sha256_file(folder / name) != self.files[name]:
                raise InterpError(f"{folder / name}: changed after the export (SHA-256 differs from the manifest)")


@dataclass(frozen=True)
class Replay:
    """How many tensors were compared, how many are the same to the bit, and the largest gap in rounding units."""

    tensors: int
    identical: int
    units: float


def replay(folder: str | Path, base: str | Path | HookedModel | None = None) -> Replay:
    """Make the edit again and compare. `base` is the model it was made from, if it has moved.

    Raises InterpError, naming the tensor, where one is missing or too many, of another shape or type, or off by more
    than a rounding unit.
    """
    path = Path(folder)
    manifest, recipe = Manifest.at(path), Recipe.load(path / RECIPE)
    where = base if base is not None else manifest.source
    if where is None:
        raise InterpError(f"{path} was made from a model in memory; give it, or where it is now, as base")
    if manifest.made.loaded and not isinstance(where, HookedModel):
        where = load(where, dtype=manifest.made.loaded)
    origin = Origin.of(where, manifest.made.dequantise)
    plan = planned(path, manifest, recipe, origin)
    expected = {piece.name: piece for file in origin.edited(plan, manifest.made.cast) for piece in file}
    found = {name: file for file in Checkpoint.open(path).opened for name in file.entries}
    for name in sorted(set(expected) ^ set(found)):
        what = "is missing" if name in expected else "is one too many"
        raise InterpError(f"{path}: {name} {what}: the recipe applied to {origin.name} does not give these tensors")
    with one_thread():
        gaps = [_gap(name, made(piece), found[name]) for name, piece in expected.items()]
    return Replay(len(gaps), sum(gap == 0 for gap in gaps), max(gaps, default=0.0))


def planned(folder: Path, manifest: Manifest, recipe: Recipe, origin: Origin) -> Plan:
    """The fold that a folder's manifest tells of, planned again; or the merge of the factors that are beside it."""
    made = manifest.made
    if made.distilled is not None:
        distilled = Distilled.load(folder / FACTORS)
        if distilled.record != made.distilled:
            raise InterpError(f"{folder / FACTORS}: not the factors that the manifest tells of; it was changed")
        return distilled.plan(recipe, origin.config, origin.names)
    return fold(recipe, origin.config, origin.names, origin.is_tied, origin.reader(made.cast), made.choices)


def _gap(name: str, expected: Tensor, file: TensorFile) -> float:
    """The largest difference in rounding units."""
    held = file.read(name)
    if held.shape != expected.shape or held.dtype != expected.dtype:
        raise InterpError(
            f"{file.path}: {name} is {held.dtype} {tuple(held.shape)}; the recipe applied to the base gives "
            f"{expected.dtype} {tuple(expected.shape)}"
        )
    if torch.equal(held, expected):
        return 0.0
    unit = torch.finfo(held.dtype).eps * torch.maximum(held.abs(), expected.abs()).double()
    gap = float(((held.double() - expected.double()).abs() / unit.clamp(min=1e-30)).nan_to_num(torch.inf).max())
    if gap > 1:
        raise InterpError(
            f"{file.path}: {name} is not what the recipe makes of the base (off by {gap:.3g} rounding units)"
        )
    return gap
