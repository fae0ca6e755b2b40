"""Progress bars on standard error, silent when it is not a terminal."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], title: str, total: int | None = None, size: int = 1, unit: str = "") -> Iterator[Item]:
    """Yield the items; show a bar with the time left meanwhile if standard error is a terminal.

    Where an item stands for `size` of a unit, the bar counts those, and shows how many are done a second.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units a second."""

        def render(self, task: Task) -> Text:
            """As text, empty before it is known."""
            return Text(f"{task.speed:,.0f} {unit}/s" if unit and task.speed else "")

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None if total is None else total * size)
        for item in items:
            yield item
            bars.advance(task, size)
