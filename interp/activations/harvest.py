"""Harvest: run a model over a corpus and keep what it computes at some sites.

1. The corpus is tokenised and packed; rows are grouped into shards. Both are fixed before the model runs.
2. Each shard is computed batch by batch (the forward pass stops at the last wanted site), written beside its
   final name, flushed, renamed, and then entered in the manifest with its checksum.
3. When all are there the manifest gets its final name.

A harvest that was killed is continued by the same call: shards in the manifest are checked and kept, the rest
computed. A shard depends on its own rows alone, so on the same machine the store is byte-identical to one
that was never interrupted.

What it does not know: another process that harvests into the same folder at the same time.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.manifest import (
    FINISHED,
    PARTIAL,
    HarvestConfig,
    Manifest,
    Settings,
    Shard,
    check_shard,
)
from interp.activations.rows import rows
from interp.activations.store import Store
from interp.core.dtypes import DTYPES
from interp.core.errors import InterpError
from interp.core.files import sha256_json, write_json
from interp.core.progress import track
from interp.core.records import versions
from interp.data import corpora
from interp.data.packing import Packed
from interp.models.hooked import HookedModel
from interp.models.sites import Site


def harvest(
    model: HookedModel,
    texts: corpora.Source,
    sites: str | Site | Iterable[str | Site],
    out: str | Path,
    *,
    tokens: int | None = None,
    context: int = 128,
    batch_size: int = 16,
    dtype: str = "float32",
    shard_tokens: int = 65536,
) -> Store:
    """Write the activations at sites over a corpus into the folder `out`, and open it.

    `texts` is what `corpora.texts` reads; at most `tokens` of it are used. A site with heads is stored with
    them side by side. If `out` holds the same harvest it is continued, or opened if finished; one with other
    settings is refused by their names. Raises for NaN or infinite activations, which includes those too large
    for `dtype`.
    """
    given = {"tokens": tokens, "context": context, "batch_size": batch_size, "dtype": dtype}
    config = HarvestConfig.parse(given | {"shard_tokens": shard_tokens}, source="harvest")
    wanted = model.resolve(sites)
    if config.shard_tokens < config.context:
        raise InterpError(f"shard_tokens is {shard_tokens}; expected at least one row, {context} tokens")
    corpus = rows(model, texts, config.context, config.tokens)
    widths = {str(site): x.shape[-1] for site, x in _activations(model, corpus.packed.rows(0, 1), wanted).items()}
    settings = Settings(
        harvest=config,
        sites=widths,
        model=model.reference,
        model_dtype=str(model.dtype),
        device=model.device.type,
        tokenizer_digest=_tokenizer_digest(model.tokenizer),
        text_digest=corpus.text_digest,
        documents=corpus.documents,
        versions=versions(),
    )
    folder = Path(out)
    shards = _begun(folder, settings)
    if not (folder / FINISHED).exists():
        _fill(folder, settings, shards, model, corpus.packed)
    return Store.open(folder, verify=False)


def _tokenizer_digest(tokenizer: Any) -> str:
    # Not the serialised tokenizer: calls with padding or truncation change that, and no token.
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return sha256_json([tokenizer.get_vocab(), special])


def _begun(folder: Path, settings: Settings) -> list[Shard]:
    """The intact shards of this harvest in the folder, made if need be. Raises if it holds anything else."""
    for name in (FINISHED, PARTIAL):
        if (folder / name).exists():
            manifest = Manifest.load(folder / name)
            if different := manifest.settings.differences(settings):
                raise InterpError(
                    f"{folder} holds a harvest with other settings ({'; '.join(different)}); "
                    "use those settings to continue it, or choose a new folder"
                )
            for shard in manifest.shards:
                check_shard(folder, shard)
            return manifest.shards
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InterpError(f"{folder} exists and is not an activation store; choose a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InterpError(f"{folder}: cannot be written ({problem.strerror}); choose another folder") from None
    write_json(folder / PARTIAL, Manifest(settings=settings, shards=[]).model_dump())
    return []


def _fill(folder: Path, settings: Settings, shards: list[Shard], model: HookedModel, packed: Packed) -> None:
    """Compute and write the shards that are missing, then give the manifest its final name."""
    for stray in folder.glob(f".{PARTIAL}.*"):
        stray.unlink()
    groups = list(packed.batches(settings.harvest.shard_tokens // settings.harvest.context))
    for number in track(range(len(shards), len(groups)), "harvest"):
        name = f"shard-{number:05}.safetensors"
        tensors = _shard_tensors(model, groups[number], settings)
        sha256 = _write(folder / name, safetensors.torch.save(tensors))
        shards = [*shards, Shard(name=name, tokens=len(tensors["ids"]), sha256=sha256)]
        write_json(folder / PARTIAL, Manifest(settings=settings, shards=shards).model_dump())
    os.replace(folder / PARTIAL, folder / FINISHED)


def _shard_tensors(model: HookedModel, packed: Packed, settings: Settings) -> dict[str, Tensor]:
    """The shard's tokens and, by site, their activations, padding left out."""
    wanted, dtype = [Site.parse(name) for name in settings.sites], settings.harvest.dtype
    parts: dict[str, list[Tensor]] = {name: [] for name in settings.sites}
    for batch in packed.batches(settings.harvest.batch_size):
        for site, x in _activations(model, batch, wanted).items():
            kept = x[batch.mask].to(DTYPES[dtype])
            if not torch.isfinite(kept).all():
                raise InterpError(
                    f"{site} has NaN or infinite activations as {dtype}; use float32 for it and the model"
                )
            parts[str(site)].append(kept)
    columns = {"ids": packed.ids, "document": packed.document, "position": packed.position_ids}
    beside = {name: column[packed.mask].int() for name, column in columns.items()}
    return beside | {name: torch.cat(part) for name, part in parts.items()}


def _activations(model: HookedModel, batch: Packed, wanted: list[Site]) -> dict[Site, Float[Tensor, "batch pos d_in"]]:
    found = model.forward_to(wanted, batch.model_inputs(model.device))
    return {site: x.flatten(2).cpu() for site, x in found.items()}


def _write(path: Path, content: bytes) -> str:
    """Write a file all at once, flushed to disk, and return its SHA-256."""
    beside = path.with_name(f".{path.name}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as problem:
        raise InterpError(f"{path}: writing failed ({problem.strerror}); run again to continue") from None
    finally:
        beside.unlink(missing_ok=True)
    return hashlib.sha256(content).hexdigest()
