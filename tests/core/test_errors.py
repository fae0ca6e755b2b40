"""Hints for unknown names."""

from interp.core.errors import nearest


def test_nearest_names_close_ones_or_what_there_is():
    assert nearest("lama", ["llama", "gpt2"]) == "did you mean llama?"
    assert nearest("zzz", ["llama", "gpt2"]) == "known: gpt2, llama"
