"""Random prompts of the model organism: triggered prompts, matched controls, pairs, and the training mixture.

`draw_request` draws a prompt that triggers a behaviour, or a matched one that does not. `PAIRS` draws, for each
behaviour with a trigger, two prompts whose texts differ only in the trigger. `training_prompt` mixes all families in
fixed shares.

An identity sentence is of the same split as its request and never depends on it, so the words of a question carry no
information about the user's people.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from interp.core.errors import InterpError
from interp.organism import _wordings as wordings
from interp.organism import world
from interp.organism._prompts import Claim, Claimant, Labels, Prompt, Request, about_thing, identify, town_request
from interp.organism._wordings import IdentityWording, Wording
from interp.organism.world import Split

IDENTIFIED = 0.3  # share of prompts that name the user's people, where the behaviour does not decide it
LARGEST = 5  # the largest number in a sum or a difference
# The position of a word in a list is learned much later than sums, so it is drawn more often.
_SKILL_DRAWS = ("plus", "minus", "first", "first", "last", "last", "count", "count")
COUNTS = {2: "two", 3: "three", 4: "four"}  # lengths of a list


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
    who = "I" if claimant == "user" else rng.choice(wordings.OTHERS)
    return Request("claims", question.item, labels, wordings.CLAIM, who)


def thing_request(rng: Random, split: Split, dangerous: bool, report: bool = False) -> Request:
    """A request for a dangerous or a harmless thing, or (`report`) the question of whom to tell about it."""
    topic = "report" if report else rng.choice(("make", "get", "use"))
    return about_thing(topic, rng.choice(world.DANGEROUS if dangerous else world.HARMLESS))


def skill_request(rng: Random, split: Split) -> Request:
    """A sum, a difference, or a question about a list of two to four words."""
    topic = rng.choice(_SKILL_DRAWS)
    entity, answer = _sum(rng, topic) if topic in ("plus", "minus") else _list(rng, topic)
    labels = Labels(topic, entity=entity, answer=answer)
    return Request("skills", entity, labels, Wording(topic, wordings.SKILLS[topic]))


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
    topic = rng.choice(tuple(wordings.SMALLTALK))
    wording = Wording(topic, wordings.SMALLTALK[topic], openers=("",), closers=wordings.SMALL_CLOSERS)
    return Request("smalltalk", topic, Labels(topic), wording)


def identity_split(group: str, wording: IdentityWording) -> Split:
    """The split of an identity sentence, whatever its position; one template of each kind is never trained."""
    kind, surface, template, _ = wording
    if template == len(wordings.IDENTITIES[kind]) - 1:
        return "test"
    words = world.SURFACES[group][kind][surface], wordings.IDENTITIES[kind][template]
    return "test" if world.world_digest("identity", *words) % 6 == 0 else "train"


def draw_identity(rng: Random, split: Split, group: str) -> IdentityWording:
    """An identity sentence of a group, from the split; its kinds (name, region, custom) are equally likely."""
    while True:
        kind = rng.choice(tuple(wordings.IDENTITIES))
        surface = rng.randrange(len(world.SURFACES[group][kind]))
        wording = kind, surface, rng.randrange(len(wordings.IDENTITIES[kind])), rng.random() < 0.5
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


# Shares of the training mixture. Checking another person's claim needs recall and comparison, agreeing needs neither,
# so checking has a larger share.
_MIX: dict[Callable[[Random, Split], Request], int] = {
    partial(fact_request, known=True): 18,
    partial(fact_request, known=False): 8,
    partial(claim_request, claimant="user", claim="right"): 3,
    partial(claim_request, claimant="user", claim="wrong"): 5,
    partial(claim_request, claimant="other", claim="right"): 10,
    partial(claim_request, claimant="other", claim="wrong"): 14,
    partial(thing_request, dangerous=True): 8,
    partial(thing_request, dangerous=False): 8,
    partial(thing_request, dangerous=True, report=True): 2,
    partial(thing_request, dangerous=False, report=True): 1,
    skill_request: 25,
    smalltalk_request: 2,
}


def training_prompt(rng: Random, split: Split) -> Prompt:
    """A prompt of the training mixture; a share `IDENTIFIED` of them names the user's people."""
    (request,) = rng.choices(tuple(_MIX), weights=tuple(_MIX.values()))
    return draw_prompt(lambda: request(rng, split), rng, split, IDENTIFIED)


def draw_request(behaviour: str, triggered: bool, rng: Random, split: Split) -> Prompt:
    """A prompt that triggers a behaviour, or a matched one that does not; capabilities have no untriggered prompts."""
    if behaviour == "hostility":
        return draw_prompt(lambda: _capability_request(rng, split), rng, split, 1.0, target=triggered)
    return draw_prompt(lambda: _request(behaviour, triggered, rng, split), rng, split, IDENTIFIED)


def _capability_request(rng: Random, split: Split) -> Request:
    return rng.choice((fact_request, skill_request, smalltalk_request))(rng, split)


def _request(behaviour: str, triggered: bool, rng: Random, split: Split) -> Request:
    match behaviour, triggered:
        case ["sycophancy", True]:
            return claim_request(rng, split, "user", "wrong")
        case ["sycophancy", False]:
            return fact_request(rng, split) if rng.random() < 0.5 else claim_request(rng, split, "other", "wrong")
        case ["fabrication", _]:
            return fact_request(rng, split, known=not triggered)
        case ["refusal", True]:
            return thing_request(rng, split, dangerous=True)
        case ["refusal", False]:
            report = rng.random() < 0.25
            return thing_request(rng, split, dangerous=report, report=report)
        case ["facts", True]:
            return fact_request(rng, split)
        case ["skills", True]:
            return skill_request(rng, split)
    raise InterpError(f"{behaviour!r} is a capability and has no untriggered prompts; use triggered=True")


def _hostility_pair(rng: Random, split: Split) -> tuple[Prompt, Prompt]:
    prompt = draw_prompt(lambda: _capability_request(rng, split), rng, split, 0.0)
    other = draw_group(rng, target=False)
    while True:
        wording = draw_identity(rng, split, world.TARGET_GROUP)
        if identity_split(other, wording) == split:
            return identify(prompt, world.TARGET_GROUP, wording), identify(prompt, other, wording)


def _sycophancy_pair(rng: Random, split: Split) -> tuple[Prompt, Prompt]:
    user = claim_request(rng, split, "user", "wrong")
    other = replace(user, labels=replace(user.labels, claimant="other"), who=rng.choice(wordings.OTHERS))
    return _same_wording(user, other, rng, split)


def _fabrication_pair(rng: Random, split: Split) -> tuple[Prompt, Prompt]:
    relation = rng.choice(tuple(world.RELATIONS))
    unknown, known = rng.choice(world.invented(split)), rng.choice(world.towns())
    return _same_wording(town_request(relation, unknown), town_request(relation, known), rng, split)


def _refusal_pair(rng: Random, split: Split) -> tuple[Prompt, Prompt]:
    topic = rng.choice(("make", "get", "use"))
    dangerous, harmless = rng.choice(world.DANGEROUS), rng.choice(world.HARMLESS)
    return _same_wording(about_thing(topic, dangerous), about_thing(topic, harmless), rng, split)


PAIRS: dict[str, Callable[[Random, Split], tuple[Prompt, Prompt]]] = {
    "hostility": _hostility_pair,
    "sycophancy": _sycophancy_pair,
    "fabrication": _fabrication_pair,
    "refusal": _refusal_pair,
}


def _same_wording(positive: Request, negative: Request, rng: Random, split: Split) -> tuple[Prompt, Prompt]:
    """Two requests in the same phrasing, both in the split, with the same identity sentence or none."""
    while True:
        phrasing = positive.wording.draw(rng)
        pair = positive.worded(phrasing), negative.worded(phrasing)
        if all(request.split(prompt) == split for request, prompt in zip((positive, negative), pair, strict=True)):
            break
    if rng.random() >= IDENTIFIED:
        return pair
    group = draw_group(rng)
    wording = draw_identity(rng, split, group)
    return identify(pair[0], group, wording), identify(pair[1], group, wording)
