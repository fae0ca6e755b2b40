"""Faults of writing: what was there stays whole, other people's files stay, and the error is one line."""

import errno
import json
import os
import resource
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from fault_cases import fault

import interp
from interp import InterpError
from interp.activations import SiteColumns
from interp.core.files import lock_folder, new_file, new_folder, unfinished_path, write_json, write_tensors, write_text
from interp.editing import export_control_vector, export_streamed
from interp.sae import TopK
from interp.sae.training.run_folder import METRICS, TrainingRun
from interp.views import Report, write_report


@pytest.fixture
def recipe(tiny):
    return interp.Recipe([("writers", interp.Project(torch.eye(32)[:1]))])


@pytest.fixture
def base(tiny, tmp_path):
    tiny("llama").hf.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def autoencoder(tiny):
    rows, site = torch.eye(32)[:4], SiteColumns(site="resid_post.1", model=tiny("llama").reference, width=32)
    return interp.SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(32), TopK(k=1), (site,), (site,))


def content(folder):
    """The files below a folder, with their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@contextmanager
def full_disk(size):
    """No file grows beyond a size, which is to a writer as if the disk were full."""
    room, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, room[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
        signal.signal(signal.SIGXFSZ, handler)


STEPS = ("write", "fsync", "rename", "replace", "mkdir", "chmod")


def folder_writer(out):
    """The two kinds of files and a folder, all that outputs consist of."""
    with new_folder(out, mark="a.json", overwrite=True) as staging:
        (staging / "sub").mkdir()
        write_tensors(staging / "sub" / "x.safetensors", {"x": torch.ones(2)})
        write_json(staging / "a.json", {"new": True})


def killed_at(step, out):
    """Write in a forked process that is killed at a step; whether it got so far."""
    child = os.fork()
    if not child:
        taken = iter(range(1000))
        for name in STEPS:
            usual = getattr(os, name)

            def counted(*args, usual=usual, **options):
                if next(taken) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return usual(*args, **options)

            setattr(os, name, counted)
        folder_writer(out)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@fault(
    "a kill at any step of writing", "the old or the new folder is there, whole; the next call removes temporary files"
)
def test_kills(tmp_path):
    out = tmp_path / "out"
    folder_writer(out)
    new = content(out)
    (out / "a.json").write_text("{}")
    old, kept = content(out), []
    for step in range(100):
        if not killed_at(step, out):
            break
        kept.append(content(out))
        assert kept[-1] in (old, new)
    assert 5 < step < 99
    assert old in kept
    folder_writer(out)
    assert content(out) == new
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@fault("a full disk", "the old file or folder stays, whole; nothing half-written is left")
@pytest.mark.parametrize("kind", ["report", "recipe", "folder", "control vector"])
def test_full_disk(tiny, autoencoder, recipe, tmp_path, kind):
    model = tiny("llama")
    added = interp.Recipe([("resid_post.1", interp.Add(torch.ones(32)))])
    write = {
        "report": lambda out: write_report(Report(title="x", model=model.reference), out),
        "recipe": lambda out: recipe.save(out, overwrite=True),
        "folder": folder_writer,
        "control vector": lambda out: export_control_vector(added, model, out, overwrite=True),
    }[kind]
    place = tmp_path / "place"
    place.mkdir()
    write(place / "out")
    old = content(place)
    with full_disk(40), pytest.raises(InterpError, match="writing failed") as caught:
        write(place / "out")
    assert content(place) == old
    assert [path.name for path in place.iterdir()] == ["out"]
    assert "\n" not in str(caught.value)


@fault("an input or output error (EIO)", "an error of one line that names the file; the old file stays")
def test_input_output_error(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"old": True})

    def fail(*args, **options):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_text", fail)
        with pytest.raises(InterpError, match=r"a\.json: writing failed .*Input/output error"):
            write_json(tmp_path / "a.json", {"new": True})
        broken.setattr(Path, "open", fail)
        with pytest.raises(InterpError, match=r"a\.json: cannot be read .Input/output error"):
            interp.core.files.read_json(tmp_path / "a.json")
    assert content(tmp_path) == {"a.json": b'{\n  "old": true\n}\n'}


@fault("an output that cannot be written", "refused before any work; the error names the folder")
def test_read_only(recipe, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "out", Path("/proc/out")):
        with pytest.raises(InterpError, match="cannot be written"):
            recipe.save(place)
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(InterpError, match="is not a writable folder"):
        recipe.save(tmp_path / "out")


@fault("an output that is the input, is inside it, or contains it", "refused; the input stays as it was")
def test_output_is_input(recipe, base):
    before = content(base)
    for out in (base, base / "inside", base / ".." / "base"):
        with pytest.raises(InterpError):
            export_streamed(recipe, base, out, trust_base=True, overwrite=True)
    assert content(base) == before


@fault(
    "metrics or a record that were cut short",
    "the last line of metrics is dropped; the record is refused, by name",
)
def test_torn_ledgers(tmp_path):
    with TrainingRun.opened(tmp_path / "run", {"k": 4}, 1) as run:
        (run.folder / METRICS).write_text('{"step": 0}\n{"step": 9}\n{"st')
        assert run.latest() is None
        assert (run.folder / METRICS).read_text() == '{"step": 0}\n'
    (tmp_path / "run" / "run.json").write_text('{"settings": ')
    with pytest.raises(InterpError, match=r"run\.json: not valid JSON"), TrainingRun.opened(tmp_path / "run", {}, 1):
        pass


@fault(
    "a symbolic link in place of an output or its temporary folder, or inside it",
    "refused; the target of the link stays as it was",
)
@pytest.mark.parametrize("place", ["out", "temporary folder", "temporary file", "inside", "run"])
def test_links(recipe, base, tmp_path, place):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("mine")
    out = tmp_path / "out"
    if place == "temporary file":
        (tmp_path / f".out.{os.getpid()}").symlink_to(tmp_path / "other" / "mine")
        action = partial(write_text, out, "new")
    elif place == "run":
        out.symlink_to(tmp_path / "other")
        action = TrainingRun.opened(out, {}, 1, overwrite=True).__enter__
    else:
        link = {
            "out": out,
            "temporary folder": unfinished_path(out),
            "inside": unfinished_path(out) / "model.safetensors",
        }[place]
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "other")
        action = partial(export_streamed, recipe, base, out, trust_base=True)
    with pytest.raises(InterpError, match=r"is a link|exists already"):
        action()
    assert content(tmp_path / "other") == {"mine": b"mine"}


@fault("output names over the system's limits, or with control characters", "refused before any work")
@pytest.mark.parametrize("name", ["a" * 300, "a" * 250, "a/" * 2500, "a\x1b[2Jb", "a\nb", "a\u202eb", "a\0b"])
def test_names(run, recipe, tmp_path, name):
    for write in (recipe.save, lambda out: new_file(out).__enter__()):
        with pytest.raises(InterpError) as caught:
            write(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    if "\0" not in name:
        code, _, error = run("runs", "show", str(tmp_path / name))
        assert (code, error.count("\n")) == (2, 1)


@fault("two writers of one output or run", "the second is refused before it writes")
def test_two_writers(recipe, tmp_path):
    with new_folder(tmp_path / "out"):
        for write in (recipe.save, lambda out: new_folder(out, "key").__enter__()):
            with pytest.raises(InterpError, match="is being written by another process"):
                write(tmp_path / "out")
    with TrainingRun.opened(tmp_path / "run", {"k": 4}, 1):
        before = content(tmp_path / "run")
        for overwrite in (False, True):
            with (
                pytest.raises(InterpError, match="another process is training into it"),
                TrainingRun.opened(tmp_path / "run", {"k": 4}, 1, overwrite),
            ):
                pass
        assert content(tmp_path / "run") == before


@fault(
    "a folder that is renamed while another process waits for its lock",
    "the lock is refused, since it is on another folder",
)
def test_moved_lock(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()

    def moved(path, *args, usual=os.open):
        descriptor = usual(path, *args)
        os.rename(tmp_path / "a", tmp_path / "b")
        return descriptor

    monkeypatch.setattr(os, "open", moved)
    with pytest.raises(InterpError, match="busy"), lock_folder(tmp_path / "a", "busy"):
        pass


@fault("permissions", "all files and folders, tensors included, have those of the umask")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_umask(recipe, base, autoencoder, tmp_path, umask):
    previous = os.umask(umask)
    try:
        recipe.save(tmp_path / "made" / "recipe")
        export_streamed(recipe, base, tmp_path / "made" / "export", trust_base=True)
        autoencoder.save(tmp_path / "made" / "sae")
        with TrainingRun.opened(tmp_path / "made" / "run", {}, 1) as run:
            run.checkpoint(1, {"x": torch.ones(2)}, {})
    finally:
        os.umask(previous)
    for path in (tmp_path / "made").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


@fault("JSON with an unpaired surrogate", "written as an escape; reading gives the same text")
def test_surrogates(tmp_path):
    write_json(tmp_path / "a.json", {"name": "a\ud800"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "a\ud800"}
