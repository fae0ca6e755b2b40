"""Conversations as text: rendered with a chat template, with the places of the assistant's words."""

import re
from typing import Any, Literal

from interp.core.errors import InterpError
from interp.data.corpora import Conversation
from interp.models.tokens import RenderedText

Span = tuple[int, int]
Keep = Literal["all", "inner", "assistant"]  # which tokens of a document


def render_conversation(conversation: Conversation, tokenizer: Any) -> tuple[RenderedText, list[Span]]:
    """Render a conversation with a chat template and find the assistant's words in the text.

    Args:
        conversation: Messages `{"role": …, "content": …}`.
        tokenizer: A Hugging Face tokenizer with a chat template.

    Returns:
        The text, and the characters [begin, end) of each assistant message's content.

    Raises:
        InterpError: There is no chat template, or the template refuses the conversation, changes an assistant's words
            or rewrites the text before them, so that they cannot be found.

    Example:
        >>> from interp.data import render_conversation
        >>> messages = [{"role": "user", "content": "who bakes ?"}, {"role": "assistant", "content": "the baker ."}]
        >>> text, [(begin, end)] = render_conversation(messages, model.tokenizer)
        >>> text[begin:end]
        'the baker .'
    """
    if tokenizer is None or tokenizer.chat_template is None:
        raise InterpError("the model's tokenizer has no chat template, so it can't read conversations; give plain text")
    try:
        text = RenderedText(tokenizer.apply_chat_template(conversation, tokenize=False))
        spans = [
            _span(
                text,
                tokenizer.apply_chat_template(conversation[:turn], tokenize=False, add_generation_prompt=True),
                message,
            )
            for turn, message in enumerate(conversation)
            if message["role"] == "assistant" and message["content"].strip()
        ]
    except InterpError:
        raise
    except Exception as problem:  # templates raise exceptions of any type
        raise InterpError(
            f"the chat template refuses a conversation ({problem}); correct the conversation, or give plain text"
        ) from None
    return text, spans


def _span(text: str, before: str, message: dict[str, str]) -> Span:
    words = message["content"].strip()  # some templates strip the content
    begin = text.find(words, len(before)) if text.startswith(before) else -1
    # Between the start of the turn and its words there is nothing, or a thought that the template left empty.
    if begin < 0 or not re.fullmatch(r"\s*(<think>\s*</think>\s*)?", text[len(before) : begin]):
        raise InterpError(
            f"the chat template does not keep an assistant's words in place ({words[:40]!r}); give plain text instead"
        )
    return begin, begin + len(words)
