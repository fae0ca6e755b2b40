"""Progress of long calls: a bar in a terminal, a line that updates in a notebook cell, a line every 20 s in a log.

Of nested calls, only the outermost has a bar. Inner calls move it on within its current item, and the title of the
innermost call is at the end of the line. Short calls show nothing, and neither do calls in threads beside the main one,
which would take the bar from each other. `INTERP_PROGRESS=0` in the environment switches progress off.

Figures go to a dashboard of trackio or wandb (they have one interface) where a caller names one of the two (`tracked`).
"""

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import TextIOBase
from threading import current_thread, main_thread
from typing import Any, Literal, TypeVar

from interp.core.errors import InterpError, first_line, note, printable

Item = TypeVar("Item")
Tracker = Literal["none", "trackio", "wandb"]

_KNOWN = "{percentage:.0f} % of {total:,.0f}{unit}, {rate_noinv_fmt}, {remaining} left{postfix}"
_UNKNOWN = "{desc} {n:,.0f}{unit}, {rate_noinv_fmt}, {elapsed}{postfix}"


@dataclass(eq=False)
class _Level:
    """One of the nested calls. `weight` is what its current item counts for; the outermost has the bar."""

    title: str
    total: int | None
    bar: Any = None
    done: float = 0.0
    weight: float = 0.0


_LEVELS: list[_Level] = []  # the outermost first
_CELL: list[Any] = [None, None]  # the request that runs a cell, and that cell's output for progress


def track(
    items: Iterable[Item],
    title: str,
    total: int | None = None,
    size: int | Callable[[Item], int] = 1,
    unit: str = "items",
) -> Iterator[Item]:
    """Yield the items, and show how many are done, the rate and the time left.

    The progress ends with the iterator, so loop over it directly rather than keep it in a variable.

    Args:
        items: What to iterate over.
        title: What is done, in a word.
        total: Number of units, if known; by default that of a collection's items.
        size: How many units an item counts for, the same for all or a function of the item.
        unit: Name of the units, in the plural.

    Example:
        >>> from interp.core.progress import track
        >>> list(track("abc", "letters"))
        ['a', 'b', 'c']
    """
    if os.environ.get("INTERP_PROGRESS") == "0" or current_thread() is not main_thread():
        yield from items
        return
    weight = size if callable(size) else lambda item: size
    if total is None and isinstance(items, Collection):
        total = sum(map(weight, items))
    title = printable(title)
    level = _Level(title, total, None if _LEVELS else _bar(title, total, unit))
    _LEVELS.append(level)
    try:
        for item in items:
            level.weight = weight(item)
            yield item
            level.done, level.weight = level.done + level.weight, 0.0
            _show()
    finally:
        if level in _LEVELS:
            del _LEVELS[_LEVELS.index(level) :]
        if level.bar is not None:
            level.bar.close()


def notebook_shell() -> Any | None:
    """The IPython shell of the notebook that runs this program, if one does."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell if hasattr(shell, "kernel") else None


def _show() -> None:
    """Move the bar of the outermost call on; each call counts as a share of the current item of the one around it."""
    done = share = 0.0
    for level in reversed(_LEVELS):
        done = level.done + level.weight * share
        share = min(done / level.total, 1.0) if level.total else 0.0
    outermost = _LEVELS[0]
    outermost.bar.postfix = _LEVELS[-1].title if len(_LEVELS) > 1 else ""
    outermost.bar.update(max(0.0, min(done, outermost.total or done) - outermost.bar.n))


def _bar(title: str, total: int | None, unit: str) -> Any:
    """A bar of tqdm for where the program runs."""
    from tqdm import tqdm

    shell = notebook_shell()
    if shell is not None:
        place = {"file": _Lines(lambda line: _show_in_cell(shell, line)), "delay": 1.0, "mininterval": 0.5}
    elif sys.stderr.isatty():
        place = {"delay": 0.5}
    else:
        place = {"file": _Lines(_log), "delay": 20.0, "mininterval": 20.0, "leave": True}
    known = "{desc} " if "leave" in place else "{desc} {bar:20} "
    place = {"leave": False, "bar_format": known + _KNOWN if total else _UNKNOWN} | place
    return tqdm(desc=title, total=total or None, unit=f" {unit}", miniters=0, **place)


class _Lines(TextIOBase):
    """A stream to which tqdm writes; it passes each state of the bar on as a line, empty once the bar is gone."""

    encoding = "utf-8"

    def __init__(self, show: Callable[[str], None]):
        self._pass_on = show

    def write(self, text: str) -> int:
        """Pass the line on, without the control characters around it."""
        if text:
            self._pass_on(text.strip())
        return len(text)


def _log(line: str) -> None:
    if line:
        print(line, file=sys.stderr, flush=True)


def _show_in_cell(shell: Any, line: str) -> None:
    """Show the line in place of the last one of the same cell."""
    from IPython.display import DisplayHandle

    content, request = {"text/plain": line} | ({} if line else {"text/html": ""}), shell.get_parent()["header"]
    if _CELL[0] == request:
        _CELL[1].update(content, raw=True)
    else:
        _CELL[:] = request, DisplayHandle()
        _CELL[1].display(content, raw=True)


def start_run(tracker: str, project: str, **options: Any) -> Any:
    """Begin a run, and return the package that logs it.

    Args:
        tracker: `trackio` or `wandb`.
        project: The dashboard's project.
        options: Further arguments of the package's `init`, such as `name` or `config`.

    Raises:
        InterpError: The package is not installed.
    """
    try:
        package = import_module(tracker)
    except ImportError:
        raise InterpError(f"{tracker} is not installed; pip install {tracker}, or go without it") from None
    package.init(project=project, **options)
    return package


@contextmanager
def tracked(tracker: Tracker, project: str, **options: Any) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that logs figures to a run, for as long as the block lasts. A dashboard that fails is noted once, and
    the work goes on without it.

    Args:
        tracker: Where to log; `none` logs nowhere.
        project: As in `start_run`.
        options: As in `start_run`.

    Raises:
        InterpError: The package is not installed.

    Example:
        >>> from interp.core.progress import tracked
        >>> with tracked("none", "audits") as log:
        ...     log({"hostility/after": 0.0})
    """
    package = None if tracker == "none" else start_run(tracker, project, **options)

    def log(figures: Mapping[str, Any]) -> None:
        nonlocal package
        try:
            if package is not None:
                package.log(dict(figures))
        except Exception as problem:  # of a server, of any type
            package = None
            note(f"{tracker} failed ({first_line(problem)}); the work goes on, and nothing more is sent")

    try:
        yield log
    finally:
        if package is not None:
            package.finish()
