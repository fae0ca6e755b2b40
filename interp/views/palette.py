"""The colours of all views; no meaning depends on telling red from green.

The colours of series are those of Okabe and Ito 2008, "Color universal design", that are legible on white and on
near-black, so figures use one set in both themes. The colours that differ between light and dark (paper, ink, lines,
badges) form a theme, which is written into the page as CSS variables.
"""

# In light and in dark. `mark` is the background of a token at full activation; `…_paper` is that of a decision.
_COLOURS = {
    "paper": ("#ffffff", "#14171c"),
    "panel": ("#f5f7f9", "#1c2128"),
    "ink": ("#1a1f26", "#e8ebef"),
    "muted": ("#56606c", "#a5afbb"),
    "line": ("#d5dbe2", "#39414c"),
    "accent": ("#0a5aa8", "#7db9ff"),
    "harm": ("#a33a00", "#ffa36b"),
    "protected": ("#0a5aa8", "#7db9ff"),
    "capability": ("#006b4c", "#55d0a6"),
    "allow": ("#005c43", "#74dfb7"),
    "allow_paper": ("#e4f4ee", "#12312a"),
    "deny": ("#9c3000", "#ffb084"),
    "deny_paper": ("#fdece3", "#3b2016"),
    "mark": ("#f7a440", "#8a4a00"),
}
LIGHT = {name: light for name, (light, _) in _COLOURS.items()}
DARK = {name: dark for name, (_, dark) in _COLOURS.items()}

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
BEFORE, AFTER = "#858d96", "#0072b2"
CHOSEN = "#d55e00"
TEXT, GRID = "#747c85", "rgba(128, 128, 128, 0.3)"  # for figures outside our own pages, such as in notebooks
SCALE = "Cividis"
CHANGE = [[0.0, "rgb(213, 94, 0)"], [0.5, "rgb(242, 242, 242)"], [1.0, "rgb(0, 114, 178)"]]  # worse, as before, better


def ink_on(colour: str) -> str:
    """Black or white, whichever has the higher contrast on `rgb(r, g, b)`, by the relative luminance of WCAG 2."""
    channels = [float(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if luminance > 0.179 else "#ffffff"
