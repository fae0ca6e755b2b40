"""The suite `public`: behaviours on published evaluation sets, read from a folder of the user's.

Each adapter (`ADAPTERS`, by name) says its files, how it asks and what its number is; the families are in files of
their own, `public_letters` to `public_refusals`. docs/results/public_suite.md has a model's figures on all of them,
files and columns. Where no folder is named, `public_data` says where it is looked for.
"""

from collections.abc import Sequence
from pathlib import Path

from interp.auditing.behaviours import Behaviour
from interp.auditing.public._answers import CHOICES
from interp.auditing.public._bias import BIAS
from interp.auditing.public._letters import LETTERS
from interp.auditing.public._refusals import REFUSALS
from interp.auditing.public._rows import folder_of
from interp.auditing.public._sets import PublicSet
from interp.auditing.public._texts import TEXTS
from interp.core.errors import InterpError, nearest

ADAPTERS: dict[str, PublicSet] = {adapter.name: adapter for adapter in (*LETTERS, *CHOICES, *BIAS, *TEXTS, *REFUSALS)}
ITEMS = 200


def public_suite(
    items: int = ITEMS, seed: int = 0, data: Path | None = None, only: Sequence[str] = ()
) -> list[Behaviour]:
    """Every adapter's behaviour, or those named, on about so many items, or as many as the set has.

    Raises for files that are not there, all at once, and for a row that is not what its set has, by file and line.
    """
    for name in only:
        if name not in ADAPTERS:
            raise InterpError(f"the public suite has no behaviour {name!r}; {nearest(name, ADAPTERS)}")
    adapters = [adapter for adapter in ADAPTERS.values() if not only or adapter.name in only]
    root = folder_of(data, [file for adapter in adapters for file in (*adapter.files, *adapter.also)])
    return [adapter.behaviour(root, items, seed) for adapter in adapters]
