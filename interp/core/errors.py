"""The error that users are meant to read.

The command line prints an `InterpError` as its message and exits with code 2. Any other exception is a bug and keeps
its traceback.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class InterpError(ValueError):
    """Bad input or an unmet condition. The message names the value, what was expected and what to do next.

    Example:
        >>> from interp.models.sites import Site
        >>> Site.parse("resid_pots.3")
        Traceback (most recent call last):
        interp.core.errors.InterpError: ...did you mean resid_post...
    """


@contextmanager
def on_interrupt(hint: str) -> Iterator[None]:
    """Say on standard error how to go on when Ctrl-C ends a block.

    >>> with on_interrupt("the same call continues it"):
    ...     pass
    """
    try:
        yield
    except KeyboardInterrupt:
        note(f"interrupted; {hint}")
        raise


def note(text: str) -> None:
    """Say something on standard error that is no error.

    >>> note("opened the finished harvest in store")
    """
    print(f"interp: {text}", file=sys.stderr)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the closest known ones, or all known ones (at most 12) if none is close.

    >>> nearest("resid_pots.3", ["resid_post.3", "mlp_out.3"])
    'did you mean resid_post.3?'
    """
    options = sorted(set(known))
    close = get_close_matches(name, options, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    return f"known: {shown}" if options else "nothing is known here"


def first_line(problem: BaseException) -> str:
    """The first line of an exception's message, which other libraries continue with advice of their own.

    >>> first_line(OSError("disk full\\nTraceback"))
    'disk full'
    """
    return str(problem).strip().partition("\n")[0]
