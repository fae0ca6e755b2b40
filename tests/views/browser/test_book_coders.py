"""A book's autoencoders are loaded once, and only those that were scanned. (test_difference compares decoders.)"""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from interp import InterpError
from interp.features.book_card import BookCard
from interp.views.browser.book_coders import BookCoders


def test_an_autoencoder_that_is_not_in_the_book_is_named(book):
    with pytest.raises(InterpError, match="is not in the book"):
        BookCoders(book, {"no such": "folder"})


def test_each_is_loaded_once_by_whoever_asks_first(book, monkeypatch):
    coders, name, loaded = BookCoders(book), next(iter(book.card.autoencoders)), []

    def slow(card, *place):
        loaded.append(place)
        time.sleep(0.05)
        return load(card, *place)

    load = BookCard.load
    monkeypatch.setattr(BookCard, "load", slow)
    with ThreadPoolExecutor(4) as pool:
        assert len({id(coder) for coder in pool.map(lambda _: coders[name], range(4))}) == 1
    assert len(loaded) == 1
