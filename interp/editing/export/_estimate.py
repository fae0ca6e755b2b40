"""An estimate of the memory, disk and time that an export takes.

The disk space is known. The memory is that of the largest tensor, its edited copy and the buffers. The time follows
from how fast this machine hashes and edits a few megabytes now.

Limitations: the speed of the disk and other work on the machine are not taken into account.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from interp.editing.export.weight_writer import TensorPiece
from interp.models.checkpoints.safetensors_file import DTYPES, as_bytes

_SAMPLE = 16 << 20  # bytes
_BUFFERS = 150 << 20


@dataclass(frozen=True)
class ExportEstimate:
    """What an export takes.

    Attributes:
        disk: Bytes to be written.
        edited: Bytes of these that change.
        memory: Bytes of memory in addition to the interpreter's.
        seconds: Time.

    Example:
        >>> from interp.editing import ExportEstimate
        >>> print(ExportEstimate(disk=2_000_000_000, edited=500_000_000, memory=300_000_000, seconds=8.0))
        2.00 GB to write, 0.50 GB of it edited; about 300 MB of memory and 8 s
    """

    disk: int
    edited: int
    memory: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.disk / 1e9:.2f} GB to write, {self.edited / 1e9:.2f} GB of it edited; about "
            f"{self.memory / 1e6:.0f} MB of memory and {self.seconds:.0f} s"
        )


def estimate_export(files: Sequence[Sequence[TensorPiece]]) -> ExportEstimate:
    """The estimate for writing these pieces, file by file."""
    pieces = [piece for file in files for piece in file]
    changed = [piece for piece in pieces if not piece.is_kept]
    largest = max((piece.nbytes for piece in changed), default=0)
    disk, edited = sum(piece.nbytes for piece in pieces), sum(piece.nbytes for piece in changed)
    workers = max(1, min(len(files), os.cpu_count() or 1))
    seconds = disk * _hashing() / workers + edited * _editing(changed)
    return ExportEstimate(disk, edited, 2 * largest + workers * _BUFFERS, seconds)


def _hashing() -> float:
    """Seconds per byte."""
    sample = as_bytes(torch.zeros(_SAMPLE, dtype=torch.uint8))
    began = time.perf_counter()
    hashlib.sha256(sample).digest()
    return (time.perf_counter() - began) / _SAMPLE


def _editing(changed: Sequence[TensorPiece]) -> float:
    """Seconds per byte, measured on a tensor as large as the largest."""
    matrices = (piece for piece in changed if piece.change and len(piece.source_shape) == 2)
    largest = max(matrices, key=lambda piece: piece.nbytes, default=None)
    if largest is None or largest.change is None:
        return 0.0
    sample = torch.zeros(largest.source_shape, dtype=DTYPES[largest.dtype])
    began = time.perf_counter()
    largest.change(sample)
    return (time.perf_counter() - began) / max(1, sample.nbytes)
