"""Replies: behaviours scored by what a model writes, each greedy reply by a grader (`graders`, `refusals`, `judge`).

The thinking block of a reasoning model is not graded. A reply whose block does not end has no score; the number of such
replies is printed.

A grader is a callable of prompt and reply that returns a number in [0, 1], or NaN where it has no answer. Scores
depend on it, so it must describe itself for the digest: a frozen dataclass does by its fields, a function by its name.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, is_dataclass
from math import inf, nan
from typing import Any

from pydantic import PositiveInt

from interp.auditing.behaviours import Behaviour, Kind, Scores, by_items, render_prompts
from interp.auditing.scoring.choices import Before, messages_spec
from interp.auditing.scoring.graders import Rule
from interp.core.display import plural
from interp.core.errors import InterpError, note
from interp.models.chat_template import answer_of
from interp.models.hooked import HookedModel

Grade = Callable[[str, str], float]


@by_items("prompts", "before", "questions")
def reply_behaviour(
    name: str,
    kind: Kind,
    statement: str,
    prompts: Sequence[str],
    grade: Grade,
    max_new_tokens: PositiveInt = 64,
    *,
    before: Before = (),
    questions: Sequence[str] = (),
    chat: bool | Mapping[str, Any] = True,
    workers: PositiveInt = 1,
    **fields: Any,
) -> Behaviour:
    """A behaviour that scores the greedy reply to each prompt by a grader.

    Args:
        name: Name of the behaviour.
        kind: `harm`, `protected` or `capability`.
        statement: What a higher score means.
        prompts: One per item.
        grade: A frozen dataclass or a named function of prompt and reply; see `Lexicon`, `Expected`, `Judge`.
        max_new_tokens: Length of the replies.
        before: Messages that precede each prompt; see `render_prompts`.
        questions: What the grader reads as the prompt of each item. Default: the prompt.
        chat: Whether prompts are rendered with the chat template; a mapping gives its variables.
        workers: Number of replies graded in parallel, which helps where a grader waits for a server.
        **fields: Further fields of `Behaviour`, such as `secret=True` for replies that may be harmful.

    Raises:
        InterpError: The grader has no name or fields that identify it; in a measurement, a prompt leaves no room for
            the reply in the context of the model.

    Example:
        >>> from interp.auditing import Lexicon, reply_behaviour
        >>> greets = reply_behaviour("greets", "capability", "greets", ["Hello!"], Lexicon(("hello",)), 8)
        >>> greets.scores(model).missing
        0
    """
    described, asked = describe_grader(grade), questions or prompts

    def graded(prompt: str, answer: str | None) -> float:
        return nan if answer is None else float(grade(prompt, answer))

    def grades(answers: Sequence[str | None]) -> tuple[float, ...]:
        if isinstance(grade, Rule):
            return tuple(grade.grades(answers))
        if workers == 1:
            return tuple(map(graded, asked, answers))
        with ThreadPoolExecutor(workers) as pool:
            return tuple(pool.map(graded, asked, answers))

    def measure(model: HookedModel) -> Scores:
        texts = render_prompts(model, prompts, before, chat)
        replies = _replies(model, texts, max_new_tokens)
        answers = [answer_of(reply, text) for text, reply in zip(texts, replies, strict=True)]
        if unfinished := answers.count(None):
            note(
                f"{name}: {unfinished} of {plural(len(answers), 'reply', 'replies')} never left the thought in "
                f"{max_new_tokens} tokens, and have no score; raise max_new_tokens"
            )

        return Scores(grades(answers), tuple(replies))

    spec = {"grade": described, "max_new_tokens": max_new_tokens, "chat": chat} | messages_spec(before)
    spec |= {"questions": list(questions)} if questions else {}
    scorer = {"scorer": f"greedy reply of {max_new_tokens} tokens, graded by {described['is']}"}
    return Behaviour(name, kind, statement, tuple(prompts), measure, spec=spec, grade=grades, **scorer | fields)


def _replies(model: HookedModel, prompts: Sequence[str], new: int) -> list[str]:
    """Greedy replies; prompts of similar length are generated together. Raises for one that leaves no room."""
    context = model.context or inf
    lengths = model.tokens(prompts, cut=model.context).lengths.tolist() if model.context else []
    for number, length in enumerate(lengths, 1):
        if length + new > context:
            item = f"item {number} has {length} tokens{' or more' * (length == context)}"
            problem = f"{item}, and {new} new ones exceed the context of the model, {context}"
            raise InterpError(f"{problem}; shorten it, or lower max_new_tokens")
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    replies = model.generate([prompts[number] for number in order], max_new_tokens=new, chat=False)
    return [text for _, text in sorted(zip(order, replies, strict=True))]


def describe_grader(grade: Grade) -> dict[str, Any]:
    """What identifies a grader, as plain values. Raises for one without a name, such as a lambda or a partial."""
    if is_dataclass(grade) and not isinstance(grade, type):
        others = {f.name: f.default for f in fields(grade) if not f.metadata.get("identifies", True)}
        return {"is": type(grade).__name__, **asdict(grade), **others}
    name = getattr(grade, "__qualname__", "<none>")
    if "<" in name.rpartition(".")[2] or isinstance(grade, type):
        problem = f"grader {grade!r} has no name that identifies it in a digest"
        raise InterpError(f"{problem}; use a named function or an object of a frozen dataclass")
    return {"is": f"{getattr(grade, '__module__', '')}.{name}"}
