"""The background is a uniform sample of the text, with all that fires around it: compared with a plain loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.features import Book, ScanOptions, scan
from interp.features.scanning.background import Background
from interp.features.scanning.latent_statistics import sampling_score
from interp.features.scanning.token_chunk import TokenChunk
from interp.sae.code import Code

OPTIONS = ScanOptions(context=32, chunk=200, top=3, sampled=8, before=4, after=2, background=30)


@pytest.mark.parametrize("name", ["top", "jump"])
def test_it_has_every_firing_around_each_place(scanned, saes, store, name):
    """Each window against the stored activations, encoded densely."""
    sae = saes[name]
    x = sae.encode(store.read(sae.site, 0, len(store)).float())
    ids, document, position = (store.column(key, 0, len(store)).long() for key in ("ids", "document", "position"))
    rows = scanned.query("SELECT * FROM background WHERE sae = ?", [name])
    every = (position > 0).nonzero().flatten()
    score = sampling_score(every, torch.full_like(every, -1))
    size = min(scanned.card.options.background, len(every))
    assert [row["place"] for row in rows] == sorted(every[score.topk(size).indices].tolist())
    for row in rows:
        first = row["place"] - row["peak"]
        window = torch.arange(first, first + len(row["ids"]))
        assert row["ids"] == ids[window].tolist()
        assert {*document[window].tolist()} == {row["document"]}
        expected = {
            (int(latent), int(token)): float(x[first + token, latent])
            for token, latent in (x[window] > 0).nonzero()
            if position[first + token] > 0
        }
        found = dict(zip(zip(row["latents"], row["positions"], strict=True), row["values"], strict=True))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert any(row["latents"] for row in rows) == (name == "top"), "the other one fires on nothing"


def test_a_silent_latent_is_one_without_a_firing_there(scanned):
    """Consistent with the examples: the places of a latent's examples are none of those where it is silent."""
    fires = {(x["latent"], x["place"]) for x in scanned.query("SELECT latent, place FROM examples WHERE sae = 'top'")}
    silent = scanned.query("SELECT place, latents, peak, positions FROM background WHERE sae = 'top'")
    assert not any((latent, row["place"]) in fires for row in silent for latent in {*range(40)} - {*row["latents"]})
    assert any((latent, row["place"]) in fires for row in silent for latent in row["latents"]), "control"


@settings(max_examples=20)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(0, 9), st.integers(0, 3), st.integers(0, 3))
def test_chunks_and_a_restart_do_not_matter(lengths, size, before, after):
    document = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    position = torch.cat([torch.arange(n) for n in lengths])
    ids = torch.arange(len(document)) + 100
    tokens = torch.arange(len(document)).repeat_interleave(2)
    latents = torch.stack([position % 3, 3 + document % 2], 1).flatten()

    def part(start, stop):
        inside = (tokens >= start) & (tokens < stop)
        code = Code(torch.ones(int(inside.sum())), tokens[inside] - start, latents[inside], stop - start)
        return {"sae": code}, TokenChunk(start, ids[start:stop], document[start:stop], position[start:stop], {})

    whole = Background(["sae"], size, before, after)
    whole.add(*part(0, len(ids)))
    pieces, starts = Background(["sae"], size, before, after), (position == 0).nonzero().flatten().tolist()
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        pieces.add(*part(start, stop))
        fresh = Background(["sae"], size, before, after)
        fresh.restore({name: x.clone() for name, x in pieces.tensors().items()})
        pieces = fresh
    assert [*pieces.rows("sae", str)] == [*whole.rows("sae", str)]
    assert len([*whole.rows("sae", str)]) == min(size, int((position > 0).sum()))


def test_a_book_without_it_is_refused_and_none_is_asked_for(tiny, saes, corpus, tmp_path):
    options = OPTIONS.model_copy(update={"background": 0})
    book = scan(saes["top"], tiny("llama"), tmp_path / "book", options, texts=corpus)
    assert book.query("SELECT * FROM background") == []
    (book.folder / "background.parquet").unlink()
    with pytest.raises(ValueError, match=r"has no background\.parquet"):
        Book.open(book.folder)
