"""On a cluster whose actors, nodes and driver are killed, work comes to the bytes of one process.

Run by hand where Ray is installed, since it starts clusters: `pytest -n 0 tests/core/shards/test_ray_actors.py`.
"""

import json
import os
import signal
import socket
import time
from dataclasses import replace
from functools import cache, partial
from itertools import count

import pytest
import worked
from processes import run, start
from ray_nodes import two_nodes

import interp
from interp import InterpError
from interp.activations import SiteColumns
from interp.core.shards.workers import map_in_order
from interp.search import SweepRecord

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def nodes():
    pytest.importorskip("ray", reason="pip install 'interp[ray]'")
    with two_nodes() as nodes:
        yield nodes


def test_actors_give_the_same_in_order_and_read_only_a_little_ahead(nodes, capfd):
    read = []
    pairs = map_in_order(worked.opened, worked.product, (read.append(n) or n for n in count()), nodes.address)
    several = []
    for pair in pairs:
        several.append(pair)
        assert len(read) <= len(several) + 4, "an endless iterator"
        if len(several) == 100:
            break
    pairs.close()
    one = list(map_in_order(worked.opened, worked.product, range(100), workers=1))
    assert [(item, result[0]) for item, result in several] == [(item, result[0]) for item, result in one]
    assert os.getpid() not in {process for _, (_, process) in several}
    assert "ended" not in capfd.readouterr().err, "control: nothing was killed"


def test_the_work_of_an_actor_that_ends_is_done_again_twice(nodes, tmp_path, capfd):
    dies_once = partial(worked.dies_once, tmp_path / "died")
    results = [result[0] for _, result in map_in_order(worked.opened, dies_once, range(12), nodes.address)]
    assert results == [3 * item for item in range(12)]
    log = [line for line in capfd.readouterr().err.splitlines() if line.startswith("interp: an actor")]
    assert len(log) == 1
    lost = [4, 5]  # the result of 4 may still have been on its way
    assert any(log[0].endswith(f"in shard {number}, which is done again (2 of 3 tries)") for number in lost)
    with pytest.raises(InterpError, match="in shard 5, as 2 did before, perhaps for lack of memory"):
        list(map_in_order(worked.opened, worked.dies, range(12), nodes.address))


def test_a_node_that_ends_with_many_actors_is_one_end_for_a_shard(capfd):
    pytest.importorskip("ray", reason="pip install 'interp[ray]'")
    seconds = [1.0] * 30 + [20.0] * 2  # for the last two, most actors are idle
    with two_nodes(processors=5) as nodes:
        pairs = map_in_order(worked.opened, worked.sleeps, seconds, nodes.address)
        several = [next(pairs) for _ in range(30)]
        time.sleep(4)
        nodes.remove_node()
        several += list(pairs)
    assert several == [(item, item) for item in seconds]
    assert "(3 of 3 tries)" not in capfd.readouterr().err


def test_errors_of_actors_are_raised_here(nodes):
    with pytest.raises(InterpError, match="no file is there") as caught:
        list(map_in_order(worked.cannot_open, worked.product, range(3), nodes.address))
    assert str(caught.value) == "no file is there"
    with pytest.raises(ValueError, match="-1 is negative") as caught:
        list(map_in_order(worked.opened, worked.product, [2, -1], nodes.address))
    assert "worked.py" in caught.value.__notes__[0], "where it was raised"
    with pytest.raises(InterpError, match="Peculiar: this and that"):
        list(map_in_order(worked.opened, worked.raises_what_cannot_be_sent, range(3), nodes.address))
    with pytest.raises(InterpError, match="no node of the Ray cluster has a GPU"):
        list(map_in_order(worked.opened, worked.product, range(3), nodes.address, "cuda"))


def test_a_cluster_that_is_not_there_is_an_error_within_seconds():
    pytest.importorskip("ray", reason="pip install 'interp[ray]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
    for address in (closed, "nonsense", "127.0.0.1:99999"):
        began = time.monotonic()
        with pytest.raises(
            InterpError, match=f"no Ray cluster answers at '{address}' .*; give HOST:PORT, auto"
        ) as caught:
            next(map_in_order(worked.opened, worked.product, range(3), address))
        assert "\n" not in str(caught.value)
        assert time.monotonic() - began < 60


# What a driver runs for each verb, in a folder that has what is read.
VERBS = {
    "audit": "audit organism --recipe recipe --items 40",
    "curate": "curate data.jsonl --model organism --direction direction --threshold 0 --shard 8",
    "harvest": "harvest(load('organism'), 'data.jsonl', 'resid_post.1', **options, context=16, shard_tokens=256)",
    "scan": "features scan sae organism --text data.jsonl --chunk 256 --context 64 --top 2 --sampled 4",
    "sweep": "sweep sweep.yaml --trials 12",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("ray")
    lines = (json.dumps({"text": text}) for text in interp.organism.everyday(400, seed=1))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    direction = interp.Direction.of(torch.eye(192)[0], "resid_post.1")
    direction.save(folder / "direction")
    interp.Recipe([("writers", interp.Project(direction))]).save(folder / "recipe")
    edit = {"op": "Project", "sites": "writers", "direction": "d", "strength": {"low": 0.0, "high": 1.5}}
    recipe = {"directions": {"d": {"folder": "direction"}}, "edits": [edit]}
    measured = {"suites": ["organism"], "choose_items": 12, "confirm_items": 12}
    sweep = {"model": "organism", "recipe": recipe, "measure": measured, "sampler": {"name": "random"}}
    (folder / "sweep.yaml").write_text(json.dumps(sweep | {"stop": {"shares": []}, "confirm": {"points": 1}}))
    site = SiteColumns(site="resid_post.1", model=interp.load("organism").reference, width=192)
    rows, zeros = torch.eye(192)[:16], torch.zeros(192)
    interp.SparseAutoencoder(rows, zeros[:16], rows, zeros, interp.sae.TopK(k=2), (site,), (site,)).save(folder / "sae")
    return folder


@pytest.fixture(scope="module")
def by_one_process(folder):
    """What one process writes, by verb."""

    @cache
    def written(verb):
        (folder / f"{verb}-one").mkdir()
        run(*driver(folder, verb, folder / f"{verb}-one" / "out"), timeout=600)
        return contents(folder / f"{verb}-one")

    return written


def driver(folder, verb, out, place=None):
    """The script of a driver, and its arguments."""
    begin = f"import os, sys; os.chdir({str(folder)!r})\n"
    if verb == "harvest":
        options = {"out": str(out), "workers": place or 1}
        return (f"{begin}from interp import harvest, load\noptions = {options}\n{VERBS[verb]}",)
    where = ["--ray", place] if place else []
    return f"{begin}from interp.cli import app\napp.main()", *VERBS[verb].split(), "--out", out, *where


def contents(folder):
    """The bytes of each file; of a sweep what its trials came to, whose times and numbers a kill changes."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    content = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    if content.pop("out/journal.log", None) is not None:
        record = SweepRecord.read(folder / "out")
        trials = [replace(trial, number=0, seconds=0.0) for trial in record.trials if trial.state != "left"]
        content["out/trials"] = sorted(map(repr, trials))
        content["out/confirm.json"] = [replace(point, trial=0) for point in record.confirmed]
    return content


@pytest.mark.parametrize("victim", ["actor", "node", "driver"])
@pytest.mark.parametrize("verb", VERBS)
def test_whatever_is_killed_the_bytes_are_those_of_one_process(nodes, folder, by_one_process, tmp_path, verb, victim):
    out, log = tmp_path / "made" / "out", tmp_path / "log"
    out.parent.mkdir()
    process = start(*driver(folder, verb, out, nodes.address), output=log)
    try:
        {"actor": nodes.kill_actor, "node": nodes.kill_node, "driver": nodes.wait_for_work}[victim]()
        assert process.is_alive(), "control: it was killed before the end"
        process.kill() if victim == "driver" else process.join(600)
    finally:
        process.kill()
    process.join()
    assert process.exitcode == (-signal.SIGKILL if victim == "driver" else 0), log.read_text()
    if victim == "driver":
        run(*driver(folder, verb, out, nodes.address), timeout=600)
    else:
        assert "which is done again (2 of 3 tries)" in log.read_text(), "control: a shard was lost"
    assert contents(out.parent) == by_one_process(verb)
    assert {path.name for path in tmp_path.iterdir()} == {"made", "log"}
