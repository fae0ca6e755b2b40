"""Chat templates: conversations as the text that a model was trained on, and the marks of turns and thoughts in it.

A template that prints today's date prints `date` instead, so that prompts, and the scores measured on them, do not
change overnight. Templates of reasoning models take variables such as `enable_thinking`.

Limitations: a tokenizer that renders conversations in its own Python code may read the clock. Thinking blocks are
recognised by the marks of common models (`<think>`, `[THINK]`, `<seed:think>`, those of Cohere and gpt-oss).
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Self
from unittest.mock import patch

from transformers.utils import chat_template_utils

from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.core.inputs import bounded_call
from interp.models.tokens import Beginning, RenderedText, text_beginning

DATE = "2025-01-01"
Messages = Sequence[Mapping[str, Any]]

_SEPARATORS = ("<|endoftext|>", "<|end_of_text|>")  # of GPT-2, and of models after Llama 3

_NAMES = r"(?:seed:)?(?:think(?:ing)?|thought|reasoning)"
_OPEN = rf"(?:<{_NAMES}>|\[THINK\]|<\|START_THINKING\|>|<\|channel\|>analysis<\|message\|>)"
_CLOSE = rf"(?:</{_NAMES}>|\[/THINK\]|<\|END_THINKING\|>|<\|channel\|>final<\|message\|>)"
_MARK = re.compile(rf"{_OPEN}|{_CLOSE}|<\|channel\|>|<\|message\|>")


@dataclass(frozen=True)
class ChatTemplate(Displayed):
    """A tokenizer's chat template with the values of its variables.

    Args:
        tokenizer: The tokenizer.
        variables: Variables of the template, such as `enable_thinking`.
        date: What the template prints for today, YYYY-MM-DD.

    Example:
        >>> model.template.render([{"role": "user", "content": "hello there."}])
        '<|bos|><|user|>hello there.<|end|><|assistant|>'
    """

    tokenizer: Any
    variables: Mapping[str, Any] = field(default_factory=dict)
    date: str = DATE

    def __post_init__(self) -> None:
        try:
            valid = datetime.fromisoformat(self.date).date().isoformat() == self.date
        except ValueError:
            valid = False
        if not valid:
            raise InterpError(f"date is {self.date!r}; expected a day as YYYY-MM-DD, such as {DATE}")

    @classmethod
    def of(cls, source: Any) -> "ChatTemplate":
        """The template of a model, or of a tokenizer; a template is its own."""
        return source if isinstance(source, cls) else getattr(source, "template", None) or cls(source)

    @property
    def prints_date(self) -> bool:
        """Whether the template asks for today's date."""
        return "strftime_now" in str(getattr(self.tokenizer, "chat_template", None))

    def render(self, messages: Messages, reply: bool = True) -> RenderedText:
        """A conversation as text; with `reply`, ready for the model's reply.

        Raises:
            InterpError: There is no template, it refuses the conversation, or it has no variable of a given name.
        """
        if self.tokenizer is None or not self.tokenizer.chat_template:
            raise InterpError("this model's tokenizer has no chat template; pass plain text instead")
        self.require_variables()
        special = str(getattr(self.tokenizer, "special_tokens_map", None))
        key = type(self.tokenizer), str(self.tokenizer.chat_template), special, self.date, repr(self.variables)
        try:
            return RenderedText(bounded_call(key, self._rendered, list(messages), reply))
        except Exception as problem:  # templates raise exceptions of any type
            roles = ", ".join(str(turn.get("role")) for turn in messages)
            refused = f"the chat template refuses a conversation of {roles} ({problem})"
            raise InterpError(f"{refused}; leave out roles that it does not support, or give plain text") from None

    def _rendered(self, messages: Messages, reply: bool) -> str:
        options = {"tokenize": False, "add_generation_prompt": reply, **self.variables}
        with self.on_date():
            return str(self.tokenizer.apply_chat_template(messages, **options))

    @contextmanager
    def on_date(self) -> Iterator[None]:
        """Have templates that other code renders in the block print the date, too; one block at a time."""
        day = datetime.fromisoformat(self.date)
        clock = type("StoppedClock", (datetime,), {"now": staticmethod(lambda *_: day)})
        with patch.object(chat_template_utils, "datetime", clock):  # which transformers' templates read
            yield

    def attempt(self, messages: Messages, reply: bool = False) -> str:
        """A conversation as text; empty where the template refuses it."""
        try:
            return self.render(messages, reply)
        except InterpError:
            return ""

    @property
    def ends(self) -> list[int]:
        """The special tokens that end an assistant's turn: the first behind its words, also where it opens the next."""
        words, later, ends = "\ue000", "\ue001", list[int]()
        for role in ("", "user", "tool"):
            turns = [("user", "a"), ("assistant", words), *[(role, later)] * bool(role)]
            text = self.attempt([{"role": role, "content": content} for role, content in turns])
            _, found, after = text.rpartition(words)
            ids = self.tokenizer(after.partition(later)[0], add_special_tokens=False)["input_ids"] if found else []
            added = self.tokenizer.added_tokens_decoder if found else {}  # which may have runs of spaces, too
            ends += [token for token in ids if str(added.get(token, "")).strip()][:1]
        return list(dict.fromkeys(ends))

    def require_variables(self) -> None:
        """Raise for a variable that the template does not read."""
        written = str(self.tokenizer.chat_template)
        for name in self.variables:
            if not re.search(rf"\b{re.escape(name)}\b", written) or name in ("messages", "add_generation_prompt"):
                raise InterpError(f"this chat template has no variable {name!r}; give one that it reads, or none")


def document_beginning(template: ChatTemplate) -> list[int]:
    """What began a document in pretraining: what the tokenizer puts before texts, or else the document separator.

    The separator is known by its name in the vocabulary, since a chat model's BOS may be a mark of turns, such as
    SmolLM2's `<|im_start|>`; or else it is the BOS, unless it occurs in every turn. Empty where there is neither.
    """
    tokenizer = template.tokenizer
    if before := text_beginning(tokenizer):
        return before
    special = {text: token for token, text in special_tokens(tokenizer).items()}
    bos = tokenizer.bos_token
    turns = template.attempt([{"role": role, "content": "a"} for role in ("user", "assistant", "user")], reply=True)
    names = _SEPARATORS if bos is None or turns.count(bos) > 1 else (*_SEPARATORS, bos)
    return [special[name] for name in names if name in special][:1]


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The text of each special token, by its id."""
    named = {tokenizer.convert_tokens_to_ids(text): text for text in tokenizer.all_special_tokens}
    return named | {token: str(text) for token, text in tokenizer.added_tokens_decoder.items() if text.special}


def answer_of(reply: str, prompt: str = "") -> str | None:
    """What a reply says outside its thinking block; None where the block does not end.

    Args:
        reply: The reply.
        prompt: The prompt; a template can open the thinking block at its end.

    Example:
        >>> from interp.models.chat_template import answer_of
        >>> answer_of("<think>Hm.</think>Yes."), answer_of("Hm.</think>Yes."), answer_of("Hm", "<think>")
        ('Yes.', 'Yes.', None)
    """
    opened = re.search(rf"{_OPEN}\s*$", prompt)
    answer = re.sub(rf"{_OPEN}.*?{_CLOSE}", "", (opened[0] if opened else "") + reply, flags=re.DOTALL)
    answer = re.split(_CLOSE, answer)[-1]
    if re.search(_OPEN, answer):
        return None
    return answer if len(answer) == len(reply) else answer.strip()


def thought_of(reply: str, prompt: str = "") -> str:
    """What a reply says in its thinking block, without the block's marks; empty where there is none.

    Args:
        reply: The reply.
        prompt: The prompt; a template can open the thinking block at its end.

    Example:
        >>> from interp.models.chat_template import thought_of
        >>> thought_of("<think>Hm.</think>Yes."), thought_of("Hm", "<think>"), thought_of("Yes.")
        ('Hm.', 'Hm', '')
    """
    answer = answer_of(reply, prompt) or ""
    return _MARK.sub("", reply[: reply.rfind(answer)] if answer else reply).strip()


def reply_texts(replies: Sequence[Sequence[int]], tokenizer: Any, ends: Collection[int]) -> list[str]:
    """Replies as text, each up to its end, without special tokens other than those that mark a thought."""
    dropped = {token for token, text in special_tokens(tokenizer).items() if not _MARK.fullmatch(text)}
    texts = []
    for ids in replies:
        stop = next((n for n, token in enumerate(ids) if token in ends), len(ids))
        kept = [token for token in ids[:stop] if token not in dropped]
        texts.append(tokenizer.decode(kept, clean_up_tokenization_spaces=False))
    return texts


def _replied(template: ChatTemplate, turns: Messages, answer: str) -> str:
    return template.render([*turns, {"role": "assistant", "content": answer}], reply=False)


class PromptedModel:
    """Prompts of a model as text: the base of `HookedModel` that renders them.

    Attributes:
        tokenizer: The tokenizer, or None.
        template_variables: Variables of the chat template, for every conversation.
        date: What the chat template prints for today's date.
    """

    tokenizer: Any
    template_variables: dict[str, Any]
    date = DATE
    _instruction = ""

    @property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template, with the model's `template_variables` and `date`."""
        return ChatTemplate(self.tokenizer, self.template_variables, self.date)

    def chat(self, messages: str | Sequence[dict[str, str]], **variables: Any) -> RenderedText:
        """Render a conversation with the tokenizer's chat template, ready for the model's reply.

        Args:
            messages: One user message as text, or a list of `{"role": …, "content": …}`.
            variables: Variables of the template, such as `enable_thinking=False`, over those of `load`.

        Returns:
            The text, as `RenderedText`: `tokens` encodes it without further special tokens.

        Raises:
            InterpError: The tokenizer has no chat template, a message is empty, or the template refuses a role.

        Example:
            >>> model.chat("hello there.")
            '<|bos|><|user|>hello there.<|end|><|assistant|>'
        """
        template = replace(self.template, variables={**self.template_variables, **variables})
        turns: Messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        if not turns or not all(turn.get("content") for turn in turns):
            raise InterpError("an empty message has nothing to reply to; expected text in each turn")
        if self._instruction:
            turns = _instructed(turns, template, self._instruction)
        return RenderedText(template.render(turns), partial(_replied, template, turns))

    def render(self, prompt: str, chat: bool | Mapping[str, Any] = True) -> str:
        """A prompt as the model expects it: a user message if the tokenizer has a chat template, else plain text.

        Args:
            prompt: The text. One that `chat` has rendered stays as it is.
            chat: Use the chat template if there is one; a mapping gives its variables, as in `chat`.

        Returns:
            The text to tokenise. The instruction of an open `instructed` block comes first.

        Raises:
            InterpError: The prompt is rendered already, so that an instruction cannot be put into it.

        Example:
            >>> model.render("hello there.", chat=False)
            'hello there.'
        """
        if isinstance(prompt, RenderedText):
            if self._instruction:
                raise InterpError("an instruction can't be put into a prompt that is rendered; pass the user's text")
            return prompt
        if chat is not False and self.tokenizer is not None and self.tokenizer.chat_template:
            return self.chat(prompt, **(chat if isinstance(chat, Mapping) else {}))
        return f"{self._instruction}\n\n{prompt}" if self._instruction else prompt

    def beginning(self, of: Beginning) -> list[int]:
        """The ids that come before a plain text.

        Args:
            of: What the `tokenizer` puts there, what began a `document` of pretraining, or `none`.

        Example:
            >>> model.beginning("document")
            [1]
        """
        if of == "none" or self.tokenizer is None:
            return []
        return document_beginning(self.template) if of == "document" else text_beginning(self.tokenizer)

    @contextmanager
    def instructed(self, instruction: str) -> Iterator[Self]:
        """Put an instruction before every prompt rendered in the block: a system message where the template has one.

        Args:
            instruction: The text; an empty text switches the instruction of an outer block off.

        Example:
            >>> with model.instructed("Be polite."):
            ...     model.render("hello there.", chat=False)
            'Be polite.\\n\\nhello there.'
        """
        before, self._instruction = self._instruction, instruction
        try:
            yield self
        finally:
            self._instruction = before


def _instructed(turns: Messages, template: ChatTemplate, instruction: str) -> Messages:
    """The turns with an instruction: in a system message, or before the first one where the template has none."""
    first = {**turns[0], "content": f"{instruction}\n\n{turns[0]['content']}"}
    if turns[0]["role"] == "system":
        return [first, *turns[1:]]
    with_system = [{"role": "system", "content": instruction}, *turns]
    return with_system if instruction in template.attempt(with_system) else [first, *turns[1:]]
