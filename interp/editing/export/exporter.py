"""Export: the edited checkpoint as a Hugging Face folder that plain transformers loads.

    source -> fold plan -> shards -> config, tokenizer, recipe, manifest -> certificate -> rename into place

Everything is written into a temporary sibling folder, reloaded and measured there; only then is it renamed. Nothing
half-written is left behind, whatever fails.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from interp.editing.fold.plan import Plan
from interp.editing.fold.steps import fold, plan_fold
from interp.editing.options import ExportOptions, FoldOptions
from interp.interventions.recipe import Recipe
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.loading import load


def export(
    recipe: Recipe,
    source: str | Path | HookedModel,
    out: str | Path,
    options: ExportOptions | None = None,
    *,
    distilled: Distilled | None = None,
    release: Release | None = None,
    **fields: Any,
) -> Certificate:
    """Write the edited checkpoint to a new folder, reload it, and certify that it does what the hooks do.

    Args:
        recipe: The edit. It must be made for this model, and fold exactly unless `fold.approximate` is set.
        source: "organism", a local folder or a hub id, which is read tensor by tensor and keeps its types; or a GGUF
            file or a `HookedModel`, whose weights are in memory (of a multimodal model, the language model alone).
        out: The new folder. It is written under a temporary name and renamed when everything in it is certified.
        options: What to write and how; see `ExportOptions`. Single fields can be given by keyword instead, those of
            `FoldOptions` too: `export(recipe, model, out, dtype="bfloat16", keep_norms=True)`.
        distilled: Trained factors (`distil`) that are merged in place of a fold. The certificate is then measured on
            texts that were held out from their training.
        release: The policy decision under which the checkpoint goes out. It must be about this recipe and model.

    Returns:
        The certificate, which is also saved in the folder.

    Raises:
        InterpError: The recipe is another model's or does not fold, `out` exists, something outside the table of
            writers adds to the residual stream, or the reloaded checkpoint does not do what the hooks do. Nothing is
            written then.

    Limitations:
        The manifest and the provenance statement name a local source by its whole path, so that `verify` finds it.

    Example:
        >>> direction = torch.eye(model.d_model)[:1]
        >>> recipe = interp.Recipe([("writers", interp.Project(direction))])
        >>> certificate = interp.export(recipe, model, tmp / "edited")
        >>> certificate.faithful, certificate.status
        (True, 'exact')
    """
    options = ExportOptions.merged(options, fields)
    _require_call(options, certified=True)
    origin = _origin(source, options.fold)
    origin.refuse_overlap(Path(out))
    require_free(out)
    base = origin.model or load(source, dtype="bfloat16" if origin.dequantise else None)
    recipe.check(base.reference)
    require_writer_check(base)
    if distilled is not None:
        distilled.check(base.digest, options.fold)
    made = ExportSettings.used(options, origin.loaded, distilled.record if distilled else None)
    with _written(recipe, origin, Path(out), made, options, distilled=distilled) as (staging, plan, digests):
        if release is not None:
            release.check(recipe.digest, base.identity, plan.status)
        probes = random_probes(base, options.prompts, distilled.probes if distilled else ())
        write_probes(staging, probes)
        certificate = certify(base, recipe, staging, probes, plan.items, made)
        _require_faithful(certificate)
        if options.undo:
            write_patch(staging, origin, plan)
        write_json(staging / CERTIFICATE, certificate.to_json())
        _write_record(staging, recipe, plan, made, base.identity, base.source, digests, certificate, release)
    return certificate


def export_streamed(
    recipe: Recipe,
    source: str | Path | HookedModel,
    out: str | Path,
    options: ExportOptions | None = None,
    **fields: Any,
) -> ExportManifest:
    """Write the edited checkpoint without loading a model, for checkpoints larger than memory.

    There is no certificate: `verify` makes one where the model can be loaded. Whether the source is the model that the
    recipe was made for is decided by the digest of its weights (`interp.editing.export.identity`), before the folder
    gets its name. A run that was killed is resumed by the next run with the same arguments, after the last file that
    it finished.

    Args:
        recipe: The edit, as for `export`.
        source: As for `export`; also a URL of any fsspec file system.
        out: The new folder.
        options: As for `export`. With `trust_base`, type and shape alone decide whether the model is the recipe's.
            They also do, with a warning, where the digest is not known before the model is loaded.

    Returns:
        The manifest, which is also saved in the folder.

    Raises:
        InterpError: As for `export`, but for what only a certificate shows.

    Example:
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> interp.editing.export_streamed(recipe, model, tmp / "edited").status
        'exact'
    """
    options = ExportOptions.merged(options, {**fields, "streamed": True})
    _require_call(options)
    origin = _origin(source, options.fold)
    origin.refuse_overlap(Path(out))
    require_free(out)
    _require_written_down(origin)
    reference = origin.model.reference if origin.model else origin.reference(recipe.model)
    recipe.check(reference)
    made = ExportSettings.used(options, origin.loaded)
    with _written(recipe, origin, Path(out), made, options) as (staging, plan, digests):
        if options.trust_base and origin.checkpoint:
            reference = reference.model_copy(update={"digest": ""})
        elif reference.digest:
            reference = require_base(recipe, origin, _nearer(origin, plan, made, staging))
        if options.undo:
            write_patch(staging, origin, plan)
        return _write_record(staging, recipe, plan, made, reference, origin.source, digests, None)


def dry_run(
    recipe: Recipe, source: str | Path | HookedModel, options: ExportOptions | None = None, **fields: Any
) -> tuple[Plan, ExportEstimate]:
    """Plan an export and estimate what it takes; nothing is written.

    Args:
        recipe: The edit, as for `export`.
        source: As for `export_streamed`.
        options: As for `export`. With `trust_base`, and for a URL, type and shape alone decide whether the model is
            the recipe's; otherwise the digest of the weights does.

    Returns:
        The plan, with refused edits and their reasons among its items, and an estimate of memory, disk and time.

    Raises:
        InterpError: The recipe is another model's, or the source cannot be read.

    Example:
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> plan, estimate = interp.editing.dry_run(recipe, model)
        >>> plan.status, estimate.disk > estimate.edited > 0
        ('exact', True)
    """
    options = ExportOptions.merged(options, {**fields, "dry_run": True})
    origin = _origin(source, options.fold)
    origin.require_row()
    if options.trust_base or (origin.checkpoint and origin.checkpoint.remote):
        recipe.check(origin.model.reference if origin.model else origin.reference(recipe.model))
    else:
        require_base(recipe, origin)
    cast = dtype_of(options.dtype) if options.dtype else None
    plan = plan_fold(recipe, origin.config, origin.names, origin.is_tied, origin.reader(cast), options.fold)
    return plan, estimate_export(list(origin.edited(plan, cast)))


def _require_call(options: ExportOptions, certified: bool = False) -> None:
    """Raise for options that another function writes."""
    others = {
        "export_streamed": certified and options.streamed,
        "dry_run": options.dry_run,
        "export_adapter": options.form == "adapter",
        "export_control_vector": options.form == "control-vector",
    }
    if needed := [name for name, other in others.items() if other]:
        raise InterpError(f"these options are for {needed[0]}, which writes another kind of result; call that")


@contextmanager
def _written(
    recipe: Recipe,
    origin: WeightSource,
    out: Path,
    made: ExportSettings,
    options: ExportOptions,
    distilled: Distilled | None = None,
) -> Iterator[tuple[Path, Plan, dict[str, str]]]:
    """The folder with weights, config, tokenizer and recipe, and the weights' digests; `out` when the block ends."""
    sign = signer(options.sign) if options.sign is not None else None
    if distilled is not None:
        plan = distilled.plan(recipe, origin.config, origin.names)
    else:
        plan = fold(recipe, origin.config, origin.names, origin.is_tied, origin.reader(made.cast), made.fold)
    shards = cut_shards(origin.edited(plan, made.cast), options.shard_size)
    _require_room(out, sum(shard.nbytes for shard in shards))
    same = sha256_json([recipe.digest, origin.name, origin.stamp, options.shard_size, made.model_dump(), versions()])
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


def _origin(source: str | Path | HookedModel, fold: FoldOptions) -> WeightSource:
    origin = WeightSource.of(source, fold.dequantise)
    if fold.dequantise and not origin.dequantise:
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
