"""Work on items on a Ray cluster: each item, a shard, comes back with its result, in order.

1. Actors are started, as many as have room on the cluster. One has as many CPUs as this process has threads, or a GPU.
   Each opens what it works with once, such as a model from its files.
2. Shards go to the actor that has least to do, at most two to each, and no more are read ahead of the one that is next
   in order. Memory does not grow with their number, and a slow reader of results holds the actors back.
3. Results are given in the order of the shards. Whoever reads them keeps the ledger, as it does with one process (a
   manifest, a table, a journal), so that what it writes has the same bytes, and the same call continues it.
4. An actor that ends, by itself or with its node, loses the shard that it had in work. It is noted on standard error
   which shard that is, and a new actor is started where there is room. The shard is done again by an actor that has
   answered since then: others may have ended at the same time. The third time that a shard ends its actor is an error.
5. Actors end with the process that started them. It loses the shards that were in work, at most two for each actor.

The method is that of Moritz et al. 2018, "Ray: a distributed framework for emerging AI applications"
(https://arxiv.org/abs/1712.05889): actors hold state, and their creator owns the results.

Limitations: every machine has the same version of interp, and the same files at the same paths. Results are equal to
the last bit on processors that compute alike with the same number of threads. Nodes that join later get work only in
place of an actor that ended. A cluster without room for an actor is waited for.
"""

import os
import pickle
import platform
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from itertools import islice
from logging import ERROR
from socket import create_connection
from traceback import format_exc
from typing import Any, TypeVar

from interp.core.errors import InterpError, first_line, note
from interp.core.lazy import require_package

Opened = TypeVar("Opened")
Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 2  # shards in work for each actor
_TRIES = 3
_NO_ROOM_SECONDS, _ANSWER_SECONDS = 30.0, 10.0


def map_with_actors(
    open_: Callable[[], Opened],
    work: Callable[[Opened, Item], Result],
    items: Iterable[Item],
    address: str,
    device: str = "cpu",
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its result, in order, as `map_in_order` gives them, from actors of a Ray cluster.

    Args:
        open_: Opens what is worked with, once for each actor.
        work: Makes a result of what was opened and an item.
        items: The items.
        address: The cluster, `HOST:PORT`; `auto` for the one that runs on this machine, or `local` to start one here.
        device: Type of the device that an actor works on; with `cuda` each has one GPU.

    Raises:
        InterpError: Ray is not installed, no cluster answers or it has no such device, an actor runs another version of
            interp, or a shard ended its actor three times; and what `open_` and `work` raise.

    Example:
        >>> from interp.core.shards.ray_actors import map_with_actors
        >>> list(map_with_actors(lambda: 3, lambda opened, item: opened * item, range(4), "local"))  # doctest: +SKIP
        [(0, 0), (1, 3), (2, 6), (3, 9)]
    """
    with connected(address) as ray:
        pool = _Pool(ray, ray.put((open_, work)), device)
        try:
            yield from pool.run(items)
        finally:
            pool.end()


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; a connection that the caller has is used, and left as it is.

    Raises:
        InterpError: Ray is not installed, or no cluster answers.
    """
    require_package("ray", "ray", "work on a Ray cluster")
    ray = import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "/" not in host:
            create_connection((host, int(port)), _ANSWER_SECONDS).close()  # Ray would try for minutes
        ray.init(address, log_to_driver=False, logging_level=ERROR)
    except (OSError, OverflowError, ValueError, RuntimeError) as problem:
        advice = "give HOST:PORT, auto for the cluster that runs here, or local to start one"
        raise InterpError(f"no Ray cluster answers at {address!r} ({first_line(problem)}); {advice}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass(eq=False)
class _Shard:
    number: int
    item: Any = None
    ends: int = 0  # how many actors ended at it
    loss: int = 0  # the number of the last one among all that ended
    result: Any = None
    problem: Exception | None = None
    is_done: bool = False


@dataclass(eq=False)
class _Actor:
    handle: Any
    host: str = ""  # once it is open
    heard: int = 0  # how many actors had ended when it last answered
    in_work: list[_Shard] = field(default_factory=list)


class _Pool:
    """The actors of a cluster, and the shards that they have in work."""

    def __init__(self, ray: Any, given: Any, device: str):
        import torch

        self._ray, self._given, self._losses, self._unopened = ray, given, 0, 0
        resource = "GPU" if device == "cuda" else "CPU"
        has = [node["Resources"].get(resource, 0.0) for node in ray.nodes() if node["Alive"]]
        share = 1 if device == "cuda" else int(min(torch.get_num_threads(), max(has)))
        self.size = sum(int(amount // share) for amount in has) if share else 0
        if not self.size:
            raise InterpError(f"no node of the Ray cluster has a {resource}; give a cluster that has one")
        self._options = {"num_gpus": 1, "num_cpus": 0} if device == "cuda" else {"num_cpus": share}
        self._threads, self._class = torch.get_num_threads() if device == "cuda" else share, ray.remote(_Worker)
        # By the reference of what they will return: the actor, and its shard. None: it opens, or says that it is there.
        self._calls: dict[Any, tuple[_Actor, _Shard | None]] = {}
        self._actors: list[_Actor] = []
        self._queue, self._waited = deque[_Shard](), False

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
        """Each item with its result, in order."""
        shards, rest = deque[_Shard](), enumerate(items)
        while True:
            for number, item in islice(rest, _AHEAD * self.size - len(shards)):
                shards.append(_Shard(number, item))
                self._queue.append(shards[-1])
            if not shards:
                return
            while len(self._actors) < min(self.size, len(shards)):
                self._start()
            self._hand_out()
            if shards[0].is_done:
                if (shard := shards.popleft()).problem is not None:
                    raise shard.problem
                yield shard.item, shard.result
            else:
                self._wait()

    def end(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor.handle)

    def _start(self) -> None:
        actor = _Actor(self._class.options(**self._options).remote())
        self._actors.append(actor)
        settings = {name: value for name, value in os.environ.items() if name.startswith("INTERP_")}
        call = actor.handle.open.remote(self._given, version("interp"), os.getcwd(), self._threads, settings)
        self._calls[call] = actor, None

    def _hand_out(self) -> None:
        while self._queue:
            shard = self._queue[0]
            free = [x for x in self._actors if x.host and x.heard >= shard.loss and len(x.in_work) < _AHEAD]
            if not free:
                return
            least = min(free, key=lambda x: len(x.in_work))
            least.in_work.append(self._queue.popleft())
            self._calls[least.handle.work.remote(shard.item)] = least, shard

    def _wait(self) -> None:
        """Take in the next result, or that an actor ended."""
        exceptions = self._ray.exceptions
        ready, _ = self._ray.wait(list(self._calls), timeout=_NO_ROOM_SECONDS)
        if not ready and not self._waited and not any(actor.host for actor in self._actors):
            self._waited = True
            note(f"no actor of the Ray cluster is ready after {_NO_ROOM_SECONDS:.0f} s; waiting for it to have room")
        for reference in ready:
            actor, shard = self._calls.pop(reference)
            try:
                result, problem = self._ray.get(reference)
            except exceptions.RayTaskError as raised:  # what cannot be sent, or is not installed there
                raise InterpError(f"a Ray actor: {first_line(raised.cause or raised)}") from raised
            except exceptions.RayError as lost:
                self._replace(actor, lost)
                continue
            actor.heard = self._losses
            if shard is not None:
                actor.in_work.remove(shard)
                shard.result, shard.problem, shard.is_done = result, problem, True
            elif problem is not None:
                raise problem
            else:
                actor.host, self._unopened = result, 0

    def _replace(self, actor: _Actor, lost: Exception) -> None:
        """Start another actor, and put what the one that ended had in work at the head of the queue."""
        self._losses += 1
        place = f"an actor{actor.host and ' on '}{actor.host} ended ({type(lost).__name__})"
        if actor.in_work:
            shard = actor.in_work[0]
            shard.ends, shard.loss = shard.ends + 1, self._losses
            what, tries, most = f"in shard {shard.number}, which is done again", shard.ends, _TRIES
        elif actor.host:
            what, tries, most = "without work", 0, 1
        else:
            self._unopened += 1
            what, tries, most = "as it opened the model or files", self._unopened, _TRIES * self.size
        if tries >= most:
            before = f"{what.partition(',')[0]}, as {tries - 1} did before, perhaps for lack of memory"
            raise InterpError(f"{place} {before}; see Ray's logs")
        note(f"{place} {what}" + (f" ({tries + 1} of {most} tries)" if tries else ""))
        self._ray.kill(actor.handle)
        self._actors.remove(actor)
        self._calls = {key: call for key, call in self._calls.items() if call[0] is not actor}
        self._queue.extendleft(reversed(actor.in_work))
        for other in self._actors:
            if other.host and not other.in_work:
                self._calls[other.handle.answer.remote()] = other, None
        self._start()


class _Worker:
    """What runs in an actor. An exception is returned, since Ray would put its trace into the message."""

    def open(
        self, given: tuple[Any, Any], driver: str, folder: str, threads: int, settings: dict[str, str]
    ) -> tuple[str, Exception | None]:
        """Open what is worked with, in the driver's folder; returns the name of the machine."""
        import torch

        os.environ.update(settings | {"INTERP_PROGRESS": "0"})
        torch.set_num_threads(threads)
        try:
            if (here := version("interp")) != driver:
                raise InterpError(f"{platform.node()} has interp {here}, and this machine {driver}; install the same")
            if not os.path.isdir(folder):
                raise InterpError(f"{platform.node()} has no folder {folder}; share it, or start in one that is shared")
            os.chdir(folder)
            self._opened, self._work = given[0](), given[1]
        except Exception as problem:
            return "", sendable(problem)
        return self.answer()

    def answer(self) -> tuple[str, Exception | None]:
        """The name of the machine, which says that the actor is there."""
        return platform.node() or "a node", None

    def work(self, item: Any) -> tuple[Any, Exception | None]:
        """The result of an item."""
        try:
            return self._work(self._opened, item), None
        except Exception as problem:
            return None, sendable(problem)


def sendable(problem: Exception) -> Exception:
    """An exception of a worker with its trace as a note, or another of its text where it cannot be pickled."""
    problem.add_note(format_exc())
    try:
        pickle.loads(pickle.dumps(problem))
    except Exception:
        other = InterpError(f"{type(problem).__name__}: {first_line(problem)}")
        other.add_note(format_exc())
        return other
    return problem
