"""Scan: one pass over a text for all latents of one or several autoencoders, written as a feature book.

1. Tokens come in chunks, from a store or from the model. Each autoencoder's sparse code is counted
   (`latent_statistics`): the cost of a token depends on how many latents fire on it, not on how many there are.
2. What was counted is saved every half minute and on Ctrl-C. A scan that was stopped continues from there, and gives
   the same book.
3. At the end come similar latents, promoted tokens, how well these fit the tokens that follow, and, for some latents,
   what their removal does to the loss.

The lens figure: the decoder row's direct effect on the logits of the tokens that follow the sampled examples, less its
mean over the tokens of the text, in its standard deviations there. A latent that promotes what comes next has a large
one; one whose work is read by later layers has none.

Limitations: a book describes latents on one text. First tokens of pieces do not count. Top examples are extremes;
the sampled ones show the rest.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from time import monotonic

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from interp.activations.store import Store
from interp.activations.token_rows import CorpusProgress
from interp.core.digests import versions
from interp.core.errors import InterpError, note, on_interrupt
from interp.core.files import new_folder, read_tensors, require_free, sha256_json, write_json, write_tensors
from interp.core.progress import track
from interp.core.shards.workers import map_in_order
from interp.data import corpora
from interp.data.packing import Encoded, PackedRows, pack
from interp.features.book import Book
from interp.features.book_card import (
    BACKGROUND_FILE,
    CARD,
    EXAMPLES_FILE,
    LATENTS_FILE,
    BookAutoencoder,
    BookCard,
    autoencoder_digest,
)
from interp.features.scanning.ablation_effect import measure_ablation_effects
from interp.features.scanning.background import BACKGROUND, Background
from interp.features.scanning.chunk_encoder import ChunkEncoder
from interp.features.scanning.latent_rows import EXAMPLES, LATENTS, latent_rows
from interp.features.scanning.latent_statistics import LatentStatistics
from interp.features.scanning.options import ScanOptions
from interp.features.scanning.sampled_text import SampledText
from interp.features.scanning.token_chunk import TokenChunk, model_chunks, store_chunks
from interp.models.architectures.table import architecture
from interp.models.architectures.unembedding import token_text
from interp.models.hooked import HookedModel
from interp.sae.code import Code
from interp.sae.coder import SparseAutoencoder

SAVE_SECONDS = 30.0
_STATE, _ABLATION_TOKENS = "state.safetensors", 32_768
Autoencoders = SparseAutoencoder | Mapping[str, SparseAutoencoder]


def scan(
    saes: Autoencoders,
    source: Store | HookedModel,
    out: str | Path,
    options: ScanOptions | None = None,
    *,
    texts: corpora.Source | None = None,
    model: HookedModel | None = None,
    paths: Mapping[str, str] | None = None,
    workers: int | str = 1,
) -> Book:
    """Describe all latents of autoencoders on a text, in one pass, as a feature book.

    Args:
        saes: One autoencoder, or several by name. All belong to one model.
        source: A store that has the sites that they read, or their model.
        out: New folder for the book. A scan of the same that was stopped is continued.
        options: How much is read, and what is kept.
        texts: The corpus, as `interp.data.documents` takes it, where a model is the source.
        model: The model, where a store is the source; without it there are no texts of tokens (ids instead), promoted
            tokens and effects on the loss.
        paths: Where the autoencoders' files are, by name; kept in the book, so that a search can load them.
        workers: Processes that read activations and encode them, or the address of a Ray cluster (`HOST:PORT`, `auto`
            or `local`); a model is loaded in each, from its files.

    Raises:
        InterpError: `out` exists, an autoencoder belongs to another model or site, activations are not finite, no
            tokens count, or a worker cannot load the model.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.features import ScanOptions, scan
        >>> from interp.sae import SparseAutoencoder, TopK
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> book = scan(sae, model, tmp / "book", ScanOptions(top=2), texts=["the baker sold bread ."] * 3)
        >>> book.feature(2).latent, len(book.latents("latent = 2"))
        (2, 1)
    """
    options, named = options or ScanOptions(), {"sae": saes} if isinstance(saes, SparseAutoencoder) else dict(saes)
    job = _Scan(named, source, options, texts, model)
    require_free(out)
    going_on = f"the same call continues the scan for {out}"
    with on_interrupt(going_on), new_folder(out, resume_key=job.key(), keep=_STATE) as folder:
        job.run(folder, workers)
        job.write(folder, dict(paths or {}))
        (folder / _STATE).unlink(missing_ok=True)
    return Book.open(out)


class _Scan:
    """A scan: what it is of, and what it has counted."""

    def __init__(
        self,
        saes: dict[str, SparseAutoencoder],
        source: Store | HookedModel,
        options: ScanOptions,
        texts: corpora.Source | None,
        model: HookedModel | None,
    ):
        if not saes:
            raise InterpError("no autoencoder given; expected at least one")
        if isinstance(source, Store) == (texts is not None):
            raise InterpError("a store has its text, and a model needs one; give texts= with a model, and only then")
        self.model = source if isinstance(source, HookedModel) else model
        self.source, self.options, self.texts = source, options, texts
        self.reference = source.reference if isinstance(source, HookedModel) else source.model
        for name, sae in saes.items():
            sae.model.check(self.reference, f"autoencoder {name}")
        if self.model:
            self.reference.check(self.model.reference, str(source))
        if options.ablate and not self.model:
            raise InterpError("ablate needs the model; give model= (--model)")
        if options.ablate and isinstance(source, Store) and source.manifest.settings.harvest.keep != "all":
            raise InterpError(f"ablate needs whole texts, and {source} keeps only some tokens; give a model and a text")
        device = self.model.device if self.model else torch.device("cpu")
        self.encoder = ChunkEncoder(saes, source, device, options.batch_size)
        self.saes = self.encoder.saes
        if isinstance(source, Store):
            source.places(self.encoder.sites)  # raises for a site that it does not have
        sizes = (options.top, options.sampled, options.before, options.after)
        self.statistics = {name: LatentStatistics(sae.d_sae, *sizes) for name, sae in saes.items()}
        self.background = Background(list(saes), options.background, options.before, options.after)
        self.unigrams = torch.zeros(0, dtype=torch.double)
        self.text = SampledText(_ABLATION_TOKENS if options.ablate else 0)
        self.chunks = self.place = 0
        self.digest = torch.zeros(0, dtype=torch.uint8)

    def key(self) -> str:
        """Identifies the scan, apart from a text that is read as it goes on."""
        digests = {name: autoencoder_digest(sae) for name, sae in self.saes.items()}
        source = self.source.digest if isinstance(self.source, Store) else self.reference.digest
        values = {"saes": digests, "source": source, "options": self.options.model_dump(), "versions": versions()}
        return sha256_json(values | {"model": self.model is not None})

    def run(self, folder: Path, workers: int | str) -> None:
        """Count all chunks, from where one was stopped."""
        self._restore(folder)
        total = self.options.tokens or (len(self.source) if isinstance(self.source, Store) else self.place)
        opened, saved = self.encoder.elsewhere() if workers != 1 else lambda: self.encoder, monotonic()
        pairs = closing(map_in_order(opened, _codes, self._chunks_left(), workers, self.encoder.device.type))
        whole = False  # while a chunk is counted, what is counted is of no place in the text
        try:
            with pairs as read:
                for (chunk, digest), codes in track(read, "scan", total - self.place, lambda x: len(x[0][0]), "tokens"):
                    whole = False
                    self._add(codes, chunk)
                    self.digest = digest
                    whole = True
                    if monotonic() - saved >= SAVE_SECONDS:
                        self._save(folder)
                        saved = monotonic()
        except (KeyboardInterrupt, SystemExit):
            if whole:
                self._save(folder)
            raise
        if not any(x.counted for x in self.statistics.values()):
            raise InterpError(
                "the text has no tokens that count (the first of each piece do not); give longer documents"
            )

    def _chunks_left(self) -> Iterator[tuple[TokenChunk, Tensor]]:
        """The chunks that were not counted, without activations, with a digest of the text up to the end of each."""
        options, done, begun = self.options, self.chunks, self.digest
        if isinstance(self.source, Store):
            for chunk in store_chunks(self.source, [], options.chunk, options.tokens, self.place):
                yield chunk, begun
            return
        assert self.texts is not None
        read, number, size, context = CorpusProgress(), 0, options.chunk, options.context
        chunks = model_chunks(self.source, self.texts, [], size, tokens=options.tokens, context=context, reading=read)
        for number, chunk in enumerate(chunks, 1):
            digest = torch.tensor(list(bytes.fromhex(read.digest.hex)), dtype=torch.uint8)
            if number > done:
                yield chunk, digest
            elif number == done and not torch.equal(digest, begun):
                raise _other_text()
        if number < done:
            raise _other_text()

    def _add(self, codes: dict[str, Code], chunk: TokenChunk) -> None:
        for name, code in codes.items():
            self.statistics[name].add(code, chunk)
        self.background.add(codes, chunk)
        counts = torch.bincount(chunk.ids[chunk.position > 0], minlength=len(self.unigrams)).double()
        counts[: len(self.unigrams)] += self.unigrams
        self.unigrams = counts
        if self.options.ablate:
            self.text.add(chunk)
        self.chunks, self.place = self.chunks + 1, chunk.start + len(chunk)

    def _save(self, folder: Path) -> None:
        counted = {
            f"{n}.{name}": x for n, part in enumerate(self.statistics.values()) for name, x in part.tensors().items()
        }
        whole = {"chunks": torch.tensor(self.chunks), "place": torch.tensor(self.place), "unigrams": self.unigrams}
        text = {f"text.{name}": x for name, x in self.text.tensors.items()}
        whole |= {f"background.{name}": x for name, x in self.background.tensors().items()}
        values = counted | whole | text | {"digest": self.digest}
        write_tensors(folder / _STATE, values, hint="run again to continue from what was saved before")

    def _restore(self, folder: Path) -> None:
        if not (folder / _STATE).is_file():
            return
        saved = read_tensors(folder / _STATE)
        for n, part in enumerate(self.statistics.values()):
            part.restore({name.removeprefix(f"{n}."): x for name, x in saved.items() if name.startswith(f"{n}.")})
        drawn = {name: x for name, x in saved.items() if name.startswith("background.")}
        self.background.restore({name.removeprefix("background."): x for name, x in drawn.items()})
        self.chunks, self.place, self.unigrams = int(saved["chunks"]), int(saved["place"]), saved["unigrams"]
        self.text.tensors, self.digest = {name: saved[f"text.{name}"] for name in self.text.tensors}, saved["digest"]
        note(f"continuing a scan that was stopped after {self.place:,} tokens")

    def write(self, folder: Path, paths: dict[str, str]) -> None:
        """Write the book's files."""
        read = cache(lambda token: token_text(self.model.tokenizer if self.model else None, token))
        with ExitStack() as stack:
            files = ((LATENTS_FILE, LATENTS), (EXAMPLES_FILE, EXAMPLES), (BACKGROUND_FILE, BACKGROUND))
            writers = [stack.enter_context(pq.ParquetWriter(folder / name, schema)) for name, schema in files]
            for name, sae in self.saes.items():
                coder, counted, effects = sae.to(torch.device("cpu")), self.statistics[name], self._ablations(name)
                blocks = latent_rows(name, coder, counted, read, self.unigrams, self.model, effects)
                for rows in blocks:
                    for writer, (_, schema), part in zip(writers, files, rows, strict=False):
                        writer.write_table(pa.Table.from_pylist(part, schema))
                writers[-1].write_table(pa.Table.from_pylist([*self.background.rows(name, read)], BACKGROUND))
        autoencoders = {
            name: BookAutoencoder(
                digest=autoencoder_digest(sae), site=sae.reads[0].site, d_sae=sae.d_sae, path=paths.get(name, "")
            )
            for name, sae in self.saes.items()
        }
        card = BookCard(
            model=self.reference,
            autoencoders=autoencoders,
            source=str(self.source if isinstance(self.source, Store) else self.reference.name),
            tokens=max(x.counted for x in self.statistics.values()),
            options=self.options,
            versions=versions(),
        )
        write_json(folder / CARD, card.model_dump())

    def _ablations(self, name: str) -> dict[int, float | None]:
        """The effects of the most active latents."""
        statistics = self.statistics[name]
        active = statistics.total.topk(min(self.options.ablate, statistics.d_sae)).indices
        latents = active[statistics.count[active] > 0].tolist()
        if not latents or not self.model:
            return {}
        rows, most = self._rows(), self.options.ablation_rows
        return dict(
            zip(latents, measure_ablation_effects(self.saes[name], self.model, rows, latents, most), strict=True)
        )

    def _rows(self) -> PackedRows:
        """The sampled text as rows, for passes of the model."""
        pieces = [Encoded.of(ids.tolist()) for ids in self.text.pieces()]
        context = max(
            2, *(len(piece) for piece in pieces), self.options.context if isinstance(self.source, HookedModel) else 2
        )
        assert self.model is not None
        return pack(pieces, context, architecture(self.model.config).packs)


def _codes(encoder: ChunkEncoder, item: tuple[TokenChunk, Tensor]) -> dict[str, Code]:
    return encoder.codes(item[0])


def _other_text() -> InterpError:
    return InterpError("what a stopped scan left is of another text; run it again to start anew")
