"""Nearest rows against a plain loop. (test_difference matches the decoders of two autoencoders.)"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_samples import draw
from torch.nn.functional import cosine_similarity

from interp.sae.similarity import nearest_rows


@settings(max_examples=25)
@given(st.integers(1, 600), st.integers(1, 40), st.integers(1, 8), st.booleans(), st.booleans(), st.integers(0, 9))
def test_equals_a_plain_loop_over_pairs(rows, others, count, own, some, seed):
    x = draw(rows, 5, seed=seed)
    y = x if own else draw(others, 5, seed=seed + 10)
    number = min(count, len(y) - own)
    among = torch.arange(len(y)) % 3 > 0
    cosines, nearest = nearest_rows(x, y, count, torch.arange(rows) if own else None, among if some else None)
    assert cosines.shape == nearest.shape == (rows, number)
    for row in range(0, rows, 97):
        slow = cosine_similarity(y, x[row][None]).index_fill(0, torch.tensor([row] if own else []).long(), -torch.inf)
        slow = slow.masked_fill(~among, -torch.inf) if some else slow
        torch.testing.assert_close(cosines[row], slow.topk(number).values)
        torch.testing.assert_close(slow[nearest[row]], cosines[row])


def test_a_row_that_is_not_its_own_is_its_nearest():
    rows = draw(6, 5)
    assert nearest_rows(rows, rows)[1].flatten().tolist() == list(range(6)), "control: without own"
    assert nearest_rows(rows[2:3], rows, own=torch.tensor([2]))[1].item() != 2
