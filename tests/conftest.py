"""Fixtures that many tests share: small random models of several architectures, with a tokenizer, made offline."""

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

# Before transformers is imported: no test may depend on the network, or wait for it.
os.environ["HF_HUB_OFFLINE"] = "1"
# Before torch is: workers that run side by side would take each other's cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

if TYPE_CHECKING:
    from chat_server import Server

    from interp.activations.store import Store
    from interp.models.hooked import HookedModel

# The same examples each time, and no deadline: how fast an example runs says more about the machine than about the
# code.
hypothesis.settings.register_profile("interp", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("interp")


def pytest_collection() -> None:
    """What is imported and collected stays: the garbage collector need not go through it, now or later."""
    gc.disable()


def pytest_collection_finish() -> None:
    """See above."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_stores(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Shards of stores at URLs are kept in a folder of this run."""
    os.environ["INTERP_CACHE"] = str(tmp_path_factory.mktemp("interp-cache"))


@pytest.fixture(scope="session")
def tiny() -> "Callable[..., HookedModel]":
    """`tiny("llama", seed=0)`: a random model of an architecture whose words are w4 to w127."""
    import tiny_models  # not above: the process that starts xdist's workers needs no torch

    return cache(tiny_models.build)


@pytest.fixture(scope="session")
def stored(tiny: "Callable[..., HookedModel]", tmp_path_factory: pytest.TempPathFactory) -> "Store":
    """A store of two sites in several shards, which tests read."""
    from interp.activations.harvester import harvest

    draw = random.Random(0)
    corpus = [" ".join(f"w{draw.randint(4, 127)}" for _ in range(draw.randint(0, 40))) for _ in range(150)]
    out = tmp_path_factory.mktemp("stores") / "store"
    return harvest(tiny("llama"), corpus, ["resid_post.1", "embed"], out, context=32, shard_tokens=512)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`run("export", …)`: the command line's exit code, and what it wrote on standard output and error."""
    from interp.cli import app

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["interp", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            app.main()
            sys.exit(0)
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Server]":
    """A server of chat completions that says what its `says` lists."""
    import chat_server

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with chat_server.serving() as server:
        yield server
