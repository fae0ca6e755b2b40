"""Export: the edited checkpoint as a Hugging Face folder that plain transformers loads.

    source -> fold plan -> shards -> config, tokenizer, recipe, manifest -> certificate -> rename into place

Everything is written into a temporary sibling folder, reloaded and measured there; only then is it renamed. Nothing
half-written is left behind, whatever fails.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from interp.core.digests import versions
from interp.core.dtypes import dtype_of
from interp.core.errors import InterpError
from interp.core.files import (
    KEY,
    new_folder,
    require_free,
    sha256_file,
    sha256_json,
    unfinished_path,
    write_json,
    write_text,
)
from interp.editing.approximate.low_rank_factors import FACTORS, Distilled
from interp.editing.certificate.measurement import certify
from interp.editing.certificate.record import Certificate
from interp.editing.certificate.replay import CERTIFICATE, MANIFEST, RECIPE, ExportManifest, ExportSettings
from interp.editing.certificate.verifier import random_probes, write_probes
from interp.editing.certificate.writer_check import require_writer_check
from interp.editing.export.estimate import ExportEstimate, estimate_export
from interp.editing.export.identity import require_base
from interp.editing.export.model_card import render_model_card
from interp.editing.export.provenance import PROVENANCE, Release, statement
from interp.editing.export.restoring import write_patch
from interp.editing.export.signatures import signer
from interp.editing.export.sources import WeightSource
from interp.editing.export.weight_writer import TensorPiece, cut_shards, write_weights
from interp.editing.fold.plan import FoldOptions, Plan
from interp.editing.fold.steps import fold, plan_fold
from interp.interventions.recipe import Recipe
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.loading import load


def export(
    recipe: Recipe,
    source: str | Path | HookedModel,
    out: str | Path,
    dtype: str | None = None,
    prompts: list[str] | None = None,
    shard_bytes: int | None = None,
    choices: FoldOptions = FoldOptions(),  # noqa: B008 (frozen)
    undo: bool = False,
    release: Release | None = None,
    sign: str | Path | None = None,
    distilled: Distilled | None = None,
) -> Certificate:
    """Write the edited checkpoint to a new folder and return the certificate, which is saved in it.

    `source` is "organism", a local folder or hub id (read tensor by tensor, its types kept), or a GGUF file or
    HookedModel (its weights in memory, in the type they have there; the language model alone of a multimodal one).
    `dtype` casts floating-point weights. Files are cut as those of the source, or anew to at most `shard_bytes` each.
    `prompts` adds texts of yours to those on which hooks and export are compared. `choices` say how to fold, and
    whether what is not exact is let in: then the certificate measures how far it is off. `undo` adds a patch that
    brings the original weights back (`interp.editing.export.restoring`). `sign` is a private key (PEM) to sign the
    folder with (`interp.editing.export.signatures`). A `release` is the decision under which it goes out.
    The manifest and the provenance name a local source by its whole path, by which `verify` finds it again.
    `distilled` factors are merged in place of a fold; then texts held out from their training are what is measured on.
    Raises InterpError where the recipe is another model's, can't be folded exactly, or `out` exists, where something
    writes to the stream that the table of writers does not have (`interp.editing.certificate.writer_check`), and
    where the reloaded checkpoint does not do what the hooks do; nothing is written then.
    """
    origin = _origin(source, choices)
    origin.refuse_overlap(Path(out))
    require_free(out)
    base = origin.model or load(source, dtype="bfloat16" if origin.dequantise else None)
    recipe.check(base.reference)
    require_writer_check(base)
    if distilled is not None:
        distilled.check(base.digest, choices)
    made = ExportSettings(
        dtype=dtype, loaded=origin.loaded, distilled=distilled.record if distilled else None, **asdict(choices)
    )
    with _written(recipe, origin, Path(out), made, shard_bytes, sign, distilled=distilled) as (staging, plan, digests):
        if release is not None:
            release.check(recipe.digest, base.identity, plan.status)
        probes = random_probes(base, prompts or [], distilled.probes if distilled else ())
        write_probes(staging, probes)
        certificate = certify(base, recipe, staging, probes, plan.items, made)
        _require_faithful(certificate)
        if undo:
            write_patch(staging, origin, plan)
        write_json(staging / CERTIFICATE, certificate.to_json())
        _write_record(staging, recipe, plan, made, base.identity, base.source, digests, certificate, release)
    return certificate


def export_streamed(
    recipe: Recipe,
    source: str | Path | HookedModel,
    out: str | Path,
    dtype: str | None = None,
    shard_bytes: int | None = None,
    choices: FoldOptions = FoldOptions(),  # noqa: B008 (frozen)
    undo: bool = False,
    trust_base: bool = False,
    sign: str | Path | None = None,
) -> ExportManifest:
    """As `export`, but no model is loaded: for checkpoints larger than memory.

    So there is no certificate, which `verify` makes where the model can be loaded. `source` may be a URL of any fsspec
    file system. Whether it is the model that the recipe was made for is seen by the digest of its weights
    (`interp.editing.export.identity`), before anything has its name; with `trust_base`, and where only loading would
    tell (a warning says so), by type and shape alone. A run that was killed is taken up again by one that is the same,
    behind the last file that it finished.
    """
    origin = _origin(source, choices)
    origin.refuse_overlap(Path(out))
    require_free(out)
    _require_written_down(origin)
    reference = origin.model.reference if origin.model else origin.reference(recipe.model)
    recipe.check(reference)
    made = ExportSettings(dtype=dtype, loaded=origin.loaded, **asdict(choices))
    with _written(recipe, origin, Path(out), made, shard_bytes, sign) as (staging, plan, digests):
        if trust_base and origin.checkpoint:
            reference = reference.model_copy(update={"digest": ""})
        elif reference.digest:
            reference = require_base(recipe, origin, _nearer(origin, plan, made, staging))
        if undo:
            write_patch(staging, origin, plan)
        return _write_record(staging, recipe, plan, made, reference, origin.source, digests, None)


def dry_run(
    recipe: Recipe,
    source: str | Path | HookedModel,
    dtype: str | None = None,
    choices: FoldOptions = FoldOptions(),  # noqa: B008 (frozen)
    trust_base: bool = False,
) -> tuple[Plan, ExportEstimate]:
    """What an export would change and how exactly, refusals included, and what it would take; nothing is written.

    Whether the model is the recipe's is seen by the digest of its weights, but with `trust_base`, and of one at a URL,
    by type and shape alone.
    """
    origin = _origin(source, choices)
    origin.require_row()
    if trust_base or (origin.checkpoint and origin.checkpoint.remote):
        recipe.check(origin.model.reference if origin.model else origin.reference(recipe.model))
    else:
        require_base(recipe, origin)
    cast = dtype_of(dtype) if dtype else None
    plan = plan_fold(recipe, origin.config, origin.names, origin.is_tied, origin.reader(cast), choices)
    return plan, estimate_export(list(origin.edited(plan, cast)))


@contextmanager
def _written(
    recipe: Recipe,
    origin: WeightSource,
    out: Path,
    made: ExportSettings,
    shard_bytes: int | None,
    key: str | Path | None,
    distilled: Distilled | None = None,
) -> Iterator[tuple[Path, Plan, dict[str, str]]]:
    """The folder with weights, config, tokenizer and recipe, and the weights' digests; `out` when the block ends."""
    sign = signer(key) if key is not None else None
    if distilled is not None:
        plan = distilled.plan(recipe, origin.config, origin.names)
    else:
        plan = fold(recipe, origin.config, origin.names, origin.is_tied, origin.reader(made.cast), made.choices)
    shards = cut_shards(origin.edited(plan, made.cast), shard_bytes)
    _require_room(out, sum(shard.nbytes for shard in shards))
    same = sha256_json([recipe.digest, origin.name, origin.stamp, shard_bytes, made.model_dump(), versions()])
    with new_folder(out, resume_key=same if origin.checkpoint else None) as staging:
        digests = write_weights(shards, staging)
        origin.write_companions(staging, made.config(plan))
        (staging / RECIPE).mkdir(exist_ok=True)
        recipe.write(staging / RECIPE)
        if distilled is not None:
            distilled.save(staging / FACTORS)
        yield staging, plan, digests
        if sign:
            sign(staging)


def _origin(source: str | Path | HookedModel, choices: FoldOptions) -> WeightSource:
    origin = WeightSource.of(source, choices.dequantise)
    if choices.dequantise and not origin.dequantise:
        raise InterpError(f"{origin.name} is not quantised, or is in memory; leave dequantise out")
    return origin


def _nearer(origin: WeightSource, plan: Plan, made: ExportSettings, folder: Path) -> dict[str, TensorPiece]:
    """The source's tensors, those that were passed on unchanged as they are in `folder`."""
    copies = {name: (file, entry) for file in Checkpoint.open(folder).opened for name, entry in file.entries.items()}
    kept = {piece.name for file in origin.edited(plan, made.cast) for piece in file if piece.is_kept}
    pieces = {piece.name: piece for file in origin.files for piece in file}
    return {n: replace(x, source=copies[n]) if n in kept else x for n, x in pieces.items()}


def _require_written_down(origin: WeightSource) -> None:
    """What writes the stream of a recognised type is proved on a loaded model alone."""
    if origin.model:
        require_writer_check(origin.model)
    elif not origin.is_written_down:
        raise InterpError(
            f"{origin.model_type} is not among the architectures that are written down, and of others only a loaded "
            "model shows what writes its residual stream; export it without streaming"
        )


def _require_room(out: Path, needed: int) -> None:
    place = next(parent for parent in out.absolute().parents if parent.exists())
    begun = unfinished_path(out)  # goes on from there, or is removed
    held = sum(file.stat().st_size for file in begun.rglob("*") if file.is_file()) if begun.is_dir() else 0
    free = shutil.disk_usage(place).free + held
    if needed > free:
        raise InterpError(
            f"{out} needs {needed / 1e9:.1f} GB, and {place} has {free / 1e9:.1f} GB free; choose another place"
        )


def _require_faithful(certificate: Certificate) -> None:
    if not certificate.faithful:
        raise InterpError(
            f"the exported weights do not do what the recipe's hooks do: {'; '.join(certificate.unmet)}. Nothing was "
            "written; run the recipe with hooks, and if the fold is said to be exact, please report the architecture"
        )


def _write_record(
    staging: Path,
    recipe: Recipe,
    plan: Plan,
    made: ExportSettings,
    base: ModelReference,
    source: str | None,
    weights: dict[str, str],
    certificate: Certificate | None,
    release: Release | None = None,
) -> ExportManifest:
    write_text(staging / "README.md", render_model_card(recipe, plan, base, certificate, release))
    origin = statement(weights, base, source, recipe, made.model_dump(), plan.status, release)
    write_json(staging / PROVENANCE, origin)
    rest = [file for file in staging.rglob("*") if file.is_file() and file.name not in {*weights, KEY}]
    digests = weights | {str(file.relative_to(staging)): sha256_file(file) for file in rest}
    manifest = ExportManifest(
        base=base,
        source=source,
        recipe=recipe.digest,
        made=made,
        status=plan.status,
        files=digests,
        versions=versions(),
        release=release,
    )
    write_json(staging / MANIFEST, manifest.model_dump())
    return manifest
