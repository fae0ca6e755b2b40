"""Corpora: documents as text, one at a time, from files, folders, globs or memory.

    .jsonl     one JSON object a line, the document in its field `text` (or another); blank lines are skipped
    .parquet   one document a row, in the same field
    .txt       one document a file

A folder means every such file in it, at any depth, in the order of their paths, so that a corpus read twice
is the same corpus. Files are streamed; only a .txt is held whole.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError, nearest

Source = str | Path | Iterable[str]


def texts(source: Source, field: str = "text") -> Iterator[str]:
    """The documents of a corpus: a file, a folder, a glob of either, or texts passed through.

    A single str is a path. A missing path raises here; an empty corpus, broken JSON, bytes that are not UTF-8
    and a missing field raise when they are reached, with the file and the line.
    """
    if isinstance(source, str | Path):
        return _nonempty(_read(_files(source), field), str(source))
    return _nonempty(_passed(source), "the corpus")


def digest(documents: Iterable[str]) -> str:
    """Hex SHA-256 that identifies a sequence of documents, boundaries included."""
    sha = hashlib.sha256()
    for document in documents:
        encoded = document.encode()
        sha.update(len(encoded).to_bytes(8, "little") + encoded)
    return sha.hexdigest()


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


def _read(files: list[Path], field: str) -> Iterator[str]:
    for file in files:
        yield from _READERS[file.suffix](file, field)


def _jsonl(file: Path, field: str) -> Iterator[str]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            try:
                record = json.loads(_utf8(line, where))
            except json.JSONDecodeError as problem:
                raise InterpError(f"{where}: not valid JSON ({problem}); expected one object a line") from None
            if not isinstance(record, dict):
                raise InterpError(
                    f"{where}: expected a JSON object with a field {field!r}, got {type(record).__name__}"
                )
            if field not in record:
                raise InterpError(f"{where}: no field {field!r}; {nearest(field, record)}; choose it with field=")
            yield _document(record[field], where)


def _parquet(file: Path, field: str) -> Iterator[str]:
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
    for batch in table.iter_batches(columns=[field]):
        for value in batch.column(0).to_pylist():
            number += 1
            yield _document(value, f"{file}, row {number}")


def _txt(file: Path, field: str) -> Iterator[str]:
    yield _utf8(file.read_bytes(), str(file))


_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".txt": _txt,
}


def _passed(documents: Iterable[str]) -> Iterator[str]:
    for number, document in enumerate(documents):
        yield _document(document, f"document {number}")


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
