"""Pairs of turns, and the layouts of rows that they are read from.

Each row is one pair, in one of four layouts. The column of the positive side decides which:

- `{"positive": "…", "negative": "…"}`, where positive shows (or triggers) the behaviour. A side may also be
  `{"prompt": "…", "answer": "…"}`, whose answer begins the model's reply.
- `{"prompt": "…", "chosen": "…", "rejected": "…"}`, preference pairs as TRL reads them; the chosen side is positive.
  Without a prompt, chosen and rejected are whole texts or conversations.
- `{"question": "…", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}`, the layout of
  contrastive activation addition (Rimsky et al. 2023) and of Anthropic's evals. The option's closing bracket is
  dropped, so that the last token is the letter.
- `{"prompt": "…", "correct": "(A)", "incorrect": "(B)"}`, right and wrong answers; the right one is positive.

The columns of the first layout may also be harmful and harmless, toxic and neutral, or unsafe and safe.

In the first two layouts a side, or TRL's prompt, may be a conversation, `[{"role": "user", "content": "…"}, …]`. The
assistant's last message is the answer, and the user's message before it is the prompt.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from interp.core.display import Displayed
from interp.core.errors import InterpError, nearest

_LAYOUTS = (
    ("positive", "negative"),
    ("answer_matching_behavior", "answer_not_matching_behavior", "question"),
    ("chosen", "rejected", "prompt"),
    ("correct", "incorrect", "prompt"),
    ("harmful", "harmless"),
    ("toxic", "neutral"),
    ("unsafe", "safe"),
)
Columns = Mapping[str, str] | Sequence[str]
GROUP = "group"


class Message(NamedTuple):
    """One message of a conversation: who speaks, and the text."""

    role: str
    content: str


@dataclass(frozen=True)
class Turn(Displayed):
    """A prompt and the beginning of its reply.

    Args:
        prompt: The user's text.
        answer: How the reply begins; it may be empty.
        before: Earlier messages of the conversation.

    Example:
        >>> from interp.data import Turn
        >>> Turn("Who bakes?", "The baker").before
        ()
    """

    prompt: str
    answer: str = ""
    before: tuple[Message, ...] = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation up to the prompt, without the answer, for a chat template."""
        return [message._asdict() for message in (*self.before, Message("user", self.prompt))]


@dataclass(frozen=True)
class TurnPair(Displayed):
    """One pair of a contrast.

    Args:
        positive: The side that shows the behaviour.
        negative: The side that does not.
        group: Name that near-duplicates share; a split never separates them.

    Example:
        >>> from interp.data import Turn, TurnPair
        >>> interp.Contrast((TurnPair(Turn("I hate you."), Turn("I like you."), group="you"),)).groups
        (0,)
    """

    positive: Turn
    negative: Turn
    group: str | None = None


def table_rows(table: Any, name: str) -> Iterable[Any]:
    """The rows of a mapping of columns or of a data frame, by column name; of anything else, its items."""
    if isinstance(table, Mapping):
        labels = list(table)
    elif hasattr(table, "columns"):  # pandas, polars
        labels = list(table.columns)
    elif isinstance(table, Iterable):
        return table
    else:
        raise InterpError(f"{name} is a {type(table).__name__}; expected pairs of texts, columns, a data frame or rows")
    columns = {str(label): [table[label]] if isinstance(table[label], str) else list(table[label]) for label in labels}
    if len({len(values) for values in columns.values()}) > 1:
        sizes = ", ".join(f"{label} {len(values)}" for label, values in columns.items())
        raise InterpError(f"{name}: columns of different lengths ({sizes}); cut them to one, or give one split")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def pair_of(row: Any, where: str, columns: Mapping[str, str] | None = None) -> TurnPair:
    """A pair from a row by column, from two texts, or from a pair."""
    if isinstance(row, TurnPair):
        return row
    if isinstance(row, Mapping):
        return read_pair(row, where, columns)
    values = tuple(row) if isinstance(row, Iterable) and not isinstance(row, str) else (row,)
    if len(values) != 2 or not all(isinstance(text, str) for text in values):
        shown = ", ".join(type(value).__name__ for value in values[:4]) + (", …" if len(values) > 4 else "")
        hint = "; zip(positives, negatives) makes pairs of two lists" if len(values) > 2 else ""
        raise InterpError(f"{where}: got ({shown}); expected two texts, (positive, negative){hint}")
    return TurnPair(Turn(values[0]), Turn(values[1]))


def read_pair(row: Mapping[str, Any], where: str, columns: Mapping[str, str] | None = None) -> TurnPair:
    """A pair from a row; `columns` maps a layout's keys to the row's own."""
    names = columns or {}
    row = {**row, **{name: _column(row, column, where) for name, column in names.items()}}
    if (layout := _layout(names) or _layout(row)) is None:
        sides = " or ".join(f"{positive} and {negative}" for positive, negative, *_ in _LAYOUTS)
        there = ", ".join(map(str, row)) or "none"
        named = f"columns={tuple(row)!r}, the positive side first" if len(row) == 2 else "columns=, the two names"
        raise InterpError(f"{where}: the columns are {there}; expected {sides}, or {named}")
    positive, negative, *_ = layout
    group = str(row[GROUP]) if GROUP in row else None
    read = {"answer_matching_behavior": _choice, "correct": _choice, "chosen": _preference}.get(positive, _side)
    return TurnPair(read(row, positive, where), read(row, negative, where), group)


def named_columns(columns: Columns | None) -> Mapping[str, str] | None:
    """A column mapping, also from two names. Raises unless it names both sides of one layout and no other keys."""
    if columns is None:
        return None
    if not isinstance(columns, Mapping):
        if isinstance(columns, str) or len(columns) != 2:
            raise InterpError(f"columns are {columns!r}; expected two names, of the positive and the negative side")
        return dict(zip(("positive", "negative"), columns, strict=True))
    layout = _layout(columns)
    known = {name for names in _LAYOUTS for name in names} | {GROUP}
    for name in columns:
        if name not in known:
            raise InterpError(f"unknown column {name!r}; {nearest(name, sorted(known))}")
        if layout and name not in (*layout, GROUP):
            raise InterpError(f"column {name!r} does not go with {layout[0]} and {layout[1]}; leave it out")
    if layout is None or layout[1] not in columns:
        sides = "; ".join(f"{positive} and {negative}" for positive, negative, *_ in _LAYOUTS)
        raise InterpError(f"columns name {', '.join(columns) or 'nothing'}; expected both sides: {sides}")
    return columns


def _layout(names: Mapping[str, Any]) -> tuple[str, ...] | None:
    return next((layout for layout in _LAYOUTS if layout[0] in names), None)


def _column(row: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in row:
        raise InterpError(f"{where}: no column {column!r}; {nearest(column, list(row))}")
    return row[column]


def _side(row: dict[str, Any], key: str, where: str) -> Turn:
    value = row.get(key)
    if isinstance(value, str):
        return Turn(value)
    if isinstance(value, list):
        return _last_turn(_messages(value, key, where), key, where)
    if isinstance(value, dict) and isinstance(value.get("prompt"), str) and isinstance(value.get("answer", ""), str):
        return Turn(value["prompt"], value.get("answer", ""))
    raise InterpError(f"{where}: {key!r} is {value!r}; expected a text, a prompt with its answer, or messages")


def _preference(row: dict[str, Any], key: str, where: str) -> Turn:
    prompt, reply = row.get("prompt"), row.get(key)
    if prompt is None:
        return _side(row, key, where)
    if isinstance(prompt, str) and isinstance(reply, str):
        return Turn(prompt, reply)
    before, after = (
        (Message(role, value),) if isinstance(value, str) else _messages(value, name, where)
        for name, role, value in (("prompt", "user", prompt), (key, "assistant", reply))
    )
    # Some data sets repeat the prompt in each side.
    return _last_turn(after if after[: len(before)] == before else before + after, key, where)


def _choice(row: dict[str, Any], key: str, where: str) -> Turn:
    prompt = "prompt" if "correct" in key else "question"
    for name in (prompt, key):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise InterpError(f"{where}: {name!r} is {row.get(name)!r}; expected a text, such as (A) for an answer")
    return Turn(row[prompt], row[key].strip().removesuffix(")"))


def _messages(value: Any, key: str, where: str) -> tuple[Message, ...]:
    messages = value if isinstance(value, list) else [value]
    for message in messages:
        fields = [message.get("role"), message.get("content")] if isinstance(message, dict) else [None]
        if not all(isinstance(field, str) and field.strip() for field in fields):
            raise InterpError(f"{where}: {key!r} has {message!r}; expected a message with role and content")
    return tuple(Message(message["role"], message["content"]) for message in messages)


def _last_turn(messages: tuple[Message, ...], key: str, where: str) -> Turn:
    answer = messages[-1].content if messages and messages[-1].role == "assistant" else ""
    earlier = messages[:-1] if answer else messages
    if not earlier or earlier[-1].role != "user":
        roles = ", ".join(message.role for message in messages) or "nothing"
        raise InterpError(
            f"{where}: {key!r} is a conversation of {roles}; expected a user's message last, or before the assistant's"
        )
    return Turn(earlier[-1].content, answer, earlier[:-1])
