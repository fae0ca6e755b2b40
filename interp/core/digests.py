"""Provenance shared by every saved record: versions of what computed it, and digests of what it was computed from."""

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version

import torch
from torch import Tensor

_PACKAGES = ("interp", "torch", "transformers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that determine a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hex SHA-256 over names, shapes and values, in name order.

    Values are hashed as bfloat16, so that a checkpoint has one digest whether it was loaded as float32 or bfloat16
    (float16 rounds otherwise, and has its own). That identifies a model; it is not a checksum: changes below bfloat16's
    resolution do not show (`interp.core.files.sha256_file` is for files).
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        values = tensor.detach().cpu().to(torch.bfloat16).contiguous()
        digest.update(values.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
