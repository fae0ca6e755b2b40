"""Nearest rows against a plain loop, and the rounding of cosines. (test_difference matches two autoencoders.)"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_samples import draw
from tiny_models import one_site
from torch.nn.functional import cosine_similarity

from interp.sae import SparseAutoencoder, TopK, match_decoders
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


def coder(rows, tiny):
    width, place = rows.shape[1], one_site(rows.shape[1], "embed", tiny("llama").reference)
    return SparseAutoencoder(rows, torch.zeros(len(rows)), rows, torch.zeros(width), TopK(k=1), **place)


@settings(max_examples=15)
@given(st.integers(16, 400), st.integers(-20, 20), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 9))
def test_an_autoencoder_has_all_latents_in_common_with_itself_and_none_with_one_that_is_turned(
    tiny, width, power, dtype, seed
):
    rows = draw(50, width, seed=seed)
    scaled = (rows * 2.0**power).to(dtype).float()  # narrower numbers are the same numbers
    match = match_decoders(coder(scaled, tiny), coder(scaled, tiny))
    assert {pair[:2] for pair in match.shared(1.0)} == {(n, n) for n in range(50)}
    assert match.alone(0, 1.0) == match.alone(1, 1.0) == []
    turned = match_decoders(coder(rows, tiny), coder(rows + 0.05 * draw(50, width, seed=seed + 1), tiny))
    assert len(turned.alone(0, 1.0)) == 50
    assert 0 < turned.rounding < 1e-4


def test_rounding_takes_some_cosines_of_a_row_with_itself_below_one():
    rows = draw(400, 192)
    assert float(nearest_rows(rows, rows)[0].min()) < 1
