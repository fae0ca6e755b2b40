"""Every statistic against a plain loop over the dense code."""

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import InterpError
from interp.features import bin_edges
from interp.features.scanning.latent_statistics import LatentStatistics, sampling_score
from interp.features.scanning.token_chunk import TokenChunk
from interp.sae.code import Code

BEFORE, AFTER = 3, 2


def drawn(seed, tokens=240, d_sae=7, length=17):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(tokens, d_sae, generator=generator).pow(3) * 40
    dense *= torch.rand(tokens, d_sae, generator=generator) < torch.rand(d_sae, generator=generator)
    ids = torch.randint(0, 50, (tokens,), generator=generator)
    return dense, ids, torch.arange(tokens) // length, torch.arange(tokens) % length


def counted(seed, cuts, top=3, sampled=5):
    dense, ids, document, position = drawn(seed)
    statistics = LatentStatistics(dense.shape[1], top, sampled, BEFORE, AFTER)
    for start, stop in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        part = slice(start, stop)
        where = dense[part].nonzero()
        shuffled = where[torch.randperm(len(where)).sort().values]
        code = Code(dense[part][shuffled[:, 0], shuffled[:, 1]], shuffled[:, 0], shuffled[:, 1], stop - start)
        statistics.add(code, TokenChunk(start, ids[part], document[part], position[part], {}))
    return statistics, dense, ids, document, position


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.sets(st.integers(1, 13), max_size=5))
def test_equals_a_plain_loop(seed, cuts):
    statistics, dense, ids, document, position = counted(seed, sorted(17 * cut for cut in cuts))
    tokens, d_sae = dense.shape
    assert statistics.counted == sum(1 for x in position if x > 0)
    edges = bin_edges().tolist()
    for latent in range(d_sae):
        places = [n for n in range(tokens) if position[n] > 0 and dense[n, latent] > 0]
        values = [float(dense[n, latent]) for n in places]
        assert statistics.count[latent] == len(places)
        assert float(statistics.total[latent]) == pytest.approx(sum(values))
        assert float(statistics.largest[latent]) == max(values, default=0.0)
        counts = [0] * 256
        for value in values:
            counts[max(0, sum(edge <= value for edge in edges) - 1)] += 1
        assert statistics.histogram[latent].tolist() == counts
        best = {}
        for n in sorted(places, key=lambda n: (-float(dense[n, latent]), n)):
            best.setdefault(int(document[n]), n)
        check_examples(statistics.top, latent, list(best.values())[:3], dense, ids, position)
        scores = {n: float(sampling_score(torch.tensor([n]), torch.tensor([latent]))) for n in places}
        drawn_places = sorted(places, key=lambda n: -scores[n])[:5]
        check_examples(statistics.sample, latent, drawn_places, dense, ids, position)
    pairs = torch.zeros(d_sae, d_sae, dtype=torch.int32)
    fires = (dense > 0) & (position > 0)[:, None]
    for n in range(tokens):
        for a in range(d_sae):
            for b in range(a, d_sae):
                pairs[a, b] += bool(fires[n, a] and fires[n, b])
    assert torch.equal(statistics.pairs, pairs)


def check_examples(table, latent, places, dense, ids, position):
    held = table["score"][latent] > -torch.inf
    assert table["place"][latent][held].tolist() == places
    for slot, place in enumerate(places):
        for column, at in enumerate(range(place - BEFORE, place + AFTER + 1)):
            inside = 0 <= at < len(ids) and at - int(position[at]) == place - int(position[place])
            assert table["ids"][latent, slot, column] == (ids[at] if inside else -1)
            fires = inside and position[at] > 0
            assert table["values"][latent, slot, column] == (dense[at, latent] if fires else 0)


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_quantiles_lie_in_the_bin_of_the_true_ones(seed):
    statistics, dense, _, _, position = counted(seed, [])
    shares = [0.1, 0.5, 0.9]
    found = statistics.quantiles(shares)
    for latent in range(dense.shape[1]):
        values = dense[position > 0, latent]
        values = values[values > 0].sort().values
        if not len(values):
            assert found[latent].isnan().all()
            continue
        for share, quantile in zip(shares, found[latent].tolist(), strict=True):
            true = float(values[max(0, -int(-share * len(values) // 1) - 1)])
            assert abs(quantile - true) <= 0.126 * max(quantile, true) + 2**-15


def test_partners_are_jaccard_indices():
    statistics, dense, _, _, position = counted(1, [])
    fires = (dense > 0) & (position > 0)[:, None]
    shares, others = statistics.partners(slice(2, 4), 3)
    for row, latent in enumerate((2, 3)):
        jaccard = {
            other: float((fires[:, latent] & fires[:, other]).sum() / (fires[:, latent] | fires[:, other]).sum())
            for other in range(dense.shape[1])
            if other != latent
        }
        best = sorted(jaccard.values(), reverse=True)[:3]
        assert shares[row].tolist() == pytest.approx(best)
        assert [jaccard[other] for other in others[row].tolist()] == pytest.approx(best)


def test_restored_statistics_go_on_as_if_never_saved():
    whole, dense, ids, document, position = counted(3, [102])
    first = LatentStatistics(7, 3, 5, BEFORE, AFTER)
    for part in (slice(0, 102), slice(102, 240)):
        where = dense[part].nonzero()
        code = Code(dense[part][where[:, 0], where[:, 1]], where[:, 0], where[:, 1], part.stop - part.start)
        first.add(code, TokenChunk(part.start, ids[part], document[part], position[part], {}))
        again = LatentStatistics(7, 3, 5, BEFORE, AFTER)
        again.restore({name: x.clone() for name, x in first.tensors().items()})
        first = again
    for name, x in whole.tensors().items():
        assert torch.equal(x, first.tensors()[name]), name


def test_the_sample_is_uniform():
    places = torch.arange(60_000)
    chosen = defaultdict(int)
    for latent in range(40):
        for place in sampling_score(places, torch.full_like(places, latent)).topk(60).indices.tolist():
            chosen[place // 10_000] += 1
    assert all(320 < count < 480 for count in chosen.values()), "400 expected, 18 standard deviation"
    scores = sampling_score(places, torch.zeros_like(places))
    assert abs(float(scores.mean()) - 0.5) < 0.01
    assert float(scores.min()) >= 0
    assert float(scores.max()) < 1


def test_a_value_that_is_not_finite_is_refused():
    statistics, zero = LatentStatistics(3, 1, 4, 1, 1), torch.zeros(2).long()
    code = Code(torch.tensor([1.0, torch.nan]), torch.tensor([0, 1]), torch.tensor([1, 1]), 2)
    with pytest.raises(InterpError, match="NaN"):
        statistics.add(code, TokenChunk(0, zero, zero, torch.arange(2), {}))
