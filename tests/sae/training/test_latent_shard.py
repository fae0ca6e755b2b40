"""Two processes, each with half of the latents: the step, the curve and the result of one process."""

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path

import processes
import pytest
import torch
from planted import SITE
from shards import together

from interp.core.errors import InterpError
from interp.sae.code import Code
from interp.sae.coder import SparseAutoencoder
from interp.sae.compiled import selection
from interp.sae.config import SaeConfig
from interp.sae.training.bundle import TrainingPlan
from interp.sae.training.latent_shard import LatentShard, launch
from interp.sae.training.trainer import train_all

CONFIG = SaeConfig(d_sae=64, k=3, batch_size=256, tokens=5_000, lr=1e-2, dead_after=1_000, aux_weight=0.1)
PLANS = {
    "topk": {},
    "batchtopk": {"kind": "batchtopk", "start": "median"},
    "matryoshka": {"kind": "batchtopk", "prefixes": (20, 64)},
    "jumprelu": {"kind": "jumprelu"},
    "standard": {"kind": "standard", "sparsity": 0.01},
    "gated": {"kind": "gated"},
    "transcoder": {"skip": True},
}


def _plan(name):
    config = CONFIG.model_copy(update=PLANS[name])
    return TrainingPlan(SITE, config, SITE if name == "transcoder" else None)


@pytest.fixture(scope="module")
def sharded(planted, tmp_path_factory):
    """The results of two processes, by kind."""
    plans = [_plan(name) for name in PLANS]

    def work(shard):
        trained = train_all(planted, plans, shard=shard)
        return [(one.sae.tensors(), one.history, one.density) for one in trained]

    first, second = together(work, tmp_path_factory.mktemp("sharded"))
    assert second == []
    return dict(zip(PLANS, first, strict=True))


@pytest.fixture(scope="module")
def whole(planted):
    return dict(zip(PLANS, train_all(planted, [_plan(name) for name in PLANS]), strict=True))


@pytest.mark.parametrize("name", PLANS)
def test_losses_and_weights_are_those_of_one_process(sharded, whole, name):
    tensors, history, density = sharded[name]
    for point, expected in zip(history, whole[name].history, strict=True):
        assert point.loss == pytest.approx(expected.loss, rel=1e-5)
        assert (point.dead, point.tokens) == (expected.dead, expected.tokens)
    for key, expected in whole[name].sae.tensors().items():
        torch.testing.assert_close(tensors[key], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(density, whole[name].density)


def test_the_chosen_entries_are_those_of_one_process_with_ties(tmp_path):
    """Few levels, so that most entries are tied; a shard narrower than k; entries that reach BatchTopK or not."""
    cases = [(rows, k, seed) for rows in (1, 7) for k in (1, 3, 9) for seed in range(4)]

    def work(shard):
        chosen = []
        for rows, k, seed in cases:
            u = torch.randint(0, 4, (rows, 16), generator=torch.Generator().manual_seed(seed)).float()
            local = u.chunk(2, dim=1)[shard.rank]
            above = Code(*selection.above(local, torch.tensor(0.0)), rows)
            chosen.append([_placed(code, shard) for code in (shard.largest(local, k), shard.top(above, rows * k))])
        return chosen

    for (rows, k, seed), *parts in zip(cases, *together(work, tmp_path), strict=True):
        u = torch.randint(0, 4, (rows, 16), generator=torch.Generator().manual_seed(seed)).float()
        above = Code(*selection.above(u, torch.tensor(0.0)), rows)
        expected = (LatentShard().largest(u, k), LatentShard().top(above, rows * k))
        for number, code in enumerate(expected):
            assert parts[0][number] | parts[1][number] == _placed(code, LatentShard())


def _placed(code, shard):
    return set(zip(code.tokens.tolist(), (code.latents + 8 * shard.rank).tolist(), code.values.tolist(), strict=True))


def test_what_needs_all_latents_is_refused_by_name(planted):
    for change, problem in {"d_sae": 65, "clip": 1.0, "resample_every": 5}.items():
        plan = TrainingPlan(SITE, CONFIG.model_copy(update={change: problem}))
        with pytest.raises(InterpError, match=change):
            train_all(planted, [plan], shard=LatentShard(0, 2))
    with pytest.raises(InterpError, match="layered"):
        LatentShard(1, 2).require(CONFIG.model_copy(update={"layered": True}))


def test_a_killed_process_ends_the_others_and_a_relaunch_loses_nothing(planted, tmp_path, run, monkeypatch):
    config = SaeConfig(d_sae=64, k=3, batch_size=64, tokens=6_400, lr=0.01)
    words = ["sae", "train", planted, "d_sae=64", "k=3", "batch_size=64", "tokens=6400", "lr=0.01", "--json"]
    words += [f"--site={SITE}", f"--run={tmp_path / 'run'}", "--checkpoint-every=10", f"--out={tmp_path / 'sae'}"]
    script = "from interp.cli.app import main; main()"
    killed = processes.start(script, *words, "--processes=2", output=tmp_path / "output")
    while not [*tmp_path.glob("run/checkpoints/step-*")]:
        assert killed.is_alive(), (tmp_path / "output").read_text()
        time.sleep(0.02)
    os.kill(_process_of(1, f"--folder={tmp_path / 'run'}"), signal.SIGKILL)
    killed.join(60)
    output = (tmp_path / "output").read_text()
    assert killed.exitcode == 2
    # The other process may end before the launcher looks.
    assert re.search(r"process (1 of 2 was killed \(SIGKILL\)|0 of 2 failed; see the message above)", output)
    assert re.search(r"another process of the training has ended .*; the same command continues", output)
    assert not [*tmp_path.glob("**/sae")]

    def work(shard):
        plans = [TrainingPlan(SITE, config)]
        straight = train_all(planted, plans, shard=shard)
        train_all(planted, plans, tmp_path / "run", 10, shard=shard)
        return [one.sae.tensors() for one in straight]

    ((straight,), _) = together(work, tmp_path)
    monkeypatch.setattr("interp.sae.training.latent_shard.launch", lambda *_, **options: None)  # it has finished
    code, said, problem = run(*words, "--processes=2")
    assert code == 0, problem
    assert json.loads(said)["tokens"] == 6_400
    for name, tensor in SparseAutoencoder.load(tmp_path / "sae").tensors().items():
        assert torch.equal(tensor, straight[name])


def _process_of(rank, word):
    """The process of a rank that has this word in its command."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command, environment = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
            if word.encode() in command and f"RANK={rank}".encode() in environment:
                return int(folder.name)
    raise AssertionError(f"no process has {word}")


def test_a_launch_without_a_folder_or_processes_is_refused():
    for count, folder in ((2, None), (0, "run")):
        with pytest.raises(InterpError, match="expected at least 1, and a folder"):
            launch(count, "store", [], folder)
