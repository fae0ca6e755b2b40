import pytest

from interp import InterpError
from interp.features import Book, FeatureLabel


def test_queries_reach_all_rows(book, saes):
    assert book.query("SELECT count(*) AS n FROM latents")[0]["n"] == sum(sae.d_sae for sae in saes.values())
    dense = book.latents("sae = ? AND density > ?", ["top", 0.05], order="density DESC")
    assert [row["density"] for row in dense] == sorted((row["density"] for row in dense), reverse=True)
    assert dense
    assert "labels 0" in repr(book)


def test_labels_are_on_the_page(book):
    book.labels.add([FeatureLabel(sae="top", latent=4, text="numbers", rater="a")])
    assert book.feature(4, "top").label == "numbers"
    assert book.feature(5, "top").label == ""


@pytest.mark.parametrize("name", ["book.json", "latents.parquet", "examples.parquet"])
def test_a_missing_file_is_named(book, name):
    (book.folder / name).unlink()
    with pytest.raises(InterpError, match=f"is no feature book .*{name}"):
        Book.open(book.folder)


def test_damage_and_wrong_queries_are_one_line(book):
    with pytest.raises(InterpError, match="query failed") as caught:
        book.query("SELECT nothing FROM latents")
    assert "\n" not in str(caught.value)
    (book.folder / "latents.parquet").write_bytes(b"no parquet")
    with pytest.raises(InterpError, match=r"query failed|damaged"):
        Book.open(book.folder).latents()
    (book.folder / "book.json").write_text('{"format": 1}')
    with pytest.raises(InterpError, match=r"book.json"):
        Book.open(book.folder)


def test_a_latent_that_is_not_there(book):
    with pytest.raises(InterpError, match="latent 99 does not exist"):
        book.feature(99, "top")
