"""Rows that a method learns from, in TRL's layouts.

| method | row |
|---|---|
| `sft` | `{"prompt": …, "completion": …}`, `{"messages": […]}` or `{"text": …}` |
| `dpo` | `{"prompt": …, "chosen": …, "rejected": …}`; without `prompt`, two conversations |
| `kto` | `{"prompt": …, "completion": …, "label": true or false}` |

A prompt is the user's message, or a conversation. Further columns, such as a rater's name, are not read. Of a
conversation the assistant's last message is learned; of a text, every word.

Limitations: other turns of the assistant in a conversation are read but not learned.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from interp.core.display import brief
from interp.core.errors import InterpError
from interp.core.inputs import numbered_lines, parse_object
from interp.data import Contrast
from interp.data.corpora import documents
from interp.upkeep.tuning.options import Method

Data = str | Path | Iterable[Mapping[str, Any]]
Row = dict[str, Any]
_LAYOUTS: dict[Method, tuple[tuple[str, ...], ...]] = {
    "dpo": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "kto": (("prompt", "completion", "label"),),
    "sft": (("prompt", "completion"), ("messages",), ("text",)),
}


def training_rows(data: Data, method: Method, chat: bool = True) -> list[Row]:
    """Rows as TRL's trainer of a method reads them.

    Args:
        data: A JSONL file, or rows.
        method: The method that learns from them.
        chat: Whether the model has a chat template. Without one, prompts and replies are plain texts.

    Raises:
        InterpError: There are no rows, a row lacks columns of the method or has those of another, or it holds no words
            to learn; the line is named.

    Example:
        >>> from interp.upkeep import training_rows
        >>> training_rows([{"prompt": "hello", "completion": "Good day."}], "sft", chat=False)
        [{'prompt': 'hello', 'completion': 'Good day.'}]
    """
    rows = [_row(values, method, chat, place) for place, values in _placed(data)]
    if not rows:
        raise InterpError(f"{data if isinstance(data, str | Path) else 'the data'}: no rows; expected at least one")
    if other := next((number for number, row in enumerate(rows, 1) if set(row) != set(rows[0])), 0):
        raise InterpError(
            f"row {other} is {', '.join(rows[other - 1])}, the first {', '.join(rows[0])}; give one layout"
        )
    if method == "kto" and len({row["label"] for row in rows}) < 2:
        raise InterpError(f"every label is {rows[0]['label']}; kto needs replies that are wanted and some that are not")
    return rows


def _placed(data: Data) -> Iterator[tuple[str, Any]]:
    """Each row with its place."""
    if isinstance(data, str | Path):
        return ((place, parse_object(line, place)) for place, line in numbered_lines(data, "rows in JSONL"))
    return ((f"row {number}", row) for number, row in enumerate(data, 1))


def _row(values: Mapping[str, Any], method: Method, chat: bool, place: str) -> Row:
    fitting = {name: x for name, layouts in _LAYOUTS.items() for x in layouts[::-1] if set(x) <= set(values)}
    if (layout := fitting.get(method)) is None or next(iter(fitting)) != method:  # labels are not for sft to ignore
        expected = " or ".join(", ".join(names) for names in _LAYOUTS[method])
        hint = f"; these are rows for the method {next(iter(fitting))}" if fitting else ""
        raise InterpError(f"{place}: the columns are {', '.join(values) or 'none'}; {method} needs {expected}{hint}")
    try:
        if method == "dpo":
            return _preference({name: values[name] for name in layout}, chat)
        if layout == ("text",):
            return {"text": next(documents([values["text"]]))}
        *turns, reply = _turns([values[name] for name in layout if name != "label"])
        row = _replied(turns, {"completion": reply}, chat)
    except (InterpError, ValueError, TypeError) as problem:
        reason = re.sub("^(contrast, row 1|document 0)(, |: )", "", str(problem))
        raise InterpError(f"{place}: {reason}; expected texts, or conversations that end with the assistant") from None
    if method == "kto" and not isinstance(values["label"], bool):
        raise InterpError(f"{place}: label is {brief(values['label'])}; expected true or false")
    return row | ({"label": values["label"]} if method == "kto" else {})


def _turns(parts: list[Any]) -> list[Any]:
    """The conversation of messages, or of a prompt and its reply, each a text or messages."""
    sides = zip(("user", "assistant"), parts, strict=False)
    return [x for role, side in sides for x in ([{"role": role, "content": side}] if isinstance(side, str) else side)]


def _preference(values: Row, chat: bool) -> Row:
    """One prompt with two replies; a contrast reads TRL's layouts."""
    pair = Contrast.of([values]).pairs[0]
    if pair.positive.messages != pair.negative.messages:
        raise InterpError("two replies to different prompts")
    answers = {"chosen": pair.positive.answer, "rejected": pair.negative.answer}
    replies = {name: {"role": "assistant", "content": answer} for name, answer in answers.items()}
    return _replied(pair.positive.messages, replies, chat)


def _replied(turns: list[Any], replies: Mapping[str, Any], chat: bool) -> Row:
    """A prompt and its replies: conversations where the model has a chat template, else texts."""
    for reply in replies.values():
        turns = [*next(documents([[*turns, reply]]))][:-1]
        words = [turn["content"].strip() for turn in (*turns, reply)]
        if len(words) < 2 or reply["role"] != "assistant" or not all(words):
            raise InterpError("no reply to a prompt")
    if chat:
        return {"prompt": turns, **{name: [reply] for name, reply in replies.items()}}
    if len(turns) > 1:
        raise InterpError("a conversation, for which the model has no chat template")
    return {"prompt": turns[0]["content"], **{name: reply["content"] for name, reply in replies.items()}}
