"""Rows are made as they are asked for, and hold the documents read so far."""

import pytest
import torch

from interp.activations.token_rows import CorpusPasses, CorpusProgress, pack_groups, pack_rows
from interp.core.errors import InterpError
from interp.models.sites import Site

TEXTS = [f"w{4 + number} w5 w6" for number in range(40)]


def test_groups_together_are_the_rows_packed_at_once(tiny):
    model = tiny("llama")
    whole = pack_rows(model, TEXTS, context=16)
    groups = list(pack_groups(model, TEXTS, 3, context=16))
    assert {len(group) for group in groups[:-1]} == {3}
    assert torch.equal(torch.cat([group.ids for group in groups]), whole.ids)


def test_no_more_is_read_than_a_group_needs(tiny):
    model, read = tiny("llama"), []
    reading = CorpusProgress()
    endless = (read.append(number) or f"w{4 + number % 100} w5" for number in iter(lambda: len(read), -1))
    next(pack_groups(model, endless, 2, context=16, reading=reading, tokens=100_000))
    assert 0 < reading.documents <= len(read) < 1000


def test_progress_knows_the_corpus_and_what_was_split(tiny):
    model = tiny("llama")
    first, second, other = CorpusProgress(), CorpusProgress(), CorpusProgress()
    long = " ".join(["w7"] * 30)
    for progress, texts in ((first, [*TEXTS, long]), (second, [*TEXTS, long]), (other, TEXTS)):
        list(pack_groups(model, texts, 100, context=16, reading=progress))
    assert (first.documents, first.split, other.split) == (41, 1, 0)
    assert first.digest.hex == second.digest.hex != other.digest.hex


def test_widths_are_those_of_heads_side_by_side(tiny):
    model = tiny("llama")
    sites = [Site.parse(name) for name in ("resid_post.1", "z.0")]
    passes, rows = CorpusPasses(model, sites, 4), pack_rows(model, TEXTS, context=16)
    widths = passes.widths(rows)
    batches = list(passes.over(rows))
    assert sum(len(batch) for batch, _ in batches) == len(rows)
    for _, activations in batches:
        assert {str(site): x.shape[-1] for site, x in activations.items()} == widths


@pytest.mark.parametrize("full_at", [None, 1])
def test_batches_computed_ahead_are_handed_out_in_order(tiny, monkeypatch, full_at):
    """As on a device, where the next batch is computed while the last is copied; also when one does not fit."""
    model, site = tiny("llama"), Site.parse("resid_post.1")
    rows, passed, forward = pack_rows(model, TEXTS, context=16), [], model.forward_to

    def counted(sites, inputs):
        passed.append(len(inputs["input_ids"]))
        if len(passed) - 1 == full_at:
            raise torch.OutOfMemoryError("full")
        return forward(sites, inputs)

    monkeypatch.setattr(model, "forward_to", counted)
    results = {}
    for ahead in (0, 1):
        passed.clear()
        passes = CorpusPasses(model, [site], 2)
        passes.ahead = ahead
        batches = passes.over(rows)
        first = next(batches)
        assert len(passed) == 1 + ahead * (1 if full_at is None else 2)
        results[ahead] = [first, *batches]
    for (batch, one), (same, other) in zip(*results.values(), strict=True):
        assert torch.equal(batch.ids, same.ids)
        torch.testing.assert_close(one[site], other[site], rtol=0, atol=0)
    assert torch.equal(torch.cat([batch.ids for batch, _ in results[1]]), rows.ids)


@pytest.mark.parametrize(("texts", "context", "message"), [(["w4"], 65, "the model's is 64"), ([""], 16, "no tokens")])
def test_what_gives_no_rows_is_refused(tiny, texts, context, message):
    model = tiny("gpt2")
    with pytest.raises(InterpError, match=message):
        list(pack_groups(model, texts, 2, context=context, bos_first=False))
