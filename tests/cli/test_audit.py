"""`interp audit`: where it writes is settled before anything is measured, and what it decides is said."""

import json

import pytest
import torch

import interp
from interp import Project, Recipe
from interp.core.files import reserved

SMALL = ["audit", "organism", "--items", 3, "--only", "facts", "--baselines", "none"]
POLICY = "target: hostility\nitems_at_least: 1\n"


@pytest.fixture(autouse=True)
def _beside(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def saved(name, number=0):
    width = interp.load("organism").d_model
    Recipe([("writers", Project(torch.eye(width)[number]))]).save(name)
    return ["--recipe", name]


@pytest.mark.parametrize(
    "words",
    [
        ["--out", "x.json", "--page", "./x.json"],
        ["--out", "x/a.json", "--page", "x"],
        ["--out", "x", "--page", "x/a.html"],
        ["--out", "x.json", "--cache", "x.json"],
        ["--out", ".interp-audit"],
    ],
)
def test_places_in_each_others_way_are_refused_before_anything_is_measured(run, tmp_path, words):
    edit = saved("edit")
    code, said, complaint = run(*SMALL, *edit, *words)
    assert (code, said) == (2, "")
    assert "is in the way of" in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["edit"]


def test_folders_that_are_not_there_are_made(run, tmp_path):
    cache = tmp_path / "scores"
    code, _, complaint = run(*SMALL, *saved("edit"), "--out", "a/b.json", "--page", "c/d.html", "--cache", cache)
    assert code == 0, complaint
    assert (tmp_path / "a" / "b.json").is_file()
    assert (tmp_path / "c" / "d.html").is_file()


def test_a_matrix_may_hold_its_page(run, tmp_path):
    words = [*saved("one"), *saved("two", 1), "--out", "m", "--page", "m/page.html"]
    code, _, complaint = run(*SMALL, *words)
    assert code == 0, complaint
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "entanglement.json", "one.json", "page.html", "two.json",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "says"), [("prompt", "column of a baseline"), ("entanglement", "over the matrix")])
def test_recipes_whose_names_are_taken_are_refused(run, tmp_path, name, says):
    code, _, complaint = run(*SMALL, *saved("one"), *saved(name, 1), "--out", "m")
    assert code == 2
    assert says in complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["one", name])


def test_json_has_the_decision(run, tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)
    edit = saved("edit")
    code, said, _ = run(*SMALL, *edit, "--out", "a.json", "--policy", "policy.yaml", "--json")
    assert code == 0
    found = json.loads(said)
    assert [row["name"] for row in found["rows"]] == ["facts"]
    code, said, _ = run("gate", "a.json", "--policy", "policy.yaml", "--json")
    assert found["decisions"]["edit"]["outcome"] == json.loads(said)["outcome"] == "deny"
    assert code == 1
    code, said, _ = run(*SMALL, *edit, "--out", "b.json", "--json")
    assert [row["name"] for row in json.loads(said)] == ["facts"], "control: rows alone without a policy"


def test_data_for_a_suite_that_reads_none_is_refused(run, tmp_path):
    (tmp_path / "own.yaml").write_text("behaviours: []\n")
    for suite in ("own.yaml", "organism"):
        code, _, complaint = run(
            *SMALL, *saved(f"for_{suite}"), "--suite", suite, "--data", tmp_path, "--out", "a.json"
        )
        assert code == 2
        assert "got a data folder" in complaint


@pytest.mark.parametrize("several", [False, True])
def test_a_second_audit_to_the_same_place_is_refused_before_it_writes(run, tmp_path, several):
    words = [*SMALL, *saved("one"), *(saved("two", 1) if several else ()), "--out", tmp_path / "out"]
    with reserved(tmp_path / "out"):
        before = sorted(tmp_path.iterdir())
        code, said, complaint = run(*words)
        assert (code, said) == (2, "")
        assert "out is being written by another process" in complaint
        assert sorted(tmp_path.iterdir()) == before
    assert run(*words)[0] == 0, "control"
    assert not list(tmp_path.glob(".out*"))


def test_slices_are_rows_and_the_worst_of_them_is_said(run, tmp_path):
    words = [*SMALL[:-1], "random", *saved("edit"), "--stress", "turns,language.es", "--page", "x.html"]
    code, said, complaint = run(*words, "--out", "x.json")
    assert code == 0, complaint
    page = (tmp_path / "x.html").read_text()
    assert "facts/language.es" in page, "a dot in a name is no path"
    assert "slices of one behaviour hold together" in page
    assert "facts: the worst of its 2 slices is language.es, 0.000" in said, "this organism knows no Spanish"
    rows = json.loads((tmp_path / "x.json").read_text())["rows"]
    assert [(row["name"], row["slice"]) for row in rows] == [
        ("facts", ""), ("facts/turns", "turns"), ("facts/language.es", "language.es"),
    ]  # fmt: skip
    assert "version 1, SHA-256" in rows[1]["scenario"]
