"""Stores of given activations, written as a harvest writes them, and activations made of known directions."""

import safetensors.torch
import torch
from torch.nn.functional import normalize

from interp.activations.config import HarvestConfig
from interp.activations.manifest import (
    FINISHED,
    StoreManifest,
    StorePart,
    StoreSettings,
    StoreShard,
    StoreStatistics,
)
from interp.activations.store import Store
from interp.core.files import sha256_file, write_json
from interp.models.identity import ModelReference

SITE = "resid_post.0"
MADE_UP = ModelReference(name="made up", digest="0" * 64, model_type="none", d_model=8, n_layers=1)


def write_store(folder, x, shard_tokens=4096, model=MADE_UP):
    """A store of given activations, at one site or by site: documents of 64 tokens each."""
    folder.mkdir()
    named = x if isinstance(x, dict) else {SITE: x}
    shards = []
    for number, parts in enumerate(zip(*(rows.split(shard_tokens) for rows in named.values()), strict=True)):
        place = number * shard_tokens + torch.arange(len(parts[0]))
        columns = {"ids": place % 7, "document": place // 64, "position": place % 64}
        columns = {name: column.int() for name, column in columns.items()}
        file = folder / f"shard-{number:05}.safetensors"
        stored = {name: part.contiguous() for name, part in zip(named, parts, strict=True)}
        safetensors.torch.save_file(columns | stored, file)
        read = {"documents": int(place[-1]) // 64 + 1, "split": 0, "text_digest": ""}
        read["statistics"] = {name: StoreStatistics(mean_norm=0, mean_square=0, rounding=0) for name in named}
        shards.append(StoreShard(name=file.name, tokens=len(place), sha256=sha256_file(file), **read))
    settings = StoreSettings(
        harvest=HarvestConfig(
            context=64,
            batch_size=1,
            dtype="float32",
            shard_tokens=shard_tokens,
            keep="all",
            bos_first=True,
        ),
        sites={name: rows.shape[1] for name, rows in named.items()},
        model=model,
        model_dtype="torch.float32",
        device="cpu",
        tokenizer_digest="",
        versions={},
    )
    write_json(
        folder / FINISHED, StoreManifest(settings=settings, parts=[StorePart(tokens=None, shards=shards)]).model_dump()
    )
    return Store.open(folder)


def unit_rows(count, width, seed):
    """Random directions."""
    return normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def sparse_codes(count=16384, features=64, active=3, seed=1):
    """Latents of each token: a few of many, of lengths from 1 to 2."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(count, features, generator=generator).topk(active).indices
    lengths = 1 + torch.rand(count, active, generator=generator)
    return torch.zeros(count, features).scatter(1, chosen, lengths)


def matched(rows, truth):
    """Share of the true directions that a row points along."""
    return float(((truth @ normalize(rows, dim=1).T).amax(1) > 0.9).float().mean())
