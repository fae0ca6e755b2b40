"""A harvest into an object store gives the bytes of a local one, whatever ends it, and one process writes at a time."""

import logging
import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import fsspec
import object_stores
import processes
import pytest
import tiny_models
import torch
from fsspec.implementations.memory import MemoryFileSystem
from object_stores import Breaking, Killed, contents
from tiny_models import at_layer

from interp.activations.harvester import harvest
from interp.activations.store import Store
from interp.core.errors import InterpError
from interp.core.files import lock_folder
from interp.core.inputs import LIMITS_VARIABLE
from interp.models.checkpoints import object_folder

SITES = ["resid_post.0", "mlp_out.1"]
SETTINGS = {"context": 16, "batch_size": 4, "shard_tokens": 64}
URL = "memory://bucket/store"


@pytest.fixture(scope="module")
def corpus():
    draw = random.Random(0)
    return [" ".join(f"w{draw.randint(4, 127)}" for _ in range(draw.randint(4, 14))) for _ in range(20)]


@pytest.fixture(autouse=True)
def bucket(monkeypatch, tmp_path):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    fs = fsspec.filesystem("memory")
    if fs.exists("/bucket"):  # of a page of the docs, which ran in this process
        fs.rm("/bucket", recursive=True)
    yield fs
    if fs.exists("/bucket"):
        fs.rm("/bucket", recursive=True)


@pytest.fixture
def quick(monkeypatch):
    """Leases are renewed several times a second."""
    monkeypatch.setattr(object_folder, "BEAT", 0.1)


def staged(tmp_path):
    return list((tmp_path / "cache" / "staging").glob("*"))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_store_at_a_url_is_the_local_one_to_the_byte(tiny, corpus, tmp_path, dtype):
    model, options = tiny("llama"), SETTINGS | {"dtype": dtype}
    local = harvest(model, corpus, SITES, tmp_path / "store", **options)
    remote = harvest(model, corpus, SITES, URL, **options)
    assert len(contents(URL)) > 3
    assert contents(URL) == contents(tmp_path / "store")
    assert (str(remote), remote.digest, remote.sites) == (URL, local.digest, local.sites)
    for site in SITES:
        assert torch.equal(remote.read(site), local.read(site))
    for one, other in zip(*(x.batches(SITES, 10, seed=3, epochs=2) for x in (local, remote)), strict=True):
        assert torch.equal(one, other)
    assert staged(tmp_path) == [], "nothing is left behind"
    harvest(model, corpus[:3], SITES, tmp_path / "store", append=True, **options)
    assert len(harvest(model, corpus[:3], SITES, URL, append=True, **options)) > len(remote)
    assert contents(URL) == contents(tmp_path / "store")


def test_a_harvest_that_is_killed_at_any_request_continues_to_the_same_bytes(tiny, corpus, tmp_path, monkeypatch):
    """Killed before and after each request of an append: a reader sees the old store or the new one."""
    model, breaking = tiny("llama"), Breaking(monkeypatch, MemoryFileSystem)

    def stores(place):
        return [
            harvest(model, texts, "embed", place, append=append, **SETTINGS)
            for texts, append in ((corpus[:6], False), (corpus[6:12], True))
        ]

    old, new = (store.digest for store in stores(tmp_path / "whole"))
    whole, seen = contents(tmp_path / "whole"), set()
    stores(URL)
    steps = len(breaking.requests)
    assert steps > 12
    for step in range(1, steps + 1):
        for late in (False, True):
            fsspec.filesystem("memory").rm("/bucket", recursive=True)
            breaking.kill_at(step, late)
            with pytest.raises(Killed):
                stores(URL)
            breaking.mend()
            try:
                seen.add(Store.open(URL).digest)
            except InterpError as problem:
                assert "did not finish" in str(problem) or "not an activation store" in str(problem)
            stores(URL)
            assert contents(URL) == whole, (step, late)
    assert seen == {old, new}


@pytest.mark.parametrize("step", range(1, 9))
def test_overwriting_that_is_killed_is_continued(tiny, corpus, tmp_path, monkeypatch, step):
    model, breaking = tiny("llama"), Breaking(monkeypatch, MemoryFileSystem)
    harvest(model, corpus, "embed", URL, **SETTINGS)
    fsspec.filesystem("memory").pipe_file("/bucket/store/notes.txt", b"mine")
    with pytest.raises(InterpError, match="start anew with overwrite=True"):
        harvest(model, corpus[:9], SITES, URL, **SETTINGS)
    breaking.kill_at(step, late=True)
    with pytest.raises(Killed):
        harvest(model, corpus[:9], SITES, URL, overwrite=True, **SETTINGS)
    breaking.mend()
    harvest(model, corpus[:9], SITES, URL, overwrite=step < 3, **SETTINGS)
    harvest(model, corpus[:9], SITES, tmp_path / "whole", **SETTINGS)
    assert contents(URL) == contents(tmp_path / "whole") | {"notes.txt": b"mine"}


_CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import object_stores, tiny_models
from pathlib import Path
from interp.activations import _growing_shard
from interp.activations.harvester import harvest
folder, url = Path(sys.argv[2]), sys.argv[3]
_growing_shard.PIECE_SECONDS = 0
with tiny_models.at_layer(tiny_models.build("llama"), 0, lambda x: None) as _:
    import time
    model = tiny_models.build("llama")
    with tiny_models.at_layer(model, 0, lambda x: time.sleep(0.05)):
        harvest(model, (folder / "texts").read_text().split("\\n"), ["resid_post.0", "mlp_out.1"], url,
                context=16, batch_size=4, shard_tokens=64)
"""


def kill_and_continue(corpus, tmp_path, url, environment):
    """SIGKILL a process once it has uploaded two shards: what is there then, and what the same call makes of it."""
    (tmp_path / "texts").write_text("\n".join(corpus))
    support = Path(object_stores.__file__).parent
    output = tmp_path / "output"
    child = processes.start(_CHILD, support, tmp_path, url, env=environment, output=output)
    fs, path = fsspec.url_to_fs(url)
    deadline = time.monotonic() + 60
    while True:
        fs.invalidate_cache()
        if fs.exists(f"{path}/shard-00001.safetensors"):
            break
        assert child.is_alive(), output.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    killed = contents(url)
    assert "manifest.json" not in killed
    assert "harvest.lease.json" in killed
    return killed, harvest(tiny_models.build("llama"), corpus, SITES, url, **SETTINGS)


def test_a_process_that_is_killed_leaves_what_the_same_call_continues(tiny, corpus, tmp_path):
    url = f"objects://{tmp_path}/bucket/store"
    harvest(tiny("llama"), corpus, SITES, tmp_path / "whole", **SETTINGS)
    killed, _ = kill_and_continue(corpus, tmp_path, url, {"INTERP_CACHE": str(tmp_path / "cache")})
    assert contents(url) == contents(tmp_path / "whole")
    assert killed["shard-00000.safetensors"] == contents(url)["shard-00000.safetensors"]


def test_what_is_uploaded_is_not_computed_again(tiny, corpus, tmp_path, monkeypatch):
    model, breaking, passes = tiny("llama"), Breaking(monkeypatch, MemoryFileSystem), []
    with at_layer(model, 0, lambda x: passes.append(len(x))):
        harvest(model, corpus, "resid_post.0", tmp_path / "whole", **SETTINGS)
        rows = sum(passes)
        breaking.rule = lambda number: Killed() if "shard-00002" in str(breaking.requests[-1]) else None
        with pytest.raises(Killed):
            harvest(model, corpus, "resid_post.0", URL, **SETTINGS)
        breaking.mend()
        passes.clear()
        harvest(model, corpus, "resid_post.0", URL, **SETTINGS)
    assert contents(URL) == contents(tmp_path / "whole")
    assert sum(passes) < rows - 4


def test_a_cache_that_holds_no_shard_is_no_hindrance_to_writing(tiny, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv(LIMITS_VARIABLE, "cache=1KB")
    harvest(tiny("llama"), corpus, SITES, URL, **SETTINGS)
    harvest(tiny("llama"), corpus, SITES, tmp_path / "whole", **SETTINGS)
    assert contents(URL) == contents(tmp_path / "whole")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert staged(tmp_path) == []


def test_a_second_writer_on_this_machine_is_refused(tiny, corpus):
    model, refused = tiny("llama"), []

    def meanwhile(x):
        if "harvest.lease.json" in contents(URL) and not refused:
            refused.append(None)
            with pytest.raises(InterpError, match=r"memory://bucket/store: another process is harvesting into it"):
                harvest(tiny("llama", 0), corpus, SITES, URL, **SETTINGS)

    fsspec.filesystem("memory").mkdirs("/bucket")
    with at_layer(model, 0, meanwhile):
        harvest(model, corpus, SITES, URL, **SETTINGS)
    assert refused
    assert "harvest.lease.json" not in contents(URL)


def test_a_second_writer_on_another_machine_is_refused_while_the_first_one_lives(
    tiny, corpus, tmp_path, quick, monkeypatch
):
    model, refused = tiny("llama"), []

    def meanwhile(x):
        if "harvest.lease.json" in contents(URL) and not refused:
            refused.append(None)
            monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "elsewhere"))
            with pytest.raises(InterpError, match=rf"another process is harvesting .*\(process {os.getpid()} of "):
                harvest(tiny("llama", 0), corpus, SITES, URL, **SETTINGS)
            monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))

    with at_layer(model, 0, meanwhile):
        harvest(model, corpus, SITES, URL, **SETTINGS)
    harvest(model, corpus, SITES, tmp_path / "whole", **SETTINGS)
    assert refused
    assert contents(URL) == contents(tmp_path / "whole")


def test_another_machine_takes_over_from_a_dead_one_which_finds_that_it_has_lost(
    tiny, corpus, tmp_path, quick, monkeypatch, capsys
):
    """The first one is not dead but stopped, and its lease is not renewed; it writes no manifest any more."""
    model, taken = tiny("llama"), []
    monkeypatch.setattr(object_folder.Lease, "renew_until", lambda self, ended: None)

    def meanwhile(x):
        if "shard-00001.safetensors" in contents(URL) and not taken:
            monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "elsewhere"))
            taken.append(harvest(tiny("llama", 0), corpus, SITES, URL, **SETTINGS))
            monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))

    fsspec.filesystem("memory").pipe_file("/bucket/notes.txt", b"")
    with (
        at_layer(model, 0, meanwhile),
        pytest.raises(InterpError, match="another process took the harvest over while this one was stopped"),
    ):
        harvest(model, corpus, SITES, URL, **SETTINGS)
    assert "held by process" in capsys.readouterr().err
    harvest(model, corpus, SITES, tmp_path / "whole", **SETTINGS)
    assert contents(URL) == contents(tmp_path / "whole")
    assert Store.open(URL).digest == taken[0].digest


@pytest.mark.parametrize(("drops", "ends"), [(2, False), (3, True)])
def test_a_dropped_connection_is_retried_and_then_named(tiny, corpus, tmp_path, monkeypatch, drops, ends):
    model, breaking = tiny("llama"), Breaking(monkeypatch, MemoryFileSystem)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    breaking.rule = lambda number: ConnectionResetError("peer went away") if 3 <= number < 3 + drops else None
    if ends:
        with pytest.raises(
            InterpError, match=r"^memory://bucket/store/shard-00000.safetensors: cannot be written \(Conn"
        ):
            harvest(model, corpus, SITES, URL, **SETTINGS)
        assert "harvest.lease.json" not in contents(URL), "the lease is given back"
        breaking.mend()
    harvest(model, corpus, SITES, URL, **SETTINGS)
    harvest(model, corpus, SITES, tmp_path / "whole", **SETTINGS)
    assert contents(URL) == contents(tmp_path / "whole")


def test_what_may_not_be_written_is_said_at_once_and_without_credentials(tiny, corpus, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    breaking = Breaking(monkeypatch, MemoryFileSystem)
    breaking.rule = lambda number: PermissionError("403 for hunter2hunter2 at https://host/x?X-Signature=abc")
    before = time.monotonic()
    with pytest.raises(
        InterpError, match=r"cannot be written \(PermissionError: 403 .*; give .* credentials"
    ) as raised:
        harvest(tiny("llama"), corpus, SITES, URL, **SETTINGS)
    assert "hunter2" not in str(raised.value)
    assert "abc" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert len(breaking.requests) == 2, "not tried again"
    assert time.monotonic() - before < 5


def test_a_folder_of_something_else_is_left_alone(tiny, corpus, bucket):
    bucket.pipe_file("/bucket/store/thesis.txt", b"all of it")
    with pytest.raises(InterpError, match="memory://bucket/store exists and is not an activation store"):
        harvest(tiny("llama"), corpus, SITES, URL, overwrite=True, **SETTINGS)
    assert contents(URL) == {"thesis.txt": b"all of it"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://user:secret@bucket/store", "user or password"),
        ("memory://bucket/store?sig=secret", "has no ?"),
        ("nosuch://bucket/store", "its file system is not available"),
        (Path("memory://bucket/store"), "give a URL as a text"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(tiny, corpus, url, words):
    with pytest.raises(InterpError, match=words.replace("?", r"\?")) as raised:
        harvest(tiny("llama"), corpus, SITES, url, **SETTINGS)
    assert "secret" not in str(raised.value)


KEY = {"AWS_ACCESS_KEY_ID": "testing-access", "AWS_SECRET_ACCESS_KEY": "testing-secret-words"}


@pytest.fixture(scope="module")
def s3_server():
    """moto's S3 on this machine."""
    reason = "needs pip install 'interp[remote]' 'moto[s3]' flask flask-cors"
    pytest.importorskip("s3fs", reason=reason)
    server = pytest.importorskip("moto.server", reason=reason).ThreadedMotoServer(port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path):
    """The environment that leads to it, with a bucket."""
    environment = {"AWS_ENDPOINT_URL": s3_server, "no_proxy": "127.0.0.1", "AWS_DEFAULT_REGION": "us-east-1", **KEY}
    for name, value in (environment | {"AWS_CONFIG_FILE": str(tmp_path / "no"), "HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.mkdir("bucket")
    yield fs, environment
    fs.invalidate_cache()
    fs.rm("bucket", recursive=True)
    type(fs).clear_instance_cache()


def test_on_s3_a_killed_harvest_continues_and_is_read(tiny, corpus, tmp_path, s3):
    url = "s3://bucket/runs/store"
    local = harvest(tiny("llama"), corpus, SITES, tmp_path / "whole", **SETTINGS)
    _, store = kill_and_continue(corpus, tmp_path, url, s3[1] | {"INTERP_CACHE": str(tmp_path / "cache")})
    assert contents(url) == contents(tmp_path / "whole")
    shutil.rmtree(tmp_path / "cache")  # as on another machine
    assert store.digest == Store.open(url).digest == local.digest
    both = (x.batches(SITES, 50, seed=1, epochs=1) for x in (Store.open(url), local))
    assert all(torch.equal(*pair) for pair in zip(*both, strict=True))
    assert not any(secret in content for content in contents(url).values() for secret in map(str.encode, KEY.values()))


def test_on_s3_a_second_writer_is_refused(tiny, corpus, tmp_path, quick, s3):
    """Its PUT is conditional, so that it cannot replace the lease."""
    url = "s3://bucket/store"
    other = object_folder.ObjectFolder(url)
    with lock_folder(other.staging, ""), other.leased("busy") as lease:
        with pytest.raises(FileExistsError):
            lease.file.fs.pipe_file(lease.file.path, b"", mode="create")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INTERP_CACHE", str(tmp_path / "elsewhere"))
            with pytest.raises(InterpError, match="another process is harvesting into it"):
                harvest(tiny("llama"), corpus, SITES, url, **SETTINGS)
    assert contents(url) == {}
    harvest(tiny("llama"), corpus, SITES, url, **SETTINGS)


def test_what_s3_refuses_is_one_line(tiny, corpus, s3, monkeypatch):
    harvest(tiny("llama"), corpus[:3], SITES, "s3://bucket/store", **SETTINGS)

    def raised(action):
        with pytest.raises(InterpError) as problem:
            action()
        assert not any(secret in str(problem.value) for secret in KEY.values())
        return str(problem.value)

    write = partial(harvest, tiny("llama"), corpus, SITES)
    assert raised(lambda: write("s3://nobucket/store", **SETTINGS)) == (
        "s3://nobucket/store/harvest.lease.json: cannot be written; The specified bucket does not exist; create that"
    )
    assert "s3://nobucket/store: not an activation store (no such folder or" in raised(
        lambda: Store.open("s3://nobucket/store")
    )
    forbidden = type(s3[0])._call_s3

    async def call(fs, method, *args, **options):
        if method in ("put_object", "get_object", "head_object"):
            raise PermissionError("Forbidden")
        return await forbidden(fs, method, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(s3[0]), "_call_s3", call)
        assert "cannot be read (PermissionError: Forbidden); give" in raised(lambda: Store.open("s3://bucket/store"))
        assert "cannot be written (PermissionError: Forbidden); give" in raised(
            lambda: write("s3://bucket/other", **SETTINGS)
        )
    for name in KEY:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    type(s3[0]).clear_instance_cache()
    assert "NoCredentialsError: Unable to locate credentials); give" in raised(lambda: Store.open("s3://bucket/store"))
