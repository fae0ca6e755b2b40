"""The table of scores on disk, in which a curation is resumed: SQLite, one transaction a shard of rows.

A shard is in the table whole or not at all, however the process ends, with the digest of its documents. SQLite sorts
and joins in files, so that memory is bounded by its cache, whatever the number of rows. A row takes less than 1,000
bytes while near-duplicates are searched (a signature of 512, and nine bands with their index), and about 40 without
them; the table is removed in the end.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from interp.core.errors import DISK_REMEDY, InterpError
from interp.upkeep.curation.near_duplicates import DuplicateHasher, similarity

_CACHE = 8_000  # KB
_TABLES = """
PRAGMA cache_size = -{cache};
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS shard (number INTEGER PRIMARY KEY, digest TEXT);
CREATE TABLE IF NOT EXISTS row (number INTEGER PRIMARY KEY, signature BLOB, {columns});
CREATE TABLE IF NOT EXISTS band (hash INTEGER, row INTEGER);
CREATE TABLE IF NOT EXISTS duplicate (row INTEGER PRIMARY KEY, earlier INTEGER);
"""
# A row is compared with the first row of each of its bands.
_FIND_DUPLICATES = """
INSERT INTO duplicate
SELECT pair.row, min(pair.earlier) FROM (
    SELECT DISTINCT band.row AS row, original.row AS earlier
    FROM band JOIN (SELECT hash, min(row) AS row FROM band GROUP BY hash HAVING count(*) > 1) AS original
    ON band.hash = original.hash WHERE band.row > original.row
) AS pair
JOIN row AS late ON late.number = pair.row JOIN row AS early ON early.number = pair.earlier
WHERE similarity(late.signature, early.signature) >= ? GROUP BY pair.row
"""


@dataclass(frozen=True)
class ScoredShard:
    """The scores of consecutive documents.

    Attributes:
        digest: Of the documents.
        scores: A row of numbers for each document.
        signatures: Its MinHash signature; none where near-duplicates are not searched.
    """

    digest: str
    scores: Sequence[tuple[float, ...]]
    signatures: Sequence[bytes] = ()


@dataclass(frozen=True)
class ScoredRow:
    """A document of the table: its number from 0, the first row that it repeats, and its scores (None for NaN)."""

    number: int
    duplicate_of: int | None
    scores: tuple[float | None, ...]


class ScoreTable:
    """The table in a file, which is made if it is not there.

    Args:
        file: The SQLite file.
        measures: Number of scores of a row.
        hasher: How near-duplicates are found; None if they are not.

    Raises:
        InterpError: The file is no such table, or damaged.

    Example:
        >>> from interp.upkeep.curation.score_table import ScoredShard, ScoreTable
        >>> with ScoreTable(tmp / "scores.sqlite", measures=1) as table:
        ...     table.add(ScoredShard("digest", [(0.5,), (0.25,)]))
        ...     [row.scores for row in table.rows()]
        [(0.5,), (0.25,)]
    """

    def __init__(self, file: Path, measures: int, hasher: DuplicateHasher | None = None):
        self.file, self.measures, self.hasher = file, measures, hasher
        self._columns = ", ".join(f"s{index}" for index in range(measures))
        with self._readable():
            self._db = sqlite3.connect(file)
            self._db.create_function("similarity", 2, similarity, deterministic=True)
            self._db.executescript(_TABLES.format(cache=_CACHE, columns=self._columns))

    def __enter__(self) -> "ScoreTable":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._db.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as problem:
            of_disk = problem.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
            remedy = DISK_REMEDY if of_disk else f"remove {self.file.parent}"
            raise InterpError(f"{self.file}: cannot be read or written ({problem}); {remedy}") from None

    def digests(self) -> list[str]:
        """The digest of every shard, in order."""
        with self._readable():
            return [digest for (digest,) in self._db.execute("SELECT digest FROM shard ORDER BY number")]

    def __len__(self) -> int:
        with self._readable():
            return int(self._db.execute("SELECT coalesce(max(number) + 1, 0) FROM row").fetchone()[0])

    def add(self, shard: ScoredShard) -> None:
        """Append a shard, whole or not at all."""
        marks, bands = ", ".join("?" * (self.measures + 2)), self.hasher.bands if self.hasher else lambda signature: []
        signatures: Sequence[bytes] = shard.signatures or [b""] * len(shard.scores)
        numbered = enumerate(zip(shard.scores, signatures, strict=True), start=len(self))
        # SQLite stores NaN as NULL.
        rows: list[Any] = [(number, signature, *scores) for number, (scores, signature) in numbered]
        with self._readable(), self._db:
            self._db.execute("INSERT INTO shard (digest) VALUES (?)", [shard.digest])
            self._db.executemany(f"INSERT INTO row VALUES ({marks})", rows)
            hashes = ((band, number) for number, signature, *_ in rows for band in bands(signature))
            self._db.executemany("INSERT INTO band VALUES (?, ?)", hashes)

    def find_duplicates(self) -> int:
        """Find each row that repeats an earlier one, and return how many there are.

        A row is compared with the first row of each of its bands, so that of several alike the first is the original.
        """
        if self.hasher is None:
            return 0
        with self._readable(), self._db:
            self._db.execute("DELETE FROM duplicate")
            self._db.execute("CREATE INDEX IF NOT EXISTS by_hash ON band (hash, row)")
            return self._db.execute(_FIND_DUPLICATES, [self.hasher.threshold]).rowcount

    def rows(self) -> Iterator[ScoredRow]:
        """Every row, in order."""
        return self._select("ORDER BY number")

    def worst(self, measure: int, count: int) -> list[ScoredRow]:
        """The rows with the largest scores by a measure that repeat no other, the largest first."""
        score = f"s{measure}"
        return [*self._select(f"WHERE earlier IS NULL AND {score} NOTNULL ORDER BY {score} DESC, number LIMIT {count}")]

    def _select(self, which: str) -> Iterator[ScoredRow]:
        with self._readable():
            query = f"SELECT number, earlier, {self._columns} FROM row LEFT JOIN duplicate ON number = row {which}"
            for number, earlier, *scores in self._db.execute(query):
                yield ScoredRow(number, earlier, tuple(scores))
