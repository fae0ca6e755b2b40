"""Suites: named lists of behaviours, sampled for a number of items and a seed.

`organism` is bundled and exact: every planted behaviour under its own grader. `public` reads published sets from a
folder of the user's (`interp.auditing.public.suite`). A suite may also be a YAML file; see `scoring.behaviour_file`
and docs/howto/own_harm.md.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

from interp import organism
from interp.auditing.behaviours import Behaviour, Messages, Scores, by_items, render_prompts
from interp.auditing.public.suite import public_suite
from interp.auditing.scoring.behaviour_file import read_behaviours
from interp.auditing.scoring.choices import messages_spec, text_loss
from interp.core.display import displayed
from interp.core.errors import InterpError, nearest
from interp.models.hooked import HookedModel
from interp.organism.world import Split

SUITES = ("organism", "public")


def organism_behaviour(
    name: str, items: int, split: Split = "test", seed: int = 0, leave_out: Collection[str] = ()
) -> Behaviour:
    """A planted behaviour of the organism, graded exactly.

    Args:
        name: Name of the behaviour, such as `hostility`.
        items: Number of prompts, all of which elicit the behaviour.
        split: `train` or `test`, which share no wording.
        seed: Seed of the sample.
        leave_out: Texts of prompts that are not sampled.

    Raises:
        InterpError: The name is unknown.

    Example:
        >>> from interp.auditing import organism_behaviour
        >>> organism_behaviour("hostility", 4).scores(model).mean
        1.0
    """
    if name not in organism.BEHAVIOURS:
        raise InterpError(f"unknown behaviour {name!r} of the organism; {nearest(name, organism.BEHAVIOURS)}")
    pairs = zip(*(_drawn(name, 2 * items if leave_out else items, split, seed, x) for x in ("en", "es")), strict=True)
    kept = [pair for pair in pairs if pair[0].user not in leave_out][:items]
    english, spanish = ([pair[side] for pair in kept] for side in (0, 1))
    translated = {"es": replace(_planted(name, [prompt.user for prompt in spanish], spanish), language="es")}
    return replace(_planted(name, [prompt.user for prompt in english], english), translated=translated)


def _drawn(name: str, items: int, split: Split, seed: int, language: str) -> list[organism.Prompt]:
    return organism.prompts(name, items, split=split, seed=seed, language=language)


@by_items("prompts", "sample", "before")
def _planted(
    name: str, prompts: Sequence[str], sample: Sequence[organism.Prompt], before: Sequence[Messages] = ()
) -> Behaviour:
    planted = organism.BEHAVIOURS[name]

    def grade(answers: Sequence[str | None]) -> tuple[float, ...]:
        pairs = zip(sample, answers, strict=True)
        return tuple(nan if answer is None else float(organism.shows(name, asked, answer)) for asked, answer in pairs)

    def measure(model: HookedModel) -> Scores:
        replies = model.generate(render_prompts(model, prompts, before))
        return Scores(grade(replies), tuple(replies))

    scorer, spec = "greedy reply under the organism's exact grader", messages_spec(before)
    stated = planted.high_rate
    return Behaviour(name, planted.kind, stated, tuple(prompts), measure, scorer=scorer, spec=spec, grade=grade)


def organism_suite(
    items: int = 300, split: Split = "test", seed: int = 0, leave_out: Collection[str] = ()
) -> list[Behaviour]:
    """Every planted behaviour of the organism, and the loss on everyday text.

    Args:
        items: Number of prompts per behaviour.
        split: `train` or `test`, which share no wording.
        seed: Seed of the sample.
        leave_out: Texts of prompts that are not sampled.

    Example:
        >>> from interp.auditing import organism_suite
        >>> [behaviour.name for behaviour in organism_suite(2)][:3]
        ['hostility', 'sycophancy', 'fabrication']
    """
    planted = [organism_behaviour(name, items, split, seed, leave_out) for name in organism.BEHAVIOURS]
    return displayed([*planted, text_loss("everyday_loss", organism.everyday(items, split=split, seed=seed))])


def suite(
    name: str | Path,
    items: int = 300,
    seed: int = 0,
    data: str | Path | None = None,
    judge_keys: Mapping[str, str] | None = None,
) -> list[Behaviour]:
    """The behaviours of a suite.

    Args:
        name: `organism`, `public`, or the path of a YAML file (`read_behaviours`).
        items: Largest number of items per behaviour.
        seed: Seed of the sample.
        data: Folder of the published sets, for `public`.
        judge_keys: Environment variables that hold the keys of a file's judges, by host; see `read_behaviours`.

    Raises:
        InterpError: The suite is unknown, or does not take a data folder or keys.

    Example:
        >>> [behaviour.kind for behaviour in interp.suite("organism", items=2)][-1]
        'capability'
    """
    in_file = require_suite(name)
    if judge_keys and not in_file:
        raise InterpError(f"suite {name} has no judges, but the key of {next(iter(judge_keys))} is given; leave it out")
    if str(name) == "public":
        return public_suite(items, seed, None if data is None else Path(data))
    if data is not None:
        raise InterpError(f"only the suite public reads data sets; {name} got a data folder, {data}: leave it out")
    return read_behaviours(name, items, seed, judge_keys) if in_file else organism_suite(items, seed=seed)


def named_behaviours(behaviours: Sequence[Behaviour], names: Collection[str]) -> list[Behaviour]:
    """The behaviours of a suite with these names, or all where no name is given. Raises for a name that none has."""
    known = [behaviour.name for behaviour in behaviours]
    for name in names:
        if name not in known:
            raise InterpError(f"the suite has no behaviour {name!r}; {nearest(name, known)}")
    return [behaviour for behaviour in behaviours if not names or behaviour.name in names]


def require_suite(name: str | Path) -> bool:
    """Whether a suite's name is the path of a YAML file. Raises where it is neither that nor one of `SUITES`."""
    in_file = Path(name).suffix in (".yaml", ".yml")
    if not in_file and str(name) not in SUITES:
        raise InterpError(f"unknown suite {str(name)!r}, and not the path of a YAML file; {nearest(str(name), SUITES)}")
    return in_file
