"""The store gives every row once an epoch, in an order that depends on the seed alone; damage is refused."""

import multiprocessing

import pytest
import torch

from interp.activations import store as store_module
from interp.activations.harvester import harvest
from interp.activations.store import Store
from interp.core.errors import InterpError

SITE = "resid_post.1"


def _sorted(x):
    return sorted(map(tuple, x.tolist()))


@pytest.mark.parametrize("pool_bytes", [1 << 28, 600 * 32 * 4])
@pytest.mark.parametrize("first_tokens", [True, False])
def test_an_epoch_is_a_permutation_of_the_rows(stored, monkeypatch, pool_bytes, first_tokens):
    monkeypatch.setattr(store_module, "_POOL_BYTES", pool_bytes)
    rows = stored.read(SITE)[(stored.position > 0) | first_tokens]
    batches = list(stored.batches(SITE, 100, seed=0, epochs=2, first_tokens=first_tokens))
    assert {len(batch) for batch in batches[:-1]} == {100}
    drawn = torch.cat(batches)
    assert len(drawn) == 2 * len(rows)
    for epoch in drawn.split(len(rows)):
        assert _sorted(epoch) == _sorted(rows)
        assert not torch.equal(epoch, rows)
    assert not torch.equal(drawn[: len(rows)], drawn[len(rows) :])


def test_the_order_depends_on_the_seed_alone(stored):
    first, again, other = (next(stored.batches(SITE, 64, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("pool_bytes", [1 << 28, 1200 * 32 * 4])
def test_a_batch_mixes_shards(stored, monkeypatch, pool_bytes):
    monkeypatch.setattr(store_module, "_POOL_BYTES", pool_bytes)
    everything = stored.read(SITE)
    place = (next(stored.batches(SITE, 200, seed=3))[:, None] == everything).all(-1).int().argmax(1)
    bounds = torch.tensor([shard.tokens for shard in stored.manifest.shards]).cumsum(0)
    assert len(torch.bucketize(place, bounds, right=True).unique()) >= 3
    # A batch in the order of the shards would be neighbours.
    assert place.diff().abs().float().median() > 100


def test_batches_go_on_without_end(stored):
    endless = stored.batches(SITE, len(stored) + 1, seed=0)
    assert [len(next(endless)) for _ in range(3)] == [len(stored) + 1] * 3


def test_a_part_is_a_part_of_the_whole(stored):
    whole = stored.read("embed")
    assert len(whole) == len(stored) == sum(shard.tokens for shard in stored.manifest.shards)
    edge = stored.manifest.shards[0].tokens
    for start, stop in [(0, 5), (edge - 3, edge + 3), (edge, edge), (len(stored) - 2, None), (10, 10**9)]:
        assert torch.equal(stored.read("embed", start, stop), whole[start:stop])


def test_sites_are_read_by_either_name(stored):
    assert [str(site) for site in stored.sites] == ["embed", SITE]
    assert torch.equal(stored.read("blocks.1.hook_resid_post"), stored.read(SITE))
    with pytest.raises(InterpError, match=r"site 'resid_post\.2' is not in .*did you mean resid_post\.1"):
        stored.read("resid_post.2")


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_bit_is_found_and_the_shard_named(copy, place):
    Store.open(copy)
    file = copy / "shard-00002.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(InterpError, match=r"shard-00002\.safetensors: damaged"):
        Store.open(copy)


def test_a_truncated_or_missing_shard_is_named_even_unverified(copy):
    file = copy / "shard-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(InterpError, match=r"shard-00001\.safetensors: damaged"):
        Store.open(copy)
    with pytest.raises(InterpError, match=r"shard-00001\.safetensors: cannot be read"):
        Store.open(copy, verify=False).read(SITE)
    file.unlink()
    with pytest.raises(InterpError, match=r"shard-00001\.safetensors: missing"):
        Store.open(copy)


def test_what_is_no_store_is_refused(tmp_path, copy):
    with pytest.raises(InterpError, match=r"not an activation store \(no manifest\.json\)"):
        Store.open(tmp_path)
    with pytest.raises(InterpError, match="no such folder"):
        Store.open(tmp_path / "missing")
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"shards"', '"shard"'))
    with pytest.raises(InterpError, match=r"unknown key 'parts\.0\.shard'; did you mean shards"):
        Store.open(copy)


def test_it_shows_itself(stored):
    shown = stored._repr_html_()
    assert "tiny llama 0" in shown
    assert f"{len(stored):,}" in shown


def _first_batch(store):
    return next(store.batches(SITE, 64, seed=0))


def test_many_processes_read_one_store(stored):
    first = _first_batch(stored)  # its files are open here; a copy elsewhere opens its own
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        for batch in pool.map(_first_batch, [stored, stored]):
            assert torch.equal(batch, first)


def test_a_store_of_another_model_is_refused(tiny, stored):
    stored.require(tiny("llama"))
    with pytest.raises(InterpError, match=r"store .* was made for tiny llama 0 with weights"):
        stored.require(tiny("llama", 1))
    with pytest.raises(InterpError, match=r"has (weights|d_model)"):
        stored.require(tiny("gpt2"))


def test_sites_are_in_the_order_of_the_forward_pass(tiny, tmp_path):
    sites = ["resid_post.*", "mlp_out.*", "embed", "q.1"]
    store = harvest(tiny("llama"), ["w4 w5 w6"], sites, tmp_path / "store", context=32)
    names = [str(site) for site in store.sites]
    assert names == [str(site) for site in tiny("llama").sites if str(site) in names]
    assert len(names) == 8


def test_what_cannot_be_drawn_is_refused(stored):
    for call, message in (({"batch_size": 0}, "batch_size is 0"), ({"batch_size": 4, "epochs": -1}, "epochs is -1")):
        with pytest.raises(InterpError, match=message):
            stored.batches(SITE, seed=0, **call)
