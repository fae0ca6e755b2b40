"""Behaviours scored by what a model writes: greedy replies, each put to a grader; see `graders`, `refusals`, `judge`.

A grader is a callable of prompt and reply that gives a number in [0, 1], or NaN where it can't tell. It is part of what
a score depends on, so it must say what it is: a frozen dataclass does by its fields, a function by its name.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any

from interp.auditing.behaviours import Behaviour, Kind, Scores, render_prompts
from interp.auditing.scoring.choices import Before
from interp.core.errors import InterpError
from interp.models.hooked import HookedModel

Grade = Callable[[str, str], float]


def reply_behaviour(
    name: str,
    kind: Kind,
    statement: str,
    prompts: Sequence[str],
    grade: Grade,
    max_new_tokens: int = 64,
    *,
    before: Before = (),
    chat: bool = True,
    workers: int = 1,
    **fields: Any,
) -> Behaviour:
    """What `grade` says of each greedy reply. `workers` grade at once, which helps where grading waits for a server."""
    told = description(grade)

    def measure(model: HookedModel) -> Scores:
        said = replies(model, render_prompts(model, prompts, before, chat), max_new_tokens)
        if workers == 1:
            return Scores(tuple(map(float, map(grade, prompts, said))), tuple(said))
        with ThreadPoolExecutor(workers) as pool:
            return Scores(tuple(map(float, pool.map(grade, prompts, said))), tuple(said))

    spec: dict[str, Any] = {"grade": told, "max_new_tokens": max_new_tokens, "chat": chat}
    spec |= {"before": [[dict(message) for message in messages] for messages in before]} if any(before) else {}
    own = {"scorer": f"greedy reply of {max_new_tokens} tokens, graded by {told['is']}"}
    return Behaviour(name, kind, statement, tuple(prompts), measure, spec=spec, **own | fields)


def replies(model: HookedModel, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """Greedy replies, prompts of like length written to together. Raises for one that leaves them no room."""
    _require_room(model, prompts, max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    said = model.generate([prompts[number] for number in order], max_new_tokens=max_new_tokens)
    return [text for _, text in sorted(zip(order, said, strict=True))]


def _require_room(model: HookedModel, prompts: Sequence[str], new: int) -> None:
    """By the item's own number, before items are put in another order."""
    if model.context is None:
        return
    for number, length in enumerate(model.tokens(prompts, cut=model.context).lengths.tolist(), 1):
        if length + new > model.context:
            more = " or more" if length == model.context else ""
            raise InterpError(
                f"item {number} has {length} tokens{more}, and {new} new ones would pass the model's context of "
                f"{model.context}; shorten it, or lower max_new_tokens"
            )


def description(grade: Grade) -> dict[str, Any]:
    """What a grader is, as plain values. Raises for one that can't say, such as a lambda."""
    if isinstance(grade, partial):
        raise InterpError("a partial function does not say what it is; grade with a frozen dataclass, or a function")
    if is_dataclass(grade) and not isinstance(grade, type):
        return {"is": type(grade).__name__, **asdict(grade)}
    name = getattr(grade, "__qualname__", "<none>")
    if "<" in name.rpartition(".")[2]:
        raise InterpError(
            f"grader {grade!r} has no name by which a digest could tell it from another; use a function with a name, "
            "or a frozen dataclass"
        )
    return {"is": f"{getattr(grade, '__module__', '')}.{name}"}
