"""Packing loses and mixes nothing, and a packed document is to the model what it is alone."""

from copy import deepcopy

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import InterpError
from interp.data.packing import Encoded, PackedRows, encode, pack
from interp.models.architectures import table

documents = st.lists(st.lists(st.integers(4, 127), max_size=40), min_size=1, max_size=30).filter(any)


def ids(encoded) -> list[list[int]]:
    return [document.ids.tolist() for document in encoded]


def _pieces(packed: PackedRows) -> list[tuple[int, list[int]]]:
    """Pieces in row order, found from the position ids alone, with their document."""
    found = []
    for row in range(len(packed)):
        real = int(packed.mask[row].sum())
        starts = [pos for pos in range(real) if packed.position_ids[row, pos] == 0]
        for start, stop in zip(starts, [*starts[1:], real], strict=True):
            assert packed.position_ids[row, start:stop].tolist() == list(range(stop - start))
            assert len(set(packed.document[row, start:stop].tolist())) == 1
            found.append((int(packed.document[row, start]), packed.ids[row, start:stop].tolist()))
    return found


@given(documents, st.integers(2, 17))
def test_packing_keeps_every_document_and_splits_only_long_ones(documents, context):
    packed = pack(map(Encoded.of, documents), context)
    pieces = _pieces(packed)
    for number, document in enumerate(documents):
        expected = [document[start : start + context] for start in range(0, len(document), context)]
        found = [ids for index, ids in pieces if index == number]
        assert sorted(found) == sorted(expected)
    assert int(packed.mask.sum()) == sum(map(len, documents))
    # Padding stands at the end of rows, under position 0, so that each is a piece of its own to the model.
    assert not (packed.mask[:, 1:] & ~packed.mask[:, :-1]).any()
    assert not packed.position_ids[~packed.mask].any()


@given(documents, st.integers(2, 17))
def test_each_token_but_the_first_of_a_piece_is_predicted_once(documents, context):
    packed = pack(map(Encoded.of, documents), context)
    pieces = _pieces(packed)
    assert int(packed.predicted.sum()) == int(packed.inner.sum()) == sum(len(ids) - 1 for _, ids in pieces)


def test_short_documents_leave_little_unused():
    lengths = torch.randint(5, 60, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    packed = pack((Encoded.of([4] * length) for length in lengths), 128)
    assert packed.mask.float().mean() > 0.97


@pytest.mark.parametrize("architecture", tiny_models.CONFIGS)
def test_a_packed_document_is_what_it_is_alone(tiny, architecture):
    model = tiny(architecture)
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(4, 127, (n,), generator=generator).tolist() for n in (9, 30, 1, 14, 21, 70)]
    if not table.architecture(model.config).packs:
        _stays_apart_only_in_rows_of_its_own(model, documents)
        return
    packed = pack(map(Encoded.of, documents), 40)
    assert len(_pieces(packed)) > len(packed)
    with torch.no_grad():
        logits = model.hf(**packed.model_inputs(model.device), use_cache=False).logits
        leaking = model.hf(input_ids=packed.ids, use_cache=False).logits
        alone = torch.cat([model.hf(torch.tensor([ids])).logits[0] for _, ids in _pieces(packed)])
    assert (logits[packed.mask] - alone).abs().max() < 1e-5
    assert (leaking[packed.mask] - alone).abs().max() > 1e-2


def _stays_apart_only_in_rows_of_its_own(model, documents):
    site = model.resolve("resid_post.2")
    worst = {}
    for together in (True, False):
        packed = pack(map(Encoded.of, documents), 40, together=together)
        found = model.forward_to(site, packed.model_inputs(model.device))[site[0]][packed.mask]
        pieces = [torch.tensor([ids]) for _, ids in _pieces(packed)]
        alone = torch.cat([model.forward_to(site, {"input_ids": ids})[site[0]][0] for ids in pieces])
        worst[together] = float((found - alone).abs().max())
    assert worst[False] < 1e-5
    assert worst[True] > 1e-2, "control: this architecture could be packed after all"


def test_each_document_begins_with_one_bos(tiny):
    tokenizer = tiny("llama").tokenizer
    assert ids(encode(["w4 w5", "<s> w6", ""], tokenizer)) == [[1, 4, 5], [1, 6], [1]]


def test_a_tokenizer_without_bos_adds_none(tiny):
    tokenizer = deepcopy(tiny("gpt2").tokenizer)
    tokenizer.bos_token = None
    assert ids(encode(["w4 w5", "<s> w6"], tokenizer)) == [[4, 5], [1, 6]]


def test_documents_begin_with_the_separator_and_conversations_as_their_template_writes_them(tiny):
    """As SmolLM2's tokenizer: BOS opens turns, and `<|endoftext|>` has no name of its own."""
    tokenizer = deepcopy(tiny("llama").tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<|im_start|>", "additional_special_tokens": ["<|endoftext|>"]})
    opening, separator = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|endoftext|>"])
    tokenizer.chat_template = "{% for m in messages %}<|im_start|> {{ m.content }} </s> {% endfor %}"
    said = [{"role": "user", "content": "w6"}, {"role": "assistant", "content": "w7"}]
    rows = ids(encode(["w4 w5", said, "<|endoftext|> w6"], tokenizer))
    assert rows == [[separator, 4, 5], [opening, 6, 2, opening, 7, 2], [separator, 6]]
    assert ids(encode(["w4 w5"], tokenizer, bos_first=False)) == [[4, 5]], "control"


@given(tokens=st.integers(1, 700))
def test_a_limit_gives_exactly_the_first_tokens(tiny, tokens):
    tokenizer = tiny("llama").tokenizer
    texts = [f"w{4 + number} w5 w6" for number in range(100)]
    everything = [token for document in ids(encode(texts, tokenizer)) for token in document]
    limited = ids(encode(iter(texts), tokenizer, tokens))
    assert [token for document in limited for token in document] == everything[:tokens]
    assert all(limited)


def test_what_cannot_be_packed_is_refused(tiny):
    with pytest.raises(InterpError, match="context is 1; expected at least 2"):
        pack([Encoded.of([4])], 1)
    with pytest.raises(InterpError, match="no tokens"):
        pack([Encoded.of([])] * 2, 8)
    with pytest.raises(InterpError, match="has no tokenizer"):
        next(encode(["w4"], None))


LETTERS = "abcdefghij  .,éüß→日本\n🙂"


@given(st.lists(st.text(LETTERS, max_size=60), min_size=1, max_size=8).filter(any), st.integers(2, 20))
def test_each_token_stands_for_its_characters(byte_level, texts, context):
    packed = pack(encode(texts, byte_level), context)
    for number, text in enumerate(texts):
        mine = packed.document == number
        begin, end = packed.begin[mine].tolist(), packed.end[mine].tolist()
        covered = sorted({place for first, last in zip(begin, end, strict=True) for place in range(first, last)})
        assert covered == list(range(len(text)))
        for token, first, last in zip(packed.ids[mine].tolist(), begin, end, strict=True):
            shown = byte_level.decode([token])
            # A character of several bytes can be several tokens, none of which is text alone.
            assert "�" in shown or token == byte_level.bos_token_id or shown == text[first:last]
