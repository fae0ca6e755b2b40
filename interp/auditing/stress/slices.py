"""Slices: the behaviours of a suite with their prompts put otherwise, each a behaviour of its own.

A slice of `hostility` is `hostility/paraphrase`: the same items in the same order, with the answers, expected replies
and graders that they have. Only what the model reads is another; graders that look at a prompt look at the original.
The transformations of a slice are taken in turn, and a prompt that the next one does not apply to takes the one after.

`language.es` and the like are slices of languages. Where a behaviour states translations (`translations` in the rows of
a behaviour file; the organism's suite), the slice has those, with their own answers. Elsewhere it has the frame of the
stress file, which asks in that language for an answer to a prompt that stays as it is.

An audit has slices as rows next to the others. Their intervals are wider: over the slices of one behaviour all hold
together (Bonferroni). A policy names the slices in which its limits hold, so that the worst decides (`Policy.slices`).

Limitations: there is no machine translation. A frame shows whether the language of the instruction matters, not whether
a behaviour is the same in that language.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from interp.auditing.behaviours import Behaviour
from interp.auditing.stress.transformation import Slice, StressFile, Transformation
from interp.core.display import displayed, plural
from interp.core.errors import InterpError, nearest, note

_LANGUAGE = "language"


def add_slices(
    behaviours: Sequence[Behaviour], names: str | Iterable[str], file: StressFile | str | Path | None = None
) -> list[Behaviour]:
    """Behaviours, and after them their slices.

    Says which behaviours a slice does not apply to, and how many of their items it leaves out.

    Args:
        behaviours: A suite.
        names: Names of slices (`paraphrase`, `language.es`) or families (`language`), or one text with commas.
        file: A stress file. Default: the one of the package, with the slices paraphrase, role, encoding, turns,
            language.es, language.fr and language.de.

    Raises:
        InterpError: A name is unknown, or a slice has no items left in any behaviour.

    Example:
        >>> from interp.auditing import add_slices, organism_behaviour
        >>> plain, role, spanish = add_slices([organism_behaviour("hostility", 4)], "role,language.es")
        >>> role.name, role.prompts[0] != plain.prompts[0], len(role), spanish.language
        ('hostility/role', True, 4, 'es')
    """
    stress = file if isinstance(file, StressFile) else StressFile.shipped() if file is None else StressFile.read(file)
    asked = names.split(",") if isinstance(names, str) else list(names)
    translated = {f"{_LANGUAGE}.{x}": x for behaviour in behaviours for x in behaviour.translated}
    slices = list[Behaviour]()
    for name in _chosen([*dict.fromkeys([*stress.slices, *translated])], asked):
        part = stress.slices.get(name)
        language = part.language if part and part.language else translated.get(name, "")
        scenario = f"stress {name}, version {stress.version}, SHA-256 {stress.digest[:12]}"
        made = [_sliced(behaviour, name, language, part) for behaviour in behaviours]
        if not any(made):
            raise InterpError(
                f"slice {name} has no items left: it applies to none of {', '.join(x.name for x in behaviours)}; "
                "remove it, or give a stress file with other transformations"
            )
        slices += [_labelled(x, x.of, name, scenario, language) for x in made if x is not None]
    return displayed([*behaviours, *slices])


def _chosen(known: Sequence[str], names: Iterable[str]) -> list[str]:
    """The slices of these names and families, in the order of the names, each once."""
    chosen = dict[str, None]()
    families = [x.partition(".")[0] for x in known]
    for name in (x.strip() for x in names):
        of_name = [x for x, family in zip(known, families, strict=True) if name in (x, family)]
        if not of_name:
            family, _, member = name.partition(".")
            if family == _LANGUAGE and member:
                problem = f"no translation into {member!r}: neither the behaviours nor the stress file have language"
                raise InterpError(f"{problem}.{member}; {nearest(name, known)}")
            raise InterpError(f"unknown slice {name!r}; {nearest(name, [*known, *families])}")
        chosen |= dict.fromkeys(of_name)
    return list(chosen)


def _sliced(behaviour: Behaviour, name: str, language: str, part: Slice | None) -> Behaviour | None:
    """The behaviour under the transformations of a slice, or None, with a note, if none applies."""
    if language in behaviour.translated:
        stated = behaviour.translated[language]
        _say_left_out(behaviour, name, len(behaviour) - len(stated), "state no translation")
        return stated
    if part is None or behaviour.worded is None:
        why = "it states no translation" if part is None else "it has no prompts that can be put otherwise"
        note(f"{behaviour.name}: slice {name} does not apply, since {why}")
        return None
    texts = _texts(behaviour, part.transformations)
    kept = [item for item, text in enumerate(texts) if text is not None]
    if not kept:
        note(f"{behaviour.name}: slice {name} does not apply, since none of its transformations changes a prompt")
        return None
    _say_left_out(behaviour, name, len(texts) - len(kept), "are not changed by it, or to a prompt that is there")
    chosen = behaviour.pick(kept) if len(kept) < len(texts) else behaviour
    assert chosen.worded is not None
    rows = [x for x in texts if x is not None]
    return chosen.worded([text for text, _ in rows], [messages for _, messages in rows])


def _texts(
    behaviour: Behaviour, transformations: Sequence[Transformation]
) -> list[tuple[str, list[dict[str, Any]]] | None]:
    """What the model reads of each item: the prompt and the messages before it; None where none applies."""
    chat = behaviour.spec.get("chat", True) is not False
    seen, texts = dict[str, str](), list[tuple[str, list[dict[str, Any]]] | None]()
    for item, prompt in enumerate(behaviour.prompts):
        turn = item % len(transformations)
        for transformation in islice(cycle(transformations), turn, turn + len(transformations)):
            text = transformation.apply(prompt, chat)
            # Two prompts that differed may become one text, which would count twice.
            if text is not None and seen.setdefault(text, prompt) == prompt:
                texts.append((text, [message.model_dump() for message in transformation.before]))
                break
        else:
            texts.append(None)
    return texts


def _say_left_out(behaviour: Behaviour, name: str, count: int, why: str) -> None:
    if count:
        note(f"{behaviour.name}: slice {name} leaves out {plural(count, 'item')} of {len(behaviour)}, which {why}")


def _labelled(behaviour: Behaviour, of: str, name: str, scenario: str, language: str) -> Behaviour:
    """The behaviour as a slice, also on some of its items."""

    def pick(items: Sequence[int]) -> Behaviour:
        return _labelled(behaviour.pick(items), of, name, scenario, language)

    heading = f"{behaviour.scenario}; {scenario}" if behaviour.scenario else scenario
    return replace(
        behaviour,
        name=f"{of}/{name}",
        slice=name,
        scenario=heading,
        language=language or behaviour.language,
        picked=pick,
        worded=None,
        translated={},
    )
