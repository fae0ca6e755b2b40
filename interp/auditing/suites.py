"""Suites: named lists of behaviours, made anew for a number of items and a seed.

`organism` is bundled and exact: every planted behaviour under its own grader. `public` reads published sets from a
folder of the user's (`interp.auditing.public.suite`). A suite may also be a file that anyone
writes; see `behaviour_file` and docs/howto/behaviours.md.
"""

from collections.abc import Callable, Collection
from pathlib import Path

from interp import organism
from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.public.suite import public_suite
from interp.auditing.scoring.behaviour_file import read_behaviours
from interp.auditing.scoring.choices import text_loss
from interp.core.errors import InterpError, nearest
from interp.models.hooked import HookedModel
from interp.organism.world import Split

Suite = Callable[[int, int, Path | None], list[Behaviour]]


def organism_behaviour(
    name: str, items: int, split: Split = "test", seed: int = 0, leave_out: Collection[str] = ()
) -> Behaviour:
    """A planted behaviour of the organism, graded exactly on prompts that call for it, but not those of `leave_out`."""
    if name not in organism.BEHAVIOURS:
        raise InterpError(f"unknown behaviour {name!r} of the organism; {nearest(name, organism.BEHAVIOURS)}")
    planted = organism.BEHAVIOURS[name]
    drawn = organism.prompts(name, 2 * items if leave_out else items, split=split, seed=seed)
    asked = [prompt for prompt in drawn if prompt.user not in leave_out][:items]

    def measure(model: HookedModel) -> Scores:
        replies = model.generate([model.chat(prompt.user) for prompt in asked])
        shown = [float(organism.shows(name, *said)) for said in zip(asked, replies, strict=True)]
        return Scores(tuple(shown), tuple(replies))

    prompts = tuple(prompt.user for prompt in asked)
    return Behaviour(
        name, planted.kind, planted.high_rate, prompts, measure, scorer="greedy reply under the organism's exact grader"
    )


def organism_suite(
    items: int = 300, split: Split = "test", seed: int = 0, leave_out: Collection[str] = ()
) -> list[Behaviour]:
    """Every planted behaviour, and the loss on everyday text; see `organism_behaviour`."""
    planted = [organism_behaviour(name, items, split, seed, leave_out) for name in organism.BEHAVIOURS]
    return [*planted, text_loss("everyday_loss", organism.everyday(items, split=split, seed=seed))]


def _organism(items: int, seed: int, data: Path | None) -> list[Behaviour]:
    if data is not None:
        raise InterpError(f"the organism's suite is drawn, not read; got a data folder, {data}: leave it out")
    return organism_suite(items, seed=seed)


SUITES: dict[str, Suite] = {"organism": _organism, "public": public_suite}


def suite(name: str | Path, items: int, seed: int = 0, data: str | Path | None = None) -> list[Behaviour]:
    """A shipped suite by name, or the behaviours of a YAML file, at most `items` of each.

    `data` is the folder that holds a shipped suite's sets, for those that read any.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        if data is not None:
            raise InterpError(f"{name} names its own files of items; got a data folder, {data}: leave it out")
        return read_behaviours(name, items, seed)
    if str(name) not in SUITES:
        raise InterpError(f"unknown suite {str(name)!r}; {nearest(str(name), SUITES)}, or the path of a YAML file")
    return SUITES[str(name)](items, seed, None if data is None else Path(data))
