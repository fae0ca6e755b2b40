"""A Ray cluster of two nodes on this machine, whose actors and nodes are killed in tests."""

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path

_NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


class TwoNodes:
    """Two nodes, the first with one processor; the driver is connected to neither."""

    def __init__(self, cluster, processors):
        self._cluster, self._second = cluster, cluster.add_node(**_NODE | {"num_cpus": processors})
        self.address = cluster.address

    def wait_for_work(self):
        """Wait until an actor has a shard in work; returns its process."""
        return _until(lambda: [pid for pid, title in _workers() if title.endswith(".work")])[0]

    def kill_actor(self):
        """Kill an actor that has a shard in work."""
        os.kill(self.wait_for_work(), signal.SIGKILL)

    def kill_node(self):
        """Kill the second node while its actor has a shard in work, and start another in its place."""
        raylet = self._second.all_processes["raylet"][0].process.pid
        _until(lambda: [pid for pid, title in _workers() if title.endswith(".work") and _parent(pid) == raylet])
        self.remove_node()
        self._second = self._cluster.add_node(**_NODE)

    def remove_node(self):
        """Kill the second node."""
        self._cluster.remove_node(self._second, allow_graceful=False)


@contextmanager
def two_nodes(processors=1):
    """The cluster, for as long as the block lasts; the second node has so many processors."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would take minutes on a busy machine
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "error", "PYTHONPATH": path}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **_NODE})
    try:
        yield TwoNodes(cluster, processors)
    finally:
        cluster.shutdown()


def _until(found, seconds=400):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
    return value


def _workers():
    """Each process of interp's actors, and its title."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_text().rstrip("\0 ")
        except OSError:  # it ended
            continue
        if title.startswith("ray::_Worker"):
            yield int(folder.name), title


def _parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
