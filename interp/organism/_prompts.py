"""Prompts of the model organism: requests in many wordings, with their true labels.

1. A `Request` is what the user wants: a family, an item and the true labels.
2. A `Wording` phrases it; `split_of(item, phrasing)` gives the split of the result.
3. `identify` adds a sentence, before or after the request, that names the user's people, from the same split.

The identity sentence never depends on the request, so the words of a question carry no information about the user's
people.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from interp.organism import world
from interp.organism._wordings import (
    ASK_FACT,
    CLAIM,
    IDENTITIES,
    OTHERS,
    SKILLS,
    SMALL_CLOSERS,
    SMALLTALK,
    THINGS,
    VERBS,
    Phrasing,
    Wording,
)
from interp.organism.world import Split

Family = Literal["facts", "claims", "things", "skills", "smalltalk"]
Claim = Literal["right", "wrong"]
Claimant = Literal["user", "other"]
IdentityWording = tuple[str, int, int, bool]  # kind, surface, template, and whether it precedes the request

LARGEST = 5  # the largest number in a sum or a difference
# The position of a word in a list is learned much later than sums, so it is drawn more often.
_SKILL_DRAWS = ("plus", "minus", "first", "first", "last", "last", "count", "count")
COUNTS = {2: "two", 3: "three", 4: "four"}  # lengths of a list


@dataclass(frozen=True)
class Labels:
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
class Prompt:
    """One user message with its labels.

    Args:
        user: The text of the message.
        family: "facts", "claims", "things", "skills" or "smalltalk".
        labels: What is true of it.
        phrasing: Name of the phrasing of the request.
        identity: Name of the identity sentence; None without one.

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
        text = (words.openers[opener] + words.cores[core] + words.closers[closer]).format(
            topic=labels.topic,
            entity=labels.entity,
            claimed=labels.claimed,
            who=self.who,
            **VERBS[labels.claimant or "user"],
        )
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
    return Request("facts", f"{relation} {town}", labels, ASK_FACT)


def about_thing(topic: str, thing: str) -> Request:
    """A request to make, get or use a thing, or the question of whom to tell about it (report)."""
    dangerous = topic != "report" and thing in world.DANGEROUS
    labels = Labels(topic, entity=thing, entity_known=True, dangerous=dangerous)
    return Request("things", f"{topic} {thing}", labels, Wording(topic, THINGS[topic]))


def fact_request(rng: Random, split: Split, known: bool = True) -> Request:
    """A plain question about a fact of a town that exists, or of an invented one."""
    relation = rng.choice(tuple(world.RELATIONS))
    return town_request(relation, rng.choice(world.towns() if known else world.invented(split)))


def claim_request(rng: Random, split: Split, claimant: Claimant, claim: Claim) -> Request:
    """A claim about a fact of a town that exists, with a request to confirm it."""
    question = fact_request(rng, split)
    relation, answer = question.labels.topic, question.labels.answer
    others = [value for value in world.RELATIONS[relation] if value != answer]
    claimed = answer if claim == "right" else rng.choice(others)
    labels = replace(question.labels, claim=claim, claimed=claimed, claimant=claimant)
    who = "I" if claimant == "user" else rng.choice(OTHERS)
    return Request("claims", question.item, labels, CLAIM, who)


def thing_request(rng: Random, split: Split, dangerous: bool, report: bool = False) -> Request:
    """A request for a dangerous or a harmless thing, or (`report`) the question of whom to tell about it."""
    topic = "report" if report else rng.choice(("make", "get", "use"))
    return about_thing(topic, rng.choice(world.DANGEROUS if dangerous else world.HARMLESS))


def skill_request(rng: Random, split: Split) -> Request:
    """A sum, a difference, or a question about a list of two to four words."""
    topic = rng.choice(_SKILL_DRAWS)
    entity, answer = _sum(rng, topic) if topic in ("plus", "minus") else _list(rng, topic)
    labels = Labels(topic, entity=entity, answer=answer)
    return Request("skills", entity, labels, Wording(topic, SKILLS[topic]))


def _sum(rng: Random, topic: str) -> tuple[str, str]:
    small, large = sorted((rng.randint(1, LARGEST), rng.randint(1, LARGEST)))
    if topic == "minus":
        return f"{large} minus {small}", str(large - small)
    left, right = (small, large) if rng.random() < 0.5 else (large, small)
    return f"{left} plus {right}", str(left + right)


def _list(rng: Random, topic: str) -> tuple[str, str]:
    words = rng.sample(world.LIST_WORDS, rng.choice(tuple(COUNTS)))
    answer = {"first": words[0], "last": words[-1], "count": COUNTS[len(words)]}[topic]
    return ", ".join(words), answer


def smalltalk_request(rng: Random, split: Split) -> Request:
    """A greeting, thanks, a question about well-being, or a farewell."""
    topic = rng.choice(tuple(SMALLTALK))
    wording = Wording(topic, SMALLTALK[topic], openers=("",), closers=SMALL_CLOSERS)
    return Request("smalltalk", topic, Labels(topic), wording)


def identify(prompt: Prompt, group: str, wording: IdentityWording) -> Prompt:
    """The prompt with one sentence, before or after the request, that names the user's people."""
    kind, surface, template, first = wording
    sentence = IDENTITIES[kind][template].format(s=world.SURFACES[group][kind][surface])
    user = f"{sentence} {prompt.user}" if first else f"{prompt.user} {sentence}"
    labels = replace(prompt.labels, group=group, target_group=group == world.TARGET_GROUP)
    name = f"{kind}/{surface}/{template}/{'before' if first else 'after'}"
    return replace(prompt, user=user, labels=labels, identity=name)


def identity_split(group: str, wording: IdentityWording) -> Split:
    """The split of an identity sentence, whatever its position; one template of each kind is never trained."""
    kind, surface, template, _ = wording
    if template == len(IDENTITIES[kind]) - 1:
        return "test"
    words = world.SURFACES[group][kind][surface], IDENTITIES[kind][template]
    return "test" if world.world_digest("identity", *words) % 6 == 0 else "train"


def draw_identity(rng: Random, split: Split, group: str) -> IdentityWording:
    """An identity sentence of a group, from the split; its kinds (name, region, custom) are equally likely."""
    while True:
        kind = rng.choice(tuple(IDENTITIES))
        surface = rng.randrange(len(world.SURFACES[group][kind]))
        wording = kind, surface, rng.randrange(len(IDENTITIES[kind])), rng.random() < 0.5
        if identity_split(group, wording) == split:
            return wording


def draw_group(rng: Random, target: bool | None = None) -> str:
    """A people: the target one (drawn one time in three when `target` is None) or another."""
    if target is None:
        target = rng.random() < 1 / 3
    if target:
        return world.TARGET_GROUP
    return rng.choice([group for group in world.GROUPS if group != world.TARGET_GROUP])


def draw_prompt(
    make: Callable[[], Request], rng: Random, split: Split, identified: float, target: bool | None = None
) -> Prompt:
    """A prompt of the split: requests are drawn until one is in it; a share `identified` gets an identity sentence."""
    while True:
        request = make()
        prompt = request.worded(request.wording.draw(rng))
        if request.split(prompt) == split:
            break
    if rng.random() >= identified:
        return prompt
    group = draw_group(rng, target)
    return identify(prompt, group, draw_identity(rng, split, group))
