"""`interp recipe build` and `recipe show`: a recipe without Python, and errors with lines of the YAML."""

import json

from interp import Recipe

GOOD = """
model: organism
directions:
  river: {token: " river", site: resid_post.2}
  gone: {contrast: organism.hostility, method: leace, site: resid_post.3, pairs: 16}
edits:
  - {op: Project, sites: writers, layers: 2-3, direction: river, strength: 0.5}
  - {op: Scale, heads: [2.3], factor: 0}
  - {op: Scale, neurons: ["3.30", "3.17"], factor: 0.5}
  - {op: Erase, sites: resid_post.3, direction: gone}
  - {op: Replace, heads: ["2.3", "2.1"], gate: {direction: river, threshold: 1, site: resid_post.1}, positions: [last]}
"""
BAD = """
directions:
  river: {token: " river"}
edits:
  - op: Project
    sites: writers
    direction: river
    strength: {center: 2, width: 0}
  - {op: Suppress, latents: [5]}
"""


def test_a_file_becomes_a_recipe_that_is_shown(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "half.yaml").write_text(GOOD)
    code, said, _ = run(
        "recipe", "build", tmp_path / "half.yaml", "note=as asked", "--out", tmp_path / "half", "--json"
    )
    recipe = Recipe.load(tmp_path / "half")
    assert code == 0
    assert (json.loads(said)["digest"], recipe.note) == (recipe.digest, "as asked")
    assert recipe.edits[0].sites == ("attn_out.2", "mlp_out.2", "attn_out.3", "mlp_out.3")
    assert recipe.edits[1].op.factors.tolist() == [1, 1, 1, 0, 1, 1]
    code, said, _ = run("recipe", "show", tmp_path / "half")
    assert code == 0
    norms = [f"norm {getattr(recipe.edits[3].op, name).norm():.3g}" for name in ("read", "write", "mean")]
    assert "tensor" not in said
    said = " ".join(said.split())
    for shown in (
        "note: as asked",
        recipe.digest,
        "logit lens of ' river' at resid_post.2, position -1, rank 1, scale 0.5",
        "Scale z.2 1 head: 3 (of 6), factor 0",
        "Scale mlp_post.3 2 neurons: 17, 30 (of 512), factor 0.5",
        f"Erase resid_post.3 read rank 1, {norms[0]}, write rank 1, {norms[1]}, mean {norms[2]}",
        "Replace z.2 2 heads: 1, 3; At: where last; Gate: when row norm 1, threshold 1, per sequence",
    ):
        assert shown in said, said
    shown = json.loads(run("recipe", "show", tmp_path / "half", "--json")[1])
    assert [(edit["op"], edit["sites"]) for edit in shown["edits"]][1] == ("Scale", ["z.2"])
    code, _, complaint = run("recipe", "build", tmp_path / "half.yaml", "--out", tmp_path / "half")
    assert (code, "half" in complaint) == (2, True), "what is there is not replaced"


def test_errors_have_lines_and_nothing_is_written(run, tmp_path):
    (tmp_path / "bad.yaml").write_text(BAD)
    code, _, complaint = run("recipe", "build", tmp_path / "bad.yaml", "--model", "organism", "--out", tmp_path / "out")
    assert (code, (tmp_path / "out").exists()) == (2, False)
    for problem in (
        "bad.yaml, line 3: a direction from a token has no site",
        "line 8: edits.0.strength.centre is missing; expected a number",
        "line 8: edits.0.strength.width is 0; expected a number above 0",
        "line 8: unknown key 'edits.0.strength.center'; did you mean centre?",
        "line 9: Suppress has no sae",
    ):
        assert problem in complaint
    (tmp_path / "bad.yaml").write_text("edits:\n  - op: Project\n    sites: writers\n    direction: rude\n")
    code, _, complaint = run("recipe", "build", tmp_path / "bad.yaml", "--out", tmp_path / "out")
    assert "line 2: edits.0: unknown direction 'rude'; directions is empty" in complaint
    (tmp_path / "bad.yaml").write_text("edits:\n  - {op: Scale, heads: [2.3], factor: 0}\n")
    code, _, complaint = run("recipe", "build", tmp_path / "bad.yaml", "--out", tmp_path / "out")
    assert (code, "names no model; give one (--model)" in complaint) == (2, True)
