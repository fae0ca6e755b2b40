"""The data of an experiment, from files: dealt so that nothing is judged on what it was fitted or chosen on."""

import json
from pathlib import Path

import pytest

from interp import InterpError
from interp.directions.contrast_source import read_contrast
from interp.pipeline.materials import DataSettings, gather_materials, read_corpus

CHOICES = {"name": "maths", "kind": "capability", "file": "maths.jsonl", "statement": "the right sum is preferred"}


@pytest.fixture
def folder(tmp_path):
    def write(name, rows):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))

    write("text.jsonl", [{"text": f"Document {n} says something."} for n in range(40)])
    answers = {"answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}
    write("pairs.jsonl", [{"question": f"Question {n}?", **answers} for n in range(50)])
    write(
        "maths.jsonl",
        [{"prompt": f"{n} + {n}?", "correct": f"{2 * n}", "incorrect": f"{2 * n + 1}"} for n in range(30)],
    )
    return tmp_path


def data(**changes):
    values = {
        "text": "text.jsonl", "documents": 20, "contrast": "pairs.jsonl", "pairs": 20, "choose_items": 8,
        "audit_items": 12, "loss_texts": 12, "behaviours": [CHOICES],
    }  # fmt: skip
    return DataSettings.parse(values | changes)


def prompts(behaviours):
    return {behaviour.name: set(behaviour.prompts) for behaviour in behaviours}


def test_no_item_is_in_two_parts(folder):
    found = gather_materials(data(), "sycophancy", seed=0, folder=folder)
    choose, audit = prompts(found.choose), prompts(found.audit)
    assert set(choose) == set(audit) == {"sycophancy", "maths", "text_loss"}
    fitted = {pair.positive.prompt for pair in found.contrast.pairs}
    assert len(fitted) >= 20
    assert not fitted & (choose["sycophancy"] | audit["sycophancy"])
    for name in choose:
        assert choose[name]
        assert audit[name]
        assert not choose[name] & audit[name]
    assert (len(choose["sycophancy"]), len(audit["sycophancy"])) == (8, 12)
    assert not set(found.text) & set(found.held_out_text)
    assert [b.kind for b in found.audit] == ["harm", "capability", "capability"]


def test_files_with_names_of_their_own_and_bad_rows(folder):
    rows = [{"bad": f"One {n}", "good": f"Two {n}"} for n in range(50)] + [{"bad": "Same", "good": "Same"}]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sums = [{"q": f"{n} + {n}?", "yes": f"{2 * n}", "no": f"{2 * n + 1}"} for n in range(30)]
    (folder / "maths.jsonl").write_text("\n".join(map(json.dumps, sums)))
    mapped = CHOICES | {"columns": {"prompt": "q", "correct": "yes", "incorrect": "no"}}
    answers = {"contrast": "pairs.jsonl", "behaviours": [mapped]}
    assert prompts(gather_materials(data(**answers), "s", 0, folder).audit)["maths"]
    own = data(contrast="own.jsonl", columns={"positive": "bad", "negative": "good"}, behaviours=[])
    with pytest.raises(InterpError, match="line 51: both sides are equal"):
        gather_materials(own, "s", 0, folder)


def test_the_same_seed_deals_the_same(folder):
    first, again, other = (gather_materials(data(), "s", seed, folder) for seed in (0, 0, 1))
    assert first.contrast == again.contrast
    assert first.text == again.text
    assert first.contrast != other.contrast


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "absent.jsonl"}, "absent.jsonl"),
        ({"contrast": "absent.jsonl"}, "absent.jsonl"),
        ({"loss_texts": 40}, "expected more than the 40 held out"),
        ({"pairs": 45}, "can't be dealt into parts"),
        ({"contrast": "organism.hostility"}, "comes with the organism's own text"),
        ({"contrast": "organism.hostility", "text": "organism"}, "leave behaviours, columns and skip_bad out"),
    ],
)
def test_bad_data_is_named(folder, changes, message):
    with pytest.raises(InterpError, match=message):
        gather_materials(data(**changes), "s", 0, folder)


def test_the_organisms_choosing_prompts_are_not_those_fitted_on():
    for seed in range(3):
        own = DataSettings(text="organism", contrast="organism.hostility", documents=10, choose_items=60, loss_texts=5)
        found = gather_materials(own, "hostility", seed, Path())
        fitted = {turn.prompt for pair in found.contrast.pairs for turn in (pair.positive, pair.negative)}
        for behaviour in found.choose[:-1]:
            assert len(behaviour.prompts) == 60
            assert not fitted & set(behaviour.prompts)


def test_sources_by_name():
    assert len(read_contrast("organism.refusal", pairs=7)) == 7
    assert len(list(read_corpus("organism", 5))) == 5
    with pytest.raises(InterpError, match="has no end"):
        read_corpus("organism")
