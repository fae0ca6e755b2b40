"""`@fault(case, result)` names the fault that a test is about, and what happens; docs/faults.md lists them.

`experiments/faults_table.py` reads the decorators from the text of the tests.
"""

from collections.abc import Callable
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., object])


def fault(case: str, result: str) -> Callable[[Test], Test]:
    """Mark a test with the fault and with what happens, both in the words of the table."""
    return pytest.mark.fault(case=case, result=result)
