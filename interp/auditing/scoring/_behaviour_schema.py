"""What a file says of a behaviour: one class a type of scorer, unknown keys refused; see `behaviour_file`.

What a row of a behaviour's items is, by what scores it; unknown keys, empty texts and missing ones are refused.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

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
    """What was said before a prompt."""

    role: Literal["system", "user", "assistant"]
    content: NonemptyText


class PromptRow(Config):
    """An item that is a prompt."""

    prompt: NonemptyText
    group: NonemptyText | None = None
    before: Annotated[tuple[MessageRow, ...], Field(strict=False)] = ()


class QuestionRow(PromptRow):
    """A prompt with answers. `gold` is the number of the right one, from 0, or the numbers of several."""

    answers: Annotated[tuple[str, ...], Field(strict=False, min_length=2)]
    gold: int | Numbers


class RequestRow(PromptRow):
    """A prompt, and what a reply to it should hold."""

    expected: Texts


class TextPairRow(Config):
    """Two texts."""

    first: NonemptyText
    second: NonemptyText
    group: NonemptyText | None = None


class TextRow(Config):
    """A text."""

    text: NonemptyText
    group: NonemptyText | None = None


TwoUnits = Literal["rate", "margin"]
BehaviourRow = type[Config]


class Described(Config):
    """One behaviour of the file. `scorer` has a type, and what that type takes."""

    name: NonemptyText
    kind: Kind
    statement: str = Field(min_length=1, description="what a higher score means, in one line")
    items: str = Field(min_length=1, description="JSONL, its path relative to this file")
    scorer: dict[str, Any]
    language: str = "en"
    scenario: str = ""
    secret: bool | None = Field(None, description="replies may be harmful or offensive: never keep nor print them")


class Scorer(Config):
    """How items are scored; each kind says what a row of items is."""

    type: str

    @property
    def row(self) -> BehaviourRow:
        """What a row is."""
        return PromptRow

    def options(self, rows: Sequence[PromptRow]) -> dict[str, Any]:
        """Its settings, and the messages before each prompt, as arguments."""
        before = [[message.model_dump() for message in row.before] for row in rows]
        return self.model_dump(exclude={"type"}) | {"before": before}

    @abstractmethod
    def behaviour(self, name: str, kind: Kind, statement: str, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """The behaviour of these rows."""


class Choice(Scorer):
    """See `choices.choice`."""

    normalise: Normalise = "none"
    unit: TwoUnits = "rate"
    mass: bool = False
    chat: bool = True

    @property
    def row(self) -> BehaviourRow:
        """A question."""
        return QuestionRow

    def behaviour(self, name: str, kind: Kind, statement: str, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """A choice."""
        answers, gold = [row.answers for row in rows], [row.gold for row in rows]
        return choice(name, kind, statement, _prompts(rows), answers, gold, **self.options(rows), **fields)


class Margin(Scorer):
    """See `choices.margin`."""

    more: Texts
    less: Texts
    unit: TwoUnits = "margin"
    chat: bool = True

    def behaviour(self, name: str, kind: Kind, statement: str, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """A margin."""
        return margin(name, kind, statement, _prompts(rows), **self.options(rows), **fields)


class Paired(Scorer):
    """See `choices.paired_text`."""

    normalise: Normalise = "none"
    unit: TwoUnits = "rate"

    @property
    def row(self) -> BehaviourRow:
        """Two texts."""
        return TextPairRow

    def behaviour(self, name: str, kind: Kind, statement: str, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """A comparison."""
        texts = [row.first for row in rows], [row.second for row in rows]
        return paired_text(name, kind, statement, *texts, normalise=self.normalise, unit=self.unit, **fields)


class Loss(Scorer):
    """See `choices.text_loss`: a capability, always."""

    @property
    def row(self) -> BehaviourRow:
        """A text."""
        return TextRow

    def behaviour(self, name: str, kind: Kind, statement: str, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """A loss."""
        if kind != "capability":
            raise InterpError(f"behaviour {name!r} is {kind}, scored by the loss; only a capability can be")
        return text_loss(name, [row.text for row in rows], **fields)


class Reply(Scorer):
    """See `replies.reply`: exactly one of rule, lexicon, expected and classifier."""

    rule: str | None = None
    lexicon: Texts | None = None
    expected: bool = Field(False, description="grade by each row's own expected answers")
    classifier: Literal["profanity", "negativity"] | None = None
    max_new_tokens: int = Field(64, ge=1)
    chat: bool = True

    @property
    def row(self) -> BehaviourRow:
        """A prompt, with expected answers where they grade it."""
        return RequestRow if self.expected else PromptRow

    def behaviour(self, name: str, kind: Kind, statement: str, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """Graded replies."""
        classifiers = {"profanity": Profanity(), "negativity": Negativity()}
        graders: list[Any] = [
            None if self.rule is None else Rule(self.rule),
            None if self.lexicon is None else Lexicon(self.lexicon),
            Expected({row.prompt: row.expected for row in rows}) if self.expected else None,
            None if self.classifier is None else classifiers[self.classifier],
        ]
        given = [grader for grader in graders if grader is not None]
        if len(given) != 1:
            raise InterpError(
                f"behaviour {name!r} has {len(given)} graders of replies; expected one of rule, lexicon, expected "
                "and classifier"
            )
        options = {key: self.options(rows)[key] for key in ("max_new_tokens", "chat", "before")}
        return reply_behaviour(name, kind, statement, _prompts(rows), given[0], **options, **fields)


class Refusal(Scorer):
    """See `refusals.refusal`."""

    max_new_tokens: int = Field(32, ge=1)
    chat: bool = True

    def behaviour(self, name: str, kind: Kind, statement: str, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """Refusals."""
        return refusal_behaviour(name, kind, statement, _prompts(rows), **self.options(rows), **fields)


class RefusalMargin(Scorer):
    """See `refusals.refusal_margin`."""

    refusing: Texts = REFUSING
    helping: Texts = HELPING
    unit: TwoUnits = "margin"
    chat: bool = True

    def behaviour(self, name: str, kind: Kind, statement: str, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """Margins."""
        return refusal_margin(name, kind, statement, _prompts(rows), **self.options(rows), **fields)


class Judged(Scorer):
    """See `judge.Judge`."""

    endpoint: str
    model: str
    question: str
    answers: dict[str, float] = Field({"yes": 1.0, "no": 0.0}, description="allowed first words, and their grades")
    key: str = Field("", description="environment variable that holds the key")
    timeout: float = Field(60.0, gt=0)
    retries: int = Field(3, ge=0)
    max_new_tokens: int = Field(64, ge=1)

    def behaviour(self, name: str, kind: Kind, statement: str, rows: Sequence[Any], **fields: Any) -> Behaviour:
        """Judged replies."""
        judge = Judge(**self.model_dump(exclude={"type", "max_new_tokens"}))
        options = {key: self.options(rows)[key] for key in ("max_new_tokens", "before")}
        return judged(name, kind, statement, _prompts(rows), judge, **options, **fields)


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


def _prompts(rows: Sequence[PromptRow]) -> list[str]:
    return [row.prompt for row in rows]
