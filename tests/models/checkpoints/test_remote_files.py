"""Checkpoints at URLs: the same bytes come out as from the same folder here, and no file is ever read as a whole."""

import json
from contextlib import ExitStack

import fsspec
import pytest
import ranged_server
import torch
from fsspec.implementations.memory import MemoryFileSystem

import interp
from interp import InterpError, Project, Recipe
from interp.editing.certificate.replay import replay
from interp.editing.certificate.verifier import verify
from interp.editing.export.exporter import export_streamed
from interp.models.checkpoints.checkpoint import Checkpoint

ROWS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
RECIPE = Recipe([("writers", Project(ROWS))])


@pytest.fixture(params=["40KB", "10GB"], ids=["sharded", "single"])
def source(tiny, tmp_path, request):
    folder = tmp_path / "source"
    tiny("llama").hf.save_pretrained(folder, max_shard_size=request.param)
    tiny("llama").tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def memory(source):
    fs = fsspec.filesystem("memory")
    for file in source.iterdir():
        fs.pipe_file(f"/models/source/{file.name}", file.read_bytes())
    yield "memory://models/source"
    fs.rm("/models", recursive=True)


@pytest.fixture
def web():
    pytest.importorskip("aiohttp", reason="fsspec reads HTTP through aiohttp: pip install 'interp[http]'")
    with ExitStack() as servers:
        yield lambda folder, served: servers.enter_context(ranged_server.serving(folder, served))


def contents(folder, without=("interp_manifest.json", "interp_provenance.json", "README.md")):
    """All but the records, which name the source."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in without
    }


def test_an_export_of_a_url_is_the_local_one_to_the_byte(source, memory, tmp_path, monkeypatch):
    export_streamed(RECIPE, source, tmp_path / "local")
    asked = []
    whole = MemoryFileSystem.cat_file

    def watched(self, path, start=None, end=None, **options):
        asked.append((path, start, end))
        return whole(self, path, start, end, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", watched)
    manifest = export_streamed(RECIPE, memory, tmp_path / "remote")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")
    assert "tokenizer.json" in contents(tmp_path / "remote")
    assert manifest.source == memory
    tensors = [span for path, *span in asked if path.endswith(".safetensors")]
    largest = max(entry.nbytes for file in Checkpoint.open(source).opened for entry in file.entries.values())
    assert all(start is not None and stop - start <= largest for start, stop in tensors), "tensor by tensor"
    assert len(tensors) > 20
    assert replay(tmp_path / "remote").units == 0
    assert verify(tmp_path / "remote").faithful, "the base is fetched to be loaded"


def test_a_file_url_is_the_folder(source, tmp_path):
    export_streamed(RECIPE, source, tmp_path / "local")
    export_streamed(RECIPE, f"file://{source}", tmp_path / "remote")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")
    with pytest.raises(InterpError, match="own folder or inside it"):
        export_streamed(RECIPE, f"file://{source}", source / "out")


def test_over_http_ranges_are_read_and_servers_without_are_refused(source, web, tmp_path):
    export_streamed(RECIPE, source, tmp_path / "local")
    served = []
    export_streamed(RECIPE, web(source, served), tmp_path / "remote")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local")
    assert all(size is not None for path, size in served if path.endswith(".safetensors"))
    weights = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    assert sum(size for path, size in served if path.endswith(".safetensors")) < 1.5 * weights
    with pytest.raises(InterpError, match=r"model.*\.safetensors.*sends no ranges of bytes"):
        export_streamed(RECIPE, web(source, None), tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_what_is_wrong_at_a_url_is_said_by_its_url(source, memory, tmp_path):
    fs = fsspec.filesystem("memory")
    config = json.loads((source / "config.json").read_text())
    for url, words in (
        ("memory://models/none", r"memory://models/none: no config\.json"),
        ("nosuch://models/source", "its file system is not available"),
        ("s3://user:secret@host/model", "user or password"),
    ):
        with pytest.raises(InterpError, match=words):
            export_streamed(RECIPE, url, tmp_path / "out")
    for file in fs.ls("/models/source", detail=False):
        if file.endswith(".safetensors"):
            fs.pipe_file(file, fs.cat_file(file)[:-10])
    with pytest.raises(InterpError, match=r"memory://models/source/model.*cut short"):
        export_streamed(RECIPE, memory, tmp_path / "out")
    fs.pipe_file("/models/source/config.json", json.dumps(config | {"auto_map": {}}).encode())
    with pytest.raises(InterpError, match=r"memory://models/source: its config\.json has auto_map"):
        interp.load(memory)
    assert not (tmp_path / "out").exists()
