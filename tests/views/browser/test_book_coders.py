"""A book's autoencoders are loaded once, and only those that were scanned. (test_difference compares decoders.)"""

import pytest

from interp import InterpError
from interp.views.browser.book_coders import BookCoders


def test_an_autoencoder_that_is_not_in_the_book_is_named(book):
    with pytest.raises(InterpError, match="is not in the book"):
        BookCoders(book, {"no such": "folder"})


def test_each_is_loaded_once(book):
    coders, name = BookCoders(book), next(iter(book.card.autoencoders))
    assert coders[name] is coders[name]
