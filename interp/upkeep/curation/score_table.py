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
from math import isnan
from pathlib import Path
from types import TracebackType

from interp.core.errors import InterpError
from interp.upkeep.curation.near_duplicates import DuplicateHasher, similarity

_CACHE = 8_000  # KB


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
    """A document of the table: its number from 0, its scores (None for NaN), and the first row that it repeats."""

    number: int
    scores: tuple[float | None, ...]
    duplicate_of: int | None


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
            self._db = sqlite3.connect(file, isolation_level=None)
            self._db.execute(f"PRAGMA cache_size = -{_CACHE}")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.create_function("similarity", 2, similarity, deterministic=True)
            numbers = ", ".join(f"s{index} REAL" for index in range(measures))
            with self._transaction():
                self._db.execute("CREATE TABLE IF NOT EXISTS shard (number INTEGER PRIMARY KEY, digest TEXT)")
                self._db.execute(
                    f"CREATE TABLE IF NOT EXISTS row (number INTEGER PRIMARY KEY, {numbers}, signature BLOB)"
                )
                self._db.execute("CREATE TABLE IF NOT EXISTS band (hash INTEGER, row INTEGER)")
                self._db.execute("CREATE TABLE IF NOT EXISTS duplicate (row INTEGER PRIMARY KEY, earlier INTEGER)")

    def __enter__(self) -> "ScoreTable":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._db.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as problem:
            raise InterpError(
                f"{self.file}: cannot be read or written ({problem}); remove {self.file.parent}"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def digests(self) -> list[str]:
        """The digest of every shard, in order."""
        with self._readable():
            return [digest for (digest,) in self._db.execute("SELECT digest FROM shard ORDER BY number")]

    def __len__(self) -> int:
        with self._readable():
            return int(self._db.execute("SELECT coalesce(max(number) + 1, 0) FROM row").fetchone()[0])

    def add(self, shard: ScoredShard) -> None:
        """Append a shard, whole or not at all."""
        first, marks = len(self), ", ".join("?" * (self.measures + 2))
        signatures: Sequence[bytes | None] = shard.signatures or [None] * len(shard.scores)
        rows = zip(range(first, first + len(shard.scores)), shard.scores, signatures, strict=True)
        with self._readable(), self._transaction():
            self._db.execute("INSERT INTO shard (digest) VALUES (?)", [shard.digest])
            for number, scores, signature in rows:
                plain = [None if isnan(score) else score for score in scores]
                self._db.execute(f"INSERT INTO row VALUES ({marks})", [number, *plain, signature])
                if signature is not None and self.hasher is not None:
                    bands = [(band, number) for band in self.hasher.bands(signature)]
                    self._db.executemany("INSERT INTO band VALUES (?, ?)", bands)

    def find_duplicates(self) -> int:
        """Find each row that repeats an earlier one, and return how many there are.

        A row is compared with the first row of each of its bands, so that of several alike the first is the original.
        """
        if self.hasher is None:
            return 0
        with self._readable(), self._transaction():
            self._db.execute("DELETE FROM duplicate")
            self._db.execute("CREATE INDEX IF NOT EXISTS by_hash ON band (hash, row)")
            candidates = (
                "SELECT DISTINCT band.row AS row, original.row AS earlier FROM band JOIN (SELECT hash, min(row) AS row "
                "FROM band GROUP BY hash HAVING count(*) > 1) AS original ON band.hash = original.hash "
                "WHERE band.row > original.row"
            )
            self._db.execute(
                f"INSERT INTO duplicate SELECT pair.row, min(pair.earlier) FROM ({candidates}) AS pair "
                "JOIN row AS late ON late.number = pair.row JOIN row AS early ON early.number = pair.earlier "
                "WHERE similarity(late.signature, early.signature) >= ? GROUP BY pair.row",
                [self.hasher.threshold],
            )
            return int(self._db.execute("SELECT count(*) FROM duplicate").fetchone()[0])

    def rows(self) -> Iterator[ScoredRow]:
        """Every row, in order."""
        query = f"SELECT number, {self._columns}, earlier FROM row LEFT JOIN duplicate ON number = row ORDER BY number"
        with self._readable():
            for number, *scores, earlier in self._db.execute(query):
                yield ScoredRow(number, tuple(scores), earlier)

    def worst(self, measure: int, count: int) -> list[ScoredRow]:
        """The rows with the largest scores by a measure that repeat no other, the largest first."""
        query = (
            f"SELECT number, {self._columns} FROM row LEFT JOIN duplicate ON number = row "
            f"WHERE earlier IS NULL AND s{measure} IS NOT NULL ORDER BY s{measure} DESC, number LIMIT ?"
        )
        with self._readable():
            found = self._db.execute(query, [count]).fetchall()
        return [ScoredRow(number, tuple(scores), None) for number, *scores in found]
