"""Token batches: padding, positions and common prefixes."""

import torch

from interp.models.tokens import common_length, padded


def test_positions_count_real_tokens_only():
    batch = padded([[5, 6, 7], [8]])
    assert batch.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.predicted.tolist() == [[True, True], [False, False]]


def test_rows_lose_the_padding_that_they_do_not_need():
    batch = padded([[5, 6, 7], [8], [9, 4]])
    assert batch.rows(1, 2).ids.tolist() == [[8]]
    assert batch.pick(torch.tensor([2, 1])).ids.tolist() == [[9, 4], [0, 8]]


def test_the_common_length_is_that_of_every_pair():
    assert common_length([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2
    assert common_length([[1], [2]]) == 0
