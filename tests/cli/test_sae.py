"""Harvests and autoencoders on the command line: options, transcoders, two models, and pages of latents."""

import json

import pytest
from describers import KEY, constant

import interp
from interp import organism
from interp.activations.store import Store
from interp.cli.app import main
from interp.sae.coder import SparseAutoencoder

HARVEST = ("harvest", "organism", "--text", "organism", "--sites", "resid_post.1", "--tokens", 300, "--context", 32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    texts, folder = list(organism.corpus(400)), tmp_path_factory.mktemp("cli") / "store"
    return interp.harvest(interp.load("organism"), texts, ["resid_mid.3", "mlp_out.3"], folder, tokens=12_000).folder


def _run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["interp", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


QUICK = ("d_sae=128", "k=4", "tokens=20000", "batch_size=1024", "--json")


def test_a_transcoder(store, capsys, monkeypatch, tmp_path):
    sae = tmp_path / "sae"
    where = ("--site", "resid_mid.3", "--writes", "mlp_out.3", "--out", sae)
    code, said, _ = _run(capsys, monkeypatch, "sae", "train", store, *where, *QUICK, "skip=true")
    assert (code, json.loads(said)["kind"]) == (0, "transcoder from resid_mid.3 to mlp_out.3")
    assert SparseAutoencoder.load(sae).W_skip is not None
    code, _, complaint = _run(capsys, monkeypatch, "sae", "convert", sae, "--out", tmp_path / "c", "--to", "saelens")
    assert (code, "SAELens has no topk transcoders" in complaint) == (2, True)
    assert not (tmp_path / "c").exists()


def test_a_crosscoder_of_two_stores(store, capsys, monkeypatch, tmp_path):
    where = ("--site", "mlp_out.3", "--beside", store, "--out", tmp_path / "sae")
    code, said, _ = _run(capsys, monkeypatch, "sae", "train", store, *where, *QUICK)
    assert (code, json.loads(said)["d_in"]) == (0, 384)


def test_a_run_of_other_settings_is_refused(store, capsys, monkeypatch, tmp_path):
    where = ("--site", "mlp_out.3", "--run", tmp_path / "run", "--out")
    assert _run(capsys, monkeypatch, "sae", "train", store, *where, tmp_path / "a", *QUICK)[0] == 0
    code, _, complaint = _run(capsys, monkeypatch, "sae", "train", store, *where, tmp_path / "b", *QUICK, "seed=1")
    assert (code, "config.seed was 0 and is now 1" in complaint) == (2, True)
    assert not (tmp_path / "b").exists()
    assert _run(capsys, monkeypatch, "sae", "train", store, *where, tmp_path / "a", *QUICK, "seed=1")[0] == 2
    assert (
        _run(capsys, monkeypatch, "sae", "train", store, *where, tmp_path / "a", *QUICK, "seed=1", "--overwrite")[0]
        == 0
    )
    assert SparseAutoencoder.load(tmp_path / "a").config.seed == 1


def test_options_are_those_of_the_store(run, tmp_path):
    code, said, _ = run(*HARVEST, "--dtype", "bfloat16", "--keep", "inner", "--out", tmp_path / "store", "--json")
    assert code == 0
    store = Store.open(tmp_path / "store")
    assert json.loads(said) == {"store": str(tmp_path / "store"), "tokens": len(store), "sites": ["resid_post.1"]}
    settings = store.manifest.settings.harvest
    assert (settings.dtype, settings.keep, settings.context, settings.bos_first) == ("bfloat16", "inner", 32, True)
    assert run(*HARVEST, "--no-bos", "--out", tmp_path / "bare")[0] == 0
    assert not Store.open(tmp_path / "bare").manifest.settings.harvest.bos_first
    code, _, complaint = run(*HARVEST, "--out", tmp_path / "bare")
    assert (code, "start anew with overwrite=True" in complaint) == (2, True)
    assert run(*HARVEST, "--overwrite", "--out", tmp_path / "bare")[0] == 0
    assert Store.open(tmp_path / "bare").manifest.settings.harvest.bos_first


def test_values_out_of_range_leave_nothing(run, tmp_path):
    code, _, complaint = run(*HARVEST[:-4], "--tokens", 0, "--out", tmp_path / "store")
    assert code == 2
    assert "greater than or equal to 1" in complaint
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_is_given_as_an_option_says_how_it_is_written(run, tmp_path):
    line = ("sae", "train", "store", "--site", "a", "--out", tmp_path / "sae")
    code, _, complaint = run(*line, "--kind=batchtop")
    assert (code, complaint) == (
        2,
        "interp: --kind is a key: write kind=VALUE (topk, batchtopk, jumprelu, standard or gated)\n",
    )
    assert "--batch-size is a key: write batch_size=VALUE" in run(*line, "--batch-size", 4)[2]
    code, _, complaint = run(*line, "--sitt", 4)
    assert (code, "No such option: --sitt" in complaint) == (2, True), "control"
    assert "expected 'topk', 'batchtopk'" in run(*line, "kind=batchtop")[2]


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


def test_a_bench_with_an_endpoint_has_description_scores(store, run, tmp_path, chat_server, monkeypatch):
    sae, out = tmp_path / "sae", tmp_path / "bench"
    monkeypatch.setenv("BENCH_KEY", KEY)
    chat_server.says = [constant]
    assert (
        run("sae", "train", store, "--site", "resid_mid.3", "--out", sae, *["d_sae=64", "k=4", "tokens=4096"])[0] == 0
    )
    words = ("sae", "bench", sae, "--model", "organism", "--store", store, "--tokens", 300, "--seeds", 1, "--out", out)
    words += ("--described", 2, "--parts", "descriptions")
    for more, message in [
        (("--parts", "foo"), "--parts is 'foo'; expected 'reconstruction'"),
        ((), "descriptions needs a machine (machine=, or --describer"),
        (("--endpoint", chat_server.url), "need --describer"),
        (("--describer", "small", "--key-variable", "BENCH_KEY"), "--key-variable goes with --endpoint"),
    ]:
        code, _, complaint = run(*words, *more)
        assert (code, message in complaint, out.exists()) == (2, True, False), complaint
    given = ("--endpoint", chat_server.url, "--describer", "small", "--key-variable", "BENCH_KEY")
    code, said, notes = run(*words, *given, "--json")
    assert (code, "requests to small, of about" in notes) == (0, True)
    rows = json.loads(said)["sae"]["measures"]
    assert [row["name"] for row in rows] == ["detection", "fuzzing"]
    assert all(row["gaps"]["shuffled descriptions"]["low"] <= 0 for row in rows), "it says the same of everything"
    assert chat_server.seen[0][1] == f"Bearer {KEY}", "control: it was sent"
    assert not any(KEY.encode() in file.read_bytes() for file in out.rglob("*") if file.is_file())


def test_a_url_stands_for_a_folder(run, tmp_path):
    """Harvest, training and scan of a store in an object store give what those of a local one give."""
    outputs = []
    for number, store in enumerate((tmp_path / "store", "memory://cli/store")):
        sae, book = tmp_path / f"sae{number}", tmp_path / f"book{number}"
        code, said, complaint = run(*HARVEST, "--out", store, "--json")
        assert (code, json.loads(said)["store"]) == (0, str(store)), complaint
        words = ("--site", "resid_post.1", "--out", sae, "d_sae=32", "k=4", "tokens=600", "batch_size=64")
        assert run("sae", "train", store, *words)[0] == 0
        code, said, complaint = run("features", "scan", sae, store, "--out", book, "--json")
        assert code == 0, complaint
        outputs.append((json.loads(said)["tokens"], next(sae.glob("*.safetensors")).read_bytes()))
    assert outputs[0] == outputs[1]
    code, _, complaint = run("sae", "train", "memory://cli/none", "--site", "resid_post.1", "--out", tmp_path / "x")
    assert code == 2
    assert complaint.strip().count("\n") == 0
    assert "memory://cli/none: not an activation store (no such folder or bucket)" in complaint
