"""A sparse code is the dense one with its zeros left out, and sums over bags are products of matrices."""

import torch

from interp.sae.code import Code, bag_sums, pre_activations

G = torch.Generator().manual_seed(0)
ROWS = torch.randn(12, 5, generator=G)


def _code(count):
    values = torch.rand(count, 3, generator=G)
    return Code.of_rows(values, torch.rand(count, 12, generator=G).topk(3).indices)


def test_decoding_is_a_product_with_the_dense_code():
    code = _code(7)
    assert (code.dense(12) != 0).sum(1).tolist() == [3] * 7
    torch.testing.assert_close(code.decode(ROWS), code.dense(12) @ ROWS)


def test_joined_codes_are_those_of_consecutive_tokens():
    first, second = _code(4), _code(2)
    joined = Code.joined([first, second])
    assert joined.count == 6
    assert torch.equal(joined.dense(12), torch.cat([first.dense(12), second.dense(12)]))


def test_empty_bags_sum_to_zero():
    index, weights = torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0, 3.0])
    sums = bag_sums(ROWS, index, weights, torch.tensor([0, 2, 2]), 4)
    torch.testing.assert_close(sums, torch.stack([ROWS[0], 0 * ROWS[0], 5 * ROWS[1], 0 * ROWS[0]]))
    assert bag_sums(ROWS, index[:0], weights[:0], index[:0], 0).shape == (0, 5)


def test_groups_of_latents_read_their_parts_of_a_token():
    x, rows, bias = torch.randn(3, 10, generator=G), torch.randn(8, 5, generator=G), torch.randn(8, generator=G)
    grouped = pre_activations(x, rows, bias)
    separate = [x[:, 5 * part : 5 * part + 5] @ rows[4 * part : 4 * part + 4].T for part in range(2)]
    torch.testing.assert_close(grouped, torch.cat(separate, 1) + bias)
