"""A shard while it is computed: batch by batch in memory, and in pieces on disk, from which it resumes.

Each batch is copied to its place in the shard's tensors, which are there once: memory is that of a batch and a shard.
A piece holds the batches since the piece before. Pieces are written every half minute and on Ctrl-C, under hidden
names, and are removed when the shard is written. A piece of other settings or of another text is not read. The shard's
bytes are the same with pieces and without.

A shard's file is followed by a hidden record of it, until the manifest names the shard. A harvest that was stopped
between the two, or whose other processes were ahead of it, finds the record and does not compute the shard again.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.activations.manifest import StoreSettings, StoreShard, StoreStatistics
from interp.activations.store import dequantise_rows, quantise
from interp.activations.token_rows import CorpusPasses, reloader
from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_file, write_json, write_tensors
from interp.core.inputs import require_regular
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.loading import DTYPES
from interp.models.sites import Site

PIECE_SECONDS = 30.0
_REMEDIES = ("use float32 for the store and the model", "check the model's weights")
_SUMS = "sums"  # in a piece: sums of norms, of squares and of squared rounding errors of each site


class GrowingShard:
    """One shard of a harvest.

    Args:
        file: Where the shard will be written; its pieces are next to it.
        settings: Those of the store.
        packed: The shard's rows.
        documents: Number of documents in earlier parts of the store.
        before_piece: Called before a piece is written, to mark the folder as a store.
    """

    def __init__(
        self,
        file: Path,
        settings: StoreSettings,
        packed: PackedRows,
        documents: int,
        before_piece: Callable[[], None],
    ):
        self._file, self._settings, self._packed = file, settings, packed
        self._documents, self._before_piece = documents, before_piece
        rows = (packed.ids, packed.document, packed.position_ids, packed.begin, packed.end)
        described = json.dumps([settings.model_dump(), documents], sort_keys=True).encode()
        self.key = hashlib.sha256(b"".join([described, *(x.numpy().tobytes() for x in rows)])).hexdigest()
        self._count = int(packed.kept(settings.harvest.keep).sum())
        self._tensors: dict[str, Tensor] = {}  # of the whole shard; filled up to the rows that are computed
        self._rows, self._filled = 0, 0
        self._sums = torch.zeros(len(settings.sites), 3, dtype=torch.float64)
        self._read_pieces()
        self._saved = self._rows, self._filled

    def compute(self, passes: CorpusPasses) -> tuple[dict[str, Tensor], dict[str, StoreStatistics]]:
        """Columns and activations of the kept tokens, and statistics. What pieces hold is not computed again.

        Raises:
            InterpError: Activations are not finite in the stored type, or one row does not fit into memory.
        """
        saved_at = time.monotonic()
        try:
            for batch, activations in passes.over(self._packed, self._rows):
                self._compute(batch, activations)
                if time.monotonic() - saved_at > PIECE_SECONDS:
                    self._write_piece()
                    saved_at = time.monotonic()
        except KeyboardInterrupt:
            self._write_piece()
            raise
        keep, packed = self._settings.harvest.keep, self._packed
        columns = {
            "ids": packed.ids,
            "document": packed.document + self._documents,
            "position": packed.position_ids,
            "begin": packed.begin,
            "end": packed.end,
        }
        kept = packed.kept(keep)
        tensors = {name: column[kept].int() for name, column in columns.items()}
        totals = zip(self._settings.sites.items(), self._sums, strict=True)
        statistics = {name: _statistics(sums, len(tensors["ids"]), width) for (name, width), sums in totals}
        return tensors | self._tensors, statistics

    def remove_pieces(self) -> None:
        """Remove the pieces, once the shard is written."""
        for piece in self._piece_files():
            piece.unlink()

    def _compute(self, batch: PackedRows, activations: dict[Site, Float[Tensor, "batch pos d_in"]]) -> None:
        dtype, kept = self._settings.harvest.dtype, batch.kept(self._settings.harvest.keep)
        tensors, sums = dict[str, Tensor](), self._sums.clone()
        for name, total in zip(self._settings.sites, sums, strict=True):
            exact = activations[Site.parse(name)][kept]
            stored = quantise(exact, name) if dtype == "int8" else {name: exact.to(DTYPES[dtype])}
            rounded = dequantise_rows(stored, name)
            if not torch.isfinite(rounded).all():
                raise InterpError(f"{name} has NaN or infinite activations as {dtype}; {_REMEDIES[dtype == 'float32']}")
            total += _sums(exact, rounded)
            tensors |= stored
        self._append(self._rows + len(batch), sums, tensors)

    def _append(self, rows: int, sums: Float[Tensor, "site 3"], tensors: dict[str, Tensor]) -> None:
        """Copy stored tensors of the next rows to their place; rows and sums are those of the shard up to there."""
        begin, end = self._filled, self._filled + len(next(iter(tensors.values())))
        for name, x in tensors.items():
            if name not in self._tensors:
                self._tensors[name] = x.new_empty(self._count, *x.shape[1:])
            self._tensors[name][begin:end] = x
        # In one statement: Ctrl-C may end this method at any other place, and then a piece is written.
        self._rows, self._sums, self._filled = rows, sums, end

    def _piece_files(self) -> list[Path]:
        return sorted(self._file.parent.glob(f".{self._file.stem}.*.safetensors"))

    def _write_piece(self) -> None:
        first, begin = self._saved
        if first == self._rows:
            return
        self._before_piece()
        file = self._file.with_name(f".{self._file.stem}.{self._rows:08}.safetensors")
        place = {"key": self.key, "first": str(first), "rows": str(self._rows)}
        new = {name: x[begin : self._filled] for name, x in self._tensors.items()}
        write_tensors(file, new | {_SUMS: self._sums}, place, hint="run again to continue")
        self._saved = self._rows, self._filled

    def _read_pieces(self) -> None:
        for file in self._piece_files():
            require_regular(file)
            try:
                with safe_open(file, framework="pt") as piece:
                    place, tensors = piece.metadata(), {name: piece.get_tensor(name) for name in piece.keys()}  # noqa: SIM118
            except (OSError, SafetensorError):
                return
            if (place["key"], int(place["first"])) != (self.key, self._rows):
                return
            self._append(int(place["rows"]), tensors.pop(_SUMS), tensors)


class ShardTask(NamedTuple):
    """The rows of a shard, and how far the corpus was read when they were packed."""

    name: str
    rows: PackedRows
    earlier: int  # documents in earlier parts of the store
    documents: int
    split: int
    text_digest: str


@dataclass
class ShardWriter:
    """Computes shards and writes them.

    Args:
        passes: Forward passes of the model.
        folder: The store's folder.
        settings: Those of the store.
        begin: Called before anything is written, to mark the folder as a store.
    """

    passes: CorpusPasses
    folder: Path
    settings: StoreSettings
    begin: Callable[[], None] = lambda: None

    def elsewhere(self) -> "Callable[[], ShardWriter]":
        """What opens the same writer in another process, which loads the model. The folder has to be marked before."""
        passes = self.passes
        return partial(_opened, reloader(passes.model), passes.sites, passes.batch_size, self.folder, self.settings)

    def write(self, task: ShardTask) -> StoreShard:
        """Compute and write a shard, whose tensors are held for as long as this takes, and its record."""
        file, record = self.folder / task.name, record_of(self.folder, task.name)
        growing = GrowingShard(file, self.settings, task.rows, task.earlier, self.begin)
        if not (written := _recorded(record, growing.key, file)):
            tensors, statistics = growing.compute(self.passes)
            self.begin()  # before the shard, so that the folder is recognised as a store whatever happens
            write_tensors(file, tensors, hint="run again to continue")
            figures = {name: x.model_dump() for name, x in statistics.items()}
            written = {"tokens": len(tensors["ids"]), "sha256": sha256_file(file), "statistics": figures}
            write_json(record, {"key": growing.key} | written)
        growing.remove_pieces()
        read = {"documents": task.documents, "split": task.split, "text_digest": task.text_digest}
        return StoreShard.parse({"name": task.name} | written | read, source=str(file))


def record_of(folder: Path, name: str) -> Path:
    """The hidden record of a shard that the manifest does not name yet."""
    return folder / f".{Path(name).stem}.json"


def _recorded(record: Path, key: str, file: Path) -> dict[str, Any]:
    """The record of a shard, if it is of the same rows and settings, and of the file as it is; empty if not."""
    try:
        written: dict[str, Any] = read_json(record) if record.exists() and file.exists() else {}
    except InterpError:
        return {}
    same = written.pop("key", None) == key and sha256_file(file) == written.get("sha256")
    return written if same else {}


def _opened(
    load: Callable[[], HookedModel], sites: list[Site], batch_size: int, folder: Path, settings: StoreSettings
) -> ShardWriter:
    return ShardWriter(CorpusPasses(load(), sites, batch_size), folder, settings)


def _sums(exact: Float[Tensor, "token d_in"], stored: Float[Tensor, "token d_in"]) -> Float[Tensor, "3"]:
    """Sums of norms, of squares, and of squared rounding errors."""
    squares = exact.float().square().sum(1)
    errors = squares.new_zeros(()) if stored is exact else (stored.float() - exact.float()).square().sum()
    return torch.stack([squares.sqrt().double().sum(), squares.double().sum(), errors.double()])


def _statistics(sums: Float[Tensor, "3"], tokens: int, width: int) -> StoreStatistics:
    norms, squares, errors = sums.tolist()
    rounding = (errors / squares) ** 0.5 if squares else 0.0
    tokens = max(1, tokens)  # `keep` can leave a shard empty
    return StoreStatistics(mean_norm=norms / tokens, mean_square=squares / (tokens * width), rounding=rounding)
