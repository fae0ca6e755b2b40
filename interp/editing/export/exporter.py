"""Export: the edited checkpoint as a Hugging Face folder that plain transformers loads.

    source -> fold plan -> shards -> config, tokenizer, recipe -> certificate -> card, provenance, manifest -> rename

Everything is written into a temporary sibling folder, reloaded and measured there; only then is it renamed. Whatever
fails, nothing half-written is left behind. The fold is planned once, and the plan, the digests of the weights and the
probes are passed on from step to step.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from interp.core.digests import versions
from interp.core.display import displayed
from interp.core.errors import InterpError, on_interrupt
from interp.core.files import new_folder, require_free, sha256_json, unfinished_path, write_json, write_text
from interp.editing.approximate.low_rank_factors import FACTORS, Distilled
from interp.editing.certificate import Certificate, ExportManifest, Release
from interp.editing.certificate.manifest import CARD, CERTIFICATE, MANIFEST, PROVENANCE, RECIPE, ExportSettings
from interp.editing.certificate.measurement import certify
from interp.editing.certificate.probes import random_probes, write_probes
from interp.editing.certificate.replay import plan_export
from interp.editing.certificate.writer_check import require_writer_check
from interp.editing.export.identity import require_base, require_places
from interp.editing.export.model_card import render_model_card
from interp.editing.export.provenance import provenance_statement
from interp.editing.export.restoring import write_patch
from interp.editing.export.signatures import signer
from interp.editing.export.sources import CheckpointSource, WeightSource, open_source
from interp.editing.export.weight_writer import ExportEstimate, TensorPiece, cut_shards, estimate_export, write_weights
from interp.editing.fold import Plan, plan_fold
from interp.editing.options import ExportOptions
from interp.interventions.recipe import Recipe
from interp.models import HookedModel, ModelReference
from interp.models.checkpoints.checkpoint import Checkpoint


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
    """Write the edited checkpoint to a new folder, reload it, and check that it computes what the hooked one computes.

    Args:
        recipe: The edit. It must have been made for this model. It must fold exactly, unless `approximate=True`.
        source: "organism", a local folder or a hub id: read tensor by tensor, keeping the stored dtypes. Or a GGUF file
            or a `HookedModel`, whose weights are taken from memory (for a multimodal model, only the language model's).
        out: The new folder. It is written under a temporary name and renamed once the certificate passes. With
            `overwrite=True` it takes the place of an earlier export, in one step.
        options: What to write and how; see `ExportOptions`. Its fields, and those of `FoldOptions`, can also be given
            as keyword arguments: `export(recipe, model, out, dtype="bfloat16", keep_norms=True)`.
        distilled: Low-rank factors trained by `interp.distil`, merged instead of a fold. The certificate is then
            computed on held-out texts.
        release: The policy decision that allows this release. It must be about this recipe and model.
        fields: Fields of `ExportOptions` and `FoldOptions`.

    Returns:
        The certificate, which is also saved in the folder.

    Raises:
        InterpError: The recipe was made for another model or cannot be folded; `out` exists; an unknown module writes
            to the residual stream; or the reloaded checkpoint differs from the hooked model. In all these cases
            nothing is written.

    Limitations:
        The manifest and the provenance statement contain the absolute path of a local source (check this before you
        publish the folder), so that `verify` finds it.

    Example:
        >>> direction = torch.eye(model.d_model)[:1]
        >>> recipe = interp.Recipe([("writers", interp.Project(direction))])
        >>> certificate = interp.export(recipe, model, tmp / "edited")
        >>> certificate.faithful, certificate.status
        (True, 'exact')
    """
    options = ExportOptions.merged(options, fields)
    _require_form(options, certified=True)
    weights = _open(source, options, out)
    recipe = weights.kept(recipe, options)
    base = weights.load_model()
    recipe.check(base.reference)
    require_writer_check(base)
    if distilled is not None:
        distilled.check(base.reference, options.fold)
    with _written(recipe, weights, Path(out), options, distilled) as written:
        if release is not None:
            release.check(recipe.digest, base.identity, written.plan.status)
        probes = random_probes(base, options.prompts, distilled.probes if distilled else ())
        write_probes(written.folder, probes)
        certificate = certify(base, recipe, written.plan, written.folder, probes, written.settings)
        require_faithful(certificate)
        write_json(written.folder / CERTIFICATE, certificate.to_json())
        written.write_records(base.identity, base.source, certificate, release)
    return certificate


def export_streamed(
    recipe: Recipe,
    source: str | Path | HookedModel,
    out: str | Path,
    options: ExportOptions | None = None,
    **fields: Any,
) -> ExportManifest:
    """Write the edited checkpoint without loading a model, for checkpoints larger than memory.

    There is no certificate: `verify` makes one where the model can be loaded. Before the folder is renamed to `out`,
    the digest of the source's weights is compared with the recipe's model. To resume a killed run, call again with the
    same arguments; finished files are kept.

    Args:
        recipe: The edit, as for `export`.
        source: As for `export`; also a URL of any fsspec file system.
        out: The new folder.
        options: As for `export`. With `trust_base`, only architecture and shape are compared with the recipe's model.
            The same happens, with a warning, if the digest cannot be computed without loading the model.
        fields: Fields of `ExportOptions` and `FoldOptions`.

    Returns:
        The manifest, which is also saved in the folder.

    Raises:
        InterpError: As for `export`, except for the errors that only a certificate finds.

    Example:
        >>> from interp.editing import export_streamed
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> export_streamed(recipe, model, tmp / "edited").status
        'exact'
    """
    options = ExportOptions.merged(options, {**fields, "streamed": True})
    _require_form(options)
    weights = _open(source, options, out)
    recipe = weights.kept(recipe, options)
    if weights.loaded:
        require_writer_check(weights.load_model())
    elif not weights.is_written_down:
        kind = f"{weights.model_type} is not among the architectures that are written down"
        raise InterpError(f"{kind}, so only a loaded model shows what writes its stream; export it without streaming")
    reference = weights.reference(recipe.model)
    recipe.check(reference)
    trusted = options.trust_base and not weights.loaded
    with ThreadPoolExecutor(1) as beside:
        # A local source is hashed while it is copied; a remote one is fetched once.
        hashed = None if trusted or _is_remote(weights) else beside.submit(require_base, recipe, weights)
        with _written(recipe, weights, Path(out), options) as written:
            if trusted:
                reference = reference.without_weights()
            elif hashed is not None:
                reference = hashed.result()
            else:
                reference = require_base(recipe, weights, _nearest_copies(weights, written))
            return written.write_records(reference, weights.path)


def dry_run(
    recipe: Recipe, source: str | Path | HookedModel, options: ExportOptions | None = None, **fields: Any
) -> tuple[Plan, ExportEstimate]:
    """Plan an export and estimate its memory, disk space and time. Writes nothing.

    Args:
        recipe: The edit, as for `export`.
        source: As for `export_streamed`.
        options: As for `export`. With `trust_base`, and for a URL, only architecture and shape are compared with the
            recipe's model; otherwise the digest of the weights is.
        fields: Fields of `ExportOptions` and `FoldOptions`.

    Returns:
        The plan, with refused edits and their reasons among its items, and an estimate of memory, disk and time.

    Raises:
        InterpError: The recipe is another model's, or the source cannot be read.

    Example:
        >>> from interp.editing import dry_run
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> plan, estimate = dry_run(recipe, model)
        >>> plan.status, estimate.disk >= estimate.edited > 0
        ('exact', True)
    """
    options = ExportOptions.merged(options, {**fields, "dry_run": True})
    weights = _open(source, options)
    weights.require_row()
    recipe = weights.kept(recipe, options)
    if options.trust_base or _is_remote(weights):
        recipe.check(weights.reference(recipe.model))
    else:
        require_base(recipe, weights)
    cast = ExportSettings.used(options, weights.loaded, None).cast
    read = partial(weights.read, dtype=cast)
    plan = plan_fold(recipe, weights.config, weights.pieces, weights.is_tied, read, options.fold)
    return displayed((plan, estimate_export(list(weights.edited(plan, cast)))))


@dataclass(frozen=True, eq=False)
class WrittenFolder:
    """Edited weights in a temporary folder, and what later steps need, so that planning and hashing happen once."""

    folder: Path
    recipe: Recipe
    plan: Plan
    settings: ExportSettings
    digests: dict[str, str]
    left_out: dict[str, str]

    def write_records(
        self,
        base: ModelReference,
        path: str | None,
        certificate: Certificate | None = None,
        release: Release | None = None,
    ) -> ExportManifest:
        """Write the model card, the provenance statement and the manifest, which lists the digest of every file."""
        manifest = ExportManifest(
            base=base,
            source=path,
            recipe=self.recipe.digest,
            made=self.settings,
            status=self.plan.status,
            files=self.digests,
            versions=versions(),
            release=release,
            left_out=self.left_out,
        )
        write_text(self.folder / CARD, render_model_card(manifest, self.plan, self.recipe.note, certificate))
        write_json(self.folder / PROVENANCE, provenance_statement(manifest, self.recipe, self.digests))
        return manifest.sealed(self.folder)


def _require_form(options: ExportOptions, certified: bool = False) -> None:
    """Raise for options that another function writes."""
    if options.form != "checkpoint" or options.dry_run or (certified and options.streamed):
        raise InterpError("these options belong to export_adapter, export_control_vector, export_streamed and dry_run")


@contextmanager
def _written(
    recipe: Recipe, source: WeightSource, out: Path, options: ExportOptions, distilled: Distilled | None = None
) -> Iterator[WrittenFolder]:
    """Write weights, config, tokenizer and recipe to a folder, which is renamed to `out` when the block ends."""
    sign = signer(options.sign) if options.sign is not None else None
    settings = ExportSettings.used(options, source.loaded, distilled.record if distilled else None)
    plan = plan_export(recipe, source, settings, distilled)
    shards = cut_shards(source.edited(plan, settings.cast), options.shard_size)
    require_space(out, sum(shard.nbytes for shard in shards))
    run_settings = [recipe.digest, source.name, source.stamp, options.shard_size, settings.model_dump(), versions()]
    resume_key = sha256_json(run_settings) if source.stamp else None
    going_on = f"the same call continues from the files that are whole, in {unfinished_path(out)}"
    with (
        on_interrupt(going_on if resume_key else "nothing is kept"),
        new_folder(out, resume_key, MANIFEST, options.overwrite) as folder,
    ):
        digests = write_weights(shards, folder)
        left_out = source.write_companions(folder)
        source.write_config(folder, settings.config(plan))
        (folder / RECIPE).mkdir(exist_ok=True)
        recipe.write(folder / RECIPE)
        if distilled is not None:
            distilled.save(folder / FACTORS)
        if options.undo:
            write_patch(folder, source, plan)
        yield WrittenFolder(folder, recipe, plan, settings, digests, left_out)
        if sign:
            sign(folder)


def _open(source: str | Path | HookedModel, options: ExportOptions, out: str | Path | None = None) -> WeightSource:
    weights = open_source(source, options.fold.dequantise)
    if options.fold.dequantise and not (isinstance(weights, CheckpointSource) and weights.dequantise):
        raise InterpError(f"{weights.name} is not quantised, or is in memory; leave dequantise out")
    require_places(weights)
    if out is not None:
        weights.refuse_overlap(Path(out))
        require_free(out, MANIFEST, options.overwrite)
    return weights


def _is_remote(source: WeightSource) -> bool:
    return isinstance(source, CheckpointSource) and bool(source.checkpoint.remote)


def _nearest_copies(source: WeightSource, written: WrittenFolder) -> dict[str, TensorPiece]:
    """The source's tensors. Those that were copied unchanged are read from the new folder instead."""
    files = Checkpoint.open(written.folder).opened
    copies = {name: (file, entry) for file in files for name, entry in file.entries.items()}
    copied = {p.name for file in source.edited(written.plan, written.settings.cast) for p in file if p.is_kept}
    return {n: replace(x, source=copies[n]) if n in copied else x for n, x in source.pieces.items()}


def require_space(out: Path, needed: int) -> None:
    """Raise where an output's disk has fewer bytes free than it needs."""
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    unfinished = unfinished_path(out)  # is resumed, or removed
    files = unfinished.rglob("*") if unfinished.is_dir() else ()
    free = shutil.disk_usage(parent).free + sum(file.stat().st_size for file in files if file.is_file())
    if needed > free:
        needs, has = (f"{size / 1e9:.1f} GB" if size > 1e8 else f"{size / 1e6:.1f} MB" for size in (needed, free))
        raise InterpError(f"{out} needs {needs}, and {parent} has {has} free; choose another place")


def require_faithful(certificate: Certificate) -> None:
    """Raise where an export does not do what the recipe's hooks do."""
    if not certificate.faithful:
        problem = f"the exported weights do not do what the recipe's hooks do: {'; '.join(certificate.unmet)}"
        raise InterpError(f"{problem}. Nothing was written; run it with hooks, and report a fold that is called exact")
