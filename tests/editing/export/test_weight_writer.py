"""Streamed exports: what is left alone keeps its bytes, memory does not grow, a kill leaves the old state or the new.

How exports are killed: experiments/benchmarks/kills.py.
"""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import processes
import pytest
import torch
from safetensors.torch import load_file

import interp
from interp import InterpError, Project, Recipe
from interp.core import files
from interp.editing.certificate.manifest import MANIFEST
from interp.editing.certificate.verifier import verify
from interp.editing.export.exporter import export_streamed
from interp.models.checkpoints.checkpoint import Checkpoint

ROWS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
RECIPE = Recipe([("writers", Project(ROWS))])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_is_what_the_loading_export_writes_and_verifies(tiny, source, tmp_path):
    manifest = export_streamed(RECIPE, source, tmp_path / "streamed")
    interp.export(RECIPE, source, tmp_path / "loaded")
    for file in Checkpoint.open(tmp_path / "loaded").files:
        assert file.read_bytes() == (tmp_path / "streamed" / file.name).read_bytes()
        assert manifest.files[file.name] == files.sha256_file(file)
    before = {name: x for file in Checkpoint.open(source).files for name, x in load_file(file).items()}
    after = {name: x for file in Checkpoint.open(tmp_path / "streamed").files for name, x in load_file(file).items()}
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if "o_proj" in name or "down_proj" in name or "embed" in name} == set(before) - same
    assert verify(tmp_path / "streamed").faithful


@pytest.mark.parametrize("limit", [20_000, 60_000, 10**9])
def test_files_are_cut_as_asked(source, tmp_path, limit):
    export_streamed(RECIPE, source, tmp_path / "out", shard_size=limit)
    cut = Checkpoint.open(tmp_path / "out")
    sizes = [file.stat().st_size for file in cut.files]
    assert all(size <= limit or len(file.entries) == 1 for size, file in zip(sizes, cut.opened, strict=True))
    assert (len(sizes) == 1) == (limit == 10**9)
    assert all(
        size + next(iter(after.entries.values())).nbytes > limit - 100 * len(file.entries) - 300
        for size, file, after in zip(sizes, cut.opened, cut.opened[1:], strict=False)
    )


@pytest.fixture(scope="module")
def kills():
    """The benchmark that kills exports."""
    sys.path.insert(0, str(Path(__file__).parents[3] / "experiments" / "benchmarks"))
    import kills

    yield kills
    sys.path.pop(0)


def test_a_kill_at_a_step_leaves_the_old_state_or_the_new_and_is_taken_up_again(kills, source, tmp_path):
    """Every second step; experiments/benchmarks/kills.py kills at each."""
    found = kills.killed(RECIPE, source, tmp_path, every=2)
    assert all(kill["killed"] and kill["whole"] for kill in found)
    assert {kill["left"] for kill in found} == {"old", "new"}
    assert [kill["left"] for kill in found] == sorted((kill["left"] for kill in found), reverse=True), "old, then new"
    assert all(kill["kept"] == kill["finished"] for kill in found), "files that were finished are not written again"
    assert 2 * len(found) >= found[0]["of"] > 40
    assert {kill["kind"] for kill in found} == {"write", "flush", "rename", "copy", "new folder"}
    assert sum(kill["kept"] for kill in found) > 10
    table = kills.rows(found)
    assert table[-1][:2] == ["all", str(len(found))]
    assert sum(int(row[1]) for row in table[:-1]) == len(found)


def test_what_another_run_left_is_not_taken_up(kills, source, tmp_path):
    out = tmp_path / "out"
    other = Recipe([("writers", Project(ROWS[:1]))])
    for step in (20, 30):
        action = partial(export_streamed, other, source, out)
        assert kills.in_a_process(partial(kills.counted, action, step)) == 9
    assert (tmp_path / ".out.unfinished").exists()
    export_streamed(RECIPE, source, out)
    export_streamed(RECIPE, source, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_two_at_once_and_a_full_disk(source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    seen = []
    flush = files.fsync

    def flushed(path):
        if not seen:
            seen.append(path)
            with pytest.raises(InterpError, match="is being written by another process"):
                export_streamed(RECIPE, source, out)
        flush(path)

    monkeypatch.setattr(files, "fsync", flushed)
    export_streamed(RECIPE, source, out)
    assert seen
    assert (out / MANIFEST).exists()
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InterpError, match=r"needs 0\.1 MB, and .* has 0\.0 MB free"):
        export_streamed(RECIPE, source, tmp_path / "full")
    monkeypatch.undo()
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    script = (
        "import resource, sys; from interp import InterpError, Recipe\n"
        "from interp.editing.export.exporter import export_streamed\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 20}, {size // 20}))\n"
        "try: export_streamed(Recipe.load(sys.argv[1]), sys.argv[2], sys.argv[3])\n"
        "except InterpError as error: print(error)"
    )
    RECIPE.save(tmp_path / "recipe")
    printed = processes.run(script, tmp_path / "recipe", source, tmp_path / "full")
    assert "writing failed (" in printed
    assert "File too large" in printed
    assert not (tmp_path / "full").exists()
    assert not list(tmp_path.glob(".full*")), "nothing is left"


def test_a_resumed_run_needs_room_for_what_is_left_alone(kills, source, tmp_path, monkeypatch):
    out, size = tmp_path / "out", sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert kills.in_a_process(partial(kills.counted, partial(export_streamed, RECIPE, source, out), 30)) == 9
    finished = sum(path.stat().st_size for path in (tmp_path / ".out.unfinished").iterdir())
    assert 0 < finished < size
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(size, finished, size - finished))
    with pytest.raises(InterpError, match="free; choose another place"):
        export_streamed(RECIPE, source, tmp_path / "anew")  # control
    export_streamed(RECIPE, source, out)


def _peak(benchmark, *arguments):
    """Peak memory in MB of an export of its own process."""
    return float(processes.run(Path(benchmark.__file__), "--peak", *arguments).split()[-1])


def test_memory_does_not_grow_with_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "experiments" / "benchmarks")
    import export as benchmark

    monkeypatch.setattr(benchmark, "VOCABULARY", 4000)  # so that the larger has more layers, not only more tokens
    largest = 2 * 4 * benchmark.WIDTH**2 / 2**20
    idle, extra = _peak(benchmark), []
    for size in (0.15, 0.3):
        benchmark.make(tmp_path / str(size), size)
        extra.append(_peak(benchmark, tmp_path / str(size), tmp_path / f"{size}-out") - idle)
    assert all(each < 2.5 * largest + 200 for each in extra)
    written = [sum(file.stat().st_size for file in tmp_path.glob(f"{size}-out/*.safetensors")) for size in (0.15, 0.3)]
    assert written[1] - written[0] > 100e6, "control: what holding it would take"
    assert extra[1] - extra[0] < 0.15 * 1000 / 4


def test_recipes_of_other_models_and_quantised_sources_are_refused(tiny, source, tmp_path):
    model = tiny("qwen2")
    made = interp.Direction(
        ROWS, interp.load(source).sites[1], -1, "diff_means", model.reference, "data"
    )  # of another architecture, though of the same shape
    with pytest.raises(InterpError, match=r"made for tiny qwen2 0, a qwen2, but .* is a llama"):
        export_streamed(Recipe([("writers", Project(made))]), source, tmp_path / "out")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(InterpError, match=r"is quantised \(gptq\)"):
        export_streamed(RECIPE, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
