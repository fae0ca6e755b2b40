"""Curate: score a corpus in shards of rows, set near-duplicates apart, and split it into kept, flagged and unsure.

1. Shards of consecutive documents are scored, by several processes where asked, and added to a table on disk in order.
   A process that ends early loses the shards in work; the same call continues after the last one in the table, and
   checks by digests that the documents before it are the same.
2. Near-duplicates of earlier documents are found in the table.
3. The cuts come from a labelled sample, or by hand (`thresholds`).
4. The corpus is read once more and written to the splits. The folder appears when it is complete.

Memory does not grow with the corpus: shards in work, the cache of the table and the worst passages are held.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from itertools import chain, count, islice
from math import isnan
from pathlib import Path
from random import Random
from typing import Any

from interp.auditing.behaviours import Behaviour
from interp.core.digests import versions
from interp.core.errors import InterpError, on_interrupt
from interp.core.files import new_folder, require_free, write_json
from interp.core.progress import track
from interp.core.shards.workers import map_in_order
from interp.data.corpora import Digest, Document, documents
from interp.upkeep._records import SETTINGS, kept_once_begun
from interp.upkeep.curation.curation_record import RECORD, Curation, Passage
from interp.upkeep.curation.document_scorer import CorpusScorer, DocumentScorer, ScorerSource
from interp.upkeep.curation.near_duplicates import DuplicateHasher
from interp.upkeep.curation.options import CurationOptions
from interp.upkeep.curation.score_table import ScoredRow, ScoredShard, ScoreTable
from interp.upkeep.curation.thresholds import LabelledDocument, Thresholds, choose_thresholds
from interp.upkeep.curation.trial_training import predict_changes

SPLITS = ("kept", "flagged", "unsure")
TABLE, SCORES = "scores.sqlite", "scores.parquet"
_GROUP, _PASSAGE = 4096, 512  # rows of a group of the Parquet file; most tokens of a passage
_DECIDE_SCORES = {"field", "skip_bad", "near_duplicates", "shard"}


_Scoring = tuple[CorpusScorer, DuplicateHasher | None]


def _open(source: ScorerSource, hasher: DuplicateHasher | None) -> _Scoring:
    return source.open(), hasher


def _score(scoring: _Scoring, shard: list[Document]) -> ScoredShard:
    scorer, hasher = scoring
    signatures = [hasher.signature(document) for document in shard] if hasher else []
    return ScoredShard(_digest(shard), scorer.score(shard), signatures)


def _digest(shard: Sequence[Document]) -> str:
    digest = Digest()
    for document in shard:
        digest.update(document)
    return digest.hex


def curate(
    data: Any,
    source: ScorerSource,
    out: str | Path,
    options: CurationOptions | None = None,
    labels: Sequence[LabelledDocument] = (),
    behaviours: Sequence[Behaviour] = (),
    workers: int | str = 1,
    page: Callable[[Curation, Path], None] | None = None,
) -> Curation:
    """Score a corpus and split it into what is kept, flagged and unsure.

    Args:
        data: A corpus, as `interp.data.documents` takes it, which can be read twice: a path, or a list.
        source: Opens the scorer: a `DocumentScorer`, or `ScorerSettings` where there are several processes.
        out: New folder: `kept.jsonl`, `flagged.jsonl`, `unsure.jsonl`, `scores.parquet` and `curation.json`.
        options: How it is split.
        labels: A labelled sample, from which the cuts and their error rates come.
        behaviours: What is measured before and after a copy of the model is trained on a sample of everything, and on
            one of what is kept. None by default.
        workers: Processes that score; one scores in this process. A text is the address of a Ray cluster: `HOST:PORT`,
            `auto` or `local`.
        page: Called with the record and the unfinished folder, to write a page there.

    Returns:
        The record, which the folder holds too.

    Raises:
        InterpError: `out` exists or is being written; there are neither labels nor a threshold; a record is broken; or
            an unfinished curation there has other settings, or documents that changed.

    Example:
        >>> from interp.upkeep import CurationOptions, DocumentScorer, curate
        >>> scorer = DocumentScorer(model, interp.Direction.of(torch.eye(model.d_model)[0], "resid_post.3"))
        >>> texts = ["The mill is by the river.", "Rain fell all day."]
        >>> record = curate(texts, scorer, tmp / "curated", CurationOptions(threshold=100.0))
        >>> record.counts
        {'kept': 2, 'flagged': 0, 'unsure': 0}
    """
    options, target = options or CurationOptions(), Path(out)
    work = target.with_name(f".{target.name}.curating")
    if (target / RECORD).is_file():
        shutil.rmtree(work, ignore_errors=True)  # a process ended between its last two steps
    require_free(target)
    if isinstance(data, Iterator):
        raise InterpError("a corpus that can be read once only; give a path or a list, since it is read twice")
    if isinstance(source, Path) or not isinstance(source, ScorerSource):
        raise InterpError(f"source is a {type(source).__name__}; expected a DocumentScorer or ScorerSettings")
    if isinstance(workers, int) and workers < 1:
        raise InterpError(f"workers is {workers}; expected at least 1")
    hasher = DuplicateHasher(options.near_duplicates) if options.near_duplicates else None
    if not labels:
        choose_thresholds(["any"], threshold=options.threshold, error=options.error)  # raises before any work
    next(_read(data, options))
    scorer = source.open()
    model = getattr(scorer, "model", None)
    if behaviours and model is None:
        raise InterpError("changes of behaviours are predicted for a scorer with a model; leave the behaviours out")
    cuts = _thresholds(scorer, labels, options)
    column = scorer.measures.index(cuts.measure)
    settings = scorer.identity | {"options": options.model_dump(include=_DECIDE_SCORES)}
    with (
        on_interrupt(f"the same command continues the curation into {target}"),
        new_folder(target) as staging,
        kept_once_begun(work, settings, "an unfinished curation"),
        ScoreTable(work / TABLE, len(scorer.measures), hasher) as table,
    ):
        known = table.digests()
        shards = islice(_shards(data, options, known, more=True), len(known), None)
        for scored in _scored(shards, source, scorer, hasher, workers):
            write_json(work / SETTINGS, settings)
            table.add(scored)
        duplicates, worst = table.find_duplicates(), table.worst(column, options.worst)
        writer = _SplitWriter(scorer.measures, cuts, options, {row.number for row in worst})
        again = _shards(data, options, table.digests(), more=False)
        writer.write(staging, zip(chain.from_iterable(again), table.rows(), strict=True))
        trials = {name: sample.drawn for name, sample in writer.samples.items()}
        how = (options.train_steps, options.train_rate, options.seed)
        record = Curation(
            data=str(data) if isinstance(data, str | Path) else "documents in memory",
            digest=writer.digest.hex,
            settings=scorer.identity | {"options": options.model_dump(), "versions": versions()},
            counts=writer.counts,
            duplicates=duplicates,
            dropped=options.drop_duplicates,
            thresholds=cuts,
            means=writer.means(),
            changes=predict_changes(model, trials, behaviours, *how) if behaviours and model else (),
            worst=tuple(_passage(row, column, scorer, writer.texts[row.number]) for row in worst),
        )
        write_json(staging / RECORD, asdict(record))
        if page is not None:
            page(record, staging)
    shutil.rmtree(work)
    return record


def _read(data: Any, options: CurationOptions) -> Iterator[Document]:
    return documents(data, options.field, options.skip_bad)


def _thresholds(scorer: CorpusScorer, labels: Sequence[LabelledDocument], options: CurationOptions) -> Thresholds:
    scores: list[tuple[float, ...]] = []
    for start in range(0, len(labels), options.shard):
        scores += scorer.score([labelled.document for labelled in labels[start : start + options.shard]])
    harmful = [labelled.harmful for labelled in labels]
    given = (options.score, options.threshold, options.error, options.seed)
    return choose_thresholds(scorer.measures, scores, harmful, *given)


def _shards(data: Any, options: CurationOptions, known: Sequence[str], more: bool) -> Iterator[list[Document]]:
    """The shards of a corpus. Raises where one has not the known digest, or none though there may be no more."""
    stream = _read(data, options)
    for number in count():
        shard = list(islice(stream, options.shard))
        if number < len(known) or (shard and not more):
            if [_digest(shard)] != [*known[number : number + 1]]:
                name = data if isinstance(data, str | Path) else "the corpus"
                raise InterpError(f"{name} changed since it was first read; restore it, or curate into another folder")
        elif not shard:
            return
        yield shard


def _scored(
    shards: Iterable[list[Document]],
    source: ScorerSource,
    scorer: CorpusScorer,
    hasher: DuplicateHasher | None,
    workers: int | str,
) -> Iterator[ScoredShard]:
    """The scores of each shard, in order."""
    opened = partial(_open, source, hasher) if workers != 1 else lambda: (scorer, hasher)
    device = scorer.model.device.type if isinstance(scorer, DocumentScorer) else "cpu"
    with closing(map_in_order(opened, _score, shards, workers, device)) as pairs:
        tracked = track(pairs, "score", size=lambda pair: len(pair[0]), unit="documents")
        yield from (scored for _, scored in tracked)


class _Sample:
    """Documents drawn at random from a stream: every one is as likely (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, seed: int):
        self.drawn: list[Document] = []
        self._size, self._seen, self._rng = size, 0, Random(seed)

    def offer(self, document: Document) -> None:
        """Take in the next document."""
        self._seen += 1
        place = self._rng.randrange(self._seen)
        if len(self.drawn) < self._size:
            self.drawn.append(document)
        elif place < self._size:
            self.drawn[place] = document


class _SplitWriter:
    """Writes each document into the file of its split, and the scores of all into one table."""

    def __init__(self, measures: tuple[str, ...], cuts: Thresholds, options: CurationOptions, wanted: set[int]):
        self.measures, self.cuts, self.options, self.wanted = measures, cuts, options, wanted
        self.counts = dict.fromkeys(SPLITS, 0) | ({"duplicate": 0} if options.drop_duplicates else {})
        self.texts: dict[int, Document] = {}
        self.samples = {name: _Sample(options.train_sample, options.seed) for name in ("everything", "kept")}
        self.digest = Digest()
        self._sums = {name: [(0.0, 0)] * len(measures) for name in self.counts}

    def write(self, folder: Path, pairs: Iterator[tuple[Document, ScoredRow]]) -> None:
        """Write all documents with their rows."""
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {"row": pa.int64(), "split": pa.string(), **dict.fromkeys(self.measures, pa.float64())}
        schema = pa.schema(kinds | {"duplicate_of": pa.int64()})
        column = self.measures.index(self.cuts.measure)
        with ExitStack() as stack:
            files = {name: stack.enter_context((folder / f"{name}.jsonl").open("w")) for name in self.counts}
            table = stack.enter_context(parquet.ParquetWriter(folder / SCORES, schema))
            while group := list(islice(pairs, _GROUP)):
                written = []
                for document, row in group:
                    split = self._split(row, row.scores[column])
                    self._count(split, row, document)
                    line = {"row": row.number, self.options.field: document, "score": row.scores[column]}
                    files[split].write(json.dumps(line, ensure_ascii=False) + "\n")
                    written.append([row.number, split, *row.scores, row.duplicate_of])
                table.write_table(pa.table(list(zip(*written, strict=True)), schema=schema))

    def _split(self, row: ScoredRow, score: float | None) -> str:
        split = self.cuts.split(score)
        dropped = self.options.drop_duplicates and split == "kept" and row.duplicate_of is not None
        return "duplicate" if dropped else split

    def _count(self, split: str, row: ScoredRow, document: Document) -> None:
        self.counts[split] += 1
        self.digest.update(document)
        if row.number in self.wanted:
            self.texts[row.number] = document
        for name, sample in self.samples.items():
            if name in ("everything", split):
                sample.offer(document)
        sums = self._sums[split]
        for index, score in enumerate(row.scores):
            if score is not None:
                sums[index] = (sums[index][0] + score, sums[index][1] + 1)

    def means(self) -> dict[str, dict[str, float | None]]:
        """The mean of each score over the documents of each split that have one."""
        parts = {split: zip(self.measures, sums, strict=True) for split, sums in self._sums.items()}
        return {split: {name: x / n if n else None for name, (x, n) in part} for split, part in parts.items()}


def _passage(row: ScoredRow, column: int, scorer: CorpusScorer, document: Document) -> Passage:
    tokens = tuple((text, None if isnan(value) else value) for text, value in scorer.tokens(document))
    return Passage(row.number, row.scores[column] or 0.0, tokens[:_PASSAGE])
