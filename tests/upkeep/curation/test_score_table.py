"""The table of scores: shards are in it whole, and near-duplicates are those that a comparison of all pairs finds."""

from math import nan
from random import Random

import pytest

from interp import InterpError
from interp.upkeep.curation.near_duplicates import DuplicateHasher
from interp.upkeep.curation.score_table import ScoredShard, ScoreTable


def shingles(text):
    words = text.split()
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


def jaccard(a, b):
    return len(a & b) / len(a | b)


def test_duplicates_are_those_of_all_pairs_far_from_the_threshold(tmp_path):
    rng, hasher, rows = Random(0), DuplicateHasher(0.8), []
    for original in range(24):
        words = [f"{original}w{k}" for k in range(120)]
        for changed in (0, 1, 2, 40)[: rng.randint(1, 4)]:
            rows.append(" ".join(words[: 120 - changed] + [f"{rng.random()}" for _ in range(changed)]))
    rng.shuffle(rows)
    with ScoreTable(tmp_path / "t.sqlite", 1, hasher) as table:
        for start in range(0, len(rows), 20):
            part = rows[start : start + 20]
            table.add(ScoredShard(str(start), [(0.0,)] * len(part), [hasher.signature(text) for text in part]))
        count = table.find_duplicates()
        found = {row.number: row.duplicate_of for row in table.rows() if row.duplicate_of is not None}
        assert table.find_duplicates() == count == len(found), "again, as after a kill"
    sets = [shingles(text) for text in rows]
    for number, words in enumerate(sets):
        similar = [jaccard(words, earlier) for earlier in sets[:number]]
        closest = max(similar, default=0.0)
        if closest > 0.93:
            assert number in found
        if closest < 0.6:
            assert number not in found
    assert all(jaccard(sets[number], sets[earlier]) > 0.65 for number, earlier in found.items())
    assert len(found) > 15, "control"


def test_a_shard_that_fails_is_not_in_it_and_numbers_go_on(tmp_path):
    with ScoreTable(tmp_path / "t.sqlite", 2) as table:
        table.add(ScoredShard("a", [(1.0, nan), (3.0, 4.0)]))
        with pytest.raises(ValueError, match="zip"):
            table.add(ScoredShard("b", [(1.0, 2.0)], [b"x", b"y"]))
        assert (table.digests(), len(table)) == (["a"], 2)
        table.add(ScoredShard("c", [(5.0, 0.5)]))
    with ScoreTable(tmp_path / "t.sqlite", 2) as table:
        assert [(row.number, row.scores) for row in table.rows()] == [
            (0, (1.0, None)),
            (1, (3.0, 4.0)),
            (2, (5.0, 0.5)),
        ]
        assert [row.number for row in table.worst(0, 2)] == [2, 1]
        assert [row.number for row in table.worst(1, 5)] == [1, 2], "a row without the score is not the worst"
        assert table.find_duplicates() == 0


def test_a_damaged_table_is_named(tmp_path):
    (tmp_path / "t.sqlite").write_text("no database" * 100)
    with pytest.raises(InterpError, match=r"t.sqlite: cannot be read or written .*; remove"):
        ScoreTable(tmp_path / "t.sqlite", 1)
