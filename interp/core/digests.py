"""Provenance of saved records: versions of the software, digests and checksums of tensors."""

import hashlib
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

import torch
from torch import Tensor

_PACKAGES = ("interp", "torch", "transformers", "safetensors", "numpy")
_PART = 1 << 18  # values to convert and hash at a time, which fit the processor's cache
_WORDS = 1 << 22  # words of four bytes to sum at a time on an accelerator


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that determine a result."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


_version = cache(version)  # it reads and parses files


class WeightDigests(NamedTuple):
    """The two digests of a model's weights, hex SHA-256.

    Attributes:
        exact: Of names, shapes and values. It is the same in whatever dtype the same values are.
        storage: Of names, shapes and values as bfloat16. So a checkpoint has the same one loaded as float32 or as
            bfloat16 (float16 rounds differently and gives another); changes below that resolution leave it the same.
    """

    exact: str
    storage: str


class WeightHash:
    """Both digests of a model's weights, from tensors given in name order, whole or part by part.

    The exact digest is that of the storage digest and, for each tensor whose values bfloat16 does not hold, of the
    values in the narrowest of float32 and float64 (for integers int64) that holds them.
    """

    def __init__(self) -> None:
        self._storage, self._rest = hashlib.sha256(), hashlib.sha256()

    def add(self, name: str, shape: Iterable[int], parts: Iterable[Tensor], kinds: tuple[torch.dtype, ...]) -> None:
        """Add a tensor.

        Args:
            name: Its name.
            shape: Its shape.
            parts: Its values in order.
            kinds: The types beyond bfloat16 that may be needed to hold them, from narrow to wide (`wider_types`).
        """
        self._storage.update(f"{name}{list(shape)}".encode())
        hashes = {kind: hashlib.sha256() for kind in kinds}
        holds = dict.fromkeys((torch.bfloat16, *kinds), True)
        for part in parts:
            for kind in holds:
                values = part.to(kind).contiguous()
                holds[kind] &= not kinds or torch.equal(values.to(part.dtype), part)
                digest = hashes.get(kind, self._storage)
                digest.update(values.view(-1).view(torch.uint8).numpy().data)
        kind = next((kind for kind, held in holds.items() if held), [*holds][-1])
        if kind in hashes:
            self._rest.update(f"{name} {kind} {hashes[kind].hexdigest()}".encode())

    def digests(self) -> WeightDigests:
        """The digests of what was added."""
        storage = self._storage.hexdigest()
        return WeightDigests(hashlib.sha256(f"{storage} {self._rest.hexdigest()}".encode()).hexdigest(), storage)


def weight_digests(tensors: Mapping[str, Tensor]) -> WeightDigests:
    """Both digests of tensors in memory."""
    whole = WeightHash()
    for name, tensor in sorted(tensors.items()):
        parts = tensor.detach().cpu().reshape(-1).split(_PART)
        narrow = all(torch.equal(part.to(torch.bfloat16).to(part.dtype), part) for part in parts)
        whole.add(name, tensor.shape, parts, () if narrow else wider_types(tensor.dtype))
    return whole.digests()


def wider_types(dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """The types that may be needed, where bfloat16 is too narrow, to hold values of a dtype, from narrow to wide."""
    if not dtype.is_floating_point:
        return (torch.int64,)
    if dtype.itemsize == 1 or dtype == torch.bfloat16:
        return ()
    return (torch.float32, torch.float64) if dtype == torch.float64 else (torch.float32,)


def checksum(tensor: Tensor) -> int:
    """A 64-bit checksum of a tensor's bytes, each in its place, at the speed of the memory that the tensor is in.

    It detects accidental changes. Against someone who wants a change to go unnoticed, use a digest.
    """
    flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
    if flat.device.type != "cpu":
        return multilinear_checksum(flat)
    from xxhash import xxh3_64_intdigest

    return xxh3_64_intdigest(flat.numpy().data)


def multilinear_checksum(flat: Tensor) -> int:
    """The sum of a tensor's words, each times an odd number that depends on its place, modulo 2^64, on its device.

    Args:
        flat: Bytes, (n,).
    """
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % 4)) if len(flat) % 4 else flat
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for number, words in enumerate(padded.view(torch.int32).split(_WORDS)):
        place = torch.arange(len(words), device=flat.device) + number * _WORDS + len(flat)
        key = place * -0x61C8864680B583EB  # the multipliers of the generator SplitMix64
        key = (key ^ (key >> 31)) * -0x40A7B892E31B1A47
        total += (words.to(torch.int64) * ((key ^ (key >> 29)) | 1)).sum()
    return int(total)
