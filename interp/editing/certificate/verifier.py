"""Verify an export: its files are those that were written, and its weights do what the recipe's hooks do.

    1. every file's SHA-256 against the manifest, and the manifest against the provenance statement beside it
    2. the edit made again from the base: each tensor, the config, the tokenizer and all that lies beside it (`replay`)
    3. reload the folder with plain transformers, load the base, check that its sites are all that writes to the stream
       (`prove`), hook the recipe, and measure what the certificate has (`certify`), on the probes kept at export
    4. the certificate in the folder has to tell the same, within what another machine's rounding explains

What it does not know: whether the edit is any good. That is the audit's question. Nor who wrote the folder: the model
card, the decision on a release, and base and recipe themselves are as the folder has them, so that whoever makes all of
them anew, digests included, passes. Only a signature (`interp.editing.export.signatures`) shows that, given the
writer's key.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.core.errors import InterpError
from interp.editing.certificate.measurement import certify
from interp.editing.certificate.record import Certificate
from interp.editing.certificate.replay import CERTIFICATE, PROBES, RECIPE, ExportManifest, Replay, rebuild
from interp.editing.certificate.writer_check import require_writer_check
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.loading import load
from interp.models.tokens import Tokens


def verify(
    folder: str | Path, base: str | Path | HookedModel | None = None, prompts: Sequence[str] = ()
) -> Certificate:
    """Check an exported folder's files, make the edit again, and measure it, on the same tokens as at export.

    `base` is the model it was made from, if it has moved or was in memory; `prompts` are texts of yours to measure on
    as well. Raises InterpError where a file is missing, changed or added, where making it again gives something else,
    where the certificate in the folder does not tell what is measured, or the base is another model than the recipe's.
    """
    return check(folder, base, prompts)[0]


def check(
    folder: str | Path, base: str | Path | HookedModel | None = None, prompts: Sequence[str] = ()
) -> tuple[Certificate, Replay]:
    """As `verify`, with what making it again found."""
    path = Path(folder)
    manifest = ExportManifest.at(path)
    manifest.check_files(path)
    recipe = Recipe.load(path / RECIPE)
    replayed, plan, where = rebuild(path, base)
    quantised = manifest.made.dequantise and not isinstance(where, HookedModel)
    model = where if isinstance(where, HookedModel) else load(where, dtype="bfloat16" if quantised else None)
    recipe.check(model.reference)
    if recipe.digest != manifest.recipe or manifest.base.digest not in ("", model.digest):
        raise InterpError(f"{path}: its manifest names another recipe or base model than it holds; it was changed")
    if manifest.release is not None:
        manifest.release.check(manifest.recipe, manifest.base, plan.status)
    # Written without loading the model (`export_streamed`), it was measured on nothing yet.
    probes = read_probes(path) if (path / PROBES).is_file() else random_probes(model, [])
    require_writer_check(model)
    if plan.status != manifest.status:
        raise InterpError(f"{path}: its manifest says {manifest.status}, but the fold is {plan.status}; it was changed")
    certificate = certify(model, recipe, path, probes, plan.items, manifest.made)
    if (path / CERTIFICATE).is_file() and (name := Certificate.read(path / CERTIFICATE).differs(certificate)):
        raise InterpError(f"{path / CERTIFICATE}: its {name} is not what is measured; it was changed")
    if prompts:
        more = [*probes, *random_probes(model, list(prompts))[1:]]
        certificate = certify(model, recipe, path, more, plan.items, manifest.made)
    return certificate, replayed


def random_probes(model: HookedModel, prompts: Sequence[str], instead: Sequence[Tokens] = ()) -> list[Tokens]:
    """Eight sequences of 32 random tokens, then the prompts; in small batches, since all logits are held at once.

    What is given `instead` takes the random ones' place: what was learnt from texts holds on texts.
    """
    length = min(32, model.context or 32)
    ids = torch.randint(model.config.vocab_size, (8, length), generator=torch.Generator().manual_seed(0))
    batches = [*instead] or [Tokens(ids, torch.ones_like(ids, dtype=torch.bool))]
    given = model.tokens(list(prompts)) if prompts else None
    if given is not None:
        batches += [given.rows(start, start + 4) for start in range(0, len(given), 4)]
    return batches


def write_probes(folder: Path, probes: list[Tokens]) -> None:
    """Keep the tokens that an export was measured on."""
    named = {f"{number}.{name}": getattr(p, name) for number, p in enumerate(probes) for name in ("ids", "mask")}
    save_file({name: x.contiguous() for name, x in named.items()}, folder / PROBES)


def read_probes(folder: Path) -> list[Tokens]:
    """The inverse of `write_probes`."""
    try:
        named = load_file(folder / PROBES)
        return [Tokens(named[f"{number}.ids"], named[f"{number}.mask"]) for number in range(len(named) // 2)]
    except (OSError, SafetensorError, KeyError) as problem:
        raise InterpError(f"{folder / PROBES}: cannot be read ({problem}); export again") from None
