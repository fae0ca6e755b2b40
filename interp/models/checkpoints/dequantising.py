"""Dequantisation: fp8 and MXFP4 weights as bfloat16, computed a part at a time.

    fp8     NAME in float8 and NAME_scale_inv (DeepSeek-V3; transformers' finegrained_fp8), one scale per tensor or per
            block; the result is value * scale
    mxfp4   NAME_blocks, two 4-bit numbers (sign, two exponent bits, one mantissa bit) per byte, the lower half first,
            and NAME_scales, one power of two per 32 numbers (gpt-oss); the result is the transpose of each expert

Products are computed in float32 and rounded once, as transformers does when it dequantises.

bitsandbytes checkpoints are dequantised by transformers and the package bitsandbytes when they are loaded.

Limitations: other quantisation methods are refused by name, with what to do instead.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from interp.core.errors import InterpError
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.checkpoints.remote_files import RemoteFile
from interp.models.checkpoints.safetensors_file import DTYPES, Entry, TensorFile

SCALE, BLOCKS, SCALES = "_scale_inv", "_blocks", "_scales"
_ACTIVATIONS = (".activation_scale", ".input_scale")  # of no use without the quantised product
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_ROWS = 1024  # rows of an fp8 matrix to dequantise at a time
_ADVICE = {
    "bitsandbytes": "pip install bitsandbytes, which dequantises it",
    **dict.fromkeys(("gptq", "awq"), "use the checkpoint that it was made from"),
}


@dataclass(eq=False)
class QuantisedTensor:
    """A quantised tensor that is read like a plain tensor of a `TensorFile`.

    Args:
        path: The file.
        part: `part(start, stop)` dequantises these rows of the first axis.
        step: How many rows to dequantise at a time.
        entry: The header entry of the plain tensor.
    """

    path: Path | RemoteFile
    part: Callable[[int, int], Float[Tensor, "..."]]
    step: int
    entry: Entry
    _held: tuple[int, Tensor] | None = field(default=None, repr=False)

    def read_entry(self, entry: Entry, memory: Shaped[Tensor, "bytes"] | None = None) -> Float[Tensor, "..."]:
        """The plain tensor, in `memory` if it is passed."""
        buffer = torch.empty(entry.nbytes, dtype=torch.uint8) if memory is None else memory
        self.read_into(buffer, entry.start)
        return buffer.view(DTYPES[entry.dtype]).view(entry.shape)

    def read_into(self, buffer: Shaped[Tensor, "bytes"], start: int) -> None:
        """Fill a buffer with the plain tensor's bytes from `start` on."""
        size = self.entry.nbytes // max(1, self.entry.shape[0]) * self.step
        done = 0
        while done < len(buffer):
            number, offset = divmod(start + done, size)
            chunk = self._part_bytes(number)[offset : offset + len(buffer) - done]
            buffer[done : done + len(chunk)] = chunk
            done += len(chunk)
        if start + done >= self.entry.nbytes:
            self._held = None

    def _part_bytes(self, number: int) -> Tensor:
        """The bytes of one part; cached until another part is read, since readers ask for smaller chunks."""
        if self._held is None or self._held[0] != number:
            first = number * self.step
            rows = self.part(first, min(self.entry.shape[0], first + self.step)).to(torch.bfloat16).contiguous()
            self._held = (number, rows.view(-1).view(torch.uint8))
        return self._held[1]


def dequantise(checkpoint: Checkpoint) -> list[dict[str, tuple[TensorFile | QuantisedTensor, Entry]]]:
    """For each file of a quantised checkpoint, the plain tensors by name; raises for other quantisation methods."""
    settings = checkpoint.config.get("quantization_config", {})
    method = settings.get("quant_method", "unknown")
    if method not in ("fp8", "mxfp4"):
        raise unsupported_reason(str(checkpoint), method)
    every = {name: (file, entry) for file in checkpoint.opened for name, entry in file.entries.items()}
    block = settings.get("weight_block_size")
    return [dict(_plain(file, every, block)) for file in checkpoint.opened]


def require_plain(name: str, config: Mapping[str, Any]) -> None:
    """Raise for a checkpoint that can't be loaded as plain weights on a CPU, whatever is done with it then."""
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if method in ("gptq", "awq") or (method == "bitsandbytes" and find_spec("bitsandbytes") is None):
        raise unsupported_reason(name, method)


def unsupported_reason(name: str, method: str) -> InterpError:
    """The error for a quantised checkpoint: why it is not edited, and what to do."""
    advice = _ADVICE.get(method, "use a checkpoint in float32, bfloat16 or float16")
    if method in ("fp8", "mxfp4"):
        advice = "dequantise it to bfloat16 (--dequantise, or FoldOptions(dequantise=True)), or use a plain one"
    return InterpError(f"{name} is quantised ({method}), and an edit of quantised weights is not exact; {advice}")


def _plain(
    file: TensorFile, every: Mapping[str, tuple[TensorFile, Entry]], block: Any
) -> Iterator[tuple[str, tuple[TensorFile | QuantisedTensor, Entry]]]:
    for name, entry in file.entries.items():
        if name.endswith((SCALE, *_ACTIVATIONS)):
            continue
        if name.endswith(SCALES) and name.removesuffix(SCALES) + BLOCKS in every:
            continue
        if name.endswith(BLOCKS):
            mxfp4 = _mxfp4(name, every)
            yield name.removesuffix(BLOCKS), (mxfp4, mxfp4.entry)
        elif entry.dtype.startswith("F8_") or name + SCALE in every:
            fp8 = _fp8(name, every, block)
            yield name, (fp8, fp8.entry)
        else:
            yield name, (file, entry)


def _fp8(name: str, every: Mapping[str, tuple[TensorFile, Entry]], block: Any) -> QuantisedTensor:
    file, entry = every[name]
    if name + SCALE not in every:
        raise InterpError(f"{file.path}: {name} is {entry.dtype} without {name + SCALE}; use a plain checkpoint")
    scale = _scales(*every[name + SCALE])
    if entry.dtype not in ("F8_E4M3", "F8_E5M2") or len(entry.shape) not in (2, 3):
        raise InterpError(f"{file.path}: {name} is {entry.dtype} {entry.shape}; expected a float8 matrix, or several")
    grid = scale.view(*[1] * (len(entry.shape) - scale.ndim), *scale.shape)
    high, wide = (_side(name, entry.shape[axis], grid.shape[axis], axis, block) for axis in (-2, -1))

    def part(start: int, stop: int) -> Tensor:
        plain = _rows(file, entry, start, stop).view(DTYPES[entry.dtype]).float()
        rows = torch.arange(start, stop) if len(entry.shape) == 2 else torch.arange(entry.shape[-2])
        blocks = grid if len(entry.shape) == 2 or len(grid) == 1 else grid[start:stop]
        by_row = blocks.index_select(-2, rows // high)
        return plain * by_row.index_select(-1, torch.arange(entry.shape[-1]) // wide)

    return QuantisedTensor(file.path, part, _ROWS if len(entry.shape) == 2 else 1, _entry(entry.shape))


def _side(name: str, size: int, count: int, axis: int, block: Any) -> int:
    """How many rows or columns share a scale."""
    declared = block[axis] if block else 0
    if declared and -(-size // declared) == count:
        return int(declared)
    if count and size % count == 0:
        return size // count
    raise InterpError(f"{name} has {size} along one side and {count} scales; expected a scale per block of equal size")


def _scales(file: TensorFile, entry: Entry) -> Tensor:
    scale = file.read_entry(entry)
    # Bytes are exponents of two, for which torch has a dtype.
    scale = scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale
    return scale.float().view(1, 1) if scale.numel() == 1 else scale.float()


def _mxfp4(name: str, every: Mapping[str, tuple[TensorFile, Entry]]) -> QuantisedTensor:
    file, entry = every[name]
    other = name.removesuffix(BLOCKS) + SCALES
    if other not in every or every[other][1].shape != entry.shape[:-1] or entry.shape[3:] != (16,):
        raise InterpError(f"{file.path}: {name} is {entry.shape}; expected (experts, out, groups, 16), with {other}")
    scale_file, scale = every[other]
    experts, out, groups, _ = entry.shape
    table = torch.tensor(_FP4)

    def part(start: int, stop: int) -> Tensor:
        packed, exponents = (_rows(*each, start, stop) for each in ((file, entry), (scale_file, scale)))
        low, high = table[(packed & 15).int()], table[(packed >> 4).int()]
        values = torch.stack([low, high], -1).flatten(-2) * (exponents.float() - 127).exp2().unsqueeze(-1)
        return values.flatten(2).transpose(1, 2)

    return QuantisedTensor(file.path, part, 1, _entry((experts, groups * 32, out)))


def _rows(file: TensorFile, entry: Entry, start: int, stop: int) -> Tensor:
    """Rows of a tensor of one byte per number, as bytes."""
    size = entry.nbytes // max(1, entry.shape[0])
    values = torch.empty((stop - start) * size, dtype=torch.uint8)
    file.read_into(values, entry.start + start * size)
    return values.view(stop - start, *entry.shape[1:])


def _entry(shape: tuple[int, ...]) -> Entry:
    return Entry("BF16", tuple(shape), 0, prod(shape) * 2)
