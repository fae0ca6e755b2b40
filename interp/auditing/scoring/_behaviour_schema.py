"""The schema of a behaviour file: a behaviour's entry in YAML, its scorer, and the rows of its items in JSONL.

There is one class per type of scorer (`SCORERS`), which names the class of its rows and builds the behaviour. Unknown
keys, missing ones and empty texts are refused; see `behaviour_file`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from interp.auditing.behaviours import Behaviour, Kind
from interp.auditing.scoring.choices import choice, margin, paired_text, text_loss
from interp.auditing.scoring.graders import Expected, Lexicon, Negativity, Profanity, Rule
from interp.auditing.scoring.judge import Judge, judged
from interp.auditing.scoring.likelihoods import Normalise
from interp.auditing.scoring.refusals import HELPING, REFUSING, refusal_behaviour, refusal_margin
from interp.auditing.scoring.replies import reply_behaviour
from interp.core.config import Config
from interp.core.errors import InterpError

NonemptyText = Annotated[str, Field(min_length=1, pattern=r"\S")]
Texts = Annotated[tuple[NonemptyText, ...], Field(strict=False, min_length=1)]
Numbers = Annotated[tuple[int, ...], Field(strict=False, min_length=1)]


class MessageRow(Config):
    """A message that precedes a prompt."""

    role: Literal["system", "user", "assistant"] = Field(description="who speaks")
    content: NonemptyText = Field(description="the text of the message")


class PromptRow(Config):
    """An item that is a prompt."""

    prompt: NonemptyText = Field(description="the text that the model answers or continues")
    group: NonemptyText | None = Field(None, description="the cluster of the item; all items have one, or none")
    before: Annotated[tuple[MessageRow, ...], Field(strict=False, description="messages before the prompt")] = ()


class QuestionRow(PromptRow):
    """A prompt with answers."""

    answers: Annotated[tuple[str, ...], Field(strict=False, min_length=2, description="two or more different texts")]
    gold: int | Numbers = Field(description="number of the right answer, from 0, or the numbers of several")


class RequestRow(PromptRow):
    """A prompt, and the answers that a reply to it should contain."""

    expected: Texts = Field(description="answers, any of which counts")


class TextPairRow(Config):
    """Two texts."""

    first: NonemptyText = Field(description="the text that scores 1 if it is the likelier")
    second: NonemptyText = Field(description="the text that it is compared with")
    group: NonemptyText | None = Field(None, description="the cluster of the item; all items have one, or none")


class TextRow(Config):
    """A text."""

    text: NonemptyText = Field(description="the text whose loss is measured")
    group: NonemptyText | None = Field(None, description="the cluster of the item; all items have one, or none")


RowClass = type[Config]
TwoUnits = Literal["rate", "margin"]
Chat = Annotated[bool, Field(description="whether prompts are rendered with the chat template")]
NewTokens = Annotated[int, Field(ge=1, description="length of the replies in tokens")]
By = Annotated[Normalise, Field(description="compare sums of log-probabilities, or means per token or byte")]
UnitField = Annotated[TwoUnits, Field(description="score 0 or 1, or the difference in nats")]


class DescribedBehaviour(Config):
    """One entry of the file."""

    name: NonemptyText = Field(description="name of the behaviour, unique in the file")
    kind: Kind = Field(description="harm, protected or capability")
    statement: str = Field(min_length=1, description="what a higher score means, in one line")
    items: str = Field(min_length=1, description="JSONL of the items, its path relative to this file")
    scorer: dict[str, Any] = Field(description="type of the scorer, and its settings")
    language: str = Field("en", description="language of the prompts")
    scenario: str = Field("", description="heading under which the behaviour is listed")
    secret: bool | None = Field(None, description="replies may be harmful or offensive: never store nor print them")


class Scorer(Config):
    """How items are scored; `behaviour` receives the name, kind, statement and other fields of the entry."""

    row: ClassVar[RowClass] = PromptRow
    type: str = Field(description="the type of the scorer")

    def options(self, rows: Sequence[PromptRow]) -> dict[str, Any]:
        """The prompts, the messages before each, and the settings of the scorer, as keyword arguments."""
        before = [[message.model_dump() for message in row.before] for row in rows]
        return self.model_dump(exclude={"type"}) | {"prompts": [row.prompt for row in rows], "before": before}

    @property
    def row_class(self) -> RowClass:
        """What a row of the items is."""
        return self.row

    @abstractmethod
    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """The behaviour of these rows."""


class Choice(Scorer):
    """See `choices.choice`."""

    row = QuestionRow
    normalise: By = "none"
    unit: UnitField = "rate"
    mass: bool = Field(False, description="score the gold answers' share of the probability")
    chat: Chat = True

    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """A choice."""
        answers, gold = [row.answers for row in rows], [row.gold for row in rows]
        return choice(answers=answers, gold=gold, **self.options(rows), **fields)


class Margin(Scorer):
    """See `choices.margin`."""

    more: Texts = Field(description="answers that raise the score")
    less: Texts = Field(description="answers that lower the score")
    unit: UnitField = "margin"
    chat: Chat = True

    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """A margin."""
        return margin(**self.options(rows), **fields)


class Paired(Scorer):
    """See `choices.paired_text`."""

    row = TextPairRow
    normalise: By = "none"
    unit: UnitField = "rate"

    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """A comparison of two texts."""
        first, second = [row.first for row in rows], [row.second for row in rows]
        return paired_text(first=first, second=second, normalise=self.normalise, unit=self.unit, **fields)


class Loss(Scorer):
    """See `choices.text_loss`, which is always a capability."""

    row = TextRow

    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """A loss."""
        if fields["kind"] != "capability":
            raise InterpError(f"behaviour {fields['name']!r} is a {fields['kind']}; the loss scores only capabilities")
        own = {key: value for key, value in fields.items() if key not in ("kind", "statement")}
        return text_loss(texts=[row.text for row in rows], **own)


class Reply(Scorer):
    """See `replies.reply_behaviour`; takes exactly one of rule, lexicon, expected and classifier."""

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

    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """Graded replies."""
        classifiers = {"profanity": Profanity(), "negativity": Negativity()}
        graders: list[Any] = [
            None if self.rule is None else Rule(self.rule),
            None if self.lexicon is None else Lexicon(self.lexicon),
            Expected({row.prompt: row.expected for row in rows}) if self.expected else None,
            None if self.classifier is None else classifiers[self.classifier],
        ]
        chosen = [grader for grader in graders if grader is not None]
        if len(chosen) != 1:
            raise InterpError(
                f"behaviour {fields['name']!r} has {len(chosen)} graders of replies; expected one of rule, lexicon, "
                "expected and classifier"
            )
        options = {key: self.options(rows)[key] for key in ("prompts", "max_new_tokens", "chat", "before")}
        return reply_behaviour(grade=chosen[0], **options, **fields)


class Refusal(Scorer):
    """See `refusals.refusal_behaviour`."""

    max_new_tokens: NewTokens = 32
    chat: Chat = True

    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """Refusals."""
        return refusal_behaviour(**self.options(rows), **fields)


class RefusalMargin(Scorer):
    """See `refusals.refusal_margin`."""

    refusing: Texts = Field(REFUSING, description="beginnings of refusals")
    helping: Texts = Field(HELPING, description="beginnings of compliance")
    unit: UnitField = "margin"
    chat: Chat = True

    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """Margins."""
        return refusal_margin(**self.options(rows), **fields)


class Judged(Scorer):
    """See `judge.Judge`."""

    endpoint: str = Field(description="base URL of the endpoint")
    model: str = Field(description="name of the judging model")
    question: str = Field(description="the question, with {prompt} and {reply}")
    answers: dict[str, float] = Field({"yes": 1.0, "no": 0.0}, description="allowed first words, and their grades")
    key: str = Field("", description="environment variable that holds the API key")
    timeout: float = Field(60.0, gt=0, description="seconds per request")
    retries: int = Field(3, ge=0, description="attempts after the first")
    max_new_tokens: NewTokens = 64

    def behaviour(self, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """Judged replies."""
        judge = Judge(**self.model_dump(exclude={"type", "max_new_tokens"}))
        options = {key: self.options(rows)[key] for key in ("prompts", "max_new_tokens", "before")}
        return judged(judge=judge, **options, **fields)


SCORERS: dict[str, type[Scorer]] = {
    "choice": Choice,
    "margin": Margin,
    "paired_text": Paired,
    "loss": Loss,
    "reply": Reply,
    "refusal": Refusal,
    "refusal_margin": RefusalMargin,
    "judge": Judged,
}
