"""The suite `public`: behaviours on published evaluation sets, read from a folder of the user's.

Each set (`PUBLIC_SETS`, by name) declares its files, how it asks and what its metric is; there is one module per
family of sets, from `_letters` to `_refusals`. docs/results/public_suite.md lists files and columns, and the scores
of a model on all of them.
"""

from collections.abc import Sequence
from pathlib import Path

from interp.auditing.behaviours import Behaviour
from interp.auditing.public._answers import CHOICES
from interp.auditing.public._bias import BIAS
from interp.auditing.public._letters import LETTERS
from interp.auditing.public._refusals import REFUSALS
from interp.auditing.public._rows import data_folder
from interp.auditing.public._sets import PublicSet
from interp.auditing.public._texts import TEXTS
from interp.core.display import displayed
from interp.core.errors import InterpError, nearest

PUBLIC_SETS: dict[str, PublicSet] = {each.name: each for each in (*LETTERS, *CHOICES, *BIAS, *TEXTS, *REFUSALS)}
ITEMS = 200


def public_suite(
    items: int = ITEMS, seed: int = 0, data: Path | None = None, only: Sequence[str] = ()
) -> list[Behaviour]:
    """Behaviours on published evaluation sets.

    Args:
        items: About how many items per behaviour; fewer where the set has fewer.
        seed: Seed of the sample.
        data: Folder of the sets. Default: the environment variable INTERP_DATA, or else `../shared/data`.
        only: Names of behaviours. Default: all.

    Raises:
        InterpError: Files are missing (all are listed at once), a name is unknown, or a row does not have the format of
            its set (by file and line).

    Example:
        >>> from interp.auditing import public_suite
        >>> public_suite(only=["arc_eazy"])
        Traceback (most recent call last):
        interp.core.errors.InterpError: the public suite has no behaviour 'arc_eazy'; did you mean arc_easy?
    """
    for name in only:
        if name not in PUBLIC_SETS:
            raise InterpError(f"the public suite has no behaviour {name!r}; {nearest(name, PUBLIC_SETS)}")
    chosen = [each for each in PUBLIC_SETS.values() if not only or each.name in only]
    root = data_folder(data, [file for each in chosen for file in (*each.files, *each.also)])
    return displayed([each.behaviour(root, items, seed) for each in chosen])
