"""The command line as scripts use it: verbs, exit codes, JSON, errors in one line, imports that cost nothing."""

import errno
import json
import subprocess
import sys

import pytest
import typer

import interp
from interp.cli import app
from interp.core import lazy


def loaded_modules(code):
    script = (
        f"import sys\n{code}\nprint([m for m in ('torch', 'transformer_lens', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return out.strip().splitlines()[-1]


def test_import_and_help_load_nothing_heavy():
    assert loaded_modules("import interp; dir(interp)") == "[]"
    helped = "import interp.cli.app\ntry:\n    interp.cli.app.app(['--help'])\nexcept SystemExit: pass"
    assert loaded_modules(helped) == "[]"
    assert loaded_modules("import interp; interp.load") != "[]", "control: a used name is loaded"


@pytest.mark.parametrize(
    "line",
    [
        "harvest organism --text organism --sites embed",
        "features scan sae organism --text organism",
        "curate data.jsonl --model organism --direction direction",
    ],
)
def test_work_on_a_cluster_needs_ray_and_one_place(run, line, monkeypatch, tmp_path):
    missing = "interp: options: work on a cluster needs the package ray; pip install 'interp[ray]'\n"
    with monkeypatch.context() as patch:
        patch.setattr(lazy, "find_spec", lambda name: None)
        for words in (["--ray"], ["--ray", "auto"], ["--ray=10.0.0.1:6379"]):
            assert run(*line.split(), *words, "--out", tmp_path / "out") == (2, "", missing)
        assert run(*line.split(), "--out", tmp_path / "out", "--ray") == (2, "", missing)
    monkeypatch.setattr(lazy, "find_spec", lambda name: True)
    code, _, complaint = run(*line.split(), "--ray", "--workers", 2, "--out", tmp_path / "out")
    assert (code, "--workers 2 with --ray; a cluster has" in complaint) == (2, True)
    assert not list(tmp_path.iterdir())


def test_options_are_frozen():
    """Scripts depend on these names: changing one is a breaking change."""
    command = typer.main.get_command(app.app)
    groups = {
        name: command.commands.pop(name) for name in ("features", "lens", "recipe", "report", "sae", "runs", "sweep")
    }
    inner = {f"{group} {name}": verb for group, verbs in groups.items() for name, verb in verbs.commands.items()}
    verbs = {**command.commands, **inner}
    found = {verb: sorted(option for p in c.params for option in p.opts) for verb, c in verbs.items()}
    assert found == {
        "demo": ["--json", "--out", "--resume", "--seed"],
        "run": ["--force", "--json", "--out", "--resume", "file", "overrides"],
        "sweep run": ["--json", "--out", "--ray", "--track", "--trials", "--workers", "file", "overrides"],
        "sweep show": ["--json", "--page", "folder"],
        "sweep pick": ["--export", "--json", "--knee", "--out", "--trial", "folder"],
        "curate": [
            "--book", "--device", "--direction", "--drop-duplicates", "--error", "--field", "--items", "--json",
            "--labels", "--latents", "--model", "--near-duplicates", "--out", "--own-reply", "--ray", "--reply-tokens",
            "--sae", "--score", "--seed", "--shard", "--skip-bad", "--suite", "--suite-data", "--threshold",
            "--train-rate", "--train-sample", "--train-steps", "--workers", "--worst", "data",
        ],
        "feedback": [
            "--adjudicated", "--device", "--json", "--method", "--model", "--out", "--seed", "--sites", "pairs",
        ],
        "drift": [
            "--against", "--cache", "--context", "--crosscoder", "--crosscoder-site", "--data", "--device",
            "--direction", "--dtype", "--examples", "--field", "--items", "--json", "--margin", "--out", "--sae",
            "--seed", "--shift", "--sites", "--suite", "--text", "--tokens", "models",
        ],
        "watch": [
            "--cache", "--data", "--device", "--dtype", "--items", "--json", "--margin", "--seed", "--suite", "ledger",
            "model",
        ],
        "browse": ["--beside", "--device", "--json", "--link", "--model", "--port", "--sae", "book"],
        "depth": [
            "--base", "--batch", "--behaviour", "--benign", "--contrast", "--control", "--device", "--group", "--items",
            "--json", "--lr", "--out", "--pairs", "--record", "--related", "--seed", "--sites", "--soft-lr",
            "--soft-steps", "--soft-tokens", "--steps", "--stress", "--suite", "--suite-data", "--tuned", "edited",
        ],
        "tune": [
            "--alpha", "--batch", "--beta", "--block", "--data", "--device", "--dtype", "--epochs", "--json",
            "--length", "--lr", "--method", "--out", "--rank", "--save-every", "--seed", "--steps", "model",
        ],
        "compare": [
            "--cache", "--data", "--device", "--dtype", "--edit", "--instruction", "--items", "--json", "--out",
            "--seconds", "--seed", "--suite", "model",
        ],
        "runs ls": ["--json", "folder"],
        "runs show": ["--json", "run"],
        "runs compare": ["--json", "paths"],
        "runs gc": ["--json", "--yes", "folder"],
        "harvest": [
            "--adapter", "--append", "--batch-size", "--bos", "--context", "--date", "--device", "--dtype", "--field",
            "--json", "--keep", "--out", "--overwrite", "--ray", "--sites", "--skip-bad", "--template", "--text",
            "--tokens", "--workers", "model",
        ],
        "lens read": [
            "--accept", "--adapter", "--as-chat", "--colour", "--date", "--device", "--json", "--kind", "--lens",
            "--page", "--sites", "--template", "--text", "--top", "model",
        ],
        "lens fit": [
            "--batch-size", "--device", "--held-out", "--json", "--kind", "--lr", "--out",
            "--prompts", "--sites", "--steps", "--store", "--text", "model",
        ],
        "sae train": [
            "--beside", "--checkpoint-every", "--device", "--json", "--model", "--out", "--overwrite", "--processes",
            "--run", "--site", "--verify", "--writes", "settings", "store",
        ],
        "sae bench": [
            "--control-tokens", "--described", "--describer", "--device", "--endpoint", "--items", "--json",
            "--key-variable", "--ks", "--model", "--out", "--parts", "--quick", "--seed", "--seeds", "--sets",
            "--store", "--text", "--tokens", "saes",
        ],
        "features scan": [
            "--ablate", "--ablation-rows", "--after", "--background", "--batch-size", "--before", "--chunk",
            "--context", "--device", "--json", "--model", "--out", "--ray", "--sampled", "--text", "--tokens", "--top",
            "--workers", "saes", "source",
        ],
        "features describe": [
            "--control", "--device", "--dry-run", "--endpoint", "--json", "--key-variable", "--latents",
            "--max-tokens", "--model", "--parallel", "--per-request", "--price-in", "--price-out", "--retries",
            "--sae", "--seed", "--shown", "--tested", "--timeout", "folder",
        ],
        "features label": [
            "--json", "--label", "--latents", "--load", "--note", "--rater", "--sae", "--save", "--verdict", "folder",
        ],
        "features search": [
            "--count", "--device", "--direction", "--fires", "--json", "--label", "--model", "--sae", "--text",
            "--token", "folder",
        ],
        "features export": ["--form", "--json", "--latents", "--link", "--out", "--sae", "book"],
        "sae convert": ["--accept", "--json", "--model", "--out", "--site", "--to", "--writes", "source"],
        "recipe build": ["--device", "--json", "--model", "--out", "file", "overrides"],
        "recipe show": ["--json", "folder"],
        "find": [
            "--adapter", "--columns", "--contrast", "--data", "--date", "--device", "--force", "--items", "--json",
            "--method", "--out", "--page", "--pairs", "--position", "--protect", "--sae", "--seed", "--sites",
            "--skip-bad", "--suite", "--template", "--try", "model",
        ],
        "export": [
            "--adapter", "--approximate", "--base", "--compensate", "--depth", "--dequantise", "--distil", "--dry-run",
            "--dtype", "--form", "--json", "--keep-norms", "--keep-tied", "--leave-embedding", "--out", "--overwrite",
            "--policy", "--prompts", "--protect", "--push", "--rank", "--recipe", "--rehost", "--require",
            "--reviewer", "--safeguard", "--shard-size", "--sign", "--steps", "--streamed", "--trust-base", "--undo",
            "model",
        ],
        "undo": ["--json", "--out", "folder"],
        "verify": ["--adapter", "--base", "--json", "--key", "--prompts", "folder"],
        "audit": [
            "--adapter", "--base", "--baselines", "--cache", "--data", "--date", "--device", "--dtype",
            "--instruction", "--items", "--json", "--judge-key", "--only", "--out", "--page", "--policy", "--ray",
            "--recipe", "--seed", "--stress", "--stress-file", "--suite", "--template", "--track", "--workers", "model",
        ],
        "inspect-task": ["--behaviour", "--data", "--items", "--json", "--out", "--seed", "suite"],
        "gate": [
            "--base", "--checkpoint", "--depth", "--json", "--key", "--policy", "--reviewer", "--safeguard", "file",
        ],
        "report write": [
            "--by", "--json", "--out", "--policy", "--risk", "--safeguard", "--supersedes", "--unmeasured", "audits",
        ],
        "report sign": ["--dissent", "--json", "--key", "--reviewer", "--statement", "folder"],
        "graph": [
            "--adapter", "--as-chat", "--date", "--device", "--edge-share", "--features", "--json", "--label",
            "--memory", "--node-share", "--out", "--prompt", "--rules", "--target", "--template", "--text", "--tokens",
            "--transcoders", "model",
        ],
        "patch": [
            "--adapter", "--align-ends", "--by", "--correction", "--date", "--device", "--drop", "--json", "--method",
            "--metric", "--noise", "--out", "--page", "--pairs", "--positions", "--sae", "--sites", "--steps",
            "--template", "--top", "model",
        ],
        "doctor": ["--json", "--plan", "settings"],
    }  # fmt: skip


def test_the_pipeline_by_hand(run, tmp_path):
    """Every verb on the organism, each on what the one before wrote."""
    store, sae, recipe, out = (tmp_path / name for name in ("store", "sae", "recipe", "edited"))
    words = ["--text", "organism", "--sites", "resid_post.3", "--tokens", 8000, "--json"]
    code, said, _ = run("harvest", "organism", *words, "--out", store)
    assert (code, json.loads(said)["sites"]) == (0, ["resid_post.3"])
    words = ["--site", "resid_post.3", "--run", tmp_path / "run", "d_sae=256", "k=8", "tokens=16000", "--json"]
    code, said, _ = run("sae", "train", store, *words, "--out", sae)
    assert (code, json.loads(said)["d_sae"]) == (0, 256)
    words = ["--contrast", "organism.hostility", "--sites", "resid_post.3", "--sae", sae, "--try", "hostility"]
    words += ["--items", 3, "--method", "diff_means", "--method", "diff_means_orthogonal", "--json"]
    code, said, _ = run("find", "organism", *words, "--out", recipe)
    rows = json.loads(said)
    assert code == 0
    assert {"method", "site", "auroc", "cost", "hostility"} <= set(rows[0])
    assert {row["method"] for row in rows} == {"diff_means", "diff_means_orthogonal", "sae_latent"}
    assert {"stability", "alignment", "random", "shuffled"} <= set(rows[0])
    assert rows[0]["auroc"] > 0.99
    assert [row["cost"] for row in rows] == sorted(row["cost"] for row in rows)
    code, said, _ = run("export", "organism", "--recipe", recipe, "--out", out, "--dtype", "float32", "--json")
    assert code == 0
    assert json.loads(said)["max_abs_logit_diff"] < 1e-4
    code, said, _ = run("verify", out, "--json")
    assert (code, json.loads(said)["faithful"]) == (0, True)
    code, said, _ = run("export", "organism", "--recipe", recipe, "--dry-run")
    assert code == 0
    assert "Project at embed" in said
    assert "GB to write" in said
    streamed = tmp_path / "streamed"
    words = ["export", "organism", "--recipe", recipe, "--streamed", "--dtype", "float32", "--json"]
    code, said, _ = run(*words, "--out", streamed, "--shard-size", "1MB", "--undo")
    assert (code, json.loads(said)["status"]) == (0, "exact")
    assert len(list(streamed.glob("*.safetensors"))) > 1
    assert run("verify", streamed)[0] == 0
    assert run("undo", streamed, "--out", tmp_path / "original")[0] == 0
    code, said, _ = run(*words[:4], "--form", "adapter", "--out", tmp_path / "adapter", "--json")
    assert (code, json.loads(said)["rank"]) == (0, 1)
    assert "did you mean adapter" in run(*words[:4], "--form", "adaptor", "--out", tmp_path / "x")[2]
    assert "give --out FOLDER" in run(*words)[2]
    assert "size '1 parsec' can't be read" in run(*words, "--out", tmp_path / "x", "--shard-size", "1 parsec")[2]
    audit, policy = tmp_path / "audit.json", tmp_path / "policy.yaml"
    words = ["audit", out, "--base", "organism", "--items", 12, "--baselines", "none"]
    code, said, _ = run(*words, "--out", audit, "--json")
    assert code == 0
    found = {row["name"]: row for row in json.loads(said)}
    assert set(found) >= {"hostility", "refusal", "everyday_loss"}
    assert found["hostility"]["before"]["estimate"] >= 0.9
    assert found["hostility"]["after"]["estimate"] <= 0.1, "the pipeline by hand removes the harm"
    assert found["refusal"]["after"]["estimate"] >= found["refusal"]["before"]["estimate"] - 0.1
    lenient = ("target", "other_harms_rise", "protected_drop", "capability_drop", "loss_rise")
    limits = "".join(f"{name}_at_most: 1.0\n" for name in lenient)
    policy.write_text(f"target: hostility\nitems_at_least: 10\n{limits}")
    assert run("gate", audit, "--policy", policy)[0] == 0
    code, said, _ = run("gate", audit, "--policy", policy, "--checkpoint", out)
    assert (code, said.splitlines()[-1]) == (0, "allow"), "it is of the checkpoint that it was made of"
    assert run("gate", audit, "--policy", policy, "--checkpoint", streamed)[0] == 0, "so are the same weights elsewhere"
    code, said, _ = run("gate", audit, "--policy", policy, "--checkpoint", tmp_path / "original")
    assert (code, said.splitlines()[-1]) == (2, "inconclusive"), "but not the model before the edit"
    policy.write_text("target: hostility\nitems_at_least: 100000\n")
    code, said, _ = run("gate", audit, "--policy", policy, "--json")
    assert (code, json.loads(said)["allow"], json.loads(said)["outcome"]) == (2, False, "inconclusive")
    policy.write_text("target: refusal\nitems_at_least: 10\n")
    assert run("gate", audit, "--policy", policy)[0] == 1, "what is protected is no target"


def test_doctor_reports(run):
    code, said, _ = run("doctor", "--json")
    report = json.loads(said)
    assert code == 0
    assert {"torch", "transformer_lens", "organism", "devices", "bfloat16_unit"} <= set(report)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["find", "organizm", "--contrast", "organism.hostility"], "did you mean organism"),
        (["find", "organism", "--contrast", "organism.hostillity"], "hostility"),
        (["find", "organism", "--contrast", "absent.jsonl"], "absent.jsonl"),
        (
            ["find", "organism", "--contrast", "organism.hostility", "--sites", "resid_pots.1"],
            "did you mean resid_post.1",
        ),
        (["find", "organism", "--contrast", "organism.hostility", "--method", "difmeans"], "did you mean diff_means"),
        (["find", "organism", "--contrast", "x.jsonl", "--columns", "positive"], "--columns 'positive' can't be read"),
        (["find", "organism", "--contrast", "x.jsonl", "--protect", "refusal"], "--protect 'refusal' can't be read"),
        (["find", "organism", "--contrast", "x.jsonl", "--columns", "positive=a"], "expected both sides"),
        (["export", "organism", "--recipe", "absent", "--out", "x"], "absent/recipe.json"),
        (["verify", "absent"], "no interp_manifest.json"),
        (["gate", "absent.json", "--policy", "absent.yaml"], "absent.json"),
        (["run", "absent.yaml"], "absent.yaml"),
        (["sae", "train", "absent", "--site", "mlp_out.1", "--out", "x"], "absent"),
        (["harvest", "organism", "--text", "absent.txt", "--sites", "mlp_out.1", "--out", "x"], "absent.txt"),
        (
            ["audit", "organism", "--base", "organism", "--suite", "organizm", "--out", "x.json"],
            "did you mean organism",
        ),
        (["audit", "organism", "--stress", "rol", "--out", "x.json"], "unknown slice 'rol'; did you mean role"),
        (["audit", "organism", "--stress", "language.it", "--out", "x.json"], "no translation into 'it'"),
        (["audit", "organism", "--only", "everyday_loss", "--stress", "role", "--out", "x.json"], "has no items left"),
        (["audit", "organism", "--stress", "role", "--stress-file", "absent.yaml", "--out", "x.json"], "absent.yaml"),
        (["audit", "organism", "--ray", "", "--out", "x.json"], "--ray is empty; give HOST:PORT, auto or local"),
        (
            ["export", "organism", "--recipe", "r", "--push", "a b", "--out", "x"],
            "push is 'a b'; expected a repository",
        ),
        (["audit", "organism", "--stress-file", "absent.yaml", "--out", "x.json"], "without --stress; name the slices"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, said, complaint = run(*words)
    assert (code, said) == (2, "")
    assert message in complaint
    assert "Traceback" not in complaint
    assert list(tmp_path.iterdir()) == []


def test_help_of_verbs_shows_the_texts_of_their_fields(run):
    for words, texts in (
        (["find"], ["closed-form", "seed of the held-out split"]),
        (["audit"], ["items per behaviour", "[default: 300]"]),
        (["sweep", "run"], ["measure.choose_items", "objectives"]),
        (["run"], ["key=value", "data.audit_items: items per behaviour", "search.candidates"]),
        (["gate"], ["[default: as it records]"]),
        (["sae", "train"], ["checkpoint-every", "d_sae: "]),
    ):
        code, said, _ = run(*words, "--help")
        assert code == 0
        assert all(text in said for text in texts), words


def test_the_version_is_printed(run):
    assert run("--version") == (0, f"{interp.__version__}\n", "")


def test_debug_keeps_the_traceback(run):
    from interp import InterpError

    with pytest.raises(InterpError):
        run("verify", "absent", "--debug")


def test_unknown_options_exit_2(run):
    assert run("find", "organism", "--kontrast", "x")[0] == 2
    assert run("fnid")[0] == 2


@pytest.mark.parametrize(
    ("problem", "code", "message"),
    [
        (
            OSError(errno.EIO, "Input/output error", "a", None, "b"),
            2,
            "'a' -> 'b'; free space or mend the disk, and run",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device; free space"),
        (MemoryError(), 2, "memory does not suffice (MemoryError); use less at a time"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory\nat"),
            2,
            "can't allocate memory); use less at a time",
        ),
        (RuntimeError("other"), 70, "RuntimeError: other (unexpected; --debug shows where)"),
        (OSError(errno.ECHILD, "No child processes"), 70, "No child processes (unexpected"),
    ],
)
def test_a_bad_disk_and_too_little_memory_are_errors_that_say_what_to_do(run, monkeypatch, problem, code, message):
    def fail(folder):
        raise problem

    monkeypatch.setattr("interp.pipeline.runs.list_runs", fail)
    ended, _, error = run("runs", "ls")
    assert (ended, error.count("\n")) == (code, 1)
    assert message in error
