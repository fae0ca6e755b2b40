"""A sweep: it ends as if it had never been killed, its trials can be rebuilt, and what is wrong is said."""

import errno
import itertools
import json
import signal
from dataclasses import replace

import pytest
from processes import start
from sae_samples import autoencoder

from interp import InterpError, SparseAutoencoder
from interp.auditing.conditions import ModelCondition
from interp.core.files import lock_folder
from interp.features import FeatureLabel, ScanOptions, scan
from interp.search import RecipeFile, SweepRecord, run_sweep
from interp.search.sweeps.measures import Bench, Measures
from interp.search.sweeps.trials import Trials

TOTAL = 7  # as in `whole`


KILLED = """
import json, os, signal, sys
from interp.search import SweepFile, run_sweep
from interp.search.sweeps.trials import Trials

settings, out, total, folder, moment, trials = sys.argv[1:]
step, left = getattr(Trials, moment), int(trials)

def killed(*given):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*given)

setattr(Trials, moment, killed)
run_sweep(SweepFile.parse(json.loads(settings)), out, int(total), folder=folder)
"""


def test_a_sweep_that_is_killed_again_and_again_ends_as_if_it_had_not_been(small_sweep, whole, tmp_path):
    out, settings = tmp_path / "out", small_sweep.settings().model_dump_json()
    # Before the point of a trial is noted, and when a later trial has its scores but no record of them.
    for moment, number in {"chosen": 2, "tell": 2}.items():
        given = settings, out, TOTAL, small_sweep.folder, moment, number
        process = start(KILLED, *given, output=tmp_path / "log")
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    run_sweep(small_sweep.settings(), out, TOTAL, folder=small_sweep.folder, model=small_sweep.model)
    record = SweepRecord.read(out)
    done = [trial for trial in record.trials if trial.state != "left"]
    assert [len(record.trials), len(done)] == [TOTAL + 2, TOTAL]
    assert [trial.recipe for trial in done] == [trial.recipe for trial in whole.trials]
    assert [trial.costs for trial in done] == [pytest.approx(trial.costs, abs=1e-5) for trial in whole.trials]
    assert {trial.state for trial in done} == {"complete"}
    assert record.confirmed[0].trial in {trial.number for trial in done}


def test_a_full_disk_ends_a_sweep_and_is_no_failed_trial(small_sweep, whole, tmp_path, monkeypatch):
    out, measure, calls = tmp_path / "out", Bench.measure, itertools.count(1)

    def full(*given):
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return measure(*given)

    with monkeypatch.context() as patched, pytest.raises(InterpError, match=r"trial 2: .*No space left.*; free space"):
        patched.setattr(Bench, "measure", full)
        run_sweep(small_sweep.settings(), out, TOTAL, folder=small_sweep.folder, model=small_sweep.model)
    run_sweep(small_sweep.settings(), out, TOTAL, folder=small_sweep.folder, model=small_sweep.model)
    record = SweepRecord.read(out)
    done = [trial for trial in record.trials if trial.state != "left"]
    assert len(record.trials) == TOTAL + 1, "control: the trial was left"
    assert [trial.recipe for trial in done] == [trial.recipe for trial in whole.trials]
    assert [trial.costs for trial in done] == [pytest.approx(trial.costs, abs=1e-5) for trial in whole.trials]


def test_replies_that_a_kill_left_before_the_settings_are_made_again(small_sweep, tmp_path):
    """They may be another model's: nothing says which."""
    settings, given = small_sweep.settings(), {"folder": small_sweep.folder, "model": small_sweep.model}
    run_sweep(settings, tmp_path / "whole", 1, **given)
    known = (tmp_path / "whole" / "replies.json").read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "replies.json").write_text(json.dumps(["w5"] * len(json.loads(known))))
    run_sweep(settings, tmp_path / "out", 1, **given)
    assert (tmp_path / "out" / "replies.json").read_bytes() == known


def test_every_trial_can_be_built_again_from_its_record_and_gives_the_same_scores(small_sweep, whole):
    record = whole
    measures = Measures.read(record.settings.measure, small_sweep.model, record.settings.seed, (), small_sweep.folder)
    trial = record.front[0]
    recipe = RecipeFile.parse(trial.recipe).build(small_sweep.model, folder=small_sweep.folder)
    again, reason = Bench(small_sweep.model, measures).measure(recipe)
    assert reason == ""
    for name, behaviour in measures.choose.items():
        assert again[name] == pytest.approx(trial.scores[name], abs=1e-5)
        audited = ModelCondition(small_sweep.model, recipe).scores(behaviour)
        assert list(audited.values) == pytest.approx(trial.scores[name], abs=1e-5)


def test_the_front_is_confirmed_on_items_that_no_trial_saw(small_sweep, whole):
    record = whole
    measures = Measures.read(record.settings.measure, small_sweep.model, record.settings.seed, (), small_sweep.folder)
    for name, behaviour in measures.choose.items():
        assert not {*behaviour.prompts} & {*measures.confirm[name].prompts}
    point = record.confirmed[0]
    change = point["harm"]
    assert change.shrinkage == change.chosen - change.change.estimate
    assert (change.after.n, len(change.random)) == (16, 1)
    assert change.chosen == pytest.approx(record.front[0].costs[0] - record.unedited[0])


def test_another_space_and_a_folder_in_use_are_refused_by_name(small_sweep, whole):
    record = whole
    other = small_sweep.settings(seed=1)
    with pytest.raises(InterpError, match=r"seed was 0 and is now 1"):
        run_sweep(other, record.folder, TOTAL, folder=small_sweep.folder, model=small_sweep.model)
    written = (record.folder / "sweep.json").read_text()
    (record.folder / "sweep.json").write_text(written.replace('"behaviours": [],', ""))
    assert '"behaviours": [],' in written
    run_sweep(small_sweep.settings(), record.folder, TOTAL, folder=small_sweep.folder, model=small_sweep.model)
    (record.folder / "sweep.json").write_text(written)
    with lock_folder(record.folder, ""), pytest.raises(InterpError, match="in use by another sweep"):
        run_sweep(small_sweep.settings(), record.folder, TOTAL, folder=small_sweep.folder, model=small_sweep.model)
    with pytest.raises(InterpError, match="no behaviour 'harn'"):
        unnamed = small_sweep.settings(objectives=["harn"])
        run_sweep(unnamed, small_sweep.folder / "new", 2, folder=small_sweep.folder, model=small_sweep.model)
    assert not (small_sweep.folder / "new").exists(), "nothing half-written is left behind"
    (small_sweep.folder / "other").mkdir(exist_ok=True)
    (small_sweep.folder / "other" / "notes.txt").write_text("x")
    with pytest.raises(InterpError, match=r"holds other files"):
        run_sweep(small_sweep.settings(), small_sweep.folder / "other", TOTAL, folder=small_sweep.folder)
    with pytest.raises(InterpError, match=r"notes.txt exists already"):
        run_sweep(small_sweep.settings(), small_sweep.folder / "other" / "notes.txt", TOTAL, folder=small_sweep.folder)


def test_a_space_without_a_valid_point_is_refused_before_anything_is_measured(small_sweep, tmp_path):
    wrong = small_sweep.settings(recipe={"edits": [{"op": {"choice": ["Projct", "Ad"]}, "sites": "writers"}]})
    with pytest.raises(InterpError, match=r"none of 50 points of the space is a recipe: .*unknown op"):
        run_sweep(wrong, tmp_path / "out", 3, folder=small_sweep.folder, model=small_sweep.model)
    assert not (tmp_path / "out").exists()


def test_trials_that_fail_are_recorded_and_a_sweep_in_which_all_fail_ends(small_sweep, tmp_path):
    recipe = {"edits": [{"op": "Scale", "heads": {"choice": [["7.1"], ["8.1"], ["9.1"]]}, "factor": 0.0}]}
    failing = small_sweep.settings(recipe=recipe)
    with pytest.raises(InterpError, match=r"all of the first 10 trials failed; the last: .*z\.\d"):
        run_sweep(failing, tmp_path / "out", 30, folder=small_sweep.folder, model=small_sweep.model)
    trials = Trials(tmp_path / "out").all()
    assert {trial.state for trial in trials} == {"failed"}
    assert len(trials) == 10
    assert all(trial.reason for trial in trials)
    with pytest.raises(InterpError, match="all of the first 2 trials failed"):
        run_sweep(failing, tmp_path / "short", 2, folder=small_sweep.folder, model=small_sweep.model)


def test_an_autoencoder_is_read_once_by_all_trials(small_sweep, tmp_path, monkeypatch):
    autoencoder(small_sweep.model).save(tmp_path / "sae")
    calls, load = [], SparseAutoencoder.load
    monkeypatch.setattr(SparseAutoencoder, "load", lambda path, *rest: calls.append(path) or load(path, *rest))
    clamp = {"op": "Clamp", "sae": "sae", "latents": {"subset": [1, 3, 7]}, "factor": {"low": 0.0, "high": 0.5}}
    gate = {"sae": "sae", "latent": 2, "threshold": 0.0}
    project = {"op": "Project", "sites": "resid_post.2", "direction": "d", "gate": gate}
    recipe = {"directions": {"d": {"sae": "sae", "latent": {"low": 0, "high": 9}}}, "edits": [clamp, project]}
    (tmp_path / "measure").symlink_to(small_sweep.folder)
    measure = {"suites": ["measure/own.yaml"], "choose_items": 8, "confirm_items": 8}
    settings = small_sweep.settings(recipe=recipe, measure=measure, confirm={"points": 1, "draws": 0})
    run_sweep(settings, tmp_path / "out", 3, folder=tmp_path, model=small_sweep.model)
    record = SweepRecord.read(tmp_path / "out")
    assert {trial.state for trial in record.trials} == {"complete"}
    assert calls == [tmp_path / "sae"]
    best = record.front[0]
    run_again = RecipeFile.parse(best.recipe).build(small_sweep.model, folder=tmp_path)
    measures = Measures.read(settings.measure, small_sweep.model, folder=tmp_path)
    assert Bench(small_sweep.model, measures).measure(run_again)[0]["harm"] == pytest.approx(
        best.scores["harm"], abs=1e-5
    )


def test_a_sweep_over_labels_goes_on_with_the_book_as_it_was(small_sweep, tmp_path):
    model, sae = small_sweep.model, autoencoder(small_sweep.model)
    sae.save(tmp_path / "sae")
    book = scan(sae, model, tmp_path / "book", ScanOptions(context=16), texts=["w5 w6 w7 w8"] * 3)
    labels = [FeatureLabel(sae="sae", latent=n, text="hostile", rater="ana") for n in (3, 9)]
    book.labels.add(labels)
    clamp = {
        "op": "Clamp",
        "sae": "sae",
        "book": "book",
        "latents": {"choice": [["book:hostile"], ["book:hostile", 7]]},
    }
    (tmp_path / "measure").symlink_to(small_sweep.folder)
    measure = {"suites": ["measure/own.yaml"], "choose_items": 8, "confirm_items": 8}
    settings = small_sweep.settings(recipe={"edits": [clamp]}, measure=measure, confirm={"points": 1, "draws": 0})

    def run():
        return run_sweep(settings, tmp_path / "out", 2, folder=tmp_path, model=model)

    assert {trial.state for trial in run()} == {"complete"}
    best = SweepRecord.read(tmp_path / "out").front[0]
    assert RecipeFile.parse(best.recipe).build(model, folder=tmp_path).edits[0].op.latents[:2] == [3, 9]
    run()
    book.labels.add([FeatureLabel(sae="sae", latent=11, text="hostile", rater="ana")])
    with pytest.raises(InterpError, match=r"labels\.jsonl.*a sweep goes on as it began"):
        run()


def test_a_bound_that_the_unedited_model_breaks_is_said_before_the_first_trial(small_sweep, tmp_path, capsys):
    bound = {"behaviour": "kept", "unit": "margin", "metric": "after", "at_least": 100.0}
    broken = small_sweep.settings(
        constraints=[bound], recipe={"edits": [{"op": "Scale", "heads": ["1.1"], "factor": 0.5}]}
    )
    run_sweep(broken, tmp_path / "out", 2, folder=small_sweep.folder, model=small_sweep.model)
    said = capsys.readouterr().err
    assert "kept: the unedited model breaks its bound already (kept: after at least 100)" in said
    first, second = SweepRecord.read(tmp_path / "out").trials
    assert SweepRecord.read(tmp_path / "out").reasons == {"breaks kept": 2}
    assert (first.broken, SweepRecord.read(tmp_path / "out").front) == (["kept"], [])
    assert (second.copy_of, second.scores) == (0, first.scores), "the same recipe is not measured again"


def test_two_workers_end_as_one_does(small_sweep, tmp_path):
    settings, told = small_sweep.settings(sampler={"name": "random"}), []
    for workers in (1, 2):
        run_sweep(settings, tmp_path / f"{workers}", 6, workers, small_sweep.folder, ended=told.append)
    one, two = (SweepRecord.read(tmp_path / name) for name in ("1", "2"))
    assert [trial.number for trial in told] == [*range(6), *range(6)], "each is told once, in order"
    assert [replace(trial, seconds=0.0) for trial in two.trials] == [
        replace(trial, seconds=0.0) for trial in one.trials
    ]
    assert {trial.state for trial in one.trials} == {"complete"}
    assert two.confirmed == one.confirmed
    assert len({str(trial.recipe) for trial in one.trials}) > 3, "control: the trials differ"


def test_a_recipe_that_two_workers_measure_at_once_is_recorded_once(small_sweep, tmp_path):
    edit = {"op": "Scale", "heads": ["1.1"], "factor": {"choice": [0.2, 0.8]}}
    settings = small_sweep.settings(sampler={"name": "random"}, recipe={"edits": [edit]})
    for workers in (1, 2):
        run_sweep(settings, tmp_path / f"{workers}", 6, workers, small_sweep.folder)
    one, two = (SweepRecord.read(tmp_path / name).trials for name in ("1", "2"))
    assert [replace(x, seconds=0.0) for x in two] == [replace(x, seconds=0.0) for x in one]
    assert len([trial for trial in one if trial.copy_of is not None]) == 4, "control"


def test_each_trial_is_told_as_it_ends_and_only_once(small_sweep, tmp_path):
    told, settings = [], small_sweep.settings(confirm={"points": 1, "draws": 0})
    options = {"folder": small_sweep.folder, "model": small_sweep.model, "ended": told.append}
    run_sweep(settings, tmp_path / "out", 3, **options)
    run_sweep(settings, tmp_path / "out", 4, **options)
    trials = SweepRecord.read(tmp_path / "out").trials
    assert sorted(trial.number for trial in told) == [trial.number for trial in trials] == [0, 1, 2, 3]
    figures = told[-1].figures
    assert (figures["trial"], figures["state"]) == (told[-1].number, "complete")
    assert figures["score/harm"] == pytest.approx(sum(told[-1].scores["harm"]) / len(told[-1].scores["harm"]))
    assert {f"param/{name}" for name in told[-1].params} <= figures.keys()
