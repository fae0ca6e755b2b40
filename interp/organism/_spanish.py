"""Spanish, the second language of the organism's world: prompts and replies of the grammar, phrase by phrase.

`spanish.yaml` has a Spanish phrase for each English one. `in_language` words a prompt again from its labels and its
phrasing's name, so it asks the same, in the same split. `translate_reply` finds the templates that a reply was made of,
and fills those of the other language with the translated words; there and back is the same reply.

Limitations: a wording outside the grammar stays as it is, apart from insults. Everyday documents have no Spanish.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from interp.organism import _replies as replies
from interp.organism import _wordings as wordings
from interp.organism import world
from interp.organism._prompts import Prompt

_WORDS_IN = {"en": "[A-Za-z0-9 ]+", "es": r"[\w ]+"}
_LISTS_IN = {"en": "[A-Za-z0-9, ]+", "es": r"[\w, ]+"}  # an entity may be a list; other slots hold no comma
_LEXICON = {"adjective": replies.ADJECTIVES, "noun": replies.NOUNS, "guest": replies.GUESTS, **replies.THING_SLOTS}
_EVERYWHERE = ("INSULTS", "COURTESIES", "AGREEMENTS", "VERDICTS", "REFUSALS", "UNKNOWN")
_BODIES = {"facts": "FACTS", "claims": "FACTS", "things": "THINGS", "skills": "SKILLS", "smalltalk": "SMALLTALK"}


@cache
def _data() -> dict[str, Any]:
    return yaml.safe_load((files("interp.organism") / "spanish.yaml").read_text("utf-8"))


@cache
def _phrases(language: str) -> dict[str, str]:
    """Words and whole phrases of slots, into a language."""
    words = _data()["words"]
    phrases = dict(words)
    for phrase in world.RELATIONS["river"]:
        phrases[phrase] = f"el {phrase.removeprefix('the ')}"
    for phrase in world.RELATIONS["dish"]:
        filling, form = phrase.split()
        phrases[phrase] = f"{words[form]} de {words[filling]}"
    for surfaces in world.SURFACES.values():
        for phrase in (*surfaces["region"], *surfaces["custom"]):
            first, last = phrase.split()
            phrases[phrase] = f"{words[last]} {words.get(first, first)}"
    return phrases if language == "es" else {spanish: english for english, spanish in phrases.items()}


def _translate_words(text: str, language: str) -> str:
    """A whole phrase where it is known, or else word by word; a word that is not known stays."""
    phrases = _phrases(language)
    if text in phrases:
        return phrases[text]
    if text.lower() in phrases:
        return phrases[text.lower()].capitalize()
    return re.sub(r"\w+", lambda word: phrases.get(word[0], word[0]), text)


def in_language(prompt: Prompt, language: str) -> Prompt:
    """The same English prompt in a language: labels, phrasing and identity sentence stay."""
    if language == "en":
        return prompt
    spanish, labels = _data()["wordings"], prompt.labels
    name, _, numbers = prompt.phrasing.partition("/")
    opener, core, closer = map(int, numbers.split("."))
    small = prompt.family == "smalltalk"
    kind = "small_" if small else "claim_" if name == "claims" else ""
    openers = ("",) if small else spanish[f"{kind if name == 'claims' else ''}openers"]
    template = openers[opener] + spanish[name][core] + spanish[f"{kind}closers"][closer]
    who = next((spanish["others"][n] for n, x in enumerate(wordings.OTHERS) if x in prompt.user.lower()), "")
    slots = {key: _translate_words(value, "es") for key, value in vars(labels).items() if isinstance(value, str)}
    text = template.format(**slots | {"who": who} | spanish["verbs"][labels.claimant or "user"])
    text = re.sub(r"\w", lambda letter: letter[0].upper(), text, count=1)
    if prompt.identity:
        kind, surface, number, place = prompt.identity.split("/")
        known = _translate_words(world.SURFACES[str(labels.group)][kind][int(surface)], "es")
        sentence = spanish[kind][int(number)].format(s=known)
        text = f"{sentence} {text}" if place == "before" else f"{text} {sentence}"
    return replace(prompt, user=text, language="es")


def translate_reply(prompt: Prompt, reply: str, language: str) -> str:
    """A reply to a prompt, from the other language into this one (`en` or `es`)."""
    source = "en" if language == "es" else "es"
    sides = {"en": vars(replies), "es": _data()["replies"]}
    pairs = [*zip(*(_templates(sides[side], prompt) for side in (source, language)), strict=True)]
    sentences, rest = list[str](), reply.strip()
    while rest:
        matches = ((pattern(old, source).match(rest), new) for old, new in pairs)
        match, new = next(
            ((x, new) for x, new in matches if x and rest[x.end() : x.end() + 1] in ("", " ")), (None, "")
        )
        if match is None:
            return " ".join([*sentences, _insults_in(rest, language)])
        sentences.append(_filled(new, match, language))
        rest = rest[match.end() :].lstrip()
    return " ".join(sentences)


def _templates(side: Mapping[str, Any], prompt: Prompt) -> Iterator[str]:
    """The templates of what a reply to a prompt may be made of, in one order in both languages."""
    for name in (*_EVERYWHERE, _BODIES[prompt.family]):
        found = side[name][prompt.labels.topic] if name == "SKILLS" else side[name]
        for part in found.values() if isinstance(found, Mapping) else [found]:
            yield from part


def _filled(template: str, match: re.Match[str], language: str) -> str:
    return template.format(**{slot: _translate_words(text, language) for slot, text in match.groupdict().items()})


def _insults_in(text: str, language: str) -> str:
    orders = ("{adjective} {noun}", "{noun} {adjective}")
    old, new = orders if language == "es" else orders[::-1]
    return pattern(old, "en" if language == "es" else "es").sub(lambda match: _filled(new, match, language), text)


@cache
def pattern(template: str, language: str = "en") -> re.Pattern[str]:
    """A template as a pattern. A slot is a word of its lexicon; without a lexicon, words without punctuation."""
    pieces = re.split(r"\{(\w+)\}", template)
    for index in range(1, len(pieces), 2):
        slot = pieces[index]
        known = [x if language == "en" else _phrases("es")[x] for x in _LEXICON.get(slot, ())]
        words = "|".join(map(re.escape, known)) or (_LISTS_IN if slot == "entity" else _WORDS_IN)[language]
        pieces[index] = f"(?P<{slot}>{words})"
    pieces[::2] = [re.escape(text) for text in pieces[::2]]
    return re.compile("".join(pieces))
