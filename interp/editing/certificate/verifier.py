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

import torch

from interp.core.errors import InterpError
from interp.core.files import read_tensors, write_tensors
from interp.editing.certificate.manifest import CERTIFICATE, PROBES, ExportManifest
from interp.editing.certificate.measurement import certify
from interp.editing.certificate.record import Certificate
from interp.editing.certificate.replay import Replay, rebuild
from interp.editing.certificate.writer_check import require_writer_check
from interp.editing.export.sources import AnyModel
from interp.models import HookedModel, Tokens, load


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
    ExportManifest.at(path).check_files(path)
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


def random_probes(model: HookedModel, prompts: Sequence[str] = (), instead: Sequence[Tokens] = ()) -> list[Tokens]:
    """Eight sequences of 32 random tokens, then the prompts; in small batches, since all logits are held at once.

    `instead` replaces the random ones: what was learnt from texts holds on texts.
    """
    length = min(32, model.context or 32)
    ids = torch.randint(model.config.vocab_size, (8, length), generator=torch.Generator().manual_seed(0))
    batches = [*instead] or [Tokens(ids, torch.ones_like(ids, dtype=torch.bool))]
    if prompts:
        batches += model.tokens(list(prompts)).batches(4)
    return batches


def write_probes(folder: Path, probes: list[Tokens]) -> None:
    """Save the tokens that an export was measured on."""
    named = {f"{number}.{name}": getattr(p, name) for number, p in enumerate(probes) for name in ("ids", "mask")}
    write_tensors(folder / PROBES, {name: x.contiguous() for name, x in named.items()})


def read_probes(folder: Path) -> list[Tokens]:
    """The inverse of `write_probes`."""
    named = read_tensors(folder / PROBES)
    try:
        return [Tokens(named[f"{number}.ids"], named[f"{number}.mask"]) for number in range(len(named) // 2)]
    except KeyError as problem:
        raise InterpError(f"{folder / PROBES}: no tensor {problem}; export again") from None
