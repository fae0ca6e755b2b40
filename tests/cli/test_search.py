"""`interp run`: where results go by default, unknown overrides, and a recipe or a sweep in place of the search."""

import json
from importlib.resources import files

from interp import Recipe
from interp.pipeline.runs import UNFINISHED
from interp.search import SweepRecord

DEMO = files("interp.pipeline") / "demo.yaml"
SMALLEST = [
    "data.documents=60", "data.pairs=20", "data.choose_items=2", "data.audit_items=3", "data.loss_texts=8",
    "dictionary.tokens=1000", "dictionary.train.tokens=1024", "dictionary.train.batch_size=512",
    "dictionary.train.d_sae=32", "dictionary.train.k=4", "dictionary.evaluate_tokens=300", "search.baseline_draws=1",
    "policy.items_at_least=3",
]  # fmt: skip
SWEEP = """
model: organism
recipe:
  directions: {rude: {contrast: organism.hostility, method: diff_means_orthogonal, site: resid_post.3, pairs: 32}}
  edits: [{op: Project, sites: writers, direction: rude, strength: {low: 0.75, high: 0.8}}]
measure: {suites: [organism], only: [hostility], choose_items: 8, confirm_items: 2}
confirm: {points: 1, draws: 0}
"""


def test_results_go_to_a_folder_of_the_files_name(run, tmp_path, monkeypatch):
    from interp.pipeline import experiment

    calls = []

    class Summary:
        def to_json(self):
            return {"seconds": 1.0}

    def run_experiment(settings, out, **options):
        calls.append((settings.seed, str(out), str(options["folder"]), options["resume"], options["command"]))
        return Summary()

    monkeypatch.setattr(experiment, "run_experiment", run_experiment)
    (tmp_path / "own.yaml").write_text(
        "name: Own\nmodel: organism\ndata: {text: organism, contrast: organism.hostility}\n"
        "dictionary: {site: resid_post.3}\npolicy: {target: hostility}\n"
    )
    code, said, _ = run("run", tmp_path / "own.yaml", "seed=3", "--resume", "--json")
    assert (code, json.loads(said)) == (0, {"seconds": 1.0})
    assert calls == [(3, "runs/own", str(tmp_path), True, f"interp run {tmp_path / 'own.yaml'} seed=3 --resume --json")]
    code, _, complaint = run("run", tmp_path / "own.yaml", "sed=3")
    assert (code, "did you mean seed" in complaint) == (2, True)
    assert not list(tmp_path.glob(f"*{UNFINISHED}"))


def test_a_sweep_or_a_recipe_takes_the_place_of_the_search(run, tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    assert run("sweep", tmp_path / "sweep.yaml", "--trials", 1, "--out", tmp_path / "sweep", "--json")[0] == 0
    summaries = []
    for given in (tmp_path / "sweep", tmp_path / "0" / "recipe"):
        out = tmp_path / str(len(summaries))
        code, said, _ = run("run", DEMO, *SMALLEST, f"recipe={given}", "--out", out)
        assert (code, f"1 edit of {given}" in said) == (0, True), said
        summaries.append(json.loads((out / "summary.json").read_text()))
        del summaries[-1]["seconds"]
    trial = SweepRecord.read(tmp_path / "sweep").front[0]
    assert Recipe.load(tmp_path / "1" / "recipe").edits[0].op.scale == trial.params["edits.0.strength"]
    assert summaries[0] == summaries[1]
    assert [summaries[0]["behaviours"]["hostility"][side]["estimate"] for side in ("before", "after")] == [1.0, 0.0]
    assert [each["name"] for each in summaries[0]["baselines"]] == ["random"]
    code, _, complaint = run("run", DEMO, *SMALLEST, f"recipe={tmp_path / 'none'}", "--out", tmp_path / "of_none")
    assert (code, "none is neither a recipe nor a sweep" in complaint) == (2, True)
    assert not list(tmp_path.glob(f"*{UNFINISHED}"))
