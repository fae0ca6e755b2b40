"""`book:LABEL` in place of a number: what is accepted as a name, and what it is looked up as."""

import shutil

import pytest

from interp import InterpError
from interp.core.config import Config
from interp.features import FeatureLabel, NamedLatents, resolve_latents
from interp.features.latent_names import LatentName
from interp.search import RecipeFile


class Names(Config):
    latents: tuple[LatentName, ...] = ()


def label(book, text, latents, rater="ana", verdict="unsure", sae="top"):
    rows = [FeatureLabel(sae=sae, latent=n, text=text, rater=rater, verdict=verdict) for n in latents]
    book.labels.add(rows)


def test_names_are_numbers_or_labels():
    assert Names(latents=(3, "book:kind words")).latents == (3, "book:kind words")
    for wrong in (-1, "hostile", "book:", 1.5, None, True):
        with pytest.raises(InterpError, match="latents"):
            Names(latents=(wrong,))
    for wrong, problem in (
        ("kind words", r"latents.0: latent 'kind words' can't be read; .* or book:LABEL, such as 'book:kind words'$"),
        ("book:", "latents.0: latent 'book:' can't be read; expected a number from 0, or book:LABEL$"),
        (2.5, "latents.0 is 2.5; expected a whole number or a text$"),
    ):
        with pytest.raises(InterpError, match=f"^config: edits.0.{problem}"):
            RecipeFile.parse({"edits": [{"op": "Clamp", "sae": "sae", "book": "book", "latents": [wrong]}]})


def test_a_label_stands_for_its_latents(book, saes):
    label(book, "hostile", [17, 3])
    label(book, " Hostile ", [9], "ben")
    label(book, "hostile", [5], sae="jump")
    numbers, meant = resolve_latents(["book:HOSTILE", 4, 3], saes["top"], book.folder)
    assert numbers == [3, 9, 17, 4], "each once"
    assert meant == (NamedLatents(label="HOSTILE", latents=(3, 9, 17), book=book.digest),)
    assert resolve_latents(["book:hostile"], saes["jump"], book.folder)[0] == [5], "the autoencoder by its digest"
    label(book, "rude", [3])
    assert resolve_latents(["book:hostile"], saes["top"], book.folder)[0] == [9, 17], "the last label counts"
    assert meant[0].latents == (3, 9, 17)
    label(book, "", [9], "ben")
    assert resolve_latents(["book:hostile"], saes["top"], book.folder)[0] == [17], "withdrawn"
    assert book.digest == meant[0].book, "labels are not part of the book's digest"
    assert resolve_latents([3, 0], saes["top"]) == ([3, 0], ())


def test_raters_who_use_a_label_have_to_agree(book, saes):
    def latents(name="hostile"):
        return resolve_latents([f"book:{name}"], saes["top"], book.folder)[0]

    label(book, "hostile", [3, 5], "ana")
    label(book, "insults aimed at people", [3, 5], "a model")
    assert latents() == [3, 5], "other raters may have other words"
    label(book, "hostile", [3], "ben")
    assert latents() == [3, 5]
    label(book, "greetings", [5], "ben")
    message = "raters disagree on latent 5 of 'hostile': .*ana says 'hostile' .*ben says 'greetings'"
    with pytest.raises(InterpError, match=message):
        latents()
    label(book, "hostile", [5], "ben")
    assert latents() == [3, 5], "they agree again"
    label(book, "hostile", [3], "ana", "harmful")
    label(book, "insults", [3], "eve", "benign")
    with pytest.raises(InterpError, match=r"disagree on latent 3 .*\(harmful\).*\(benign\)"):
        latents()


def test_wrong_names_and_books_are_one_line(book, saes, tmp_path):
    label(book, "hostile", [3])
    other = tmp_path / "other"
    shutil.copytree(book.folder, other)
    lines = (other / "labels.jsonl").read_text()
    (other / "labels.jsonl").write_text(lines.replace(book.card.autoencoders["top"].digest, "0" * 64))
    far = tmp_path / "far"
    shutil.copytree(book.folder, far)
    (far / "labels.jsonl").write_text(lines.replace('"latent": 3', '"latent": 40'))
    foreign = saes["top"].to(dtype=saes["top"].W_dec.bfloat16().dtype)
    for message, names, sae, folder in [
        ("did you mean hostile", ["book:hostle"], saes["top"], book.folder),
        ("known: hostile", ["book:x"], saes["top"], book.folder),
        ("can't be looked up; give a number, or book:LABEL", ["book:hostile"], saes["top"], None),
        ("can't be looked up", ["hostile"], saes["top"], book.folder),
        ("no latent of jump has the label", ["book:hostile"], saes["jump"], book.folder),
        ("not of this autoencoder", ["book:hostile"], foreign, book.folder),
        ("is of another autoencoder", ["book:hostile"], saes["top"], other),
        ("latent 40 does not exist", ["book:hostile"], saes["top"], far),
        ("is no feature book", ["book:hostile"], saes["top"], tmp_path),
    ]:
        with pytest.raises(InterpError, match=message) as caught:
            resolve_latents(names, sae, folder)
        assert "\n" not in str(caught.value), message
