"""Text from models and people as a page shows it: what is invisible, or turns text around, becomes visible."""

_KEPT = "\n\t\u200c\u200d"  # joiners are part of words and of pictograms


def legible(text: str) -> str:
    """A text in which characters that print nothing are named: controls, marks of direction, U+2028, odd spaces.

    >>> from interp.views.browser._legible_text import legible
    >>> legible("a\u202eb\u2028")
    'a⟨U+202E⟩b⟨U+2028⟩'
    """
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() or x in _KEPT else f"⟨U+{ord(x):04X}⟩" for x in text)


def heat(value: float, largest: float) -> int:
    """The step, 0 to 10, of a value's colour: 0 for one that does not fire."""
    return max(1, min(10, round(10 * value / largest))) if value > 0 and largest > 0 else 0
