"""Harvest: run a model over a corpus and keep what it computes at some sites.

1. The corpus is read, tokenised and packed as it is needed; so many rows are one shard.
2. Each shard is computed batch by batch (the forward pass stops at the last wanted site), written beside its
   final name, flushed, renamed, and then entered in the manifest with its checksum.
3. When all are there the manifest gets its final name.

Memory is that of a batch and a shard, however long the corpus. A harvest that was killed is continued by the
same call: shards in the manifest are checked against their checksums and the corpus against the digest that
each keeps, and the rest is computed. A shard depends on its own rows alone, so on the same machine the store
is byte-identical to one that was never interrupted. A second process that harvests into the same folder is
refused.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
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
    Statistics,
    check_shard,
)
from interp.activations.quantised import quantised, restored
from interp.activations.rows import Reading, groups
from interp.activations.store import Store
from interp.core.dtypes import DTYPES
from interp.core.errors import InterpError
from interp.core.files import sha256_file, sha256_json, share, write_json
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
    bos_first: bool = True,
    skip_bad: bool = False,
) -> Store:
    """Write the activations at sites over a corpus into the folder `out`, and open it.

    `texts` is what `corpora.texts` reads; at most `tokens` of it are used. A site with heads is stored with
    them side by side. `bos_first` puts BOS before each document where the tokenizer has one. If `out` holds the
    same harvest it is continued, or opened if finished; one with other settings is refused by their names.
    Raises for NaN or infinite activations, which includes those too large for `dtype`, for bad records unless
    `skip_bad`, and where another process harvests into `out`. A batch that does not fit into memory is halved.
    """
    given = {"tokens": tokens, "context": context, "batch_size": batch_size, "dtype": dtype}
    given |= {"shard_tokens": shard_tokens, "bos_first": bos_first, "skip_bad": skip_bad}
    config = HarvestConfig.parse(given, source="harvest")
    wanted = model.resolve(sites)
    if config.shard_tokens < config.context:
        raise InterpError(f"shard_tokens is {shard_tokens}; expected at least one row, {context} tokens")
    reading = Reading()
    size = config.shard_tokens // config.context
    rows = groups(model, texts, size, reading, context=context, tokens=tokens, bos_first=bos_first, skip_bad=skip_bad)
    first = next(rows)
    widths = {str(site): x.shape[-1] for site, x in _activations(model, first.rows(0, 1), wanted).items()}
    settings = Settings(
        harvest=config,
        sites=widths,
        model=model.reference,
        model_dtype=str(model.dtype),
        device=model.device.type,
        tokenizer_digest=_tokenizer_digest(model.tokenizer),
        versions=versions(),
    )
    folder = Path(out)
    _make(folder)
    with _alone(folder):
        _fill(folder, settings, _begun(folder, settings), model, chain([first], rows), reading)
    return Store.open(folder, verify=False)


def _tokenizer_digest(tokenizer: Any) -> str:
    # Not the serialised tokenizer: calls with padding or truncation change that, and no token.
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return sha256_json([tokenizer.get_vocab(), special])


def _make(folder: Path) -> None:
    """Make the store's folder; raises if it holds anything else than a store."""
    stored = any((folder / name).exists() for name in (FINISHED, PARTIAL))
    if folder.exists() and not stored and (not folder.is_dir() or any(folder.iterdir())):
        raise InterpError(f"{folder} exists and is not an activation store; choose a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InterpError(f"{folder}: cannot be written ({problem.strerror}); choose another folder") from None


def _begun(folder: Path, settings: Settings) -> list[Shard]:
    """The intact shards of this harvest in the folder, with a manifest. Raises if they are another harvest's."""
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
    write_json(folder / PARTIAL, Manifest(settings=settings, shards=[]).model_dump())
    return []


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go of however this process ends."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InterpError(f"{folder}: another process is harvesting into it; wait for it, or choose another") from None
    finally:
        os.close(handle)


def _fill(
    folder: Path, settings: Settings, shards: list[Shard], model: HookedModel, rows: Iterable[Packed], reading: Reading
) -> None:
    """Check the corpus against the shards that are there, write those that are missing, rename the manifest."""
    for stray in folder.glob(".*"):  # what killed writers left: ours, write_json's and safetensors'
        stray.unlink()
    there, number = len(shards), -1
    for number, packed in enumerate(track(rows, "harvest")):
        if number < there:
            _require_same_text(folder, shards[number], reading)
            continue
        if (folder / FINISHED).exists():
            raise _other_text(folder)
        name = f"shard-{number:05}.safetensors"
        tensors, statistics = _shard_tensors(model, packed, settings)
        shard = Shard(
            name=name,
            tokens=len(tensors["ids"]),
            sha256=_write(folder / name, tensors),
            documents=reading.documents,
            text_digest=reading.digest.hex,
            statistics=statistics,
        )
        shards = [*shards, shard]
        write_json(folder / PARTIAL, Manifest(settings=settings, shards=shards).model_dump())
    if number + 1 < there:
        raise _other_text(folder)
    if not (folder / FINISHED).exists():
        os.replace(folder / PARTIAL, folder / FINISHED)


def _require_same_text(folder: Path, shard: Shard, reading: Reading) -> None:
    if (shard.documents, shard.text_digest) != (reading.documents, reading.digest.hex):
        raise _other_text(folder)


def _other_text(folder: Path) -> InterpError:
    return InterpError(
        f"{folder} holds a harvest of another text (its text_digest is not this corpus'); "
        "give the same corpus to continue it, or choose a new folder"
    )


def _shard_tensors(
    model: HookedModel, packed: Packed, settings: Settings
) -> tuple[dict[str, Tensor], dict[str, Statistics]]:
    """The shard's tokens and, by site, their activations, padding left out."""
    wanted, dtype = [Site.parse(name) for name in settings.sites], settings.harvest.dtype
    parts: dict[str, list[Tensor]] = {}
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in settings.sites}
    for batch in packed.batches(settings.harvest.batch_size):
        for site, x in _activations(model, batch, wanted).items():
            exact = x[batch.mask]
            stored = quantised(exact, str(site)) if dtype == "int8" else {str(site): exact.to(DTYPES[dtype])}
            back = restored(stored, str(site))
            if not torch.isfinite(back).all():
                raise InterpError(
                    f"{site} has NaN or infinite activations as {dtype}; use float32 for it and the model"
                )
            sums[str(site)] += _sums(exact, back)
            for name, part in stored.items():
                parts.setdefault(name, []).append(part)
    columns = {"ids": packed.ids, "document": packed.document, "position": packed.position_ids}
    beside = {name: column[packed.mask].int() for name, column in columns.items()}
    count = len(beside["ids"])
    statistics = {name: _statistics(total, count, settings.sites[name]) for name, total in sums.items()}
    return beside | {name: torch.cat(part) for name, part in parts.items()}, statistics


def _sums(exact: Float[Tensor, "token d_in"], stored: Float[Tensor, "token d_in"]) -> Float[Tensor, "3"]:
    """Sums of norms, of squares, and of squared rounding errors."""
    squares = exact.float().square().sum(1)
    lost = squares.new_zeros(()) if stored is exact else (stored.float() - exact.float()).square().sum()
    return torch.stack([squares.sqrt().double().sum(), squares.double().sum(), lost.double()])


def _statistics(sums: Float[Tensor, "3"], tokens: int, width: int) -> Statistics:
    norms, squares, lost = sums.tolist()
    rounding = (lost / squares) ** 0.5 if squares else 0.0
    return Statistics(mean_norm=norms / tokens, mean_square=squares / (tokens * width), rounding=rounding)


def _activations(model: HookedModel, batch: Packed, wanted: list[Site]) -> dict[Site, Float[Tensor, "batch pos d_in"]]:
    with suppress(torch.OutOfMemoryError):
        found = model.forward_to(wanted, batch.model_inputs(model.device))
        return {site: x.flatten(2).cpu() for site, x in found.items()}
    # Behind the exception, which would keep the failed pass's tensors alive.
    half = len(batch) // 2
    if not half:
        raise InterpError("one row does not fit into memory; pass a shorter context, or a smaller dtype")
    print(f"interp: {len(batch)} rows do not fit into memory; trying {half}", file=sys.stderr)
    parts = [_activations(model, part, wanted) for part in (batch.rows(0, half), batch.rows(half, len(batch)))]
    width = batch.ids.shape[1]
    return {site: torch.cat([_widened(part[site], width) for part in parts]) for site in wanted}


def _widened(x: Float[Tensor, "batch pos d_in"], width: int) -> Float[Tensor, "batch width d_in"]:
    return torch.nn.functional.pad(x, (0, 0, 0, width - x.shape[1]))


def _write(path: Path, tensors: dict[str, Tensor]) -> str:
    """Write a shard all at once, flushed to disk, and return its SHA-256."""
    beside = path.with_name(f".{path.name}")
    try:
        safetensors.torch.save_file(tensors, beside)
        share(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, safetensors.SafetensorError) as problem:
        raise InterpError(f"{path}: writing failed ({problem}); run again to continue") from None
    finally:
        beside.unlink(missing_ok=True)
    return sha256_file(path)
