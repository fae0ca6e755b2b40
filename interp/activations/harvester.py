"""Harvest: run a model over a corpus and store its activations at some sites.

1. The corpus is read, tokenised and packed lazily; a fixed number of rows makes one shard.
2. Each shard is computed batch by batch (the forward pass stops at the last site), written under a temporary name,
   flushed, renamed, and then entered in the manifest with its checksum. What is computed of a shard is saved every
   half minute and on Ctrl-C (`_growing_shard`).
3. When all shards are there, the manifest gets its final name.

Memory is that of a batch and a shard, however long the corpus (tests measure the peak). The same call continues a
harvest that was stopped: shards in the manifest are checked against their checksums, the corpus is checked against the
digest in each shard, and the rest is computed. A shard depends only on its own rows, so that on the same machine the
store is byte-identical to one that was never interrupted. An append continues in the same way; until it is done, the
store reads as it was before. A second process that harvests into the same folder is refused.

A store can be in an object store, at the URL of any fsspec file system, under the same rules: shards are made in a
staging folder and uploaded before the manifest that names them (`_store_folder`; what is not guaranteed there is said
in `interp.models.checkpoints.object_folder`). A harvest that goes on looks whether its shards exist there; their
checksums are compared when they are read.
"""

import os
from collections.abc import Iterable, Iterator, Sized
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from interp.activations._growing_shard import ShardTask, ShardWriter, record_of
from interp.activations._store_folder import StoreFolder
from interp.activations.config import HarvestConfig
from interp.activations.manifest import (
    FINISHED,
    PARTIAL,
    StoreManifest,
    StorePart,
    StoreSettings,
    StoreShard,
)
from interp.activations.store import Store
from interp.activations.token_rows import CorpusPasses, CorpusProgress, pack_groups
from interp.core.config import differences
from interp.core.digests import versions
from interp.core.errors import InterpError, note, on_interrupt
from interp.core.progress import track
from interp.core.shards.workers import map_in_order
from interp.data import corpora
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.identity import tokenizer_digest
from interp.models.sites import Site


def harvest(
    model: HookedModel,
    texts: corpora.Source,
    sites: str | Site | Iterable[str | Site],
    out: str | Path,
    *,
    tokens: int | None = None,
    skip_bad: bool = False,
    text_field: str = "text",
    append: bool = False,
    overwrite: bool = False,
    workers: int | str = 1,
    **options: Any,
) -> Store:
    """Store the activations of a model at some sites over a corpus.

    Args:
        model: The model, outside any hooked block.
        texts: A corpus, as `interp.data.documents` takes it: texts, or conversations, in `text_field`.
        sites: A site, several, or patterns such as "resid_post.*". Heads are stored side by side.
        out: The store's folder, or a URL of any fsspec file system ("s3://bucket/store"). If it holds an unfinished
            harvest of the same settings, that is continued; a finished one is opened.
        tokens: Run at most this many tokens of the corpus; None for all.
        skip_bad: Ignore broken records of the corpus.
        text_field: The key or column of the document in a record.
        append: Add another corpus to a finished store; one that is there already is not added again.
        overwrite: Start anew in a folder that holds a store: it is removed once the first rows of the corpus are read.
        workers: Processes that compute shards, or the address of a Ray cluster (`HOST:PORT`, `auto` or `local`), on
            whose machines the folder has the same path; each loads the model from its files.
        options: The fields of `HarvestConfig`: `context` (128) tokens per row, where longer documents are split;
            `batch_size` (16) rows per forward pass; `dtype` ("float32", "bfloat16", "float16" or "int8") as stored;
            `shard_tokens` (65536); `keep` ("all", "inner" or "assistant") tokens; and `bos_first` (True).

    Returns:
        The store, opened.

    Raises:
        InterpError: The folder holds other settings (they are named), another text or something else than a store
            (which `overwrite` does not remove);
            another process harvests into it; activations are not finite, or too large for `dtype`; a record is
            broken; or one row does not fit into memory.

    Example:
        >>> from interp.activations import harvest
        >>> harvest(model, ["the baker ."] * 4, ["resid_post.1", "mlp_out.1"], tmp / "store")
        Store(...store: model organism, ... tokens 24, ...)
    """
    if append and overwrite:
        raise InterpError("append adds to the store that overwrite removes; leave one of them out")
    config = HarvestConfig.parse(options, source="harvest")
    part = StorePart.parse({"tokens": tokens, "shards": []}, source="harvest")
    resolved = model.resolve(sites)
    if config.shard_tokens < config.context:
        raise InterpError(f"shard_tokens is {config.shard_tokens}; expected at least one row, {config.context} tokens")
    reading = CorpusProgress()
    rows = pack_groups(
        model,
        texts,
        config.shard_tokens // config.context,
        context=config.context,
        reading=reading,
        tokens=tokens,
        bos_first=config.bos_first,
        skip_bad=skip_bad,
        text_field=text_field,
    )
    first, passes = next(rows), CorpusPasses(model, resolved, config.batch_size)
    settings = StoreSettings(
        harvest=config,
        sites=passes.widths(first),
        model=model.reference,
        model_dtype=str(model.dtype),
        device=model.device.type,
        tokenizer_digest=tokenizer_digest(model.tokenizer),
        versions=versions(),
        separator=_separator(model) if config.bos_first else [],
    )
    folder = StoreFolder.at(out)
    if isinstance(workers, str) and not isinstance(folder.place, Path):
        raise InterpError(f"{folder} with a Ray cluster, whose machines write into one folder; give a local path")
    going_on = f"the same call{' without overwrite' if overwrite else ''} continues the harvest into {folder}"
    with on_interrupt(going_on), folder.held():
        if overwrite:
            _remove_store(folder, settings)
        documents = len(texts) if isinstance(texts, Sized) and not isinstance(texts, str) else None
        open_harvest = _Harvest.open(folder, settings, part, reading, append)
        writer = ShardWriter(passes, folder.path, settings, open_harvest.save)
        try:
            open_harvest.fill(writer, chain([first], rows), reading, documents, workers)
        finally:
            open_harvest.leave(workers)
    return Store.open(out, verify=False)


def _remove_store(folder: StoreFolder, settings: StoreSettings) -> None:
    """Remove the files of a store. If killed meanwhile, the folder holds a harvest that has not begun."""
    manifests = [folder.manifest(name) for name in (FINISHED, PARTIAL)]  # raises for a file of something else
    if any(manifests):
        folder.write_manifest(PARTIAL, StoreManifest(settings=settings, parts=[]))
        folder.remove(FINISHED)
        folder.remove_strays(named=set())


def _separator(model: HookedModel) -> list[int]:
    """What texts begin with, where it is not BOS. Stores of before began with BOS, and go on so in no other case."""
    first = model.beginning("document")
    return [] if first == [model.tokenizer.bos_token_id] else first


@dataclass
class _Harvest:
    """A store and the part of it that this harvest is: a complete one, to be checked, or the last, which grows."""

    folder: StoreFolder
    settings: StoreSettings
    parts: list[StorePart]
    index: int
    whole: bool

    @classmethod
    def open(
        cls, folder: StoreFolder, settings: StoreSettings, part: StorePart, reading: CorpusProgress, append: bool
    ) -> "_Harvest":
        """The harvest in a folder, after a check of its shards. `reading` is that of the first rows.

        Raises for other settings, or an unfinished harvest of another text.
        """
        partial = folder.manifest(PARTIAL)
        manifest = partial or folder.manifest(FINISHED)
        if manifest is None or not manifest.shards:
            return cls(folder, settings, [part], 0, whole=False)
        parts = [old for old in manifest.parts if old.shards]
        same_text = (number for number, old in enumerate(parts) if old.shards[0].ends(reading))
        index = next(same_text, len(parts)) if append else 0
        tokens = parts[index].tokens if index < len(parts) else part.tokens
        changed = [*manifest.settings.differences(settings), *differences({"tokens": tokens}, {"tokens": part.tokens})]
        if changed:
            raise InterpError(
                f"{folder} holds a harvest with other settings ({'; '.join(changed)}); "
                "use those settings to continue it, choose a new folder, or start anew with overwrite=True"
            )
        manifest.check_files(folder.place)
        unfinished = partial is not None and bool(manifest.parts[-1].shards)
        if index == len(parts):
            if unfinished:
                raise InterpError(f"{folder} holds an unfinished harvest of another text; finish that first")
            return cls(folder, settings, [*parts, part], index, whole=False)
        return cls(folder, settings, parts, index, whole=not (unfinished and index == len(parts) - 1))

    def fill(
        self,
        writer: ShardWriter,
        rows: Iterable[PackedRows],
        reading: CorpusProgress,
        in_corpus: int | None,
        workers: int | str,
    ) -> None:
        """Check the corpus against the shards that exist, write the missing ones, and rename the manifest.

        `in_corpus` is the number of the corpus's documents, if known, by which progress is shown.
        """
        shards = self.parts[self.index].shards
        groups, read = iter(rows), 0
        for shard in shards:
            if (group := next(groups, None)) is None or not shard.ends(reading):
                raise _other_text(self.folder)
            read += int(group.mask.sum())
        tokens = self.parts[self.index].tokens
        left = in_corpus and in_corpus - (reading.documents if shards else 0) if tokens is None else tokens - read
        if workers != 1 and not self.whole:
            self.save()  # the workers do not mark the folder as a store
        opened = (lambda: writer) if workers == 1 else writer.elsewhere()
        device = writer.passes.model.device.type
        with closing(map_in_order(opened, ShardWriter.write, self._tasks(groups, reading), workers, device)) as pairs:
            for task, shard in _tracked(pairs, left, "tokens" if tokens or not in_corpus else "documents"):
                self.folder.add(shard)
                shards.append(shard)
                self.save()
                record_of(self.folder.path, task.name).unlink(missing_ok=True)
        if self.whole:
            note(f"opened the finished harvest in {self.folder}; overwrite=True starts anew")
        else:
            self._finish()

    def _tasks(self, groups: Iterator[PackedRows], reading: CorpusProgress) -> Iterator[ShardTask]:
        """The shards that are missing."""
        before, first = self.parts[: self.index], sum(len(part.shards) for part in self.parts[: self.index + 1])
        documents = sum(part.documents for part in before)
        for number, group in enumerate(groups, first):
            if self.whole:
                raise _other_text(self.folder)
            name = f"shard-{number:05}.safetensors"
            yield ShardTask(name, group, documents, reading.documents, reading.split, reading.digest.hex)

    def leave(self, workers: int | str) -> None:
        """Remove the manifest where no worker has written anything."""
        path, empty = self.folder.path, not any(part.shards for part in self.parts)
        if workers != 1 and empty and path.is_dir() and os.listdir(path) == [PARTIAL]:
            self.folder.remove(PARTIAL)

    @property
    def _manifest(self) -> StoreManifest:
        return StoreManifest(settings=self.settings, parts=self.parts)

    def save(self) -> None:
        """Write the manifest of what is there."""
        self.folder.write_manifest(PARTIAL, self._manifest)

    def _finish(self) -> None:
        """Rename the manifest, and remove temporary files that killed processes left."""
        shards = self.parts[self.index].shards
        named = {shard.name for part in self.parts for shard in part.shards}
        keep = self.settings.harvest.keep
        if not sum(shard.tokens for shard in shards):
            self.folder.remove(*(shard.name for shard in shards), PARTIAL)
            raise InterpError(f"keep={keep!r} keeps no token of this corpus; give conversations, or keep all")
        self.folder.remove_strays(named)
        self.folder.finish(self._manifest)


def _other_text(folder: StoreFolder) -> InterpError:
    return InterpError(
        f"{folder} holds a harvest of another text, perhaps with the same beginning (the text_digest differs); give "
        "the same corpus to continue it, only new text to append, a new folder, or overwrite=True to start anew"
    )


def _tracked(
    pairs: Iterable[tuple[ShardTask, StoreShard]], total: int | None, unit: str
) -> Iterator[tuple[ShardTask, StoreShard]]:
    """The shards, with progress in tokens or in documents, whichever unit the total is known in."""
    sizes = {
        "tokens": lambda pair: int(pair[0].rows.mask.sum()),
        "documents": lambda pair: int(pair[0].rows.document.max() - pair[0].rows.document[0, 0]) + 1,
    }
    return track(pairs, "harvest", total, sizes[unit], unit)
