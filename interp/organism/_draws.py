"""Random prompts of the model organism: triggered prompts, matched controls, pairs, and the training mixture.

`draw_request` draws a prompt that triggers a behaviour, or a matched one that does not. `PAIRS` draws, for each
behaviour with a trigger, two prompts whose texts differ only in the trigger. `training_prompt` mixes all families in
fixed shares.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from interp.core.errors import InterpError
from interp.organism import world
from interp.organism._prompts import (
    Prompt,
    Request,
    about_thing,
    claim_request,
    draw_group,
    draw_identity,
    draw_prompt,
    fact_request,
    identify,
    identity_split,
    skill_request,
    smalltalk_request,
    thing_request,
    town_request,
)
from interp.organism._wordings import OTHERS
from interp.organism.world import Split

IDENTIFIED = 0.3  # share of prompts that name the user's people, where the behaviour does not decide it

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
    other = replace(user, labels=replace(user.labels, claimant="other"), who=rng.choice(OTHERS))
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
