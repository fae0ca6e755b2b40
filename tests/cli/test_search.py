"""`interp run`: where results go by default, and overrides that are not known."""

import json

from interp.pipeline.runs import UNFINISHED


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
