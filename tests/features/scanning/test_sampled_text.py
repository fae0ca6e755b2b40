"""Pieces of a text are drawn with equal chances, whatever the chunks are, and never more than asked for."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.features.scanning.sampled_text import SampledText
from interp.features.scanning.token_chunk import TokenChunk


def chunk(start, lengths):
    position = torch.cat([torch.arange(length) for length in lengths])
    document = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return TokenChunk(start, start + torch.arange(len(position)), document, position)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 30), st.integers(1, 200))
def test_chunks_do_not_matter_and_pieces_are_whole(lengths, together, size):
    parts, whole, start = SampledText(size), SampledText(size), 0
    whole.add(chunk(0, lengths))
    for first in range(0, len(lengths), together):
        part = lengths[first : first + together]
        parts.add(chunk(start, part))
        start += sum(part)
    pieces = [piece.tolist() for piece in whole.pieces()]
    assert pieces == [piece.tolist() for piece in parts.pieces()]
    ends = torch.tensor(lengths).cumsum(0).tolist()
    every = [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    assert all(piece in every for piece in pieces)
    assert pieces == sorted(pieces)
    assert sum(map(len, pieces)) <= size or len(pieces) == 1
    if sum(lengths) <= size:
        assert pieces == every


def test_every_part_of_the_text_has_its_share():
    text, start = SampledText(2000), 0
    for _ in range(100):
        text.add(chunk(start, [10] * 20))
        start += 200
    places = torch.tensor([int(piece[0]) for piece in text.pieces()])
    assert len(places) == 200
    shares = torch.histc(places.float(), 4, 0, start)
    assert shares.min() > 30, "50 of each quarter are expected"
