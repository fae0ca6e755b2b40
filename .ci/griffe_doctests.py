"""A griffe extension: the doctests of a docstring are shown as code, whatever section they are in."""

import re

import griffe

_DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)(?! *$).*)*", re.MULTILINE)


class FencedDoctests(griffe.Extension):
    """Puts a fence around each block of doctest lines."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Change a docstring before it is parsed."""
        if obj.docstring and ">>>" in obj.docstring.value:
            obj.docstring.value = _DOCTEST.sub(_fenced, obj.docstring.value)


def _fenced(block: re.Match[str]) -> str:
    code = re.sub(r" *# doctest: .*", "", block[0])
    return f"{block['indent']}```pycon\n{code}\n{block['indent']}```"
