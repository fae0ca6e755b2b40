"""Pages of the feature browser as a test reads them: elements, text, and the fields of a form."""

import re
from html.parser import HTMLParser

EVIL = "</script><img src=x onerror=\"alert('x')\">\u2028\u202ea"


def form(page, **fields):
    """The hidden fields of an answer's form, and others."""
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page.text))
    return hidden | {key: str(value) for key, value in fields.items()}


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.words = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data
