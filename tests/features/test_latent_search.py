"""Search in a book, against slow scans of its tables and against direct encoding."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from interp import Direction, InterpError
from interp.data import encode
from interp.features import Book, FeatureLabel

ALL = 10_000


def keys(found):
    return [(x.sae, x.latent) for x in found.matches]


def slow_text_search(book, text):
    """The share of each latent's examples, counted by their places, that have a text."""
    places: dict = {}
    for row in book.query("SELECT * FROM examples"):
        held, having = places.setdefault((row["sae"], row["latent"]), (set(), set()))
        held.add(row["place"])
        if text.lower() in row["text"].lower():
            having.add(row["place"])
    return {key: len(having) / len(held) for key, (held, having) in places.items() if having}


def test_by_text_is_a_scan_of_the_examples(scanned):
    examples = [row["text"] for row in scanned.query("SELECT text FROM examples ORDER BY sae, latent, place")]

    @settings(max_examples=25)
    @given(st.data())
    def check(data):
        example = data.draw(st.sampled_from(examples))
        start = data.draw(st.integers(0, len(example) - 1))
        part = example[start : start + data.draw(st.integers(1, 12))]
        text = data.draw(
            st.sampled_from([part, part.upper(), part + "%", "_", "' OR true --", "no"]) | st.text("w 5'?")
        )
        if not text:
            return
        found, slow = scanned.search(text=text, count=ALL), slow_text_search(scanned, text)
        assert keys(found) == sorted(slow, key=lambda key: (-slow[key], key))
        assert [x.score for x in found.matches] == [slow[key] for key in keys(found)]
        assert found.total == len(slow)

    check()


def test_what_fires_on_a_sentence_is_direct_encoding(scanned, saes, tiny):
    model = tiny("llama")

    @settings(max_examples=10)
    @given(st.lists(st.integers(4, 60), min_size=2, max_size=20), st.sampled_from(["top", "jump"]))
    def check(words, name):
        sentence = " ".join(f"w{word}" for word in words)
        (document,) = encode([sentence], model)
        x = model.capture([document.ids.tolist()], "resid_post.1")["resid_post.1"][0]
        values = saes[name].encode(x)
        values[0] = 0.0  # the first token does not count
        found = scanned.search(fires=sentence, model=model, sae=saes[name], count=ALL)
        best = values.amax(0)
        assert {x.latent for x in found.matches} == set(best.nonzero().flatten().tolist())
        assert [x.score for x in found.matches] == pytest.approx(
            sorted(best[best > 0].tolist(), reverse=True), abs=1e-4
        )
        assert len(found.firings) == len(values)
        for (_, here), row in zip(found.firings, values, strict=True):
            assert {latent: value for _, latent, value in here} == pytest.approx(
                {latent: float(row[latent]) for latent in row.nonzero().flatten().tolist()}, abs=1e-4
            )
            assert [value for *_, value in here] == sorted((value for *_, value in here), reverse=True)

    check()


def test_by_direction_is_the_cosine_with_both_rows(scanned, saes, tiny):
    sae, reference = saes["jump"], tiny("llama").reference
    direction = Direction.of(sae.W_dec[7] + 0.1 * sae.W_enc[3], "resid_post.1", reference)
    found = scanned.search(direction=direction, sae=sae, count=ALL)
    both = torch.stack([cosine_similarity(rows, direction.rows) for rows in (sae.W_dec, sae.W_enc)])
    larger = both.gather(0, both.abs().argmax(0)[None])[0]
    assert [x.score for x in found.matches] == pytest.approx(
        [float(larger[latent]) for latent in larger.abs().argsort(descending=True)], abs=1e-5
    )
    assert found.matches[0].latent == 7
    assert found.matches[0].reason.startswith("decoder cosine")
    assert (3, "encoder") in [(x.latent, x.reason.split()[0]) for x in found.matches]
    plane = Direction.of(sae.W_dec[[2, 5]], "resid_post.1", reference)
    assert {x.latent for x in scanned.search(direction=plane, sae=sae, count=2).matches} == {2, 5}


def test_by_token_is_a_scan_of_the_promoted_and_the_suppressed(scanned):
    rows = scanned.latents()
    words = [(row["sae"], row["latent"], word) for row in rows for word in row["promoted"] + row["suppressed"]]
    for token in sorted({word["token"] for *_, word in words})[:5]:
        slow: dict = {}
        for name, latent, word in words:
            if word["token"].strip().lower() == token.strip().lower():
                slow[name, latent] = max(slow.get((name, latent), 0.0), word["effect"], key=abs)
        found = scanned.search(token=f" {token.strip().upper()}", count=ALL)
        assert {(x.sae, x.latent): x.score for x in found.matches} == slow
        assert all(("promotes" in x.reason) == (x.score > 0) for x in found.matches)


def test_tokens_that_print_nothing_are_no_hint(scanned, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    book = Book.open(shutil.copytree(scanned.folder, tmp_path / "book"))
    file = book.folder / "latents.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        for word in row["promoted"] + row["suppressed"]:
            word["token"] = [" ", "\x00", "\ufffd", "\u2028", "\t"][number % 5]
    rows[0]["promoted"][0]["token"] = " towns"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    with pytest.raises(InterpError, match=r"suppresses 'q'; known: towns$"):
        Book.open(book.folder).search(token="q")


def test_by_label_and_all_criteria_together(book):
    book.labels.add(
        [FeatureLabel(sae="top", latent=n, text=text, rater="ana") for n, text in ((3, "Kind words"), (5, "words"))]
    )
    found = book.search(label=" WORDS")
    assert (keys(found), found.total) == ([("top", 5), ("top", 3)], 2)
    assert "ana says 'Kind words'" in found.matches[1].reason
    assert found.matches[1].label == "Kind words"
    text = book.examples(3, "top")[0]["text"][:8]
    both = book.search(label="words", text=text)
    assert set(keys(both)) == set(keys(found)) & set(slow_text_search(book, text))
    assert all("; " in x.reason for x in both.matches)
    assert keys(book.search(label="words", count=1)) == [("top", 5)]
    assert book.search(label="words", sae="top").total == 2
    assert "top 5 ana says 'words'" in repr(found)
    assert "ana says" in found._repr_html_()


def test_wrong_searches_are_one_line(book, saes, tiny, tmp_path):
    book.labels.add([FeatureLabel(sae="top", latent=3, text="insults", rater="ana")])
    token = book.latents()[0]["promoted"][0]["token"].strip()
    model, width = tiny("llama"), saes["top"].d_in
    other = saes["top"].to(dtype=torch.bfloat16)
    here = Direction.of(torch.ones(width), "resid_post.0", model)
    for message, options in [
        ("search for nothing; expected one or more of", {}),
        ("none of them empty", {"text": ""}),
        ("direction is 'towns'; expected a Direction or None", {"direction": "towns"}),
        ("did you mean insults", {"label": "insult."}),
        ("no latent of the book promotes or suppresses .*did you mean", {"token": token + "x"}),
        ("autoencoder 'tup' is not in the book; did you mean top", {"text": "w5", "sae": "tup"}),
        (r"give it \(model=, or --model\)", {"fires": "w5 w6", "sae": saes["top"]}),
        ("are not known to the book; give it", {"fires": "w5 w6", "model": model}),
        ("not of this autoencoder", {"fires": "w5 w6", "model": model, "sae": other}),
        ("the book was made for", {"fires": "w5 w6", "model": tiny("gpt2"), "sae": saes["top"]}),
        ("has to have from 2 to", {"fires": " ", "model": model, "sae": saes["top"]}),
        ("surrogate", {"fires": "w5 \ud800", "model": model, "sae": saes["top"]}),
        ("has to have from 2 to", {"fires": "w5 " * 5000, "model": model, "sae": saes["top"]}),
        ("does not know some of", {"fires": "w5 unheard", "model": model, "sae": saes["top"]}),
        ("direction is of resid_post.0, and the book's .* resid_post.1", {"direction": here, "sae": saes["top"]}),
        ("is of width 8", {"direction": Direction.of(torch.ones(8), "resid_post.1"), "sae": saes["top"]}),
        ("query failed", {"text": "\ud800"}),
    ]:
        with pytest.raises(InterpError, match=message) as caught:
            book.search(**options)
        assert "\n" not in str(caught.value), message
