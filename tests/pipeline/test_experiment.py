"""The end-to-end pipeline in small: every result is there, same seed same summary, and bad settings leave nothing."""

import json
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest

import interp
from interp import InterpError, organism
from interp.auditing.auditor import Audit
from interp.pipeline import runs
from interp.pipeline.experiment import Experiment, run_experiment

DEMO = Path(str(files("interp.pipeline") / "demo.yaml"))
SMALL = [
    "data.documents=150", "data.pairs=80", "data.choose_items=3", "data.audit_items=12", "data.loss_texts=20",
    "dictionary.tokens=4000", "dictionary.train.tokens=8000", "dictionary.train.batch_size=1024",
    "dictionary.train.d_sae=128", "dictionary.train.k=8", "dictionary.evaluate_tokens=1000",
    "search.sites=resid_post.4-5", "search.positions=[-1]", "search.candidates=2",
    "search.baseline_draws=2", "policy.items_at_least=12",
]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder of two runs of the same settings, and what they said: b is stopped half-way and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    settings, messages = Experiment.read(DEMO, SMALL), []
    run_experiment(settings, folder / "a", say=messages.append, command="interp run demo.yaml")
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("interp.pipeline.experiment.find", _interrupted)
        run_experiment(settings, folder / "b", command="interp run demo.yaml")
    unfinished = [path.name for path in folder.iterdir()], runs.unfinished_runs(folder)
    with pytest.raises(InterpError) as again:
        run_experiment(settings, folder / "b")
    with pytest.raises(InterpError) as changed:
        run_experiment(settings.model_copy(update={"seed": 1}), folder / "b", resume=True)
    run_experiment(settings, folder / "b", resume=True, command="interp run demo.yaml")
    return SimpleNamespace(folder=folder, messages=messages, unfinished=unfinished, again=again, changed=changed)


def _interrupted(*args, **options):
    raise KeyboardInterrupt


def test_every_result_is_there_and_can_be_read(results):
    folder, messages = results.folder, results.messages
    out = folder / "a"
    expected = ["audit.json", "checkpoint", "environment.json", "experiment.json", "log.txt", "recipe", "report.html"]
    assert sorted(path.name for path in out.iterdir()) == [*expected, "sae", "summary.json"]
    assert not list(folder.glob("*.unfinished"))
    assert all(line in (out / "log.txt").read_text() for line in messages)
    assert {line.split()[0] for line in messages} >= {
        "model",
        "activations",
        "sae",
        "directions",
        "recipe",
        "damage",
        "export",
        "audit",
    }
    assert interp.SparseAutoencoder.load(out / "sae").d_sae == 128
    assert interp.Recipe.load(out / "recipe").model.digest == interp.load("organism").digest
    assert interp.verify(out / "checkpoint").faithful
    assert Audit.read(out / "audit.json").after.digest == interp.load(out / "checkpoint").digest
    assert "<html" in (out / "report.html").read_text()
    assert Experiment.parse(json.loads((out / "experiment.json").read_text())) == Experiment.read(DEMO, SMALL)


def test_the_summary_has_the_documented_schema(results):
    summary = json.loads((results.folder / "a" / "summary.json").read_text())
    parts = {"behaviours", "baselines", "certificate", "damage", "decision", "seconds", "versions", "hashes"}
    assert set(summary) == parts
    assert set(summary["behaviours"]) == {*organism.BEHAVIOURS, "everyday_loss"}
    for row in summary["behaviours"].values():
        assert set(row) == {"kind", "before", "after"}
        assert set(row["before"]) == set(row["after"]) == {"estimate", "low", "high", "n"}
    assert {"max_abs_logit_diff", "kl", "leak"} <= set(summary["certificate"])
    assert set(summary["decision"]) == {"outcome", "allow", "tier", "reasons", "notes", "safeguards"}


def test_the_harm_goes_and_the_rest_stays(results):
    behaviours = json.loads((results.folder / "a" / "summary.json").read_text())["behaviours"]
    assert behaviours["hostility"]["before"]["estimate"] >= 0.9
    assert behaviours["hostility"]["after"]["estimate"] <= 0.1
    for kept in ("refusal", "facts", "skills"):
        assert behaviours[kept]["after"]["estimate"] >= behaviours[kept]["before"]["estimate"] - 0.1


def test_the_same_seed_gives_the_same_summary(results):
    first, second = (json.loads((results.folder / name / "summary.json").read_text()) for name in ("a", "b"))
    for summary in (first, second):
        del summary["seconds"]
    assert first == second


def test_baselines_are_measured_and_do_less(results):
    summary = json.loads((results.folder / "a" / "summary.json").read_text())
    rows = {row["name"]: row for row in summary["baselines"]}
    assert list(rows) == ["no-op", "random", "shuffled", "prompt"]
    assert [len(rows[name]["each"]) for name in rows] == [0, 2, 2, 0]
    assert rows["no-op"]["scores"]["hostility"] >= 0.9
    assert rows["random"]["scores"]["hostility"] >= 0.9, "control: not any projection removes it"
    for one in ("random", "shuffled"):
        each = [seed["hostility"] for seed in rows[one]["each"]]
        assert rows[one]["scores"]["hostility"] == pytest.approx(sum(each) / 2)


def test_runs_of_the_same_settings_compare_as_the_same(results):
    listed = runs.list_runs(results.folder)
    assert [run.row["run"] for run in listed] == ["a", "b"]
    assert all(run.row["decision"] in ("allow", "deny", "inconclusive") for run in listed)
    assert runs.read_run(results.folder / "a").settings["seed"] == 0
    same = {row["what"] for row in runs.compare_runs([results.folder / "a", results.folder / "b"])}
    assert same <= {"environment.began"}, "the same settings give the same results"


def test_a_stopped_run_is_resumed_to_the_same_results(results):
    names, listed = results.unfinished
    assert sorted(names) == ["a", "b.unfinished"]
    assert [(path.name, size > 0) for path, size in listed] == [("b.unfinished", True)]
    assert "was left by a run that did not finish; continue it with --resume" in str(results.again.value)
    assert "seed was 0 and is now 1" in str(results.changed.value)
    straight, resumed = (json.loads((results.folder / name / "summary.json").read_text()) for name in ("a", "b"))
    assert resumed | {"seconds": 0} == straight | {"seconds": 0}
    assert sorted(path.name for path in results.folder.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.methods=[difmeans]", "did you mean diff_means"),
        ("dictionary.site=resid_pots.3", "did you mean resid_post.3"),
        ("data.contrast=organism.hostillity", "hostility"),
        (
            "policy.target=refusal",
            "'refusal' is protected; only a harm may be removed: hostility, sycophancy, fabrication",
        ),
        ("policy.target=zzz", "'zzz' is not a behaviour"),
        ("data.contrast=organism.refusal", "only a harm may be removed"),
        ("policy.taget=x", "unknown key 'policy.taget'; did you mean target"),
        ("dictionary.train.k=500", "k is 500"),
    ],
)
def test_bad_settings_leave_nothing(tmp_path, override, message):
    with pytest.raises(InterpError, match=message):
        run_experiment(Experiment.read(DEMO, [*SMALL, override]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_output_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InterpError, match="exists already"):
        run_experiment(Experiment.read(DEMO), tmp_path / "out")
