"""What is drawn can be read: contrasts of WCAG 2, level AA, in both themes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.views import palette
from interp.views.palette import DARK, LIGHT, ink_on

THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
DRAWN = (palette.BEFORE, palette.AFTER, palette.CHOSEN, palette.TEXT)
TEXTS = [
    *((ink, paper) for paper in ("paper", "panel") for ink in ("ink", "muted", "accent", "allow", "deny")),
    *((kind, paper) for paper in ("paper", "panel") for kind in ("harm", "protected", "capability")),
    *(("ink", paper) for paper in ("allow_paper", "deny_paper", "mark")),
    ("allow", "allow_paper"),
    ("deny", "deny_paper"),
]


def luminance(colour: str) -> float:
    if colour.startswith("#"):
        channels = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    else:
        channels = [int(part) for part in re.findall(r"\d+", colour)]
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(ink: str, paper: str) -> float:
    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


def test_the_measure_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@THEMES
@pytest.mark.parametrize(("ink", "paper"), TEXTS)
def test_text_has_the_contrast_of_level_aa(theme: dict[str, str], ink: str, paper: str) -> None:
    assert contrast(theme[ink], theme[paper]) >= 4.5


@THEMES
@pytest.mark.parametrize("colour", [*palette.SERIES, *DRAWN])
def test_series_stand_out_on_both_papers(theme: dict[str, str], colour: str) -> None:
    assert contrast(colour, theme["paper"]) >= 3


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_numbers_in_cells_can_be_read_on_every_colour(channels: tuple[int, int, int]) -> None:
    colour = f"rgb({', '.join(map(str, channels))})"
    inks = ("#000000", "#ffffff")
    best = max(contrast(ink, colour) for ink in inks)
    assert contrast(ink_on(colour), colour) == pytest.approx(best, rel=0.01)
    assert contrast(ink_on(colour), colour) >= 4.5
