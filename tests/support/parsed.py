"""A page as a browser's parser sees it: a tree of elements, in which text is text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"br", "wbr", "hr", "img", "input", "link", "meta"}


@dataclass
class Element:
    """An element with its attributes; children are elements and texts in order."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Elements of a tag whose attributes hold the given words (`class_` for class)."""
        words = {name.rstrip("_"): word for name, word in attributes.items()}
        elements = [element for element in self if element.tag == tag]
        return [e for e in elements if all(w in e.attributes.get(n, "").split() for n, w in words.items())]

    def id(self, name: str) -> Element:
        """The one element with an id."""
        (match,) = [element for element in self if element.attributes.get("id") == name]
        return match

    @property
    def text(self) -> str:
        """All text below, as it is."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def words(self) -> str:
        """All text below, each run of white space one space."""
        return " ".join(self.text.split())


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> Element:
    """The tree of a page; fails where tags are not closed in order."""
    builder = _Builder()
    builder.feed(html)
    builder.close()
    assert len(builder.open) == 1, f"<{builder.open[-1].tag}> is never closed"
    return builder.open[0]
