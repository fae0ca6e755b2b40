"""Corpora: documents one at a time, from files, folders, globs, URLs, Hugging Face datasets or memory.

    .jsonl     one JSON object per line, the document in its field `text` (or another); blank lines are skipped
    .parquet   one document per row, in the same field
    .txt       one document per file

A document is a text, or a conversation: a list of messages `{"role": …, "content": …}`, whose further keys are for the
chat template. A folder means every such file in it, at any depth, in the order of their paths, so that a corpus that is
read twice is the same corpus. `.jsonl` and `.txt` may be compressed (`.gz`, `.xz`, `.bz2`; `.zst` where the package
zstandard is installed). Paths may be URLs of any fsspec file system (`s3://…`, `hf://datasets/…`, `memory://…`).
`hf:NAME[:CONFIG[:SPLIT]]` streams a Hugging Face dataset from the hub or reads one from a local folder. Files are
streamed; only a .txt is held in memory.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from glob import has_magic
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from interp.core.display import plural
from interp.core.errors import InterpError, first_line, located, nearest, note
from interp.core.inputs import bound, bounded_lines, over_bound, parse_object, require_regular

Conversation = list[dict[str, Any]]
Document = str | Conversation
Source = str | Path | Iterable[str | Sequence[Mapping[str, Any]] | Mapping[str, Any]]
Keep = Literal["all", "inner", "assistant"]  # which tokens of a document
Record = Callable[[], Document]  # returns the document, or raises if it is broken

_DATASET = "hf:"
_COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
_ROLES = ("system", "user", "assistant", "tool")


def documents(
    source: Source, field: str = "text", skip_bad: bool = False, accept: Callable[[Document], object] | None = None
) -> Iterator[Document]:
    """The documents of a corpus, one at a time.

    Args:
        source: A path, a glob or a URL of files or folders, or `hf:NAME` for a dataset; a str is always a path. Or an
            iterable of texts, conversations or records, such as the rows of a `datasets.Dataset`.
        field: The key or column that holds the document in a record.
        skip_bad: Ignore broken records, and print how many there were.
        accept: Called with each document; a document for which it raises InterpError is broken.

    Returns:
        An iterator of texts and conversations.

    Raises:
        InterpError: At once, if a path does not exist or holds no known files. On reaching it, with the file and the
            line: broken JSON, bytes that are not UTF-8, a missing field, an empty corpus.

    Example:
        >>> from interp.data import documents
        >>> _ = (tmp / "a.jsonl").write_text('{"text": "the baker ."}')
        >>> list(documents(tmp)), list(documents([{"body": "the doctor ."}], field="body"))
        (['the baker .'], ['the doctor .'])
    """
    if isinstance(source, Mapping):
        shown = ", ".join(map(str, source))
        raise InterpError(f"a corpus that maps {shown}; give one of its values (a split, say), or [it] as a record")
    if not isinstance(source, str | Path):
        if not isinstance(source, Iterable):
            raise InterpError(f"a corpus of type {type(source).__name__}; expected a path, a URL or documents")
        rows = (partial(_document, row, f"document {number}", field) for number, row in enumerate(source))
        return _good(rows, "the corpus", skip_bad, accept)
    name = str(source)
    if not name.strip() or name == ".":
        raise InterpError(f"corpus {name!r}: no path; give a file, a folder, a glob, a URL or hf:NAME")
    named = name.startswith(_DATASET) and not name.startswith(f"{_DATASET}//")  # hf://… is a file system
    if named:
        records = _dataset(name, field)
    else:
        records = chain.from_iterable(_READERS[_kind(file.path)](file, field) for file in _files(name))
    return _good(records, name, skip_bad, accept)


def texts(source: Source, field: str = "text", skip_bad: bool = False) -> Iterator[str]:
    """The documents of a corpus of plain text. Arguments are those of `documents`; a conversation raises.

    >>> from interp.data import texts
    >>> list(texts(["the baker ."]))
    ['the baker .']
    """
    return map(_only_text, documents(source, field, skip_bad))


def _only_text(document: Document) -> str:
    if not isinstance(document, str):
        raise InterpError(f"a conversation where text is expected ({document[:1]} …); give documents of plain text")
    return document


class Digest:
    """SHA-256 of a sequence of documents, with their boundaries, updated document by document."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def update(self, document: Document) -> None:
        """Take in the next document."""
        text = document if isinstance(document, str) else json.dumps(document, sort_keys=True, ensure_ascii=False)
        encoded = text.encode()
        self._sha.update(len(encoded).to_bytes(8, "little") + encoded)

    @property
    def hex(self) -> str:
        """The digest of the documents so far."""
        return self._sha.copy().hexdigest()


@dataclass(frozen=True)
class _File:
    """A file of any file system; `name` is how the user knows it."""

    system: Any
    path: str
    name: str

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Its bytes, decompressed. Raises, with its name, if it cannot be opened, decompressed or parsed."""
        require_regular(self.path)
        try:
            with self.system.open(self.path, "rb", compression=_compression(self.path)) as content:
                yield content
        except InterpError:
            raise
        except Exception as problem:  # file systems and decoders raise exceptions of any type
            raise InterpError(f"{self.name}: cannot be read ({_reason(problem)}); restore the file") from None


def _reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {first_line(problem)}"


def _compression(path: str) -> str | None:
    from fsspec.utils import infer_compression

    return infer_compression(path) if PurePosixPath(path).suffix in _COMPRESSED else None


def _kind(path: str) -> str:
    return PurePosixPath(path).with_suffix("").suffix if _compression(path) else PurePosixPath(path).suffix


def _files(source: str) -> list[_File]:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(str(Path(source).expanduser()) if "://" not in source else source)
        if system.exists(path):
            paths = [path]
        elif has_magic(source):
            paths = sorted(system.glob(path))
        else:
            parent = str(PurePosixPath(path).parent)
            siblings = [PurePosixPath(other).name for other in system.ls(parent, False)] if system.isdir(parent) else []
            raise InterpError(
                f"corpus {source!r}: no such file or folder; a Hugging Face dataset is {_DATASET}NAME; "
                f"{nearest(PurePosixPath(path).name, siblings)}"
            )
        files = [file for item in paths for file in (_inside(system, item) if system.isdir(item) else [item])]
    except InterpError:
        raise
    except Exception as problem:
        raise InterpError(f"corpus {source!r}: cannot be listed ({_reason(problem)}); give another path") from None
    if not files:
        raise InterpError(f"corpus {source!r}: no {', '.join(_READERS)} files there; give a path with such files")
    return [_known(_File(system, file, system.unstrip_protocol(file) if "://" in source else file)) for file in files]


def _known(file: _File) -> _File:
    kind = _kind(file.path)
    if kind not in _READERS or (_compression(file.path) and kind == ".parquet"):
        ending = PurePosixPath(file.path).suffix
        hint = "; pip install zstandard to read it" if ending == ".zst" else ""
        raise InterpError(f"corpus file {file.name}: unknown kind {ending!r}; expected {', '.join(_READERS)}{hint}")
    return file


def _inside(system: Any, folder: str) -> list[str]:
    files = sorted(system.find(folder))
    names = {PurePosixPath(file).name for file in files}
    if names & {"state.json", "dataset_dict.json"}:
        raise InterpError(f"corpus {folder!r} is a saved Hugging Face dataset; give it as {_DATASET}{folder}")
    return [file for file in files if _kind(file) in _READERS]


def _dataset(spec: str, field: str) -> Iterator[Record]:
    """Records of a dataset: streamed from the hub, in a local folder of files, or saved to disk."""
    import datasets

    name, config, split, *more = (*spec.removeprefix(_DATASET).split(":"), "", "")
    split = split or "train"
    if any(more):
        raise InterpError(f"dataset {spec!r}: more parts than {_DATASET}NAME:CONFIG:SPLIT; give a datasets object")
    folder = Path(name).expanduser()
    for file in folder.rglob("*"):
        require_regular(file)
    try:
        if any((folder / saved).is_file() for saved in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(str(folder))
        else:
            where = str(folder) if folder.is_dir() else name
            loaded = datasets.load_dataset(where, config or None, split=split, streaming=True)
        if isinstance(loaded, dict):
            if split not in loaded:
                raise InterpError(f"dataset {spec!r}: no split {split!r}; known: {', '.join(loaded)}")
            loaded = loaded[split]
        for number, row in enumerate(loaded):
            yield partial(_document, row, f"{spec}, row {number}", field)
    except InterpError:
        raise
    except Exception as problem:  # loaders and the network raise exceptions of any type
        raise InterpError(
            f"dataset {spec!r} can't be read ({_reason(problem)}); expected {_DATASET}NAME[:CONFIG[:SPLIT]], "
            "a name on the hub or a folder"
        ) from None


def _good(
    records: Iterator[Record], name: str, skip_bad: bool, accept: Callable[[Document], object] | None
) -> Iterator[Document]:
    """The documents, at least one. A bad record raises when it is read, or is counted if `skip_bad`."""
    good = skipped = 0
    try:
        for number, record in enumerate(records):
            try:
                document = record()
                if accept is not None:
                    with located(f"document {number}"):
                        accept(document)
            except InterpError:
                if not skip_bad:
                    raise
                skipped += 1
            else:
                good += 1
                yield document
    finally:  # the reader may stop before the end
        if skipped:
            note(f"ignored {plural(skipped, 'bad record')}")
    if not good:
        raise InterpError(f"{name} is empty; expected at least one document")


def _jsonl(file: _File, field: str) -> Iterator[Record]:
    with file.opened() as opened:
        for number, line in enumerate(bounded_lines(opened), start=1):
            if line.strip():
                yield partial(_json_line, line, f"{file.name}, line {number}", field)


def _json_line(line: bytes, where: str, field: str) -> Document:
    if len(line) > bound("line"):
        raise over_bound(where, "longer", "line")
    record = parse_object(_utf8(line, where), where, hint=" (skip_bad ignores it)")
    return _document(record, where, field)


def _parquet(file: _File, field: str) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    with file.opened() as content:
        try:
            table = parquet.ParquetFile(content)
        except pyarrow.ArrowInvalid as problem:
            raise InterpError(f"{file.name}: not a parquet file ({problem})") from None
        if field not in (names := table.schema_arrow.names):
            raise InterpError(f"{file.name}: no column {field!r}; choose one with field; {nearest(field, names)}")
        try:
            for batch in table.iter_batches(columns=[field]):
                for row in batch.to_pylist():
                    number += 1
                    yield partial(_document, row, f"{file.name}, row {number}", field)
        except (OSError, pyarrow.ArrowInvalid) as problem:
            raise InterpError(f"{file.name}: damaged after row {number} ({problem}); restore it") from None


def _txt(file: _File, field: str) -> Iterator[Record]:
    def read() -> str:
        with file.opened() as content:
            content = content.read(4 * bound("document") + 1)  # a character has at most four bytes
            return _text(_utf8(content, file.name), file.name)

    yield read


_READERS: dict[str, Callable[[_File, str], Iterator[Record]]] = {".jsonl": _jsonl, ".parquet": _parquet, ".txt": _txt}


def _utf8(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise InterpError(f"{where}: not UTF-8 ({problem.reason} at byte {problem.start}); convert the file") from None


def _document(value: Any, where: str, field: str) -> Document:
    """A text or a conversation, bare or in a record's field, after checks."""
    if isinstance(value, Mapping):
        if field not in value and "role" in value:
            raise InterpError(f"{where}: a message where a document is expected; a conversation is a list of messages")
        if field not in value:
            raise InterpError(f"{where}: no field {field!r}; choose one with field; {nearest(field, value)}")
        value = value[field]
    if not isinstance(value, list | tuple):
        return _text(value, where)
    if not value:
        raise InterpError(f"{where}: a conversation without messages; expected at least one")
    return [_message(turn, where) for turn in value]


def _message(turn: Any, where: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping) or turn.get("role") not in _ROLES:
        raise InterpError(f"{where}: {turn!r} is not a message; expected role ({', '.join(_ROLES)}) and content")
    content = "" if turn.get("content") is None and turn.get("tool_calls") else turn.get("content")
    return {**turn, "content": _text(content, f"{where}, {turn['role']}")}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InterpError(f"{where}: expected text, got {type(value).__name__}")
    if len(value) > bound("document"):
        raise over_bound(where, f"{len(value):,} characters, longer", "document")
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        # JSON can escape half of a surrogate pair, which no tokenizer accepts.
        raise InterpError(f"{where}: half a surrogate pair at character {problem.start}; repair the text") from None
    return value
