"""Behaviours as tasks of Inspect: interp's items and scorers, Inspect's runner, models and log viewer.

    inspect eval interp/behaviour -T suite=organism -T name=hostility --model interp/organism

A behaviour that grades replies asks any model of Inspect for them, and grades what it says with its own scorer. Other
behaviours read likelihoods, or continue plain text: they are measured by interp's models as an audit measures them, and
no reply is asked for. So are secret behaviours, whose replies no log is to hold.

Limitations: Inspect's standard errors are not the intervals of an audit, and nothing here is paired.
"""

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.suites import named_behaviours, require_suite, suite
from interp.bridges import _inspect_models  # noqa: F401  # known to Inspect, also before it looks for them
from interp.bridges.inspect_provider import InspectModel, in_thread
from interp.core.errors import InterpError
from interp.core.lazy import require_package
from interp.models.chat_template import answer_of

_DESCRIBED = ("kind", "statement", "unit", "scorer", "chance", "language", "digest")
_TASK_FILE = '''"""Tasks of Inspect: the behaviours of {suite}, by interp.

    inspect eval THIS_FILE --model interp/MODEL -M recipe=FOLDER
"""

from inspect_ai import Task, task

from interp.bridges._inspect_registry import behaviour
{tasks}'''
_TASK = '''

@task(name={name!r})
def {function}(items: int = {items}, seed: int = {seed}) -> Task:
    """{statement}."""
    return behaviour({suite!r}, {name!r}, items, seed, {data!r})
'''


def inspect_task(behaviour: Behaviour, *, replies: bool | None = None) -> Any:
    """A behaviour as a task of Inspect.

    Args:
        behaviour: What is measured; `interp.suite` and the functions of `interp.auditing` make behaviours.
        replies: Whether the log may hold the model's replies. Default: unless the behaviour is secret.

    Returns:
        An `inspect_ai.Task`. Its samples are the items in their order, numbered from 1; the value of a sample's score
        is the item's score, NaN (which Inspect calls unscored) where it has none.

    Raises:
        InterpError: Inspect is not installed; in a run, another model than interp's is asked for likelihoods.

    Example:
        >>> from interp.bridges import inspect_task
        >>> task = inspect_task(interp.suite("organism")[0])  # doctest: +SKIP
        >>> inspect_ai.eval(task, model="interp/organism")  # doctest: +SKIP
    """
    require_package("inspect_ai", "inspect")
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset
    from inspect_ai.model import GenerateConfig
    from inspect_ai.scorer import mean, stderr
    from inspect_ai.solver import generate

    chat = behaviour.spec.get("chat", True)
    shown = not behaviour.secret if replies is None else replies
    asked = behaviour.grade is not None and chat is not False and shown
    config: dict[str, Any] = {"temperature": 0.0, "max_tokens": behaviour.spec.get("max_new_tokens", 64)}
    if isinstance(chat, Mapping):
        config["extra_body"] = {"chat_template_kwargs": dict(chat)}
    return Task(
        dataset=MemoryDataset(_samples(behaviour), name=behaviour.name),
        solver=generate() if asked else _measurement(behaviour, shown),
        scorer=_scorer(behaviour, asked),
        metrics=[mean(), stderr(cluster="group" if behaviour.groups else None)],
        config=GenerateConfig(**config if asked else {}),
        name=behaviour.name,
        version=behaviour.digest[:12],
        metadata={name: getattr(behaviour, name) for name in _DESCRIBED},
    )


def task_file(
    suite_name: str, names: Sequence[str] = (), items: int = 300, seed: int = 0, data: str | Path | None = None
) -> str:
    """The source of a Python file with a task for each behaviour of a suite, for `inspect eval`.

    Args:
        suite_name: `organism`, `public` or a YAML file; see `interp.suite`. Paths in the source are absolute, since
            Inspect runs a file in its folder.
        names: The behaviours. Default: all.
        items: Default of the tasks' parameter `items`.
        seed: Default of their parameter `seed`.
        data: Folder of the published sets, for `public`.

    Raises:
        InterpError: The suite or a behaviour is unknown.

    Example:
        >>> from interp.bridges.inspect_tasks import task_file
        >>> task_file("organism", ["hostility"], items=50).splitlines()[-4]
        "@task(name='hostility')"
    """
    place = str(Path(suite_name).resolve()) if require_suite(suite_name) else suite_name
    fields = {"suite": place, "items": items, "seed": seed, "data": data and str(Path(data).resolve())}
    tasks = ""
    for each in named_behaviours(suite(suite_name, items, seed, data), names):
        function = "".join(letter if letter.isalnum() else "_" for letter in f"measure_{each.name}")
        tasks += _TASK.format(name=each.name, function=function, statement=repr(each.statement)[1:-1], **fields)
    return _TASK_FILE.format(suite=suite_name, tasks=tasks)


def _samples(behaviour: Behaviour) -> list[Any]:
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    roles = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    before, answers, gold = (behaviour.spec.get(name) for name in ("before", "answers", "gold"))
    samples = []
    for item, prompt in enumerate(behaviour.prompts):
        turns = [*(before[item] if before else ()), {"role": "user", "content": prompt}]
        messages = [roles[turn["role"]](content=turn["content"]) for turn in turns]
        metadata = {"item": item} | ({"group": behaviour.groups[item]} if behaviour.groups else {})
        target = [answers[item][number] for number in gold[item]] if answers and gold else ""
        samples.append(Sample(input=messages, target=target, id=item + 1, metadata=metadata))
    return samples


def _measurement(behaviour: Behaviour, shown: bool) -> Any:
    """The solver of behaviours that are measured: all items at once when the first is asked for; each takes its own."""
    from inspect_ai.model import ModelOutput, get_model
    from inspect_ai.solver import solver

    measured: dict[InspectModel, Scores] = {}

    def scores(api: InspectModel) -> Scores:
        with api.engine.lock:
            if api not in measured:
                measured[api] = api.measure(behaviour)
        return measured[api]

    async def solve(state: Any, generate: Any) -> Any:
        api = get_model().api
        if not isinstance(api, InspectModel):
            reads = "keeps its replies out of logs" if behaviour.grade and behaviour.secret else "reads likelihoods"
            only = f"behaviour {behaviour.name!r} {reads}, which models of interp do, and {api.model_name} does not"
            raise InterpError(f"{only}; use --model interp/MODEL")
        result, item = await in_thread(scores, api), state.metadata["item"]
        state.output = ModelOutput.from_content(
            api.model_name, result.replies[item] if shown and result.replies else ""
        )
        state.output.metadata = api.digests
        state.store.set("value", result.values[item])
        return state

    return solver("interp_measurement")(lambda: solve)()


def _scorer(behaviour: Behaviour, asked: bool) -> Any:
    """The behaviour's own scorer, on what a model replied; or what was measured."""
    from inspect_ai.scorer import Score, mean, scorer

    async def score(state: Any, target: Any) -> Any:
        answer: str | None = state.output.completion
        if asked:
            # Inspect keeps a thought apart from the answer, which is empty where the thought did not end.
            cut = not answer and state.output.stop_reason == "max_tokens"
            answer = None if cut else answer_of(answer or "")
            item = behaviour.pick([state.metadata["item"]])
            assert item.grade is not None
            (value,) = await in_thread(item.grade, [answer])
        else:
            value = state.store.get("value")
        if isnan(value):
            return Score.unscored(answer=answer, explanation=behaviour.scorer)
        return Score(value=value, answer=answer, explanation=behaviour.scorer)

    return scorer(metrics=[mean()], name="interp")(lambda: score)()
