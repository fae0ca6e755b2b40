"""`interp harvest`: what its options choose is in the store, and a value out of range is refused in words."""

import json

from interp.activations.store import Store

WORDS = ("harvest", "organism", "--text", "organism", "--sites", "resid_post.1", "--tokens", 300, "--context", 32)


def test_options_are_those_of_the_store(run, tmp_path):
    code, said, _ = run(*WORDS, "--dtype", "bfloat16", "--keep", "inner", "--out", tmp_path / "store", "--json")
    assert code == 0
    store = Store.open(tmp_path / "store")
    assert json.loads(said) == {"store": str(tmp_path / "store"), "tokens": len(store), "sites": ["resid_post.1"]}
    settings = store.manifest.settings.harvest
    assert (settings.dtype, settings.keep, settings.context, settings.bos_first) == ("bfloat16", "inner", 32, True)
    assert run(*WORDS, "--no-bos", "--out", tmp_path / "bare")[0] == 0
    assert not Store.open(tmp_path / "bare").manifest.settings.harvest.bos_first
    code, _, complaint = run(*WORDS, "--out", tmp_path / "bare")
    assert (code, "start anew with overwrite=True" in complaint) == (2, True)
    assert run(*WORDS, "--overwrite", "--out", tmp_path / "bare")[0] == 0
    assert Store.open(tmp_path / "bare").manifest.settings.harvest.bos_first


def test_values_out_of_range_leave_nothing(run, tmp_path):
    code, _, complaint = run(*WORDS[:-4], "--tokens", 0, "--out", tmp_path / "store")
    assert code == 2
    assert "greater than or equal to 1" in complaint
    assert list(tmp_path.iterdir()) == []
