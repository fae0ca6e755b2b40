"""Provenance of saved records: versions of the software, digests of tensors."""

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
    (float16 rounds differently and gives another digest). The digest identifies a model. It is not a checksum: changes
    below the resolution of bfloat16 leave it the same (for files see `interp.core.files.sha256_file`).
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        values = tensor.detach().cpu().to(torch.bfloat16).contiguous()
        digest.update(values.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
