"""Everything beside the weights comes along, under any name; what does not is named with the reason, never read."""

import json
import os
import pickle

import pytest

from interp import InterpError
from interp.models.checkpoints import companions
from interp.models.checkpoints.companions import Companions

COME = (
    "tekken.json", "qwen.tiktoken", "vocab.txt", "spiece.model", "chat_template.json", "preprocessor_config.json",
    "processor/image_processor.json", "original/params.json", "modeling_own.py", "LICENCE", "a name with spaces.md",
)  # fmt: skip
STAY = {
    "pytorch_model.bin": "weights", "model.safetensors.index.fp16.json": "weights", "onnx/model.ONNX": "weights",
    "original/consolidated.00.pth": "weights", "q4.gguf": "weights", "training_args.bin": "weights",
    ".gitattributes": "hidden, or a cache", "code.pyc": "hidden, or a cache", "weights.dat": "a pickle",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    for name in (*COME, *STAY, ".git/objects/x", "__pycache__/x.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "weights.dat").write_bytes(pickle.dumps({"W": 1}))
    return folder


def test_all_but_what_is_named_comes_along(folder, tmp_path):
    beside = Companions.of(folder)
    assert set(beside.files) == set(COME)
    assert beside.left_out == STAY | {".git/": "hidden, or a cache", "__pycache__/": "hidden, or a cache"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vocab.txt").write_text("there already")
    beside.copy(tmp_path / "out", beside.files)
    copied = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert copied == set(COME)
    assert (tmp_path / "out" / "vocab.txt").read_text() == "there already"


def test_what_is_large_or_no_file_or_leads_elsewhere_is_left_out(folder, tmp_path, monkeypatch):
    """Controls: a link within the folder, and one from the hub's cache to its blobs, come along."""
    (tmp_path / "secret").write_text("secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret")
    (folder / "link.json").symlink_to("processor/image_processor.json")
    (folder / "disguised.txt").symlink_to("pytorch_model.bin")
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "broken").symlink_to("nowhere")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe")
    (folder / "stray.csv").write_text("1,2\n" * 100)
    monkeypatch.setattr(companions, "LARGEST", 200)
    beside = Companions.of(folder)
    assert set(beside.files) == {*COME, "link.json"}
    assert {name: reason for name, reason in beside.left_out.items() if name not in STAY} == {
        ".git/": "hidden, or a cache", "__pycache__/": "hidden, or a cache", "notes.txt": "a link out of the folder",
        "disguised.txt": "weights", "elsewhere/": "a link to a folder", "broken": "not a file",
        "circle": "not a file", "pipe": "not a file",
        "stray.csv": "above 0 MB",
    }  # fmt: skip


def test_links_of_the_hubs_cache_are_followed_and_those_of_a_tokenizer_to_elsewhere_are_refused(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "rev", tmp_path / "models--a--b" / "blobs"
    for place in (snapshot / "processor", blobs):
        place.mkdir(parents=True)
    (blobs / "abc").write_text(json.dumps({"kept": True}))
    for name in ("tekken.json", "processor/config.json", "pytorch_model.bin"):
        (snapshot / name).symlink_to(blobs / "abc")
    beside = Companions.of(snapshot)
    assert beside.files == ("processor/config.json", "tekken.json")
    assert beside.left_out == {"pytorch_model.bin": "weights"}
    (snapshot / "vocab.txt").symlink_to("/etc/hostname")
    with pytest.raises(InterpError, match=r"vocab\.txt is a link out of the folder, to /etc/hostname"):
        Companions.of(snapshot)


def test_the_hub_is_asked_for_the_same(folder):
    from fnmatch import fnmatch

    def fetched(name):
        return not any(fnmatch(name, pattern) for pattern in companions.NOT_FETCHED)

    assert all(map(fetched, (*COME, "model.safetensors", "model-00001-of-00002.safetensors", "config.json")))
    assert not any(map(fetched, (".gitattributes", "pytorch_model.bin", "original/consolidated.00.pth", "q4.gguf")))
    assert not any(map(fetched, ("sub/model.safetensors", "consolidated.safetensors", ".cache/x", "code.pyc")))
