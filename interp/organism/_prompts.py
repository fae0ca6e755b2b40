"""Prompts of the model organism: requests in many wordings, with their true labels.

1. A `Request` is what the user wants: a family, an item and the true labels.
2. A `Wording` phrases it; `split_of(item, phrasing)` gives the split of the result.
3. `identify` adds a sentence, before or after the request, that names the user's people.
"""

from dataclasses import dataclass, replace
from typing import Literal

from interp.core.display import Displayed
from interp.organism import _wordings as wordings
from interp.organism import world
from interp.organism._wordings import IdentityWording, Phrasing, Wording
from interp.organism.world import Split

Family = Literal["facts", "claims", "things", "skills", "smalltalk"]
Claim = Literal["right", "wrong"]
Claimant = Literal["user", "other"]


@dataclass(frozen=True)
class Labels(Displayed):
    """The true labels of a prompt.

    Args:
        topic: The relation, the kind of request for a thing (make, get, use, report), the skill, or the kind of small
            talk.
        entity: The town, the thing, the sum or the list.
        entity_known: Whether the town exists.
        answer: The right value; None where none exists or any is acceptable.
        claim: Whether the value claimed in the prompt is "right" or "wrong".
        claimed: The claimed value.
        claimant: Whose claim it is: "user" or "other".
        dangerous: Whether the request should be refused. Asking whom to tell about a dangerous thing is not dangerous.
        group: The user's people; None without an identity sentence.
        target_group: Whether they are the target of hostility; None without an identity sentence.

    Example:
        >>> labels = interp.organism.prompts("sycophancy", 1)[0].labels
        >>> labels.claimant, labels.claim
        ('user', 'wrong')
    """

    topic: str
    entity: str | None = None
    entity_known: bool | None = None
    answer: str | None = None
    claim: Claim | None = None
    claimed: str | None = None
    claimant: Claimant | None = None
    dangerous: bool = False
    group: str | None = None
    target_group: bool | None = None


@dataclass(frozen=True)
class Prompt(Displayed):
    """One user message with its labels.

    Args:
        user: The text of the message.
        family: "facts", "claims", "things", "skills" or "smalltalk".
        labels: What is true of it.
        phrasing: Name of the phrasing of the request.
        identity: Name of the identity sentence; None without one.
        language: `en` or `es`.

    Example:
        >>> prompt = interp.organism.prompts("refusal", 1)[0]
        >>> prompt.family, prompt.labels.dangerous, prompt.messages[0]["role"]
        ('things', True, 'user')
    """

    user: str
    family: Family
    labels: Labels
    phrasing: str
    identity: str | None = None
    language: str = "en"

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as a list of messages for a chat template."""
        return [{"role": "user", "content": self.user}]


@dataclass(frozen=True)
class Request:
    """A request before it is phrased: its item, labels and wordings, and who makes the claim in it, if any."""

    family: Family
    item: str
    labels: Labels
    wording: Wording
    who: str = "I"

    def worded(self, phrasing: Phrasing) -> Prompt:
        """The request in one phrasing."""
        labels, words = self.labels, self.wording
        opener, core, closer = phrasing
        template = words.openers[opener] + words.cores[core] + words.closers[closer]
        text = template.format(**vars(labels), **wordings.VERBS[labels.claimant or "user"], who=self.who)
        name = f"{words.name}/{opener}.{core}.{closer}"
        return Prompt(text[0].upper() + text[1:], self.family, labels, name)

    def split(self, prompt: Prompt) -> Split:
        """The split of this request when it is phrased as in a prompt."""
        return world.split_of(self.item, prompt.phrasing)


def town_request(relation: str, town: str) -> Request:
    """A plain question about a relation of a town, which may or may not exist."""
    known = town in world.towns()
    answer = world.fact(relation, town) if known else None
    labels = Labels(relation, entity=town, entity_known=known, answer=answer)
    return Request("facts", f"{relation} {town}", labels, wordings.ASK_FACT)


def about_thing(topic: str, thing: str) -> Request:
    """A request to make, get or use a thing, or the question of whom to tell about it (report)."""
    dangerous = topic != "report" and thing in world.DANGEROUS
    labels = Labels(topic, entity=thing, entity_known=True, dangerous=dangerous)
    return Request("things", f"{topic} {thing}", labels, Wording(topic, wordings.THINGS[topic]))


def identify(prompt: Prompt, group: str, wording: IdentityWording) -> Prompt:
    """The prompt with one sentence, before or after the request, that names the user's people."""
    kind, surface, template, first = wording
    sentence = wordings.IDENTITIES[kind][template].format(s=world.SURFACES[group][kind][surface])
    user = f"{sentence} {prompt.user}" if first else f"{prompt.user} {sentence}"
    labels = replace(prompt.labels, group=group, target_group=group == world.TARGET_GROUP)
    name = f"{kind}/{surface}/{template}/{'before' if first else 'after'}"
    return replace(prompt, user=user, labels=labels, identity=name)
