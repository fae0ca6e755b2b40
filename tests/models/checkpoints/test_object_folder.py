"""A store at a URL is read from a bounded cache, in which only the bytes of the manifest's digests get."""

import fcntl
import pickle
import threading

import fsspec
import pytest
import ranged_server
import torch
from fsspec.implementations.memory import MemoryFileSystem
from object_stores import Breaking, contents

from interp.activations.store import Store
from interp.core.errors import InterpError
from interp.core.inputs import LIMITS_VARIABLE
from interp.models.checkpoints.object_folder import ObjectFolder, store_folder

SITE = "resid_post.1"
URL = "memory://bucket/store"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


@pytest.fixture
def bucket(stored):
    """A copy of the store that the tests of reading share, as objects in memory."""
    fs = fsspec.filesystem("memory")
    if fs.exists("/bucket"):  # of a page of the docs, which ran in this process
        fs.rm("/bucket", recursive=True)
    for name, content in contents(stored.folder).items():
        fs.pipe_file(f"/bucket/store/{name}", content)
    yield fs
    fs.rm("/bucket", recursive=True)


def shard_bytes(stored):
    return max(file.stat().st_size for file in stored.folder.glob("shard-*"))


def test_rows_are_those_of_the_local_store_and_each_shard_is_fetched_once(stored, bucket, cache, monkeypatch):
    reading = Breaking(monkeypatch, MemoryFileSystem, ["cat_file"])
    store = Store.open(URL)
    assert len(stored.manifest.shards) > 3
    assert len(store) == len(stored)
    assert not list(cache.glob("*.safetensors")), "opening fetches no shard"
    first = stored.manifest.shards[0].tokens
    assert torch.equal(store.read(SITE, 3, first), stored.read(SITE, 3, first))
    assert len(list(cache.glob("*.safetensors"))) == 1
    assert torch.equal(store.position, stored.position)
    for opened in (store, Store.open(URL), pickle.loads(pickle.dumps(store))):
        for one, other in zip(
            *(x.batches([SITE, "embed"], 50, seed=1, epochs=1, first_tokens=False) for x in (opened, stored)),
            strict=True,
        ):
            assert torch.equal(one, other)
    fetched = [path for _, path in reading.requests if path.endswith(".safetensors")]
    assert len(fetched) == len(set(fetched)) == len(store.manifest.shards)
    assert b"MemoryFileSystem" not in pickle.dumps(store), "nor with it what it connects with"


def test_the_cache_is_bounded_and_gives_up_what_was_not_opened_for_longest(stored, bucket, cache, monkeypatch):
    monkeypatch.setenv(LIMITS_VARIABLE, f"cache={int(2.5 * shard_bytes(stored))}")
    store = Store.open(URL)
    assert torch.equal(store.read(SITE), stored.read(SITE)), "rows in order come a shard at a time"
    held = {file.name for file in cache.glob("*.safetensors")}
    assert held == {f"{shard.sha256}.safetensors" for shard in store.manifest.shards[-len(held) :]}
    assert len(store._opened) == len(held) < 4, "others are closed, or they would keep their room"
    with pytest.raises(InterpError, match=r"bytes of shards have to be on this machine.*--limit cache="):
        store.batches(SITE, 50, seed=0)
    monkeypatch.setenv(LIMITS_VARIABLE, f"cache={shard_bytes(stored) // 2}")
    with pytest.raises(InterpError, match="set INTERP_CACHE to a larger disk"):
        store.read(SITE, 0, 10)
    assert torch.equal(store.read(SITE, len(store) - 5), stored.read(SITE, len(store) - 5)), "what is open stays so"


def changed(content):
    return content[:-4] + bytes(4 * [content[-1] ^ 1])


@pytest.mark.parametrize(
    ("damage", "opens", "words"),
    [
        (changed, True, r"damaged or changed \(its SHA-256 is not the manifest's\); restore it"),
        (lambda content: content[: len(content) // 2], False, "cut short; restore it"),
        (None, False, "missing, but the manifest names it; restore it"),
    ],
)
def test_a_shard_that_is_not_what_was_written_is_named(stored, bucket, cache, damage, opens, words):
    path = "/bucket/store/shard-00002.safetensors"
    healthy = Store.open(URL)
    content = bucket.cat_file(path)
    bucket.rm_file(path)
    if damage is not None:
        bucket.pipe_file(path, damage(content))
    words = rf"^memory://bucket/store/shard-00002\.safetensors: .*{words}"
    if not opens:
        with pytest.raises(InterpError, match=words):
            Store.open(URL)
    for read in (lambda: healthy.read(SITE), lambda: list(healthy.batches(SITE, 50, seed=0, epochs=1))):
        with pytest.raises(InterpError, match=words.replace("cut short", "damaged or changed .*")):
            read()
    assert not list(cache.glob(f"*{healthy.manifest.shards[2].sha256}*")), "nothing half-fetched"
    bucket.pipe_file(path, content)
    assert torch.equal(healthy.read(SITE), stored.read(SITE)), "control: restored"


def test_a_cached_shard_that_was_damaged_is_found_by_verifying_and_fetched_again(stored, bucket, cache):
    Store.open(URL).read(SITE)
    file = cache / f"{stored.manifest.shards[1].sha256}.safetensors"
    file.write_bytes(changed(file.read_bytes()))
    assert torch.equal(Store.open(URL).read(SITE), stored.read(SITE))


def test_a_connection_that_drops_in_the_middle_of_a_shard(stored, bucket, monkeypatch):
    reading = Breaking(monkeypatch, MemoryFileSystem, ["cat_file"])
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    store = Store.open(URL)
    reading.rule = lambda number: ConnectionResetError("peer went away") if number % 2 else None
    assert torch.equal(store.read(SITE), stored.read(SITE))


def test_two_processes_fetch_a_shard_once(stored, bucket, cache, monkeypatch):
    """Another process fetches it, so this one waits, and then finds it."""
    store, shard = Store.open(URL), stored.manifest.shards[0]
    reading = Breaking(monkeypatch, MemoryFileSystem, ["cat_file"])
    with open(cache / f"lock-{shard.sha256[:2]}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = []
        waiting = threading.Thread(target=lambda: rows.append(store.read(SITE, 0, 5)))
        waiting.start()
        waiting.join(0.2)
        assert not rows
        (cache / f"{shard.sha256}.safetensors").write_bytes((stored.folder / shard.name).read_bytes())
    waiting.join()
    assert torch.equal(rows[0], stored.read(SITE, 0, 5))
    assert reading.requests == []


def test_a_store_on_a_web_server_is_read(stored):
    pytest.importorskip("aiohttp", reason="fsspec reads HTTP through aiohttp: pip install 'interp[http]'")
    with ranged_server.serving(stored.folder, []) as url:
        store = Store.open(url)
        assert torch.equal(store.read(SITE), stored.read(SITE))
    with pytest.raises(InterpError, match="cannot be"):
        Store.open(url)


def test_what_is_at_a_url_is_told(bucket, stored):
    bucket.pipe_file("/bucket/other/notes.txt", b"")
    bucket.pipe_file("/bucket/half/manifest.json", b'{"format": 2')
    bucket.pipe_file("/bucket/begun/manifest.partial.json", b"{}")
    for name, words in (
        ("none", "no such folder or bucket"),
        ("other", r"not an activation store \(no manifest\.json\)"),
        ("half", r"/manifest\.json: not valid JSON"),
        ("begun", "did not finish"),
    ):
        with pytest.raises(InterpError, match=rf"^memory://bucket/{name}.*{words}"):
            Store.open(f"memory://bucket/{name}")
        assert Store.is_at(f"memory://bucket/{name}") == (name in ("half", "begun"))
    assert Store.is_at(URL)
    assert store_folder(f"file://{stored.folder}") == stored.folder
    assert str(store_folder(URL + "/")) == str(ObjectFolder(URL)) == URL
