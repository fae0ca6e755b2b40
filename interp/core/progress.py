"""Progress bars on standard error, hidden when it is not a terminal."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(
    items: Iterable[Item], title: str, total: int | None = None, size: int | Callable[[Item], int] = 1, unit: str = ""
) -> Iterator[Item]:
    """Yield the items, with a bar and the time left if standard error is a terminal.

    Args:
        items: What to iterate over.
        title: Text next to the bar.
        total: Number of items, if known; that of a collection is its length.
        size: How many units an item counts for, the same for all or a function of the item.
        unit: Name of the unit; the bar then shows units per second.
    """
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        """Units per second."""

        def render(self, task: progress.Task) -> Text:
            """The rate as text, empty before it is known."""
            speed = task.speed or 0.0
            return Text(f"{speed:,.{0 if speed >= 10 else 1}f} {unit}/s" if unit and speed else "")

    console = Console(stderr=True)
    counted = progress.BarColumn(), progress.MofNCompleteColumn(), Rate(), progress.TimeRemainingColumn()
    columns = progress.TextColumn("{task.description}"), *counted
    with progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        weight = size if callable(size) else lambda item: size
        known = None if total is None or callable(size) else total * size
        if known is None and isinstance(items, Collection):
            known = sum(map(weight, items))
        task = bars.add_task(title, total=known)
        for item in items:
            yield item
            bars.advance(task, weight(item))
