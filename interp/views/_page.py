"""HTML pages of one file: the shared colours, no network, and everything that comes from models or data as plain text.

A page is a template that extends `page.html.j2`, which has the colours of `palette` in light and in dark, and a
Content-Security-Policy that blocks all network access.
"""

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from interp.auditing.statistics.comparison import Estimate
from interp.core.errors import printable
from interp.views import palette


def rendered_page(template: str, **values: Any) -> str:
    """The text of a page; strings are escaped and `printable`.

    The filter `visible` shows the line breaks of tokens, and `figure` three decimals of numbers.
    """
    page = page_environment().get_template(template).render(light=palette.LIGHT, dark=palette.DARK, **values)
    # Text read from JSON may contain half of a surrogate pair, which UTF-8 cannot encode.
    return re.sub("[\ud800-\udfff]", "\ufffd", page)


@cache
def page_environment() -> Environment:
    """The environment that pages are rendered in."""
    environment = Environment(
        loader=PackageLoader("interp.views"),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.filters["figure"] = _figure
    return environment


def _figure(value: Any) -> Any:
    """A number to three decimals, and an estimate whose interval is not broken."""
    if isinstance(value, float):
        return f"{value:z.3f}"
    return str(value).replace(", ", ",\u00a0") if isinstance(value, Estimate) else value


def visible(token: str) -> str:
    """A token with visible symbols in place of line breaks, tabs and control characters."""
    token = token.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    return re.sub(r"[\x00-\x1f\x7f]", "\ufffd", token)
