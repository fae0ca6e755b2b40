"""Verify an export: its files are those that were written, and its weights do what the recipe's hooks do.

    1. compare every file's SHA-256 with the manifest, and the manifest with the provenance statement
    2. make the edit again from the base and compare each tensor, the config, the tokenizer and all else that is copied
    3. reload the folder with plain transformers, load the base, check that its sites are all that writes to the stream,
       hook the recipe, and measure what the certificate holds, on the probes that were saved at export
    4. compare with the certificate in the folder, within what another machine's rounding explains

Limitations: it does not show whether the edit is any good, which is the audit's question, nor who wrote the folder. The
model card, the release decision, the base and the recipe are taken from the folder, so someone who rewrites all of
them, digests included, passes. Only a signature (`interp.editing.export.signatures`) and the writer's key exclude that.
"""

from collections.abc import Sequence
from pathlib import Path

from interp.core.errors import InterpError
from interp.editing.certificate.manifest import CERTIFICATE, GGUF, PROBES, ExportManifest
from interp.editing.certificate.measurement import certify
from interp.editing.certificate.probes import random_probes, read_probes
from interp.editing.certificate.record import Certificate
from interp.editing.certificate.replay import Replay, rebuild
from interp.editing.certificate.writer_check import require_writer_check
from interp.editing.export.gguf_writer import check_gguf
from interp.editing.export.sources import AnyModel
from interp.models import HookedModel, load


def verify(folder: str | Path, base: AnyModel | None = None, prompts: Sequence[str] = ()) -> Certificate:
    """Check an exported folder, make its edit again, and measure it on the same tokens as at export.

    Args:
        folder: A checkpoint written by `export` or `export_streamed`.
        base: The model that it was made from, if that has moved since or was in memory.
        prompts: More texts to measure on.

    Returns:
        The certificate as measured now.

    Raises:
        InterpError: A file is missing, changed or additional, the edit made again differs from the folder, the saved
            certificate is not what is measured, or the base is another model than the recipe's.

    Example:
        >>> from interp.editing import export_streamed
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> manifest = export_streamed(recipe, model, tmp / "edited")
        >>> interp.verify(tmp / "edited", model).faithful
        True
    """
    return check(folder, base, prompts)[0]


def check(folder: str | Path, base: AnyModel | None = None, prompts: Sequence[str] = ()) -> tuple[Certificate, Replay]:
    """As `verify`, with the comparison of the edit made again."""
    path = Path(folder)
    written = ExportManifest.at(path)
    written.check_files(path)
    if GGUF in written.files:
        return check_gguf(path, written, base, prompts)
    rebuilt = rebuild(path, base)
    manifest, recipe, plan, model = rebuilt.manifest, rebuilt.recipe, rebuilt.plan, rebuilt.base
    if not isinstance(model, HookedModel):
        model = load(model, dtype="bfloat16" if manifest.made.dequantise else None)
    recipe.check(model.reference)
    if recipe.digest != manifest.recipe or (manifest.base.digest and not manifest.base.is_same(model.reference)):
        raise InterpError(f"{path}: its manifest names another recipe or base model than it holds; it was changed")
    if manifest.release is not None:
        manifest.release.check(manifest.recipe, manifest.base, plan.status)
    # What `export_streamed` wrote was not measured yet.
    probes = read_probes(path) if (path / PROBES).is_file() else random_probes(model)
    require_writer_check(model)
    if plan.status != manifest.status:
        raise InterpError(f"{path}: its manifest says {manifest.status}, but the fold is {plan.status}; it was changed")
    certificate = certify(model, recipe, plan, path, probes, manifest.made)
    older = manifest.left_out is None
    if (path / CERTIFICATE).is_file() and (name := Certificate.read(path / CERTIFICATE).differs(certificate, older)):
        raise InterpError(f"{path / CERTIFICATE}: its {name} is not what is measured; it was changed")
    if prompts:
        probes = [*probes, *random_probes(model, prompts)[1:]]
        certificate = certify(model, recipe, plan, path, probes, manifest.made)
    return certificate, rebuilt.replay
