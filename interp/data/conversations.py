"""Conversations as text: rendered with a tokenizer's chat template, and where the assistant's words stand in it."""

import re
from typing import Any

from interp.core.errors import InterpError
from interp.data.corpora import Conversation

Span = tuple[int, int]


def render_conversation(conversation: Conversation, tokenizer: Any) -> tuple[str, list[Span]]:
    """The text of a conversation, and the characters [begin, end) of each assistant message's content.

    Raises for a tokenizer without a chat template, and for a template that changes what an assistant said or rewrites
    what came before it, so that its words can't be found.
    """
    if tokenizer is None or tokenizer.chat_template is None:
        raise InterpError(
            "this model's tokenizer has no chat template, so it can't read conversations; give plain text"
        )
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        spans = [
            _said(
                text,
                tokenizer.apply_chat_template(conversation[:turn], tokenize=False, add_generation_prompt=True),
                message,
            )
            for turn, message in enumerate(conversation)
            if message["role"] == "assistant" and message["content"].strip()
        ]
    except InterpError:
        raise
    except Exception as problem:  # templates refuse by raising, each in its way
        raise InterpError(
            f"the chat template refuses a conversation ({problem}); mend it, or give plain text"
        ) from None
    return text, spans


def _said(text: str, before: str, message: dict[str, str]) -> Span:
    words = message["content"].strip()  # templates strip, or don't
    begin = text.find(words, len(before)) if text.startswith(before) else -1
    # Between a turn's opening and its words there is nothing, or a thought that the template left empty.
    if begin < 0 or not re.fullmatch(r"\s*(<think>\s*</think>\s*)?", text[len(before) : begin]):
        raise InterpError(
            f"the chat template does not keep an assistant's words in place ({words[:40]!r}); give plain text instead"
        )
    return begin, begin + len(words)
