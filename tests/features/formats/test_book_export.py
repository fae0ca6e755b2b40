"""Exports are whole or not there, and of latents that exist."""

import errno
from pathlib import Path

import pytest

from interp import InterpError
from interp.features import export_book


@pytest.mark.parametrize("form", ["neuronpedia", "saedashboard", "delphi"])
def test_wrong_latents_and_taken_folders_are_refused(book, tmp_path, form):
    for message, options in [
        ("latent 40 does not exist", {"sae": "top", "latents": [40]}),
        ("2 autoencoders; name one", {}),
        ("'tup' is not in the book; did you mean top", {"sae": "tup"}),
    ]:
        with pytest.raises(InterpError, match=message):
            export_book(book, tmp_path / "out", form, **options)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InterpError, match="exists"):
        export_book(book, tmp_path / "out", form, sae="top")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("form", ["neuronpedia", "saedashboard", "delphi"])
def test_a_full_disk_leaves_nothing(book, tmp_path, monkeypatch, form):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_bytes", full)
        broken.setattr(Path, "write_text", full)
        broken.setattr("safetensors.torch.save_file", full)
        with pytest.raises(InterpError, match=r"writing failed .*No space left"):
            export_book(book, tmp_path / "out", form, sae="top", latents=[3])
    assert [file.name for file in tmp_path.iterdir()] == ["book"]


def test_another_form_is_refused(book, tmp_path):
    with pytest.raises(InterpError, match="form"):
        export_book(book, tmp_path / "out", "html5", sae="top")
