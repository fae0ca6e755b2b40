"""Labels: append-only, of several raters, safe with two writers and with a killed one."""

import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import InterpError
from interp.features import FeatureLabel, LabelFile


def label(latent, text, rater="ana", verdict="unsure", sae="top", **more):
    return FeatureLabel(sae=sae, latent=latent, text=text, rater=rater, verdict=verdict, **more)


def test_the_last_of_each_rater_counts_and_an_empty_one_withdraws(book):
    labels = book.labels
    labels.add([label(3, "towns"), label(3, "insults", "ben"), label(5, "towns")])
    labels.add([label(3, " names of towns\n"), label(5, "")])
    assert [(x.latent, x.rater, x.text) for x in labels.current()] == [
        (3, "ana", "names of towns"),
        (3, "ben", "insults"),
    ]
    assert len(labels.all()) == 5, "nothing is changed in place"
    assert all(x.date and x.digest == book.card.autoencoders["top"].digest for x in labels.all())
    assert labels.named(" Insults ", "top") == (3,)
    with pytest.raises(InterpError, match="no latent of top has the label 'insult'; did you mean insults"):
        labels.named("insult", "top")


def test_spaces_alone_are_no_label(book):
    book.labels.add([label(3, "towns"), label(3, "rivers", "ben")])
    with book.labels.file.open("a") as file:  # as an earlier version wrote it
        file.write(json.dumps(label(3, "").model_dump() | {"text": " \u3000\n"}) + "\n")
    assert [x.text for x in book.labels.current()] == ["rivers"]


def test_any_text_comes_back(scanned, tmp_path):
    @settings(max_examples=15)
    @given(st.text(max_size=60), st.text(max_size=30))
    def check(text, rater):
        labels = LabelFile(tmp_path / "labels.jsonl", scanned.card)
        labels.add([label(3, text, rater)])
        assert (labels.all()[-1].text, labels.all()[-1].rater) == (text.strip(), rater)

    check()


def test_labels_of_what_is_not_there_are_refused_all_together(book):
    for message, wrong in [
        ("latent 40 does not exist", label(40, "x")),
        ("autoencoder 'tup' is not in the book", label(1, "x", sae="tup")),
        ("is of another autoencoder", label(1, "x", digest="0" * 64)),
    ]:
        with pytest.raises(InterpError, match=message):
            book.labels.add([label(2, "fine"), wrong])
    assert not book.labels.all()


def test_two_writers_do_not_mix(book):
    children = []
    for writer in ("ana", "ben"):
        if not (child := os.fork()):
            for number in range(50):
                book.labels.add([label(number % 40, "x" * 200 + str(number), writer)])
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    written = book.labels.all()
    for writer in ("ana", "ben"):
        assert [int(x.text[200:]) for x in written if x.rater == writer] == list(range(50))


def test_what_a_killed_writer_left_does_not_count(book):
    book.labels.add([label(1, "whole")])
    with book.labels.file.open("ab") as file:
        file.write(b'{"sae": "top", "lat')
    assert [x.text for x in book.labels.all()] == ["whole"]
    book.labels.add([label(2, "next")])
    assert [x.text for x in book.labels.all()] == ["whole", "next"]
    book.labels.file.write_text("{}\n")
    with pytest.raises(InterpError, match="line 1"):
        book.labels.all()


def test_export_and_import_into_a_copy(book, tmp_path, scanned):
    book.labels.add([label(1, "a"), label(2, "b", verdict="harmful", note="sure"), label(1, "c")])
    assert book.labels.export(tmp_path / "out.jsonl") == 2
    other = LabelFile(tmp_path / "other.jsonl", scanned.card)
    other.add(other.read(tmp_path / "out.jsonl"))
    assert other.current() == book.labels.current()
    with pytest.raises(InterpError, match="exists already"):
        book.labels.export(tmp_path / "out.jsonl")


def test_agreement(book):
    assert math.isnan(book.labels.agreement())
    verdicts = {"ana": "hhbb", "ben": "hhbb", "eve": "hbuh"}
    names = {"h": "harmful", "b": "benign", "u": "unsure"}
    for rater in ("ana", "ben"):
        book.labels.add([label(n, "x", rater, names[v]) for n, v in enumerate(verdicts[rater])])
    assert book.labels.agreement() == 1.0
    book.labels.add([label(n, "x", "eve", names[v]) for n, v in enumerate(verdicts["eve"])])
    # Pairable values: 4 latents, of 3, 3, 2 and 3 verdicts. Observed disagreement by Krippendorff's formula, by hand:
    # latents 1 and 3 have one of three apart, 2 disagreeing ordered pairs of each value / (3 - 1).
    observed = (2 * 2 / 2) * 2 / 11
    harmful, benign = 6, 5
    assert book.labels.agreement() == pytest.approx(1 - observed / (2 * harmful * benign / (11 * 10)))
