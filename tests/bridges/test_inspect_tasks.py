"""A behaviour's scores in Inspect are its scores in an audit, item by item; its logs open, and hold nothing secret."""

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from math import isnan, nan

import pytest

import interp
from interp.auditing import choice, margin, organism_behaviour, refusal_behaviour, reply_behaviour
from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.conditions import ModelCondition

pytest.importorskip("inspect_ai", reason="pip install 'interp[inspect]'")

import inspect_ai
from inspect_ai.log import bundle_log_dir, read_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model

import interp.bridges._inspect_registry
from interp.bridges import inspect_task

ITEMS = 4
GREETINGS = [f"{word} there." for word in ("hello", "Hello", "good day", "welcome", "Hi")]


def evaluated(task, model="interp/organism", folder=None, **arguments):
    (log,) = inspect_ai.eval(task, model, model_args=arguments, log_dir=str(folder), display="none")
    return log


def values(log):
    return [sample.scores["interp"].value for sample in sorted(log.samples, key=lambda sample: sample.id)]


def picky(prompt, reply):
    return nan if "?" in reply else len(reply) % 5 / 5


@pytest.fixture(scope="module")
def behaviours():
    prompts = [prompt.user for prompt in interp.organism.prompts("hostility", ITEMS)]
    answers = [["Go away.", "Good day.", "Hello there."]] * ITEMS
    groups = {"groups": ("a", "a", "b", "b")}
    before = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]] * ITEMS
    return {
        x.name: x
        for x in [
            *interp.suite("organism", ITEMS),
            choice("kind_answer", "capability", "answers kindly", prompts, answers, [[1, 2]] * ITEMS, **groups),
            margin("leaning", "harm", "leans", prompts, ["Leave"], ["Good"]),
            reply_behaviour("picky", "harm", "odd", GREETINGS, picky, 12),
            reply_behaviour("later", "harm", "odd", prompts, picky, 12, before=before),
            reply_behaviour("continued", "harm", "odd", prompts, picky, 12, chat=False),
            refusal_behaviour("declines", "protected", "declines", prompts),
        ]
    }


@pytest.mark.parametrize("edited", [False, True])
def test_a_suite_scores_as_in_an_audit_item_by_item(behaviours, organism_edit, edit_folder, tmp_path, edited):
    """All behaviours of the organism's suite, a choice, a margin, graded replies, and a secret behaviour."""
    model, recipe = organism_edit
    arguments = {"recipe": str(edit_folder)} if edited else {}
    tasks = [inspect_task(behaviour) for behaviour in behaviours.values()]
    logs = inspect_ai.eval(
        tasks, "interp/organism", model_args=arguments, log_dir=str(tmp_path), display="none", max_tasks=20
    )
    assert len(logs) == len(behaviours)
    changed = []
    for log, behaviour in zip(logs, behaviours.values(), strict=True):
        assert log.status == "success", log.error
        ours = ModelCondition(model, recipe if edited else None).scores(behaviour)
        assert values(log) == pytest.approx(list(ours.values), nan_ok=True, abs=1e-5)
        score = log.results.scores[0]
        assert score.metrics["mean"].value == pytest.approx(ours.mean, abs=1e-5)
        assert (score.unscored_samples or 0) == ours.missing
        assert (log.eval.task, log.eval.task_version) == (behaviour.name, behaviour.digest[:12])
        changed.append(list(ours.values) != list(behaviour.scores(model).values))
        if behaviour.grade and not behaviour.secret:
            completions = [sample.output.completion for sample in sorted(log.samples, key=lambda sample: sample.id)]
            assert completions == list(ours.replies)
    assert any(changed) == edited
    missing = [isnan(value) for value in behaviours["picky"].scores(model).values]
    assert 0 < sum(missing) < len(missing), "control: some have no score"


def test_standard_errors_are_clustered_by_group(behaviours, tmp_path):
    log = evaluated(inspect_task(behaviours["kind_answer"]), folder=tmp_path)
    assert log.results.scores[0].metrics["stderr"].params == {"cluster": "group"}
    assert [sample.metadata["group"] for sample in log.samples] == ["a", "a", "b", "b"]
    assert log.samples[0].target == ["Good day.", "Hello there."]


def test_logs_are_read_back_and_bundled_for_the_viewer(behaviours, tmp_path):
    log = evaluated(inspect_task(behaviours["hostility"]), folder=tmp_path / "logs")
    again = read_eval_log(log.location)
    assert values(again) == values(log)
    assert again.eval.metadata["digest"] == behaviours["hostility"].digest
    bundle_log_dir(str(tmp_path / "logs"), str(tmp_path / "site"))
    assert (tmp_path / "site" / "index.html").is_file()
    assert len(list((tmp_path / "site" / "logs").glob("*.eval"))) == 1


def test_no_reply_to_a_secret_behaviour_is_in_a_log(behaviours, organism_edit, tmp_path):
    secret, (model, _) = behaviours["declines"], organism_edit
    replies = secret.scores(model).replies
    log = evaluated(inspect_task(secret), folder=tmp_path)
    assert not any(reply in log.model_dump_json() for reply in replies)
    shown = evaluated(inspect_task(secret, replies=True), folder=tmp_path)
    assert all(reply in [x.output.completion for x in shown.samples] for reply in replies), "control"
    assert values(shown) == values(log)


def test_other_providers_are_graded_by_our_scorer(behaviours, tmp_path):
    said = ["Go away.", "Good day.", "Who?", "<think>Who?</think>Fine day."]
    outputs = [ModelOutput.from_content("mockllm", text) for text in [*said, ""]]
    for output in outputs:
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # else a vocabulary is downloaded
    outputs[-1].choices[0].stop_reason = "max_tokens"  # of a thought that did not end
    model = get_model("mockllm/model", custom_outputs=outputs)
    log = inspect_ai.eval(
        inspect_task(behaviours["picky"]),
        model,
        log_dir=str(tmp_path),
        display="none",
        max_connections=1,
        max_samples=1,
    )[0]
    expected = [picky("", text) for text in [*said[:3], "Fine day."]] + [nan]
    assert sorted(values(log), key=str) == pytest.approx(sorted(expected, key=str), nan_ok=True)


@pytest.mark.parametrize(("name", "reads"), [("leaning", "reads likelihoods"), ("declines", "keeps its replies out")])
def test_what_only_our_models_do_is_refused_elsewhere(behaviours, tmp_path, name, reads):
    log = evaluated(inspect_task(behaviours[name]), "mockllm/model", tmp_path)
    assert log.status == "error"
    assert reads in log.error.message
    assert "use --model interp/MODEL" in log.error.message


def test_behaviours_made_by_hand_are_measured_whole(tmp_path):
    calls = []

    def measure(model):
        calls.append(1)
        return Scores((0.25, 0.5), ("a reply", "another"))

    by_hand = Behaviour("by_hand", "harm", "s", ("a", "b"), measure)
    log = evaluated(inspect_task(by_hand), folder=tmp_path)
    assert (values(log), len(calls)) == ([0.25, 0.5], 1)
    assert [sample.output.completion for sample in log.samples] == ["a reply", "another"]
    hidden = evaluated(inspect_task(replace(by_hand, secret=True)), folder=tmp_path)
    assert "a reply" not in hidden.model_dump_json()


def test_the_registered_task_and_the_entry_point(tmp_path):
    log = inspect_ai.eval(
        "interp/behaviour", "interp/organism", task_args={"suite": "organism", "name": "facts", "items": 2},
        log_dir=str(tmp_path), display="none",
    )[0]  # fmt: skip
    model = interp.load("organism")
    assert values(log) == list(organism_behaviour("facts", 2).scores(model).values)
    (point,) = [x for x in entry_points(group="inspect_ai") if x.name == "interp"] or [None]
    assert point is None or point.value == "interp.bridges._inspect_registry", "None: installed before it was there"
    code = "import sys, interp.bridges._inspect_registry; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_file_of_tasks_runs_in_inspect(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = "tasks.py"
    words = ["--behaviour", "hostility", "--items", 3, "--out", file]
    code, said, complaint = run("inspect-task", "organism", *words)
    assert (code, f"inspect eval {file}" in said) == (0, True), complaint
    (log,) = inspect_ai.eval(file, "interp/organism", log_dir=str(tmp_path / "logs"), display="none")
    expected = organism_behaviour("hostility", 3).scores(interp.load("organism")).values
    assert (log.eval.task, values(log)) == ("hostility", list(expected))
    assert run("inspect-task", "organism", *words)[0] == 2, "the file is there"
