"""Conversations as text: rendered with a chat template, with the places of the assistant's words.

An assistant's words are found by rendering the conversation once more with another text in their place: what differs is
theirs. So they are found under templates that rewrite or drop earlier thoughts, or that open a thought before a reply.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any

from interp.core.errors import InterpError
from interp.data.corpora import Conversation
from interp.models.chat_template import ChatTemplate, answer_of
from interp.models.tokens import RenderedText, common_length

Span = tuple[int, int]


def render_conversation(conversation: Conversation, tokenizer: Any) -> tuple[RenderedText, list[Span]]:
    """Render a conversation with a chat template and find the assistant's words in the text.

    Args:
        conversation: Messages `{"role": …, "content": …}`.
        tokenizer: A Hugging Face tokenizer with a chat template; or a model, for its template's variables and date.

    Returns:
        The text, and the characters [begin, end) of each assistant message's content, as far as the template keeps it:
        a thought that it drops or writes anew is not among them.

    Raises:
        InterpError: There is no chat template, or the template refuses the conversation, changes an assistant's words
            or leaves them out.

    Example:
        >>> from interp.data import render_conversation
        >>> messages = [{"role": "user", "content": "who bakes ?"}, {"role": "assistant", "content": "the baker ."}]
        >>> text, [(begin, end)] = render_conversation(messages, model.tokenizer)
        >>> text[begin:end]
        'the baker .'
    """
    template = ChatTemplate.of(tokenizer)
    text = template.render(conversation, reply=False)
    spoken = [turn for turn, message in enumerate(conversation) if message["role"] == "assistant"]
    return text, [_span(text, template, conversation, turn) for turn in spoken if conversation[turn]["content"].strip()]


def _span(text: str, template: ChatTemplate, conversation: Sequence[dict[str, str]], turn: int) -> Span:
    words = conversation[turn]["content"].strip()  # some templates strip the content
    other = next(letter for letter in map(chr, count(0xE000)) if letter not in text + words)
    for part in dict.fromkeys((words, (answer_of(words) or "").strip())):
        if part:
            head, _, tail = conversation[turn]["content"].rpartition(part)
            changed = {**conversation[turn], "content": head + other + tail}
            varied = template.render([*conversation[:turn], changed, *conversation[turn + 1 :]], reply=False)
            begin = common_length([text, varied])
            after = common_length([text[begin:][::-1], varied[begin:][::-1]])
            if text[begin : len(text) - after] == part:
                return begin, begin + len(part)
    raise InterpError(f"the chat template does not keep an assistant's words in place ({words[:40]!r}); use plain text")
