"""A wrong call gives one error that names the value, what was expected and what to do; a right call runs as it is."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from interp import InterpError
from interp.core.calls import checked, checked_class, fits


@checked_class("Sheet.of(rows)")
class Sheet:
    def __init__(self, rows: int, title: str = ""):
        self.rows, self.title = rows, title

    @classmethod
    def of(cls, rows: Sequence[str]) -> "Sheet":
        return cls(len(rows))

    def row(self, number: int) -> int:
        return number


def call(
    sheet: Sheet,
    names: Sequence[str],
    x: Float[Tensor, "batch d"] | None = None,
    *,
    scale: float = 1.0,
    kind: Literal["token", "byte"] = "token",
    path: str | Path = ".",
    sheets: Mapping[str, Sheet] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    return dict(locals())


CHECKED, SHEET = checked(call), Sheet(3)
CALL, ROW = "the call is call(sheet, names, …)", "a Tensor of shape (3,) and type float32"
MOST = "call takes at most 3 arguments without a name"


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (("a", ["b"]), {}, "call: sheet is 'a'; expected a Sheet; Sheet.of(rows)"),
        ((["b"], SHEET), {}, f"call: sheet is ['b'] (a list); expected a Sheet; Sheet.of(rows); {CALL}"),
        ((SHEET, ["a", 3]), {}, "call: names[1] is 3; expected a text"),
        ((SHEET, []), {"scael": 2.0}, "call has no argument 'scael'; did you mean scale?"),
        ((SHEET, []), {"strength": 2.0}, "call has no argument 'strength'; it is called scale"),
        ((SHEET, []), {"scale": True}, "call: scale is True; expected a number"),
        ((SHEET, []), {"kind": "tokn"}, "call: kind is 'tokn'; expected 'token' or 'byte'; did you mean token?"),
        ((SHEET, []), {"sheets": {"a": SHEET, "b": 2}}, "call: sheets['b'] is 2; expected a Sheet; Sheet.of(rows)"),
        ((SHEET, []), {"say": "print"}, "call: say is 'print'; expected a function or None"),
        ((SHEET, []), {"x": torch.ones(3)}, f"call: x is {ROW}; expected a float tensor of shape (batch d) or None"),
        ((SHEET, [], None, SHEET), {}, f"{MOST}, and a Sheet is one more; {CALL}"),
        ((SHEET, [], None, 2.0), {}, f"{MOST}, and 2.0 is one more; write scale=…"),
        ((SHEET, []), {"names": []}, f"call gets names twice, by place and by name; {CALL}"),
        ((SHEET,), {}, f"call needs names: a list of texts; {CALL}"),
        ((["a"],), {}, f"call needs sheet: a Sheet; Sheet.of(rows); {CALL}"),
    ],
)  # fmt: skip
def test_a_wrong_call_says_what_was_given_and_what_was_expected(args, options, message):
    with pytest.raises(InterpError) as raised:
        CHECKED(*args, **options)
    assert str(raised.value) == message
    assert len(raised.traceback) == 2, "the user's line and the checked call"


def test_a_class_is_checked_in_its_constructor_and_its_methods():
    for wrong in (lambda: Sheet("3"), lambda: Sheet.of(3), lambda: SHEET.row("first"), lambda: Sheet()):
        with pytest.raises(InterpError, match=r"^Sheet"):
            wrong()
    assert (Sheet.of(["a"]).rows, SHEET.row(2)) == (1, 2)


class Finding:
    direction = SHEET


def test_what_stands_for_an_argument_is_accepted():
    taken = CHECKED(Finding(), "one", np.ones((2, 3)), scale=2, path=Path("a"))
    assert taken["sheet"] is SHEET
    assert (taken["names"], taken["path"]) == (["one"], Path("a"))
    assert type(taken["scale"]) is float
    assert torch.equal(taken["x"], torch.ones(2, 3, dtype=torch.float64))
    assert CHECKED(SHEET, (name for name in "ab"))["names"] == ["a", "b"]
    assert CHECKED(SHEET, np.array(["a", "b"]))["names"] == ["a", "b"]


def test_a_right_call_gets_its_arguments_as_they_are():
    names, x = ["a"], torch.ones(2, 2)
    taken = CHECKED(SHEET, names, x=x, say=print)
    assert taken["names"] is names
    assert taken["x"] is x
    assert inspect.signature(CHECKED) == inspect.signature(call)
    assert checked(call) is CHECKED


values = st.recursive(st.integers() | st.text(max_size=2) | st.none(), lambda x: st.lists(x, max_size=3), max_leaves=4)


@given(values)
def test_fits_agrees_with_a_slow_definition(value):
    def texts(x):
        return isinstance(x, list) and all(isinstance(item, str) for item in x)

    assert fits(value, Sequence[str]) == texts(value)
    assert fits(value, str | list[Iterable[str]] | None) == (
        value is None or isinstance(value, str) or (isinstance(value, list) and all(map(texts, value)))
    )
    assert fits(value, int) == isinstance(value, int)
    assert fits(value, Any)
