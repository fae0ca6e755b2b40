"""Signatures estimate the Jaccard similarity of shingles, and case and layout do not count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.upkeep.curation.near_duplicates import DuplicateHasher, similarity

HASHER = DuplicateHasher(0.8)


@given(st.integers(0, 200))
def test_the_estimate_is_within_its_error_of_the_jaccard_similarity(shared):
    both = [f"w{k}" for k in range(shared + 4)]
    texts = [" ".join([*both, *(f"{side}{k}" for k in range(200 - shared))]) for side in "ab"]
    sets = [{tuple(text.split()[k : k + 5]) for k in range(200)} for text in texts]
    exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    assert similarity(*map(HASHER.signature, texts)) == pytest.approx(exact, abs=5 * 0.045)


def test_equal_texts_share_all_bands_others_none_and_a_conversation_is_its_words():
    text = "The mill is by the river and the miller bakes every day ."
    same = HASHER.signature("the MILL is by\nthe river  and the miller bakes every day .")
    assert same == HASHER.signature(text)
    assert same == HASHER.signature([{"role": "user", "content": text}])
    other = HASHER.signature("Rain fell on all of the fields and nobody came to see .")
    assert set(HASHER.bands(same)).isdisjoint(HASHER.bands(other))
    assert len(set(HASHER.bands(same))) == 9
    assert HASHER.signature("short") != HASHER.signature("")


@pytest.mark.parametrize("threshold", [-0.1, 1.1])
def test_a_threshold_that_is_no_similarity_is_refused(threshold):
    with pytest.raises(InterpError, match="expected a similarity above 0"):
        DuplicateHasher(threshold)
