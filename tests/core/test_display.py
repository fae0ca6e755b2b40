"""Records show a bounded, escaped, well-formed part of themselves, whatever they hold."""

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, replace
from xml.etree import ElementTree

import pytest
import sample_records
import torch
from large_records import EVIL, large_records

import interp
from interp.auditing.baselines import Baseline
from interp.core.display import Displayed, brief, displayed, heat_html, html_table, plural, print_table
from interp.core.errors import printable


def public_classes():
    """All classes that the package and its stages export."""
    stages = [module.name for module in pkgutil.walk_packages(interp.__path__, "interp.") if module.ispkg]
    for module in (interp, *map(importlib.import_module, stages)):
        yield from (x for name in getattr(module, "__all__", []) if inspect.isclass(x := getattr(module, name)))


PUBLIC = sorted(set(public_classes()), key=lambda cls: cls.__name__)
OF_FIELDS = [cls for cls in PUBLIC if getattr(cls, "_card", None) is Displayed._card]
# not records of fields, or a text
SELF_SHOWN = {
    "InterpError", "LabelConflict", "LiveCurves", "ChatWidget", "HarnessModel", "HookedModel", "Sides", "RenderedText",
}  # fmt: skip


@pytest.fixture(scope="module")
def large(tiny, tmp_path_factory):
    return list(large_records(tiny("llama"), tmp_path_factory.mktemp("large")))


def require_short(record):
    for text in (repr(record), str(record)):
        assert 0 < len(text) <= 1000, (type(record), len(text))
        assert text.count("\n") < 10, type(record)


def page(record):
    """The card, parsed; it holds no markup of the record's own texts."""
    return ElementTree.fromstring(f"<body>{record._repr_html_()}</body>")


def test_every_public_record_is_displayed():
    assert {cls.__name__ for cls in PUBLIC if not issubclass(cls, Displayed)} <= SELF_SHOWN


def test_each_record_that_says_what_it_shows_is_among_the_large_ones(large):
    special = {cls for cls in PUBLIC if "_card" in vars(cls)} - {interp.core.Config}
    missing = [cls.__name__ for cls in special if not any(isinstance(record, cls) for record in large)]
    assert not missing


def test_texts_are_short_and_in_lists_one_line_each(large):
    for record in large:
        require_short(record)
        if isinstance(record, Displayed):
            assert "\n" not in repr(record)
    require_short(displayed(large))
    require_short(displayed(tuple(large)))


def test_cards_are_well_formed_and_escaped(large):
    for record in [*large, displayed(large)]:
        if not isinstance(record, tuple | list) or hasattr(record, "_repr_html_"):
            card = page(record)
            assert not card.findall(".//script"), type(record)
            assert "".join(card.itertext()).strip()


@pytest.mark.parametrize("cls", OF_FIELDS, ids=lambda cls: cls.__name__)
def test_a_record_of_fields_is_bounded_whatever_they_hold(cls):
    for value in (torch.zeros(99, 99), [EVIL] * 10_000, {EVIL: [EVIL * 100] * 100}, EVIL * 10_000, None):
        record = object.__new__(cls)
        for name in getattr(cls, "__dataclass_fields__", ()):
            object.__setattr__(record, name, value)
        text = repr(record)
        assert len(text) <= 1000
        assert "\n" not in text
        page(record)


def test_the_bounds_notice_a_plain_dataclass():
    @dataclass
    class Plain:
        values: list

    with pytest.raises(AssertionError):
        require_short(Plain([EVIL] * 100))


def test_small_records_have_the_text_of_dataclasses():
    @dataclass
    class Plain:
        a: int
        b: str
        c: tuple

    @dataclass
    class Shown(Displayed):
        a: int
        b: str
        c: tuple

    assert repr(Shown(1, "x", (0.5, None))).split("(", 1)[1] == repr(Plain(1, "x", (0.5, None))).split("(", 1)[1]


@pytest.mark.parametrize("kind", [list, tuple])
def test_displayed_values_are_those_that_they_were(kind):
    values = kind([interp.models.Site("embed"), interp.models.Site("z", 1)])
    shown = displayed(values)
    assert shown == values
    assert isinstance(shown, kind)
    assert [*shown] == [*values]
    assert shown[0] is values[0]
    assert (kind.__repr__(values), kind.__add__(shown, values)) == (repr(values), values + values)
    headers, *rows = page(shown).findall(".//tr")
    assert [th.text for th in headers] == [None, "kind", "layer"]
    assert len(rows) == 2
    assert page(displayed(kind())) is not None


def test_numbers_have_their_noun_and_values_few_words():
    assert [plural(n, "prompt") for n in (0, 1, 2, 2048)] == ["0 prompts", "1 prompt", "2 prompts", "2,048 prompts"]
    assert plural(2, "entry", "entries") == "2 entries"
    values = (None, True, 12345, 0.123456, torch.zeros(3, 4), (1, 2), {"a": 0.5}, [])
    assert [brief(x) for x in values] == ["–", "yes", "12,345", "0.123", "tensor[3, 4]", "1, 2", "a 0.5", "–"]


def test_columns_of_figures_are_aligned_right():
    rows = [["a", 0.5, "0.51 [0.40, 0.62]", "text"], ["b", "–", "+1.2e-05*", "3"]]
    for row in ElementTree.fromstring(html_table("t", ["n", "x", "y", "z"], rows)).findall(".//tr"):
        assert [cell.get("style").startswith("text-align:right") for cell in row] == [False, True, True, False]


def test_cards_have_no_colours_of_their_own(large):
    styles = {e.get("style", "") for r in large if isinstance(r, Displayed) for e in page(r).iter()}
    assert not [style for style in styles if "color" in style]


def test_everything_is_escaped():
    for shown in (html_table(EVIL, [], [(EVIL, EVIL, EVIL)]), html_table(EVIL, [EVIL], [[EVIL]])):
        assert "<script" not in shown
        assert "&lt;script&gt;" in shown


@pytest.mark.parametrize("token", ["</script><b>", "'\"&", "a\u2028b", "\u202eevil", "\x1b[2J", "\ud800", "\n", "אב"])
def test_heat_holds_its_tokens_as_text(token):
    values = [1.0, -4.0, float("nan"), 0.0]
    root = ElementTree.fromstring(heat_html(["<", token, "b", token], values, top=2.0, peak=1))
    spans = list(root)
    assert "".join(spans[1].itertext()) == printable(token).replace("\n", "↵")
    assert [span.get("title") for span in spans] == ["1", "-4", None, "0"]
    assert [span.get("style").partition(",0.")[0].split("background:")[1] for span in spans] == [
        "rgba(255,140,0", "rgba(0,114,178", "rgba(0,114,178", "rgba(0,114,178",
    ]  # fmt: skip
    assert [span.get("style").partition("0.")[2][:2] for span in spans] == ["30", "60", "00", "00"], "at most 0.6"
    assert ["underline" in span.get("style") for span in spans] == [False, True, False, False]


def test_an_audits_card_shows_what_its_baselines_change_beside_the_edit():
    audit = sample_records.audit()
    change = replace(audit.rows[0].difference, estimate=-0.125)
    card = page(replace(audit, baselines=(Baseline("random", {}, changes={"hostility": change}),)))
    header, first, *others = [[cell.text for cell in row] for row in card.findall(".//tr")]
    column = header.index("difference, random")
    assert first[column] == "-0.125"
    assert {row[column] for row in others} == {"–"}


def test_tables_show_texts_as_they_are(capsys):
    print_table(False, [{"label": "book:bread: [red]x[/red]"}], "at :bread:")
    shown = capsys.readouterr().out
    assert "book:bread: [red]x[/red]" in shown
    assert "at :bread:" in shown
