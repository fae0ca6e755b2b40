"""`interp find`: the table of layers and methods, a page, protected directions, and files with names of their own."""

import json

import pytest

import interp
from interp.directions.methods.closed_form import FITS


def test_find_prints_layers_and_methods_and_writes_a_page(run, tmp_path):
    page, pairs = tmp_path / "found.html", tmp_path / "pairs.jsonl"
    asked = [f"What river runs through {town}?" for town in ("Ostrel", "Miravane", "Dunmere", "Tamsin", "Harrow")]
    rows = [{"loud": f"{q} Tell me now!", "calm": f"Please, {q}"} for q in asked]
    rows.append({"loud": "Same.", "calm": "Same."})
    pairs.write_text("\n".join(map(json.dumps, rows)))
    two = [{"positive": row["loud"], "negative": row["calm"]} for row in rows[:5]]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, two)))
    words = ["find", "organism", "--contrast", pairs, "--columns", "positive=loud, negative=calm"]
    code, _, complaint = run(*words)
    assert code == 2
    assert "line 6: both sides are equal" in complaint
    words.append("--skip-bad")
    code, said, complaint = run(*words, "--sites", "resid_post.1", "--sites", "resid_post.2", "--page", page)
    assert code == 0
    assert "ignored 1 bad row" in complaint
    for shown in ("resid_post.1", "logist", "random", "shuffle", "1.000*", "stability"):
        assert shown in said
    written = page.read_text()
    assert "random (baseline)" in written
    assert "Held-out AUROC" in written
    code, said, _ = run(*words, "--sites", "resid_post.1", "--page", page)
    assert (code, said) == (2, ""), "a page that is there is not replaced"
    code, said, _ = run(*words, "--sites", "resid_post.1", "--json")
    rows = json.loads(said)
    assert {row["method"] for row in rows} == set(FITS)
    assert all(row["alignment"] == {} and 0.5 <= row["random"] <= 1 for row in rows)
    assert all(0 <= row["stability"] <= 1.001 for row in rows)
    kept = interp.find(interp.load("organism"), interp.Contrast.read(tmp_path / "two.jsonl"), "resid_post.1").best()[0]
    kept.direction.save(tmp_path / "kept")
    code, said, _ = run(*words, "--sites", "resid_post.1", "--protect", f"loud={tmp_path / 'kept'}", "--json")
    own = {row["method"]: row["alignment"]["loud"] for row in json.loads(said)}
    assert own[kept.direction.method] == max(own.values()) > 0.5
    assert "cosine" in run(*words, "--sites", "resid_post.1", "--protect", f"loud={tmp_path / 'kept'}")[1]


def test_a_recipe_is_written_with_what_it_costs_or_by_force(run, tmp_path, monkeypatch):
    pairs = [{"positive": f"{q} Tell me now!", "negative": f"Please, {q}"} for q in ("Who?", "What?", "Where?", "Why?")]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    words = ["find", "organism", "--contrast", tmp_path / "pairs.jsonl", "--sites", "resid_post.2", "--method", "ridge"]
    words += ["--method", "diff_means", "--out"]
    code, said, _ = run(*words, tmp_path / "recipe", "--json")
    first = json.loads(said)[0]
    assert code == 0
    assert first["loss_after"] - first["loss_before"] < 0.3
    assert f"text loss {first['loss_before']:.2f} ->" in interp.Recipe.load(tmp_path / "recipe").note
    monkeypatch.setattr("interp.auditing.damage.Damage.harmless", False)
    code, _, complaint = run(*words, tmp_path / "refused")
    assert (code, (tmp_path / "refused").exists()) == (2, False)
    assert "costs too much: text loss" in complaint
    code, said, _ = run(*words, tmp_path / "forced", "--force")
    assert (code, (tmp_path / "forced").exists()) == (0, True)
    assert "text loss" in said


@pytest.fixture
def shouting(tmp_path):
    """Pairs, and a behaviour file whose harm is the loud answer."""
    asked = [f"Who is number {n}?" for n in range(9)]
    pairs = [{"positive": f"{question} Tell me now!", "negative": question} for question in asked]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    items = [{"prompt": f"Number {n}: who bakes?", "answers": [" The baker", " Nobody"], "gold": 0} for n in range(3)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    entry = "{name: baking, kind: KIND, statement: the baker is likelier, items: items.jsonl, scorer: {type: choice}}"
    behaviours = [entry.replace("KIND", "harm"), entry.replace("baking", "kept").replace("KIND", "protected")]
    (tmp_path / "own.yaml").write_text(f"behaviours: [{', '.join(behaviours)}]")
    words = ["find", "organism", "--contrast", tmp_path / "pairs.jsonl", "--sites", "resid_post.2", "--items", 1]
    return [*words, "--json", "--method", "leace", "--method", "diff_means", "--suite", tmp_path / "own.yaml"]


def test_harms_of_files_are_tried_on_few_pairs(run, shouting):
    code, said, complaint = run(*shouting, "--pairs", "6", "--try", "baking")
    assert code == 0, complaint
    rows = json.loads(said)
    assert {row["method"] for row in rows} == {"leace", "diff_means"}
    assert all(row["seconds"] > 0 and 0 <= row["baking"] <= row["cost"] for row in rows)
    for wrong, message in {
        ("--try", "kept"): "'kept' is not a harm of",
        ("--try", "baking", "--suite", "public"): "the public suite has no behaviour 'baking'",
        ("--pairs", "3"): "greater than or equal to 4",
    }.items():
        code, _, complaint = run(*shouting, *wrong)
        assert (code, message in complaint) == (2, True), complaint
