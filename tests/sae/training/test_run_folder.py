"""A run folder: killed at any moment and continued to the same bits, or refused with the reason."""

import json
import resource
import time
import warnings

import processes
import pytest
import torch
from planted import SITE, write_store
from safetensors.torch import load_file
from shards import together

from interp.core.errors import InterpError
from interp.core.files import lock_folder
from interp.sae import TrainingPlan
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.training import state
from interp.sae.training.latent_shard import LatentShard
from interp.sae.training.run_folder import TrainingRun, read_shards
from interp.sae.training.trainer import train, train_all

CONFIG = SaeConfig(d_sae=64, k=3, batch_size=256, tokens=20_000, lr=1e-2, kind="batchtopk", dead_after=2_000)
SHORT = CONFIG.model_copy(update={"tokens": 5_000})
SHARDED = SHORT.model_copy(update={"dead_after": 1_000, "aux_weight": 0.1})


class _Stopped(Exception):
    pass


def _stop_at(step):
    def callback(report):
        if report.step >= step:
            raise _Stopped

    return callback


@pytest.mark.parametrize(
    "options",
    [{}, {"kind": "jumprelu"}, {"kind": "topk", "aux_weight": 0.1, "start": "median", "schedule": "cosine"}],
    ids=["batchtopk", "jumprelu", "topk"],
)
def test_a_stopped_run_goes_on_to_the_same_bits(planted, tmp_path, options):
    config = CONFIG.model_copy(update=options)
    straight = train(planted, SITE, config, folder=tmp_path / "straight", checkpoint_every=20)
    for step in (25, 55):  # stopped between checkpoints, twice
        with pytest.raises(_Stopped):
            train(planted, SITE, config, folder=tmp_path / "run", checkpoint_every=20, callbacks=[_stop_at(step)])
    seen = []
    again = train(planted, SITE, config, folder=tmp_path / "run", checkpoint_every=20, callbacks=[seen.append])
    assert seen[0].step > 40
    for name, tensor in straight.sae.tensors().items():
        assert torch.equal(tensor, again.sae.tensors()[name])
    assert again.history == straight.history
    assert torch.equal(again.density, straight.density)
    lines = [[json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()] for name in ("straight", "run")]
    assert [line["fvu"] for line in lines[0]] == [line["fvu"] for line in lines[1]]
    assert torch.equal(SparseAutoencoder.load(tmp_path / "run" / "sae").W_dec, straight.sae.W_dec)


def test_a_run_keeps_to_the_products_it_began_with(planted, tmp_path, monkeypatch):
    """Which type is the faster is measured, and may come out otherwise when a run is continued."""
    config = CONFIG.model_copy(update={"compute": "bfloat16"})
    found = {}
    for first in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(state, "product_dtype", lambda *_, first=first: first)
        straight = train(planted, SITE, config)
        run = {"folder": tmp_path / str(first), "checkpoint_every": 20}
        with pytest.raises(_Stopped):
            train(planted, SITE, config, **run, callbacks=[_stop_at(30)])
        monkeypatch.setattr(state, "product_dtype", lambda *_: torch.float16)  # which would fail
        found[first] = train(planted, SITE, config, **run).sae.W_dec
        assert torch.equal(found[first], straight.sae.W_dec)
    assert not torch.equal(*found.values())


class _Points(list):
    """A callback that asks for the points of earlier calls."""

    replays = True

    def __call__(self, report):
        self.append(report)


def test_a_finished_run_is_read(planted, tmp_path, capsys):
    first = train(planted, SITE, CONFIG, folder=tmp_path / "run")
    began = time.perf_counter()
    again = train(planted, SITE, CONFIG, folder=tmp_path / "run", callbacks=[_stop_at(0), points := _Points()])
    assert tuple(report.point for report in points) == first.history
    assert (points[-1].step, points[-1].last) == (points[-1].steps, True)
    assert "interp: opened the finished run in" in capsys.readouterr().err
    assert torch.equal(again.sae.W_enc, first.sae.W_enc)
    assert again.history == first.history
    assert time.perf_counter() - began < 5


def test_several_are_kept_side_by_side(planted, tmp_path):
    plans = [TrainingPlan(SITE, CONFIG), TrainingPlan(SITE, CONFIG.model_copy(update={"d_sae": 32}))]
    with pytest.raises(_Stopped):
        train_all(planted, plans, tmp_path / "run", checkpoint_every=20, callbacks=[_stop_at(50)])
    found = train_all(planted, plans, tmp_path / "run", checkpoint_every=20)
    for number, (plan, one) in enumerate(zip(plans, found, strict=True)):
        assert torch.equal(train(planted, SITE, plan.config).sae.W_dec, one.sae.W_dec)
        assert SparseAutoencoder.load(tmp_path / "run" / f"sae-{number}").d_sae == plan.config.d_sae


_CHILD = """
import sys
from interp.activations.store import Store
from interp.sae.config import SaeConfig
from interp.sae.training.trainer import train
store, folder, config = sys.argv[1:]
train(Store.open(store), "resid_post.0", SaeConfig.model_validate_json(config), folder=folder, checkpoint_every=10)
"""


def test_a_killed_process_loses_nothing_but_time(planted, tmp_path):
    config = CONFIG.model_copy(update={"tokens": 40_000})
    straight = train(planted, SITE, config)
    command = _CHILD, planted.folder, tmp_path / "run", config.model_dump_json()
    kills = 0
    for wait in (1, 4, 9):  # checkpoints that must be there before the process is killed
        child = processes.start(*command, output=tmp_path / "printed")
        deadline = time.monotonic() + 60
        while child.is_alive() and time.monotonic() < deadline:
            newest = max((tmp_path / "run" / "checkpoints").glob("step-*"), default=None)
            if newest and int(newest.stem.removeprefix("step-")) >= 10 * wait:
                break
            time.sleep(0.005)
        if child.is_alive():
            child.kill()
            kills += 1
        child.join()
    assert kills >= 2
    again = train(planted, SITE, config, folder=tmp_path / "run", checkpoint_every=10)
    for name, tensor in straight.sae.tensors().items():
        assert torch.equal(tensor, again.sae.tensors()[name])
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) <= 3  # a half-written one may be left beside two


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 2e-2}, r"plans\.0\.config\.lr was 0\.01 and is now 0\.02"),
        ({"seed": 4}, r"plans\.0\.config\.seed was 0 and is now 4"),
    ],
)
def test_a_run_of_other_settings_is_refused(planted, tmp_path, change, message):
    train(planted, SITE, SHORT, folder=tmp_path / "run")
    with pytest.raises(InterpError, match=message):
        train(planted, SITE, SHORT.model_copy(update=change), folder=tmp_path / "run")


def test_overwriting_trains_anew_and_removes_runs_only(planted, tmp_path, capsys):
    short, other = (SHORT.model_copy(update={"seed": seed}) for seed in (0, 4))
    straight = train(planted, SITE, other)
    train(planted, SITE, short, folder=tmp_path / "run", checkpoint_every=10)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(InterpError, match="start anew with overwrite=True"):
        train(planted, SITE, other, folder=tmp_path / "run")
    for _ in range(2):
        seen = []
        again = train(planted, SITE, other, folder=tmp_path / "run", callbacks=[seen.append], overwrite=True)
        assert seen[0].step < 10, "from the first step"
        assert torch.equal(SparseAutoencoder.load(tmp_path / "run" / "sae").W_dec, straight.sae.W_dec)
        assert torch.equal(again.sae.W_dec, straight.sae.W_dec)
    with lock_folder(tmp_path / "run", ""), pytest.raises(InterpError, match="another process is training into it"):
        train(planted, SITE, other, folder=tmp_path / "run", overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "run.json").write_text("{}")
    with pytest.raises(InterpError, match="not a run folder"):
        train(planted, SITE, other, folder=tmp_path / "thesis", overwrite=True)

    def interrupt(report):
        raise KeyboardInterrupt

    for folder, hint in (
        (None, "with folder=… the same call"),
        (tmp_path / "new", "the same call continues"),
    ):
        with pytest.raises(KeyboardInterrupt):
            train(planted, SITE, other, folder=folder, callbacks=[interrupt])
        assert hint in capsys.readouterr().err


def test_a_run_of_another_source_is_refused(planted, activations, tmp_path):
    train(planted, SITE, SHORT, folder=tmp_path / "run")
    other = write_store(tmp_path / "other", activations + 1)
    with pytest.raises(InterpError, match="digest was"):
        train(other, SITE, SHORT, folder=tmp_path / "run")


def test_what_a_kill_at_the_very_start_leaves_is_a_run_folder(planted, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / ".run.json.4000001").write_text("{")  # the record's temporary name
    train(planted, SITE, SHORT, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "metrics.jsonl", "run.json", "sae"]


def test_folders_of_something_else_are_left_alone(planted, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InterpError, match="exists and is not a run folder; choose a new folder"):
        train(planted, SITE, CONFIG, folder=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InterpError, match="checkpoint_every is 0"):
        train(planted, SITE, CONFIG, folder=tmp_path / "new", checkpoint_every=0)


def test_a_damaged_checkpoint_is_named(planted, tmp_path):
    train(planted, SITE, SHORT, folder=tmp_path / "run", checkpoint_every=10)
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(InterpError, match=rf"{newest.name}: damaged .* delete it to continue from the one before"):
        train(planted, SITE, SHORT, folder=tmp_path / "run")
    newest.unlink()
    train(planted, SITE, SHORT, folder=tmp_path / "run")


class _Spiking:
    """A store whose activations grow a hundredfold at some point."""

    def __init__(self, store, at, factor):
        self._store, self._at, self._factor = store, at, factor

    def __getattr__(self, name):
        return getattr(self._store, name)

    def batches(self, *call, **options):
        for number, x in enumerate(self._store.batches(*call, **options)):
            # Noise: nothing that was learned explains it.
            yield x if number < self._at else x + self._factor * torch.randn(len(x), 32)


def test_a_spike_stops_training_and_names_the_last_checkpoint(planted, tmp_path):
    config = CONFIG.model_copy(update={"spike": 2.0, "tokens": 40_000})
    source = _Spiking(planted, at=120, factor=20.0)
    with pytest.raises(InterpError, match=r"diverged at step \d+: variance unexplained .*step-00000100\.safetensors"):
        train(source, SITE, config, folder=tmp_path / "run", checkpoint_every=50)
    # Without the spike the same run ends.
    train(_Spiking(planted, at=10_000, factor=20.0), SITE, config)


def test_a_loss_that_is_not_finite_stops_training(planted):
    with pytest.raises(InterpError, match=r"diverged at step .* choose a lower lr than 1e"):
        train(planted, SITE, CONFIG.model_copy(update={"lr": 1e38, "kind": "standard", "spike": 1e30}))


def test_many_dead_latents_are_told_once(planted):
    rough = CONFIG.model_copy(update={"lr": 0.3, "aux_weight": 0.0, "dead_limit": 0.1, "kind": "topk", "spike": 1e9})
    with pytest.warns(UserWarning, match="of 64 latents are dead after") as told:
        train(planted, SITE, rough)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(planted, SITE, CONFIG)


def test_a_run_goes_on_with_any_number_of_processes(planted, tmp_path):
    """With the same number to the same bits, with another to the same curve."""
    plans = [TrainingPlan(SITE, SHARDED)]

    def stopped(name, shard=None):
        with pytest.raises(_Stopped):
            train_all(planted, plans, tmp_path / name, 5, [_stop_at(14)], shard=shard)

    def work(shard):
        results = train_all(planted, plans, tmp_path / "straight", 5, shard=shard)
        stopped("two-two", shard)
        stopped("two-one", shard)
        for name in ("two-two", "one-two"):
            results += train_all(planted, plans, tmp_path / name, 5, shard=shard)
        return [(result.sae.tensors(), result.history, result.density) for result in results]

    stopped("one-two")
    (straight, same, more), _ = together(work, tmp_path)
    assert all(torch.equal(same[0][name], tensor) for name, tensor in straight[0].items())
    assert same[1] == straight[1]
    assert torch.equal(same[2], straight[2])
    fewer = train_all(planted, plans, tmp_path / "two-one", 5)[0]
    for tensors, history in ((more[0], more[1]), (fewer.sae.tensors(), fewer.history)):
        assert [point.loss for point in history] == pytest.approx([point.loss for point in straight[1]], rel=1e-5)
        for name, tensor in straight[0].items():
            torch.testing.assert_close(tensors[name], tensor, atol=1e-5, rtol=1e-5)
    assert [file.name for file in (tmp_path / "two-two/checkpoints").iterdir()] != []
    for folder in (tmp_path / "two-two/checkpoints").iterdir():  # no latent is in two files
        files = [load_file(file) for file in folder.glob("*.safetensors")]
        assert [len(tensors["0.W_enc"]) for tensors in files] == [32, 32]


def test_a_process_that_cannot_write_fails_all_and_keeps_the_checkpoint_before(tmp_path):
    rows = torch.arange(8000.0).view(4, 2000)

    def work(shard):
        local = {"0.W_enc": rows.chunk(2)[shard.rank], "mean": torch.ones(3)}
        with TrainingRun.opened(tmp_path / "run", {}, 1, shard=shard) as run:
            run.checkpoint(1, local, {"a": 1})
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            if shard.rank:  # no space for its file
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            with pytest.raises(InterpError, match=r"writing failed .* the checkpoint before it is kept"):
                run.checkpoint(2, local, {"a": 2})
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            kept = run.last_checkpoint().name
            run.checkpoint(3, local, {"a": 3})
            return kept

    assert together(work, tmp_path) == ["step-00000001", "step-00000001"]
    folder = tmp_path / "run/checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000003"]
    tensors = read_shards(folder / "step-00000003", LatentShard())
    assert torch.equal(tensors["0.W_enc"], rows)
    assert torch.equal(tensors["mean"], torch.ones(3))
