"""A book with labels, and with a machine's descriptions; and the fields that other tools' records have."""

import json
from pathlib import Path

import pytest

from interp.features import FeatureLabel
from interp.features.descriptions.accuracy import Answer
from interp.features.descriptions.description import Description

FIELDS = json.loads(Path(__file__).with_name("tool_fields.json").read_text())
KINDS = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict}


@pytest.fixture
def described(book):
    """The book, in which a person and a machine say what latents mean."""
    book.labels.add(
        [
            FeatureLabel(sae="top", latent=3, text="towns", verdict="benign", rater="ana", note="sure"),
            FeatureLabel(sae="top", latent=5, text="a\nb <c>", rater="small", scores={"detection": [0.9, 0.8, 1.0]}),
        ]
    )
    places = [row["place"] for row in book.examples(5, "top")][:4]
    silent = book.query("SELECT place FROM background WHERE sae = 'top' AND NOT list_contains(latents, 5)")
    answers = {
        "detection": [Answer(place=place, fires=True, said=True) for place in places]
        + [Answer(place=row["place"], fires=False, said=None) for row in silent[:4]],
        "fuzzing": [Answer(place=places[0], fires=False, said=True)],
    }
    row = Description(sae="top", latent=5, rater="small", text="a\nb <c>", digest="", answers=answers)
    (book.folder / "descriptions.jsonl").write_text(json.dumps(row.model_dump()) + "\n")
    return book


def _is(kind, value):
    if kind.endswith("?"):
        return value is None or _is(kind[:-1], value)
    if kind.startswith("list["):
        return isinstance(value, list) and all(_is(kind[5:-1], item) for item in value)
    return isinstance(value, KINDS[kind]) and (kind == "bool" or not isinstance(value, bool))


@pytest.fixture
def check():
    """Assert that a row has exactly the fields of a tool's record (optional ones may be left out), of their types."""

    def checked(record, row):
        fields = FIELDS[record]
        assert {*row} <= {*fields}, record
        assert {name for name, kind in fields.items() if not kind.endswith("=")} <= {*row}, record
        for name, value in row.items():
            assert _is(fields[name].rstrip("="), value), (record, name, value)

    return checked
