"""Work on items in processes of its own, or on a Ray cluster: each item comes back with its result, in order.

Each process opens what it works with once, from what is pickled. Two items for each process are read ahead, so that
memory does not grow with their number. An error of a process is raised here. A process that ends, killed or for lack of
memory, loses what is in work: other processes do it again, and the second time that they get no further is an error.
Processes are killed as soon as nobody reads on. They do not import the script that started this process, which needs no
`if __name__ == "__main__":`. On a cluster the same is done by `ray_actors`.
"""

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import parent_process, spawn
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, TypeVar
from unittest.mock import patch

import cloudpickle

from interp.core.errors import InterpError, note
from interp.core.shards.ray_actors import map_with_actors, sendable

Opened = TypeVar("Opened")
Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 2  # items in work for each process
_OPENED: list[Any] = []  # in a worker: what is to be opened, then what was opened and the work


def map_in_order(
    open_: Callable[[], Opened],
    work: Callable[[Opened, Item], Result],
    items: Iterable[Item],
    workers: int | str,
    device: str = "cpu",
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result, in order.

    Args:
        open_: Opens what is worked with, once for each process; several processes need one that can be pickled.
        work: Makes a result of what was opened and an item.
        items: The items.
        workers: Processes that work; one works in this process. A text is the address of a Ray cluster.
        device: Type of the device that an actor of the cluster works on.

    Raises:
        InterpError: Fewer than one worker, or a process ended twice at the same place; and what `work` raises.

    Example:
        >>> from interp.core.shards.workers import map_in_order
        >>> list(map_in_order(lambda: 3, lambda opened, item: opened * item, range(4), workers=1))
        [(0, 0), (1, 3), (2, 6), (3, 9)]
    """
    if isinstance(workers, str):
        yield from map_with_actors(open_, work, items, workers, device)
        return
    if workers < 1:
        raise InterpError(f"workers is {workers}; expected at least 1")
    if workers == 1:
        opened = open_()
        yield from ((item, work(opened, item)) for item in items)
        return
    opening, rest, waiting, stuck = cloudpickle.dumps((open_, work)), iter(items), deque[Item](), False
    while True:
        context = _Context()
        with _pool(opening, workers, context) as pool:
            try:
                futures = deque[Future[bytes]](pool.submit(_work, cloudpickle.dumps(item)) for item in waiting)
                while True:
                    for item in islice(rest, _AHEAD * workers - len(waiting)):
                        waiting.append(item)
                        futures.append(pool.submit(_work, cloudpickle.dumps(item)))
                    if not waiting:
                        return
                    result, stuck = pickle.loads(futures.popleft().result()), False
                    yield waiting.popleft(), result
            except BrokenProcessPool:
                if stuck:
                    raise InterpError("a process ended twice, perhaps for lack of memory; use fewer workers") from None
                stuck = True
                note("a process ended; what it did is done again")
            finally:
                _kill(context.made)  # they would finish what they have in work


class _Process(ForkServerProcess):
    """A process that does not run the main script again."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        prepared = spawn.get_preparation_data

        def without_script(name: str) -> dict[str, Any]:
            return {key: value for key, value in prepared(name).items() if not key.startswith("init_main")}

        with patch.object(spawn, "get_preparation_data", without_script):
            return ForkServerProcess._Popen(process_obj)


class _Context(ForkServerContext):
    """Makes such processes, and keeps those that it made: Ctrl-C may come before a pool knows of them."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[_Process] = []

    def Process(self, *args: Any, **options: Any) -> _Process:  # type: ignore[override]  # a class there
        self.made.append(_Process(*args, **options))
        return self.made[-1]


def _kill(processes: list[_Process]) -> None:
    try:
        for process in processes:
            if process.is_alive():
                process.kill()
    except KeyboardInterrupt:  # a second one
        _kill(processes)
        raise


def _pool(opening: bytes, workers: int, context: _Context) -> ProcessPoolExecutor:
    import torch

    given = (opening, max(1, torch.get_num_threads() // workers))
    return ProcessPoolExecutor(workers, context, _start, given)


def _start(opening: bytes, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    os.environ["INTERP_PROGRESS"] = "0"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _OPENED[:] = [opening]


def _end_with_parent() -> None:
    if above := parent_process():
        above.join()
    os._exit(1)


def _work(item: bytes) -> bytes:
    try:
        if len(_OPENED) == 1:  # here, so that an error is raised as one of the work
            open_, work = pickle.loads(_OPENED[0])
            _OPENED[:] = [open_(), work]
        opened, work = _OPENED
        return cloudpickle.dumps(work(opened, pickle.loads(item)))
    except Exception as problem:
        raise sendable(problem) from problem
