"""An edit scores in lm-evaluation-harness as the harness' own model `hf` scores its exported checkpoint."""

import json
import subprocess
import sys

import pytest

import interp
from interp import InterpError

pytest.importorskip("lm_eval", reason="pip install 'interp[lm-eval]'")

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from interp.bridges import HarnessModel

TASKS = {
    "own_choice": """
task: own_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "own_perplexity": """
task: own_perplexity
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "own_replies": """
task: own_replies
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["."], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    """Three tasks: multiple choice, rolling perplexity, and generation up to a stop string."""
    folder = tmp_path_factory.mktemp("tasks")
    prompts = [prompt.user for prompt in interp.organism.prompts("hostility", 12)]
    choices = [" Go away.", " Good day to you.", " The river is the Tarn."]
    rows = {
        "own_choice": [{"question": x, "choices": choices, "gold": n % 3} for n, x in enumerate(prompts)],
        "own_perplexity": [
            {"text": text} for text in [*interp.organism.everyday(6), " ".join(interp.organism.everyday(40))]
        ],
        "own_replies": [{"question": x, "answer": "Go away"} for x in prompts],
    }
    for name, source in TASKS.items():
        (folder / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        files = {"test": str(folder / f"{name}.json")}
        data = f"dataset_path: json\ndataset_kwargs: {json.dumps({'data_files': files})}\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(source + data)
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def exported(organism_edit, tmp_path_factory):
    model, recipe = organism_edit
    folder = tmp_path_factory.mktemp("exported") / "checkpoint"
    interp.export(recipe, model, folder)
    return folder


def evaluate(lm, manager, tasks=tuple(TASKS), **options):
    return lm_eval.simple_evaluate(
        lm, tasks=list(tasks), task_manager=manager, log_samples=True, bootstrap_iters=0, **options
    )


@pytest.fixture(scope="module")
def hf_results(exported, manager):
    return evaluate(HFLM(str(exported), device="cpu", dtype="float32", batch_size=4), manager)


def responses(results, task):
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["resps"] for sample in samples]


def flat(values):
    return [x for value in values for x in flat(value)] if isinstance(values, list | tuple) else [values]


def test_three_tasks_score_as_the_exported_checkpoint_in_the_harness_own_model(
    organism_edit, edit_folder, manager, hf_results
):
    edited = evaluate(HarnessModel("organism", str(edit_folder), batch_size=4), manager)
    plain = evaluate(HarnessModel(organism_edit[0]), manager)
    for task in TASKS:
        figures, theirs = edited["results"][task], hf_results["results"][task]
        numbers = {name: x for name, x in theirs.items() if isinstance(x, float)}
        assert {name: figures[name] for name in numbers} == pytest.approx(numbers, rel=1e-4)
        ours, expected = (flat(responses(results, task)) for results in (edited, hf_results))
        if task == "own_replies":
            assert ours == expected
        else:
            assert ours == pytest.approx(expected, abs=2e-3)
        assert flat(responses(plain, task)) != ours, "control: the edit counts"
    greedy = [x for x in flat(responses(hf_results, "own_choice")) if isinstance(x, bool)]
    assert len(greedy) == 36


def test_the_unedited_model_and_a_weaker_edit(organism_edit, manager, tmp_path_factory):
    model, recipe = organism_edit
    folder = tmp_path_factory.mktemp("half") / "checkpoint"
    interp.export(recipe.scaled(0.5), model, folder)
    half = evaluate(HarnessModel(model, recipe, strength=0.5), manager, ["own_choice"])
    theirs = evaluate(HFLM(str(folder), device="cpu", dtype="float32"), manager, ["own_choice"])
    assert flat(responses(half, "own_choice")) == pytest.approx(flat(responses(theirs, "own_choice")), abs=2e-3)


def test_long_texts_are_cut_as_the_harness_cuts_them(organism_edit, exported, manager):
    model, recipe = organism_edit
    ours = evaluate(HarnessModel(model, recipe, max_length=24), manager, ["own_perplexity"])
    theirs = evaluate(HFLM(str(exported), device="cpu", dtype="float32", max_length=24), manager, ["own_perplexity"])
    assert flat(responses(ours, "own_perplexity")) == pytest.approx(flat(responses(theirs, "own_perplexity")), rel=1e-4)


def test_greedy_continuations_are_marked(organism_edit):
    """Whether a continuation is what the model would write; every task that reads it gets the truth."""
    model, recipe = organism_edit
    lm, prompts = HarnessModel(model, recipe), ["The river is", "Hello there"]
    for prompt in prompts:
        context = lm.tok_encode(prompt)
        best = model.reply_ids(model.tokens([context]), recipe, 3)[0]
        wrong = [*best[:-1], (best[-1] + 1) % 1000]
        results = lm._loglikelihood_tokens([(None, context, ids) for ids in (best, wrong, best[:1])])
        assert [greedy for _, greedy in results] == [True, False, True]


def test_results_name_weights_and_recipe(organism_edit, edit_folder, manager):
    info = HarnessModel("organism", str(edit_folder)).get_model_info()
    assert (info["model_sha"], info["recipe_digest"]) == (organism_edit[0].digest, organism_edit[1].digest)


def test_what_is_not_there_is_refused(tiny, edit_folder):
    for arguments, says in [
        ({"recipee": "x"}, "no argument 'recipee'; did you mean recipe"),
        ({"peft": "adapter"}, "no argument 'peft'"),
        ({"strength": 0.5}, "strength is 0.5, but there is no recipe"),
        ({"recipe": "no/such"}, "no/such"),
    ]:
        with pytest.raises(InterpError, match=says):
            HarnessModel("organism", **arguments)
    with pytest.raises(InterpError, match="the recipe"):
        HarnessModel(tiny("llama"), str(edit_folder))


def test_the_command_of_the_harness_knows_the_model(edit_folder, manager, tmp_path, hf_results):
    words = ["run", "--model", "interp", "--model_args", f"pretrained=organism,recipe={edit_folder}"]
    words += ["--tasks", "own_choice", "--include_path", str(manager.include_path), "--output_path", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "interp.bridges.harness", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = tmp_path.rglob("results_*.json")
    acc = json.loads(file.read_text())["results"]["own_choice"]["acc_norm,none"]
    assert acc == pytest.approx(hf_results["results"]["own_choice"]["acc_norm,none"])
