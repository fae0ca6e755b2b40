"""Corpora: documents as text, one at a time, from files, folders, globs or memory.

    .jsonl     one JSON object a line, the document in its field `text` (or another); blank lines are skipped
    .parquet   one document a row, in the same field
    .txt       one document a file

A folder means every such file in it, at any depth, in the order of their paths, so that a corpus read twice
is the same corpus. Files are streamed; only a .txt is held whole.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError, nearest

Source = str | Path | Iterable[str]
Record = Callable[[], str]  # gives the document, or raises what is wrong with it


def texts(source: Source, field: str = "text", skip_bad: bool = False) -> Iterator[str]:
    """The documents of a corpus: a file, a folder, a glob of either, or texts passed through.

    A single str is a path. A missing path raises here; an empty corpus, broken JSON, bytes that are not UTF-8
    and a missing field raise when they are reached, with the file and the line. `skip_bad` passes over such
    records instead, and tells on the console how many there were.
    """
    if isinstance(source, str | Path):
        return _nonempty(_good(_read(_files(source), field), skip_bad), str(source))
    return _nonempty(_good(_passed(source), skip_bad), "the corpus")


class Digest:
    """SHA-256 that identifies a sequence of documents, boundaries included, taken as they come."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def update(self, document: str) -> None:
        """Count in the next document."""
        encoded = document.encode()
        self._sha.update(len(encoded).to_bytes(8, "little") + encoded)

    @property
    def hex(self) -> str:
        """The digest of the documents so far."""
        return self._sha.copy().hexdigest()


def _files(source: str | Path) -> list[Path]:
    path = Path(source).expanduser()
    if path.exists():
        found = [path]
    elif has_magic(str(path)):
        found = [Path(name) for name in sorted(glob(str(path), recursive=True))]
    else:
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InterpError(f"corpus {str(source)!r}: no such file or folder; {nearest(path.name, beside)}")
    files = [file for item in found for file in (_inside(item) if item.is_dir() else [item])]
    if not files:
        raise InterpError(f"corpus {str(source)!r}: no {', '.join(_READERS)} files there; give a path that has some")
    for file in files:
        if file.suffix not in _READERS:
            raise InterpError(f"corpus file {file}: unknown kind {file.suffix!r}; expected {', '.join(_READERS)}")
    return files


def _inside(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in _READERS and file.is_file())


def _good(records: Iterator[Record], skip_bad: bool) -> Iterator[str]:
    """The documents; a bad record raises when it is read, or is counted."""
    skipped = 0
    try:
        for record in records:
            try:
                document = record()
            except InterpError:
                if not skip_bad:
                    raise
                skipped += 1
            else:
                yield document
    finally:  # a reader that has enough tokens stops before the end
        if skipped:
            print(f"interp: passed over {skipped} bad records", file=sys.stderr)


def _read(files: list[Path], field: str) -> Iterator[Record]:
    for file in files:
        yield from _READERS[file.suffix](file, field)


def _jsonl(file: Path, field: str) -> Iterator[Record]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield partial(_json_line, line, f"{file}, line {number}", field)


def _json_line(line: bytes, where: str, field: str) -> str:
    text = _utf8(line, where)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as problem:  # broken, nested too deeply, or a number of too many digits
        raise InterpError(f"{where}: not valid JSON ({problem}); expected one object a line") from None
    if not isinstance(record, dict):
        raise InterpError(f"{where}: expected a JSON object with a field {field!r}, got {type(record).__name__}")
    if field not in record:
        raise InterpError(f"{where}: no field {field!r}; {nearest(field, record)}; choose it with field=")
    return _document(record[field], where)


def _parquet(file: Path, field: str) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as problem:
        raise InterpError(f"{file}: not a parquet file ({problem})") from None
    if field not in table.schema_arrow.names:
        raise InterpError(
            f"{file}: no column {field!r}; {nearest(field, table.schema_arrow.names)}; choose it with field="
        )
    number = 0
    try:
        for batch in table.iter_batches(columns=[field]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield partial(_document, value, f"{file}, row {number}")
    except (OSError, pyarrow.ArrowInvalid) as problem:
        raise InterpError(f"{file}: damaged behind row {number} ({problem}); restore it") from None


def _txt(file: Path, field: str) -> Iterator[Record]:
    yield lambda: _utf8(file.read_bytes(), str(file))


_READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".txt": _txt,
}


def _passed(documents: Iterable[str]) -> Iterator[Record]:
    for number, document in enumerate(documents):
        yield partial(_document, document, f"document {number}")


def _utf8(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as problem:
        raise InterpError(f"{where}: not UTF-8 ({problem.reason} at byte {problem.start}); convert the file") from None


def _document(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InterpError(f"{where}: expected text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        # JSON can escape half of a surrogate pair, which no tokenizer takes.
        raise InterpError(f"{where}: half a surrogate pair at character {problem.start}; repair the text") from None
    return value


def _nonempty(documents: Iterator[str], name: str) -> Iterator[str]:
    count = 0
    for count, document in enumerate(documents, start=1):  # noqa: B007 (read after the loop)
        yield document
    if not count:
        raise InterpError(f"{name} is empty; expected at least one document")
