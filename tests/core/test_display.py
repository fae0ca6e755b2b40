"""What records show of themselves is escaped: a token or a name may hold anything."""

from interp import Contrast
from interp.core.display import html_card, html_table

EVIL = "<script>alert(1)</script>"


def test_everything_is_escaped():
    for shown in (
        html_card(EVIL, [(EVIL, EVIL)]),
        html_table(EVIL, [EVIL], [[EVIL]]),
        Contrast.of([(EVIL, "a"), ("b", "c")])._repr_html_(),
    ):
        assert "<script" not in shown
        assert "&lt;script&gt;" in shown
