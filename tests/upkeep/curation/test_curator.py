"""A curation: its bytes do not depend on shards, processes or kills; what is wrong is said, and nothing is left."""

import json
import os
import signal
import sqlite3
import time

import pytest
from costless_scorer import CostlessScorer, texts
from processes import start
from pyarrow import parquet

from interp import InterpError
from interp.auditing import text_loss
from interp.upkeep import Curation, CurationOptions, LabelledDocument, curate
from interp.upkeep.curation.curator import SCORES, TABLE

OPTIONS = CurationOptions(threshold=3.0, shard=8, score="mean")
BYTES = ("kept.jsonl", "flagged.jsonl", "unsure.jsonl", SCORES, "curation.json")


def contents(folder):
    return {name: (folder / name).read_bytes() for name in BYTES}


@pytest.fixture
def corpus(tmp_path):
    rows = [*texts(60), "no number here", texts(3)[2]]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return tmp_path / "data.jsonl", rows


def test_every_document_is_in_one_split_by_its_score_in_order(corpus, tmp_path):
    file, rows = corpus
    record = curate(file, CostlessScorer(), tmp_path / "out", OPTIONS)
    splits = {
        name: [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").open()] for name in record.counts
    }
    assert {name: len(lines) for name, lines in splits.items()} == record.counts
    everything = sorted((line for lines in splits.values() for line in lines), key=lambda line: line["row"])
    assert [line["text"] for line in everything] == rows
    assert all(line["score"] >= 3 for line in splits["flagged"])
    assert all(line["score"] < 3 for line in splits["kept"])
    assert [line["text"] for line in splits["unsure"]] == ["no number here"], "control: it has no score"
    assert all([line["row"] for line in lines] == sorted(line["row"] for line in lines) for lines in splits.values())
    table = parquet.read_table(tmp_path / "out" / SCORES).to_pylist()
    assert [row["split"] for row in table].count("flagged") == record.counts["flagged"] == 6
    assert record.means["flagged"] == {"mean": 5.0, "max": 10.0}
    assert table[61]["duplicate_of"] == 2
    assert record.duplicates == 1
    assert [passage.score for passage in record.worst][:7] == [5.0] * 6 + [0.857]
    assert Curation.read(tmp_path / "out") == record
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_near_duplicates_are_left_out_of_what_is_kept_where_asked(tmp_path):
    first = "1 " + " ".join(f"w{k}" for k in range(100))
    near, far = first.replace("w99", "other"), " ".join(first.split()[:50]) + " " + " ".join(f"v{k}" for k in range(50))
    options = OPTIONS.model_copy(update={"drop_duplicates": True})
    record = curate([first, near, far, first], CostlessScorer(), tmp_path / "out", options)
    assert record.counts == {"kept": 2, "flagged": 0, "unsure": 0, "duplicate": 2}
    without = curate(
        [first, near], CostlessScorer(), tmp_path / "b", options.model_copy(update={"near_duplicates": 0.0})
    )
    assert without.counts["kept"] == 2


def test_a_curation_that_is_killed_again_and_again_gives_the_same_bytes(corpus, tmp_path):
    file, _ = corpus
    script = (
        "import sys; from costless_scorer import CostlessScorer; from interp.upkeep import CurationOptions, curate\n"
        "options = CurationOptions.parse({'threshold': 3.0, 'shard': 8, 'score': 'mean'})\n"
        "curate(sys.argv[1], CostlessScorer(0.02), sys.argv[2], options)"
    )
    curate(str(file), CostlessScorer(), tmp_path / "whole", OPTIONS)
    out, table = tmp_path / "killed", tmp_path / ".killed.curating" / TABLE
    for reached in (
        lambda: shards(table) > 3,
        lambda: (tmp_path / ".killed.unfinished" / "kept.jsonl").exists(),
    ):
        process = start(script, file, out, output=tmp_path / "log")
        while process.is_alive() and not reached():
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not out.exists(), "nothing appears before it is complete"
        assert table.exists()
    assert shards(table) == 8, "control: the last kill came while the splits were written"
    curate(str(file), CostlessScorer(), out, OPTIONS)
    assert contents(out) == contents(tmp_path / "whole")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def shards(table):
    try:
        with sqlite3.connect(f"file:{table}?mode=ro", uri=True, timeout=0) as db:
            return db.execute("SELECT count(*) FROM shard").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet, or being written
        return 0


def test_an_error_after_the_first_shard_keeps_what_was_scored_and_the_repaired_corpus_goes_on(tmp_path):
    class Counting(CostlessScorer):
        def score(self, documents):
            scored.append(len(documents))
            return super().score(documents)

    scored, lines = [], [json.dumps({"text": text}) + "\n" for text in texts(32)]
    (tmp_path / "data.jsonl").write_text("".join([*lines[:20], "broken\n", *lines[21:]]))
    with pytest.raises(InterpError, match="line 21: not valid JSON"):
        curate(tmp_path / "data.jsonl", Counting(), tmp_path / "out", OPTIONS)
    assert (tmp_path / ".out.curating").is_dir()
    (tmp_path / "data.jsonl").write_text("".join(lines))
    with pytest.raises(InterpError, match=r"options.shard was 8 and is now 4.; continue with those"):
        curate(tmp_path / "data.jsonl", Counting(), tmp_path / "out", OPTIONS.model_copy(update={"shard": 4}))
    del scored[:]
    curate(tmp_path / "data.jsonl", Counting(), tmp_path / "out", OPTIONS)
    assert scored == [8, 8], "two of the four shards were there"
    (tmp_path / "data.jsonl").write_text("".join([*lines[:20], "broken\n"]))
    with pytest.raises(InterpError, match="line 21"):
        curate(tmp_path / "data.jsonl", Counting(), tmp_path / "other", OPTIONS)
    (tmp_path / "data.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(InterpError, match="changed since it was first read"):
        curate(tmp_path / "data.jsonl", Counting(), tmp_path / "other", OPTIONS)


@pytest.mark.parametrize("complete", [True, False])
def test_what_a_kill_at_the_very_end_leaves_beside_a_curation_is_removed(corpus, tmp_path, complete):
    file, _ = corpus
    if complete:
        curate(str(file), CostlessScorer(), tmp_path / "out", OPTIONS)
    else:
        (tmp_path / "out").mkdir()
    (tmp_path / ".out.curating").mkdir()
    with pytest.raises(InterpError, match="exists already"):
        curate(str(file), CostlessScorer(), tmp_path / "out", OPTIONS)
    assert (tmp_path / ".out.curating").exists() != complete


def test_processes_and_memory_give_the_same_splits(corpus, tmp_path):
    file, rows = corpus
    curate(str(file), CostlessScorer(), tmp_path / "one", OPTIONS)
    curate(str(file), CostlessScorer(), tmp_path / "two", OPTIONS, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    record = curate(rows, CostlessScorer(), tmp_path / "memory", OPTIONS)
    assert record.digest == Curation.read(tmp_path / "one").digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": CurationOptions()}, "neither labels nor a threshold"),
        ({"options": CurationOptions(threshold=1.0, score="mena")}, "did you mean mean"),
        ({"options": CurationOptions(threshold=1.0, near_duplicates=1.5)}, "near_duplicates is 1.5"),
        ({"data": iter(["a"])}, "read once only"),
        ({"data": "no/such.jsonl"}, "no such file"),
        ({"data": []}, "is empty"),
        ({"workers": 0}, "workers is 0"),
        ({"labels": [LabelledDocument("1 a", True)]}, "1 harmful and 0 clean labelled documents; expected at least 8"),
        ({"behaviours": [text_loss("loss", ["a b"])]}, "a scorer with a model"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(change, words, tmp_path):
    call = {"data": ["1 a"], "source": CostlessScorer(), "out": tmp_path / "new" / "out", "options": OPTIONS} | change
    with pytest.raises(InterpError, match=words):
        curate(**call)
    assert not list(tmp_path.iterdir())
