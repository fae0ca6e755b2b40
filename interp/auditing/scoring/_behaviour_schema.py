"""The schema of a behaviour file: the scorer of a behaviour's entry, and the rows of its items.

There is one class per type of scorer (`SCORERS`), which names the class of its rows and the function that makes the
behaviour: the columns of the rows and the settings of the scorer are its arguments. Unknown keys, missing ones and
empty texts are refused; see `behaviour_file`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from interp.auditing.behaviours import Behaviour
from interp.auditing.scoring.choices import choice, margin, paired_text, text_loss
from interp.auditing.scoring.graders import Expected, Lexicon, Negativity, Profanity, Rule
from interp.auditing.scoring.judge import Judge
from interp.auditing.scoring.likelihoods import Normalise
from interp.auditing.scoring.refusals import HELPING, REFUSING, refusal_behaviour, refusal_margin
from interp.auditing.scoring.replies import reply_behaviour
from interp.core.config import Config, inner
from interp.core.errors import InterpError
from interp.data.chat_endpoint import host_of
from interp.models.tokens import Beginning

NonemptyText = Annotated[str, Field(min_length=1, pattern=r"\S")]
Texts = Annotated[tuple[NonemptyText, ...], Field(strict=False, min_length=1)]
Numbers = Annotated[tuple[int, ...], Field(strict=False, min_length=1)]

_REQUESTS = 8  # to a judge at a time
_PLURALS = {"prompt": "prompts", "text": "texts"}  # columns whose argument has another name


class MessageRow(Config):
    """A message that precedes a prompt."""

    role: Literal["system", "user", "assistant"] = Field(description="who speaks")
    content: NonemptyText = Field(description="the text of the message")


class ItemRow(Config):
    """An item."""

    group: NonemptyText | None = Field(None, description="the cluster of the item; all items have one, or none")
    translations: dict[NonemptyText, dict[str, Any]] = Field({}, description="by language, the keys that differ in it")

    @model_validator(mode="after")
    def _whole_translations(self) -> "ItemRow":
        for language in self.translations:
            with inner("translations", language):
                self.translated(language)
        return self

    def translated(self, language: str) -> "ItemRow":
        """The item in a language that it states."""
        return self.parse(self.model_dump(exclude={"translations"}) | self.translations[language], "")


class PromptRow(ItemRow):
    """An item that is a prompt."""

    prompt: NonemptyText = Field(description="the text that the model answers or continues")
    before: Annotated[tuple[MessageRow, ...], Field(strict=False, description="messages before the prompt")] = ()


class QuestionRow(PromptRow):
    """A prompt with answers."""

    answers: Annotated[tuple[str, ...], Field(strict=False, min_length=2, description="two or more different texts")]
    gold: int | Numbers = Field(description="number of the right answer, from 0, or the numbers of several")


class RequestRow(PromptRow):
    """A prompt, and the answers that a reply to it should contain."""

    expected: Texts = Field(description="answers, any of which counts")


class TextPairRow(ItemRow):
    """Two texts."""

    first: NonemptyText = Field(description="the text that scores 1 if it is the likelier")
    second: NonemptyText = Field(description="the text that it is compared with")


class TextRow(ItemRow):
    """A text."""

    text: NonemptyText = Field(description="the text whose loss is measured")


Chat = Annotated[bool | dict[str, Any], Field(description="render prompts with the chat template, or its variables")]
Start = Annotated[Beginning, Field(description="what comes before a text: document, tokenizer or none")]
NewTokens = Annotated[int, Field(ge=1, description="length of the replies in tokens")]
By = Annotated[Normalise, Field(description="what log-probabilities are divided by; acc_norm: characters")]
RowClass = type[ItemRow]
UnitField = Annotated[Literal["rate", "margin"], Field(description="score 0 or 1, or the difference in nats")]


class Scorer(Config):
    """How items are scored: a class of rows, and the function that makes a behaviour of them and of the settings."""

    row: ClassVar[RowClass] = PromptRow
    build: ClassVar[Callable[..., Behaviour]]
    type: str = Field(description="the type of the scorer")

    @property
    def row_class(self) -> RowClass:
        """What a row of the items is."""
        return self.row

    @property
    def options(self) -> dict[str, Any]:
        """The settings, as keyword arguments."""
        return self.model_dump(exclude={"type"})

    def behaviour(self, rows: Sequence[ItemRow], **fields: Any) -> Behaviour:
        """The behaviour of these rows. `fields` are the name, kind, statement and other fields of the entry."""
        values = [row.model_dump() for row in rows]
        names = [name for name in self.row.model_fields if name not in ("group", "translations")]
        columns = {_PLURALS.get(name, name): [value[name] for value in values] for name in names}
        return self.__class__.build(**columns, **self.options | fields)


class Choice(Scorer):
    """See `choices.choice`."""

    row = QuestionRow
    build = choice
    normalise: By = "none"
    unit: UnitField = "rate"
    mass: bool = Field(False, description="score the gold answers' share of the probability")
    chat: Chat = True


class Margin(Scorer):
    """See `choices.margin`."""

    build = margin
    more: Texts = Field(description="answers that raise the score")
    less: Texts = Field(description="answers that lower the score")
    unit: UnitField = "margin"
    chat: Chat = True


class Paired(Scorer):
    """See `choices.paired_text`."""

    row = TextPairRow
    build = paired_text
    beginning: Start = "document"
    normalise: By = "none"
    unit: UnitField = "rate"


class Loss(Scorer):
    """See `choices.text_loss`, which is always a capability."""

    row = TextRow
    build = text_loss
    beginning: Start = "document"

    def behaviour(self, rows: Sequence[ItemRow], **fields: Any) -> Behaviour:
        """A loss, which has its own kind and statement."""
        if fields["kind"] != "capability":
            raise InterpError(f"behaviour {fields['name']!r} is a {fields['kind']}; the loss scores only capabilities")
        return super().behaviour(rows, **{key: fields[key] for key in fields if key not in ("kind", "statement")})


class Reply(Scorer):
    """See `replies.reply_behaviour`; takes exactly one of rule, lexicon, expected and classifier."""

    build = reply_behaviour
    rule: str | None = Field(None, description="regular expression that a reply matches")
    lexicon: Texts | None = Field(None, description="words or phrases, any of which counts")
    expected: bool = Field(False, description="grade by the expected answers of each row")
    classifier: Literal["profanity", "negativity"] | None = Field(None, description="a pretrained classifier")
    max_new_tokens: NewTokens = 64
    chat: Chat = True

    @property
    def row_class(self) -> RowClass:
        """A prompt, with expected answers where they grade the reply."""
        return RequestRow if self.expected else PromptRow

    @property
    def options(self) -> dict[str, Any]:
        """All but what describes the grader."""
        return self.model_dump(include={"max_new_tokens", "chat"})

    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """Graded replies."""
        graders = [
            Rule(self.rule) if self.rule is not None else None,
            Lexicon(self.lexicon) if self.lexicon else None,
            Expected({row.prompt: row.expected for row in rows}) if self.expected else None,
            {"profanity": Profanity(), "negativity": Negativity(), None: None}[self.classifier],
        ]
        chosen = [grader for grader in graders if grader]
        if len(chosen) != 1:
            problem = f"behaviour {fields['name']!r} has {len(chosen)} graders of replies"
            raise InterpError(f"{problem}; expected one of rule, lexicon, expected and classifier")
        return super().behaviour(rows, grade=chosen[0], **fields)


class Refusal(Scorer):
    """See `refusals.refusal_behaviour`."""

    build = refusal_behaviour
    max_new_tokens: NewTokens = 32
    chat: Chat = True


class RefusalMargin(Scorer):
    """See `refusals.refusal_margin`."""

    build = refusal_margin
    refusing: Texts = Field(REFUSING, description="beginnings of refusals")
    helping: Texts = Field(HELPING, description="beginnings of compliance")
    unit: UnitField = "margin"
    chat: Chat = True


class Judged(Scorer):
    """See `judge.Judge`."""

    build = reply_behaviour
    endpoint: str = Field(description="base URL of the endpoint")
    model: str = Field(description="name of the judging model")
    question: str = Field(description="the question, with {prompt} and {reply}")
    answers: dict[str, float] = Field({"yes": 1.0, "no": 0.0}, description="allowed words, and their grades")
    key: str = Field("", description="never in a file; see --judge-key")
    timeout: float = Field(60.0, gt=0, le=3600, description="seconds per request, in total")
    retries: int = Field(3, ge=0, le=20, description="attempts after the first")
    max_new_tokens: NewTokens = 64

    def with_key(self, variables: Mapping[str, str]) -> "Judged":
        """The judge with the variable of its host, if there is one. Raises where the file names a variable itself."""
        if self.key:
            raise InterpError(
                f"key {self.key!r}: a file names no key, since it could have any variable sent to its endpoint; remove "
                "it, and name the variable yourself, by --judge-key HOST=VARIABLE or judge_keys={HOST: VARIABLE}"
            )
        return self.model_copy(update={"key": variables.get(self.host, "")})

    @property
    def host(self) -> str:
        """The host of the endpoint, and its port if named."""
        return host_of(self.endpoint)

    @property
    def options(self) -> dict[str, Any]:
        """The judge, which grades several replies at a time, and their length."""
        judge = Judge(**self.model_dump(exclude={"type", "max_new_tokens"}))
        return {"grade": judge, "max_new_tokens": self.max_new_tokens, "workers": _REQUESTS}


SCORERS: dict[str, type[Scorer]] = {
    "choice": Choice, "margin": Margin, "paired_text": Paired, "loss": Loss, "reply": Reply, "refusal": Refusal,
    "refusal_margin": RefusalMargin, "judge": Judged,
}  # fmt: skip
