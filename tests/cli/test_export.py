"""`interp export` at the command line: an option without effect is refused, and a dry run ends as the export would."""

import json
from pathlib import Path

import pytest
import torch

from interp import InterpError, Project, Recipe
from interp.cli.export import ExportInputs
from interp.directions.direction import Direction
from interp.editing import ExportOptions
from interp.models.sites import Site


@pytest.fixture
def words(tiny, tmp_path):
    for name in ("llama", "gemma2", "smollm3"):
        tiny(name).hf.save_pretrained(tmp_path / name)
        tiny(name).tokenizer.save_pretrained(tmp_path / name)
    row = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    Recipe([("writers", Project(row))]).save(tmp_path / "recipe")

    def of(name="llama"):
        return ["export", tmp_path / name, "--recipe", tmp_path / "recipe"]

    return of


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("adapter", ["--streamed"]),
        ("adapter", ["--undo"]),
        ("adapter", ["--dtype", "bfloat16"]),
        ("adapter", ["--shard-size", "1KB"]),
        ("adapter", ["--compensate"]),
        ("adapter", ["--dequantise"]),
        ("adapter", ["--trust-base"]),
        ("adapter", ["--dry-run"]),
        ("control-vector", ["--approximate"]),
        ("control-vector", ["--keep-norms"]),
        ("control-vector", ["--leave-embedding"]),
        ("control-vector", ["--distil", "organism"]),
        ("checkpoint", ["--rank", "4"]),
        ("checkpoint", ["--steps", "0"]),
        ("checkpoint", ["--trust-base"]),
    ],
)
def test_options_that_do_nothing_are_refused(run, words, tmp_path, form, options):
    out = tmp_path / "out"
    code, said, complaint = run(*words(), "--out", out, "--form", form, *options)
    assert (code, said, out.exists()) == (2, "", False)
    assert options[0].removeprefix("--").replace("-", "_") in complaint
    assert "leave it out" in complaint


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"require": Path("audit.json"), "policy": "release"}, {"streamed": True}, "require is for checkpoints"),
        ({"require": Path("audit.json"), "policy": "release"}, {"form": "adapter"}, "require is for checkpoints"),
        ({"distil": "organism"}, {"dry_run": True}, "distil needs a model in memory"),
        ({"distil": "organism"}, {"form": "control-vector"}, "distil needs a model in memory"),
        ({"out": None}, {"streamed": True}, "give --out FOLDER"),
    ],
)
def test_conflicts_are_refused_by_the_record_itself(fields, options, message):
    common = {"recipe": Path("recipe"), "out": Path("out")}
    with pytest.raises(InterpError, match=message):
        ExportInputs(**common | fields, options=ExportOptions(**options))
    ExportInputs(**common | fields | {"out": Path("out")})


def test_what_the_options_refuse_is_said_without_the_record_that_holds_them(run, words, tmp_path):
    _, _, complaint = run(*words(), "--out", tmp_path / "out", "--form", "adapter", "--undo")
    said = "interp: options: undo: without effect where the form is adapter; leave it out"
    assert complaint.splitlines()[-1] == said  # behind what saving the model shows


def test_control_the_forms_are_written_without_them(run, words, tmp_path):
    assert (
        run(*words(), "--out", tmp_path / "adapter", "--form", "adapter", "--leave-embedding", "--approximate")[0] == 0
    )
    assert run(*words(), "--out", tmp_path / "streamed", "--streamed", "--trust-base", "--undo")[0] == 0


LEFT = ["--leave-embedding"]


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [("llama", [], 0), ("gemma2", [], 0), ("llama", LEFT, 1), ("llama", [*LEFT, "--approximate"], 0)],
)
def test_a_dry_run_ends_as_the_export_would(run, words, tmp_path, name, options, code):
    ended, said, _ = run(*words(name), "--dry-run", *options)
    assert ended == code
    assert ("not exported but with --approximate" in said) == bool(code)
    assert "certifying come on top" in said
    assert json.loads(run(*words(name), "--dry-run", "--json", *options)[1])["exports"] == (not code)
    assert bool(run(*words(name), "--out", tmp_path / "out", "--streamed", *options)[0]) == bool(code)


def test_an_adapter_to_a_tied_model_is_not_to_be_merged(run, words, tmp_path):
    said = {}
    for name in ("llama", "smollm3"):
        out = tmp_path / f"adapter-{name}"
        said[name] = json.loads(run(*words(name), "--out", out, "--form", "adapter", "--json")[1])["merged"]
    assert said == {"llama": "the same edit", "smollm3": "another edit, of the unembedding too: do not merge it"}


def test_a_protected_direction_is_left_as_it_is_and_the_angle_is_told(run, words, tiny, tmp_path):
    reference = tiny("llama").reference
    kept = Direction(torch.eye(32)[:1], Site("resid_post", 1), -1, "diff_means", reference, "data")
    kept.save(tmp_path / "kept")
    protect = ["--protect", tmp_path / "kept"]
    assert "protected: " in run(*words(), "--dry-run", *protect)[1]
    told = json.loads(run(*words(), "--streamed", "--out", tmp_path / "out", "--json", *protect)[1])["protected"]
    assert "turned by" in told
    assert "Kept clear of diff_means at resid_post.1" in (tmp_path / "out" / "README.md").read_text()
    assert not Recipe.load(tmp_path / "out" / "interp_recipe").edits[0].op.rows[0, 0].abs() > 1e-6
    assert Recipe.load(tmp_path / "recipe").edits[0].op.rows[0, 0].abs() > 1e-2, "control"
    code, _, complaint = run(*words(), "--dry-run", "--protect", tmp_path / "recipe")
    assert code == 2
    assert "no saved direction" in complaint
