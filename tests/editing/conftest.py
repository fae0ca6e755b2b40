"""Checkpoints of small models on disk."""

import pytest


@pytest.fixture
def saved(tiny, tmp_path):
    def save(name, **options):
        folder = tmp_path / f"source-{name}"
        tiny(name).hf.save_pretrained(folder, **options)
        tiny(name).tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def source(tiny, tmp_path):
    folder = tmp_path / "source"
    tiny("llama").hf.save_pretrained(folder, max_shard_size="40KB")
    tiny("llama").tokenizer.save_pretrained(folder)
    return folder
