"""Text, JSON and lines of JSON that others wrote, read within bounds.

A file over a bound gives one line of error before it takes memory or time. The bounds, which `--limit NAME=SIZE` before
a verb and the environment variable INTERP_LIMITS (`line=1GB,document=20M`) set:

    file       100 MB  a JSON or JSONL file that is read as a whole
    yaml       4 MB    a YAML file, with its aliases expanded
    line       32 MB   a line of a JSONL corpus
    document   5 M     characters of a document or message of a corpus
    nesting    100     levels of lists and mappings in JSON and YAML
    template   10      seconds in which a chat template renders a conversation, or a suite's rule reads all replies
    memory     512 MB  memory that they take for that (both on Linux only)
    cache      100 GB  shards of stores at URLs that are kept on this machine

Repeated keys are refused (Python's parser keeps the last one without a warning). So are NaN and Infinity, which are not
JSON, except in files that other programs write.
"""

import json
import os
import random
import re
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from io import BufferedReader
from math import ceil
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from threading import Lock
from typing import Any

from interp.core.errors import InterpError, nearest

LIMITS_VARIABLE = "INTERP_LIMITS"
_DEFAULTS = {
    "file": "100MB", "yaml": "4MB", "line": "32MB", "document": "5M", "nesting": "100", "template": "10",
    "memory": "512MB", "cache": "100GB",
}  # fmt: skip


def bound(name: str) -> int:
    """The bound of this name, as the environment sets it.

    >>> bound("nesting"), bound("document")
    (100, 5000000)
    """
    return _bounds(os.environ.get(LIMITS_VARIABLE, ""))[name]


@lru_cache(maxsize=8)
def _bounds(settings: str) -> dict[str, int]:
    values = dict(_DEFAULTS)
    for setting in filter(None, settings.split(",")):
        name, equals, size = (part.strip() for part in setting.partition("="))
        if not equals or name not in values:
            raise InterpError(f"limit {setting!r} can't be read; expected NAME=SIZE; {nearest(name, values)}")
        values[name] = size
    return {name: parse_bytes(size) for name, size in values.items()}


def over_bound(place: object, what: str, name: str) -> InterpError:
    """The error for an input over the bound of this name, with what it is and how the bound is raised."""
    given = _DEFAULTS[name] if bound(name) == parse_bytes(_DEFAULTS[name]) else f"{bound(name):,}"
    return InterpError(f"{place}: {what} than the bound, {given}; raise it with --limit {name}=… or {LIMITS_VARIABLE}")


def parse_bytes(text: str) -> int:
    """Number of bytes in a text such as 4GB, 500 MB or 1048576.

    >>> parse_bytes("1.5 GB")
    1500000000
    """
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", text.lower())
    if not size or not float(size[1]):
        raise InterpError(f"size {text!r} can't be read; expected a number of bytes such as 4GB or 500MB")
    return int(float(size[1]) * 1000 ** " kmgt".index(size[2] or " "))


def require_regular(file: str | Path) -> None:
    """Raise for a pipe or device, which may never end, unless it is one of the system's, such as /dev/stdin."""
    system = Path(file).is_relative_to("/dev") and not Path(file).is_relative_to("/dev/shm")  # which holds users' files
    if os.path.exists(file) and not (system or os.path.isfile(file) or os.path.isdir(file)):
        raise InterpError(f"{file} is a pipe or device; expected a file; put a file in its place, or remove it")


def bounded_text(file: Path, content: str, name: str = "file", encoding: str = "utf-8") -> str:
    """The text of a file, read at once.

    Args:
        file: The file.
        content: What it should hold, for the error message.
        name: The bound that it has to keep.
        encoding: How it is encoded.

    Raises:
        InterpError: It cannot be read, is too long, or is no text.
    """
    require_regular(file)
    try:
        with file.open("rb") as opened:
            text = opened.read(bound(name) + 1)
        if len(text) > bound(name):
            raise over_bound(file, "longer", name)
        return text.decode(encoding)
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise InterpError(f"{file}: cannot be read ({reason}); expected a text file of {content}") from None


def bounded_lines(opened: Any) -> Iterator[bytes]:
    """The lines of a binary file, of which one over the bound is cut one byte after it; its rest is passed over."""
    limit, lines = bound("line"), BufferedReader(opened)
    while line := lines.readline(limit + 1):
        yield line
        cut = len(line) > limit
        while cut and line and not line.endswith(b"\n"):
            line = lines.readline(limit + 1)


def parse_json(text: str | bytes | bytearray, place: object, hint: str = "", constants: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: The text.
        place: Where it is; errors begin with it.
        hint: What to do about a text that is not JSON, the end of the error.
        constants: Accept NaN and Infinity, which other programs write.

    Raises:
        InterpError: It is not JSON, has a key twice, or is nested too deeply.

    Example:
        >>> from interp.core.inputs import parse_json
        >>> parse_json('{"n": 1, "n": 1000}', "audit.json")
        Traceback (most recent call last):
        interp.core.errors.InterpError: audit.json: not valid JSON (key 'n' is there twice)
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=None if constants else _refuse)
    except RecursionError:
        raise over_bound(place, "not valid JSON: nested deeper", "nesting") from None
    except ValueError as problem:  # broken, or a number of too many digits
        raise InterpError(f"{place}: not valid JSON ({problem}){hint}") from None
    level: list[Any] = [[value]]
    for _ in range(bound("nesting") + 1):
        items = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return value
    raise over_bound(place, "nested deeper", "nesting")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {repeated!r} is there twice")
    return values


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def numbered_lines(file: str | Path, content: str = "JSONL") -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, each with its place, `FILE, line N`.

    Args:
        file: A UTF-8 file, with or without a byte-order mark. It is read at once.
        content: What the file should hold, for the error message.

    Raises:
        InterpError: The file cannot be read, is too long, or is not UTF-8.

    Example:
        >>> from interp.core.inputs import numbered_lines, parse_object
        >>> _ = (tmp / "rows.jsonl").write_text('{"text": "a"}\\n\\n{"text": "b"}\\n')
        >>> [(place[-6:], parse_object(line, place)) for place, line in numbered_lines(tmp / "rows.jsonl")]
        [('line 1', {'text': 'a'}), ('line 3', {'text': 'b'})]
    """
    lines = bounded_text(Path(file), content, encoding="utf-8-sig").split("\n")
    return ((f"{file}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip())


def parse_object(line: str, place: str, hint: str = "", constants: bool = False) -> dict[str, Any]:
    """The JSON object that a line holds.

    Args:
        line: The text.
        place: Where the line is; errors begin with it.
        hint: What to do about a line that is not JSON, appended to the error.
        constants: Accept NaN and Infinity.

    Raises:
        InterpError: The line is not JSON, not an object, too long, or has a text over the bound of a document.

    Example:
        >>> from interp.core.inputs import parse_object
        >>> parse_object('["a"]', "x.jsonl, line 1")
        Traceback (most recent call last):
        interp.core.errors.InterpError: x.jsonl, line 1: expected a JSON object, got list
    """
    if len(line) > bound("line"):
        raise over_bound(place, "longer", "line")
    values = parse_json(line, place, f"; expected one object per line{hint}", constants)
    if not isinstance(values, dict):
        raise InterpError(f"{place}: expected a JSON object, got {type(values).__name__}")
    return values


_CHILDREN: dict[object, tuple[int, int, Connection]] = {}  # by key: the process that forked, its child, a pipe to it
_CALLING = Lock()


def bounded_call(key: object, function: Callable[..., str], *args: Any, what: str = "chat template") -> str:
    """The result of code that others wrote, such as a chat template, within the bounds of time and memory.

    It is called in a process forked for the first call with this key, so that it can be ended wherever it is.

    Args:
        key: Identifies the function and all that it reads; a call with the same key goes to the same process.
        function: What to call.
        args: Its arguments, which can be pickled.
        what: What the code is, for the error message.

    Raises:
        InterpError: The call takes too much time or memory, or raises; the message has the error's.

    Example:
        >>> from interp.core.inputs import bounded_call
        >>> bounded_call("upper", str.upper, "text")
        'TEXT'
    """
    with _CALLING:
        if sys.platform != "linux":
            return function(*args)
        owner, _, pipe = _CHILDREN.get(key) or (0, 0, None)
        if owner != os.getpid() or pipe is None:
            while len(_CHILDREN) >= 4:
                _end(next(iter(_CHILDREN)))
            _, _, pipe = _CHILDREN[key] = _forked(function)
        answered = False
        try:
            pipe.send(args)
            if not pipe.poll(bound("template")):
                raise over_bound(what, "takes more seconds", "template")
            good, text = pipe.recv()
            answered = True
        except (EOFError, OSError):
            raise over_bound(what, "takes more memory", "memory") from None
        finally:
            if not answered:
                _end(key)
    if not good:
        raise InterpError(text)
    return text


def _forked(function: Callable[..., str]) -> tuple[int, int, Connection]:
    ours, theirs = Pipe()
    if child := os.fork():
        theirs.close()
        return os.getpid(), child, ours
    with suppress(BaseException):
        _serve(function, theirs)
    os._exit(0)


def _serve(function: Callable[..., str], pipe: Connection) -> None:
    """Answer calls until the pipe closes. An answer is whether the call returned, and its text or the error's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + bound("memory")
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Files that the caller has open, and the locks on them, are not this process's to hold.
    os.closerange(3, pipe.fileno())
    os.closerange(pipe.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    while True:
        args = pipe.recv()
        signal.alarm(ceil(bound("template")) + 1)  # where the caller is gone, nobody else ends it
        random.seed(0)  # templates can draw at random: the same call gives the same text
        try:
            answer = True, function(*args)
        except MemoryError:
            return
        except Exception as problem:
            answer = False, str(problem)
        signal.alarm(0)
        pipe.send(answer)


def _end(key: object) -> None:
    owner, child, pipe = _CHILDREN.pop(key)
    pipe.close()
    if owner == os.getpid():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
