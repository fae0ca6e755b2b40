"""The bench of autoencoders on the command line."""

import json

import pytest

import interp
from interp import organism


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    texts, folder = list(organism.corpus(200)), tmp_path_factory.mktemp("cli") / "store"
    return interp.harvest(interp.load("organism"), texts, ["resid_mid.3"], folder, tokens=6000).folder


def test_a_bench_resumes_and_says_what_is_not_above_its_controls(store, run, tmp_path):
    sae, out = tmp_path / "sae", tmp_path / "bench"
    settings = ("d_sae=64", "k=4", "tokens=4096", "batch_size=256")
    assert run("sae", "train", store, "--site", "resid_mid.3", "--out", sae, *settings)[0] == 0
    little = ("--parts", "reconstruction", "--tokens", 400, "--seeds", 1, "--store", store)
    words = ("sae", "bench", sae, "--model", "organism", "--out", out, *little)
    code, said, _ = run(*words, "--json")
    record = json.loads(said)["sae"]
    assert (code, record["measures"][0]["name"]) == (0, "loss recovered (zero)")
    code, table, _ = run(*words)
    assert (code, "not above its control" in table) == (0, True)
    code, _, complaint = run(*words, "--items", 10)
    assert (code, "options.items was 200 and is now 10" in complaint) == (2, True)
    code, _, complaint = run("sae", "bench", sae, sae, "--model", "organism", "--out", tmp_path / "b")
    assert (code, "have one name" in complaint) == (2, True)
