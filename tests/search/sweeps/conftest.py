"""A sweep of a small random model: two behaviours, a loss, benign prompts, and one projection to choose."""

import json
import random
from types import SimpleNamespace

import pytest
from word_contrasts import words

from interp.search import SweepFile, SweepRecord, run_sweep

TOTAL = 7

RECIPE = {
    "directions": {
        "d": {
            "contrast": "pairs.jsonl",
            "method": {"choice": ["diff_means", "pca"]},
            "site": {"low": 0, "high": 2, "text": "resid_post.{}"},
        }
    },
    "edits": [{"op": "Project", "sites": "writers", "direction": "d", "strength": {"low": 0.1, "high": 1.5}}],
}


def _lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def small_sweep(tiny, tmp_path_factory):
    """`settings(**changes)`, the folder of its files, and the model."""
    folder, rng, model = tmp_path_factory.mktemp("sweep"), random.Random(0), tiny("llama")
    model.hf.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    _lines(
        folder / "pairs.jsonl", [{"positive": f"{words(rng)} w5", "negative": f"{words(rng)} w9"} for _ in range(24)]
    )
    for name in ("harm", "kept"):
        _lines(folder / f"{name}.jsonl", [{"prompt": words(rng, 5)} for _ in range(40)])
    _lines(folder / "texts.jsonl", [{"text": words(rng, 8)} for _ in range(40)])
    _lines(folder / "benign.jsonl", [{"text": words(rng, 5)} for _ in range(60)])
    margins = [("harm", "harm", "w5", "w9"), ("kept", "protected", "w20", "w30")]
    entries = [
        {"name": name, "kind": kind, "scorer": {"type": "margin", "more": [f" {more}"], "less": [f" {less}"]}}
        for name, kind, more, less in margins
    ]
    entries = [entry | {"statement": "s", "items": f"{entry['name']}.jsonl"} for entry in entries]
    loss = {"name": "loss", "kind": "capability", "statement": "s", "items": "texts.jsonl", "scorer": {"type": "loss"}}
    (folder / "own.yaml").write_text(json.dumps({"behaviours": [*entries, loss]}))
    measure = {
        "suites": ["own.yaml"], "benign": "benign.jsonl", "choose_items": 16, "confirm_items": 16, "benign_items": 12,
        "reply_tokens": 3,
    }  # fmt: skip
    base = {"model": "model", "recipe": RECIPE, "measure": measure, "sampler": {"startup": 4}}
    base |= {"stop": {"shares": []}, "confirm": {"points": 2, "draws": 1}}

    def settings(**changes):
        return SweepFile.parse(base | changes)

    return SimpleNamespace(settings=settings, folder=folder, model=model)


@pytest.fixture(scope="session")
def whole(small_sweep, tmp_path_factory):
    """A sweep of `TOTAL` trials that was never stopped."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run_sweep(small_sweep.settings(), out, TOTAL, folder=small_sweep.folder, model=small_sweep.model)
    return SweepRecord.read(out)
