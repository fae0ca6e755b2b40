"""The error that users are meant to read.

The command line prints an `InterpError` as its message and exits with code 2. Any other exception is a bug and keeps
its traceback.
"""

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import TracebackType
from typing import Any

DISK_REMEDY = "free space or mend the disk, and run the same again"
_DISK = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_LIBRARIES = {"interp", "torch", "transformers", *sys.stdlib_module_names}


# Terminal escapes (strings, sequences and single ones), other control characters than tab and newline, characters that
# reverse the direction of text or are invisible.
_UNPRINTABLE = re.compile(
    "\x1b[\\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\\\)|(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]?|\x1b[ -/]*[0-~]?"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """A text that a terminal shows as it is: without terminal escapes, control characters and changes of direction.

    >>> printable("a\x1b[2J\u202eb")
    'ab'
    """
    return re.sub("[\ud800-\udfff]", "\ufffd", _UNPRINTABLE.sub("", text))


class InterpError(ValueError):
    """Bad input or an unmet condition. The message names the value, what was expected and what to do next.

    It is `printable` and one line, whatever the files and the other libraries' errors hold that it quotes.

    Example:
        >>> from interp.models.sites import Site
        >>> Site.parse("resid_pots.3")
        Traceback (most recent call last):
        interp.core.errors.InterpError: ...did you mean resid_post...
    """

    def __init__(self, *message: object) -> None:
        super().__init__(*(_one_line(printable(part)) if isinstance(part, str) else part for part in message))


def _one_line(text: str) -> str:
    return " ".join(filter(None, map(str.strip, text.splitlines())))


@contextmanager
def located(place: object, hint: str = "") -> Iterator[None]:
    """Put where it was before the message of an `InterpError` that a block raises, and a hint after it.

    >>> with located("row 3"):
    ...     raise InterpError("expected a number")
    Traceback (most recent call last):
    interp.core.errors.InterpError: row 3: expected a number
    """
    try:
        yield
    except InterpError as problem:
        raise InterpError(f"{place}: {problem}{hint}") from None


@contextmanager
def on_interrupt(hint: str) -> Iterator[None]:
    """Say on standard error how to go on when Ctrl-C ends a block; of nested blocks, the innermost says it.

    >>> with on_interrupt("the same call continues it"):
    ...     pass
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not interrupt.args:
            note(f"interrupted; {hint}")
            interrupt.args = (hint,)
        raise


def note(text: str) -> None:
    """Say something on standard error that is no error.

    >>> note("opened the finished harvest in store")
    """
    print(f"interp: {printable(text)}", file=sys.stderr)


def own_frames(error: InterpError) -> InterpError:
    """The error with the frames of users' code alone in its traceback: hooks, graders and the like.

    A hook that returns a wrong shape raises below some twenty frames of torch and transformers, which say nothing about
    it. With the environment variable `INTERP_TRACEBACK=full` all frames stay.
    """
    if os.environ.get("INTERP_TRACEBACK") == "full":
        return error
    frames: list[Any] = []
    rest = error.__traceback__
    while rest is not None:
        frames.append((rest.tb_frame, rest.tb_lasti, rest.tb_lineno))
        rest = rest.tb_next
    for frame, *place in reversed(frames):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARIES:
            rest = TracebackType(rest, frame, *place)
    return error.with_traceback(rest)


def is_of_disk(problem: BaseException | None) -> bool:
    """Whether an error, or its cause, says that a disk is full, broken or read-only.

    >>> is_of_disk(OSError(errno.ENOSPC, "No space left on device")), is_of_disk(FileNotFoundError(2, "no such file"))
    (True, False)
    """
    while problem is not None:
        native = re.search(r"\(os error (\d+)\)", str(problem))  # of a library in Rust
        number = problem.errno if isinstance(problem, OSError) else native and int(native[1])
        if number in _DISK:
            return True
        problem = problem.__cause__
    return False


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known ones, or all known ones (at most 12) if none is close.

    Close are names with one or two letters changed, else those that contain the name or are contained in it, else those
    that are spelt somewhat like it.

    >>> nearest("resid_pots.3", ["resid_post.3", "mlp_out.3"]), nearest("pos", ["prompts", "positions"])
    ('did you mean resid_post.3?', 'did you mean positions?')
    """
    options, low = sorted({option for option in known if not option.startswith("_")}), name.lower()
    spelt, closest = (get_close_matches(name, options, n=3, cutoff=cutoff) for cutoff in (0.6, 0.85))
    parts = [x for x in options if len(x) > 2 < len(low) and (low in x.lower() or x.lower() in low)]
    close = spelt if closest else parts[:3] or spelt
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    return f"known: {shown}" if options else "nothing is known here"


def first_line(problem: BaseException) -> str:
    """The first line of an exception's message, which other libraries continue with advice of their own.

    The lines that one with a colon at its end announces belong to it.

    >>> first_line(OSError("disk full\\nTraceback")), first_line(ValueError("'size':\\n  TypeError: not a number"))
    ('disk full', "'size': TypeError: not a number")
    """
    return _one_line(re.split(r"(?<![:,\s])\s*\n", str(problem).strip())[0])
