"""Remote files: checkpoints at URLs of any fsspec file system (s3://, http://, memory:// and others).

Small files (config, tokenizer, index) are fetched into a temporary folder when the checkpoint is opened. Weight files
stay at the URL and are read by ranges of bytes. A server without ranges is refused by name: it would send the whole
file each time.

Over HTTP a folder has no listing, so files are requested by the names that Hugging Face gives them, and others stay
behind unnamed. Elsewhere all companions come along (`companions`). Credentials and
endpoints are configured in fsspec: by environment variables or its configuration files. Errors are quoted without them.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from interp.core.errors import InterpError, first_line
from interp.models.checkpoints.companions import reason_to_leave

T = TypeVar("T")
_INDEX = "model.safetensors.index.json"
_COMPANIONS = {
    "config.json", "adapter_config.json", _INDEX, "generation_config.json", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json",
    "merges.txt", "added_tokens.json", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "vocab.txt", "spiece.model", "tekken.json", "qwen.tiktoken", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
}  # fmt: skip
_DEPTH = 4  # levels of folders that are looked into
_TRIES = 3
_PART = 32 << 20


_SECRET = re.compile("key|secret|token|password|credential", re.IGNORECASE)


class MissingFile(InterpError):
    """There is no such file."""


def is_remote(name: Any) -> bool:
    """Whether a name is a URL other than of a local file."""
    return isinstance(name, str) and re.match(r"(?!file:)[a-z][a-z0-9+.-]*://", name) is not None


def local_path(name: Any) -> Any:
    """The path of a `file://` URL; any other value unchanged."""
    return Path(name.removeprefix("file://")) if isinstance(name, str) and name.startswith("file://") else name


def remote_place(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path there.

    Raises if the URL has a password in it, or the file system is not installed.
    """
    if re.match(r"[^/]*://[^/]*@", url):
        raise InterpError("a URL with a user or password would be written into records; configure them in fsspec")
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url)
    except (ImportError, ValueError) as problem:
        raise InterpError(f"{url}: its file system is not available ({problem}); install its package") from None
    return fs, path.rstrip("/")


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL, with the parts of `Path` that reading needs, and a way to replace it."""

    url: str
    fs: Any = field(repr=False, compare=False)
    path: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return self.url

    def size(self) -> int:
        """Its size in bytes; raises if it does not exist or can't be read in parts."""
        size = self.retried(lambda: self.fs.info(self.path)).get("size")
        if size is None or (is_http(self.fs) and size > 16 and not self._is_ranged()):
            raise InterpError(
                f"{self.url}: its server gives no size or sends no ranges of bytes, so it can't be read tensor by "
                "tensor; download the folder and use that"
            )
        return int(size)

    def _is_ranged(self) -> bool:
        """Whether an HTTP server sends the range that a request names."""
        try:
            with self.fs.open(self.path, "rb", cache_type="none") as opened:
                opened.seek(8)
                return len(opened.read(8)) == 8
        except (ValueError, NotImplementedError):  # fsspec's errors for a stream, or for the whole file in reply
            return False

    def stamp(self) -> str:
        """A text that changes when the file does, as far as its file system reports changes."""
        info = self.retried(lambda: self.fs.info(self.path))
        return str([info.get(key) for key in ("ETag", "Last-Modified", "LastModified", "mtime", "created")])

    def is_file(self) -> bool:
        """Whether the file exists."""
        try:  # not `isfile`, for which some file systems start to send the file
            return bool(self.retried(lambda: self.fs.info(self.path))["type"] == "file")
        except MissingFile:
            return False

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill a buffer with its bytes from `start`, a part at a time."""
        for done in range(0, len(buffer), _PART):
            part = buffer[done : done + _PART]
            part[:] = self.read(start + done, start + done + len(part))

    def read(self, start: int, stop: int) -> bytes:
        """Its bytes from `start` to `stop`."""
        data = self.retried(lambda: self.fs.cat_file(self.path, start=start, end=stop))
        if len(data) != stop - start:
            raise InterpError(f"{self.url}: sent {len(data)} bytes for {start} to {stop}; it was changed, so try again")
        return bytes(data)

    def read_all(self) -> bytes:
        """The whole of a small file."""
        return bytes(self.retried(lambda: self.fs.cat_file(self.path)))

    def save(self, place: Path) -> None:
        """Copy it to a local file, a part at a time."""
        size = self.size()
        with place.open("wb") as out:
            for start in range(0, size, _PART):
                out.write(self.read(start, min(size, start + _PART)))

    def write(self, content: bytes | Path) -> None:
        """Replace it by these bytes or those of a local file, in one step where its file system is an object store."""
        if isinstance(content, bytes):
            self.retried(lambda: self.fs.pipe_file(self.path, content), "written")
        else:
            self.retried(lambda: self.fs.put_file(str(content), self.path), "written")

    def remove(self) -> None:
        """Remove it, if it is there."""
        with suppress(MissingFile):
            self.retried(lambda: self.fs.rm_file(self.path), "removed")

    def retried(self, action: Callable[[], T], verb: str = "read") -> T:
        """Retry an action: a long export has to survive a lost connection.

        Raises:
            MissingFile: There is no such file, or no bucket for it.
            InterpError: The file system refuses it, or it failed three times. The message has the file system's words,
                without credentials.
        """
        for attempt in range(_TRIES):
            try:
                return action()
            except FileNotFoundError as problem:
                if verb == "written":
                    raise InterpError(f"{self.url}: cannot be written; {first_line(problem)}; create that") from None
                raise MissingFile(f"{self.url}: there is no such file") from None
            except Exception as problem:  # each file system raises errors of its own
                refused = isinstance(problem, PermissionError) or "Credential" in type(problem).__name__
                if refused or attempt == _TRIES - 1:
                    hint = "; give fsspec's file system credentials that may do this" if refused else ""
                    raise InterpError(f"{self.url}: cannot be {verb} ({self._reason(problem)}){hint}") from None
                time.sleep(0.5 * 4**attempt)
        raise AssertionError("unreachable")

    def _reason(self, problem: Exception) -> str:
        """The words of an error, without the values of what may be a secret, and without what signs a URL."""
        text = f"{type(problem).__name__}: {first_line(problem)}"
        for name, value in (os.environ | self.fs.storage_options).items():
            if _SECRET.search(name) and isinstance(value, str) and len(value) >= 8:
                text = text.replace(value, "…")
        return re.sub(r"(://\S*\?)[^\s)'\"]+", r"\1…", text)


@dataclass(frozen=True)
class RemoteFolder:
    """A checkpoint at a URL, and a temporary local folder with all its files except the weights."""

    url: str
    fs: Any = field(repr=False, compare=False)
    path: str
    local: tempfile.TemporaryDirectory[str] = field(repr=False, compare=False)
    left_out: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, url: str) -> "RemoteFolder":
        """Fetch the small files. Raises as `remote_place` does."""
        folder = cls(url.rstrip("/"), *remote_place(url), tempfile.TemporaryDirectory(prefix="interp-"))
        for name in folder._companions():
            (folder.place / name).parent.mkdir(parents=True, exist_ok=True)
            (folder.place / name).write_bytes(folder.file(name).read_all())
        return folder

    @property
    def place(self) -> Path:
        """The local folder."""
        return Path(self.local.name)

    def file(self, name: str) -> RemoteFile:
        """A file of the folder, which may not exist."""
        return RemoteFile(f"{self.url}/{name}", self.fs, f"{self.path}/{name}")

    def _companions(self) -> Iterator[str]:
        """The files to fetch. Where the file system lists them, `left_out` gets the others."""
        if is_http(self.fs) or not self.fs.isdir(self.path):
            yield from (name for name in sorted(_COMPANIONS) if self.file(name).is_file())
            return
        for path, info in self.fs.find(self.path, maxdepth=_DEPTH, detail=True).items():
            name = path.removeprefix(self.path).lstrip("/")
            reason = "not below the folder" if ".." in name.split("/") else reason_to_leave(name, info.get("size") or 0)
            if reason is None or name == _INDEX:
                yield name
            else:
                self.left_out[name] = reason


def is_http(fs: Any) -> bool:
    """Whether a file system is that of HTTP, which lists no folders."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "http" in protocols
