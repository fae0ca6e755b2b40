"""Descriptions against servers that play a machine: honest, constant, and each kind of liar."""

import json
import random

import pytest
import torch
from chat_server import NO_COMPLETIONS, redirecting, serving
from describers import KEY, constant, honest, marked, texts_of
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import InterpError, SparseAutoencoder
from interp.data import ChatEndpoint
from interp.features import Book, DescribeOptions, ScanOptions, describe, estimate_cost, scan
from interp.features.descriptions.description import read_descriptions
from interp.sae import TopK

LATENTS = 12
OPTIONS = DescribeOptions(shown=6, tested=8, parallel=3)


@pytest.fixture(scope="module")
def words(tiny, tmp_path_factory):
    """A book of an autoencoder at the embedding whose latent i fires on w(10 + i), and of many short documents."""
    model, rng = tiny("llama"), random.Random(0)
    rows = model.hf.get_input_embeddings().weight.detach()[10 : 10 + LATENTS].float()
    unit = normalize(rows - rows.mean(0), dim=1)
    site = one_site(32, "embed", model.reference)
    sae = SparseAutoencoder(unit, torch.full((LATENTS,), -0.2), unit, torch.zeros(32), TopK(k=1), **site)
    texts = [" ".join(f"w{rng.randint(4, 60)}" for _ in range(rng.randint(12, 30))) for _ in range(300)]
    options = ScanOptions(context=32, before=6, after=2, background=200)
    return scan(sae, model, tmp_path_factory.mktemp("w") / "book", options, texts=texts)


@pytest.fixture
def book(words, tmp_path):
    import shutil

    return Book.open(shutil.copytree(words.folder, tmp_path / "book"))


def machine(server, **options):
    return ChatEndpoint(server.url, "small", **{"pause": 0.0, "timeout": 5.0} | options)


def test_an_honest_machine_is_above_the_control_and_its_labels_are_found(book, chat_server):
    chat_server.says = [honest]
    result = describe(book, machine(chat_server), OPTIONS)
    assert len(result.descriptions) == LATENTS
    assert (result.few, result.undescribed) == ((), ())
    for row in result.rows():
        assert row["low"] > row["shuffled_high"] + 0.1, row
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["shuffled_low"] < 0.5 < row["shuffled_high"] + 0.1
        assert row["missing"] == 0
    label = book.labels.current()[3]
    assert (label.latent, label.rater, label.verdict) == (3, "small", "unsure")
    assert "w13" in label.text
    assert {*label.scores} == {"detection", "fuzzing", "detection_shuffled", "fuzzing_shuffled"}
    assert label.scores["detection"] == result.descriptions[3].scores["detection"]
    assert book.labels.named(label.text) == (3,)
    assert book.feature(3).label == label.text
    written, file = book.folder / "descriptions.jsonl", book.labels.file
    before = [written.read_bytes(), file.read_bytes()]
    describe(book, machine(chat_server), OPTIONS)
    assert [written.read_bytes(), file.read_bytes()] == before, "what was measured is not written twice"
    other = describe(book, machine(chat_server), OPTIONS.model_copy(update={"tested": 4}), latents=[3, 4])
    assert len(written.read_text().splitlines()) == LATENTS + 2
    assert [x for x in read_descriptions(written) if x.latent in (3, 4)] == [*other.descriptions], "the last counts"


def test_a_machine_that_says_the_same_of_everything_is_at_chance(book, chat_server):
    chat_server.says = [constant]
    for row in describe(book, machine(chat_server), OPTIONS).rows():
        assert row["low"] < 0.5 < row["high"], row
        assert abs(row["accuracy"] - row["shuffled"]) < 1e-9, "one description: the control asks the same"


def test_nothing_that_is_tested_was_shown(book, chat_server):
    chat_server.says = [honest]
    result = describe(book, machine(chat_server), OPTIONS, latents=[5])
    questions = [body["messages"][0]["content"] for _, _, body in chat_server.seen]
    shown = [text for question in questions[:1] for text in texts_of(question)]
    tested = [text for question in questions[1:] for text in texts_of(question)]
    plain = [text.replace("<<", "").replace(">>", "") for text in (*shown, *tested)]
    assert len(shown) == 6
    assert all("w15" in "".join(marked(text)) for text in shown[:1])
    assert all(marked(text) for text in shown)
    assert not {*plain[:6]} & {*plain[6:]}
    answers = result.descriptions[0].answers
    documents = {x["place"]: x["document"] for x in book.query("SELECT place, document FROM examples")}
    documents |= {x["place"]: x["document"] for x in book.query("SELECT place, document FROM background")}
    first = {
        x["document"]
        for x in book.examples(5)
        if "".join(x["tokens"]) in {text.replace("<<", "").replace(">>", "") for text in shown}
    }
    assert first
    assert not first & {documents[x.place] for x in (*answers["detection"], *answers["fuzzing"])}
    assert {*answers} == {"detection", "fuzzing"}, "one latent has no control"


def test_no_question_has_both_marks_of_a_text_and_both_sides_are_as_many(book, chat_server):
    chat_server.says = [honest]
    result = describe(book, machine(chat_server), OPTIONS.model_copy(update={"per_request": 4}))
    for _, _, body in chat_server.seen:
        texts = [text.replace("<<", "").replace(">>", "") for text in texts_of(body["messages"][0]["content"])]
        assert len({*texts}) == len(texts)
    for description in result.descriptions:
        detection = [x.fires for x in description.answers["detection"]]
        assert detection.count(True) == detection.count(False) == 8


def test_a_killed_run_continues_and_asks_nothing_twice(book, chat_server):
    cost = estimate_cost(book, machine(chat_server), OPTIONS)
    assert chat_server.seen == []
    left, served = [40], []

    def dying(handler):
        left[0] -= 1
        if left[0] < 0:
            handler.say(500)
        else:
            served.append(handler.body["messages"][0]["content"])
            honest(handler)

    chat_server.says = [dying]
    with pytest.raises(InterpError, match=r"no reply from small .*\(HTTP 500\).*the same command continues"):
        describe(book, machine(chat_server, retries=1), OPTIONS)
    assert book.labels.all() == [], "half of the tests are no score"
    with (book.folder / "replies.jsonl").open("a") as file:
        file.write('{"key": "ab')  # as a kill in the middle of a line leaves it
    rest = estimate_cost(book, machine(chat_server), OPTIONS)
    assert 0 < rest.requests <= cost.requests - 40 + LATENTS
    left[0] = 10_000
    describe(book, machine(chat_server), OPTIONS)
    assert len(served) == len({*served})
    assert len(book.labels.current()) == LATENTS
    assert estimate_cost(book, machine(chat_server), OPTIONS).requests == 0
    chat_server.says = [500]
    describe(book, machine(chat_server, retries=0), OPTIONS)


def test_the_cost_is_told_beforehand(book, chat_server):
    cost = estimate_cost(book, machine(chat_server), OPTIONS)
    chat_server.says = [honest]
    describe(book, machine(chat_server), OPTIONS)
    questions = [body["messages"][0]["content"] for _, _, body in chat_server.seen]
    # A description of 64 letters is assumed; two latents may be asked the same.
    assert len({*questions}) <= cost.requests <= len({*questions}) + LATENTS
    assert cost.tokens_in == pytest.approx(sum(map(len, questions)) / 4, rel=0.15)
    assert cost.tokens_out == cost.requests * OPTIONS.max_tokens
    assert cost.money(2.0, 10.0) == pytest.approx((cost.tokens_in * 2 + cost.tokens_out * 10) / 1e6)


def test_the_key_is_nowhere(book, chat_server, monkeypatch, capfd):
    monkeypatch.setenv("DESCRIBE_KEY", KEY)

    def echo(handler):
        if "have in common" in handler.body["messages"][0]["content"]:
            handler.say(f"words, {handler.headers['Authorization']}")
        else:
            constant(handler)

    chat_server.says = [echo]
    describe(book, machine(chat_server, key="DESCRIBE_KEY"), OPTIONS, latents=[1, 2])
    assert chat_server.seen[0][1] == f"Bearer {KEY}", "control: it was sent"
    chat_server.says = [lambda handler: handler.say(KEY.encode()), 401]
    with pytest.raises(InterpError) as raised:
        describe(book, machine(chat_server, key="DESCRIBE_KEY", retries=1), OPTIONS, latents=[3])
    written = [file.read_bytes() for file in book.folder.iterdir()]
    assert len(written) == 7
    shown = [repr(machine(chat_server, key="DESCRIBE_KEY")), str(raised.value), *capfd.readouterr()]
    assert not any(KEY in text for text in shown)
    assert not any(KEY.encode() in content for content in written)
    assert "[key]" in book.labels.current()[0].text


@pytest.mark.parametrize("said", [*NO_COMPLETIONS, 503, 1.0, "redirect"])
def test_a_server_without_replies_ends_the_run_in_one_line(book, chat_server, said):
    with serving() as other:
        chat_server.says = [redirecting(302, other.url) if said == "redirect" else said]
        timeout = 0.1 if said == 1.0 else 5.0
        with pytest.raises(InterpError, match="describing: no reply from small at 127") as raised:
            describe(book, machine(chat_server, retries=0, timeout=timeout), OPTIONS, latents=[1])
        assert "\n" not in str(raised.value)
        assert other.seen == []
    assert {file.name for file in book.folder.iterdir()} == {
        "book.json", "latents.parquet", "examples.parquet", "background.parquet",
    }  # fmt: skip


def test_replies_of_another_form_are_asked_again_and_then_counted(book, chat_server):
    def babbling(handler):
        question = handler.body["messages"][0]["content"]
        handler.say("towns" if "have in common" in question else "[1, 0, maybe]")

    chat_server.says = [babbling]
    result = describe(book, machine(chat_server, retries=1), OPTIONS, latents=[1, 2])
    assert all(row["missing"] and row["accuracy"] is None for row in result.rows())
    assert [label.scores for label in book.labels.current()] == [{}, {}]
    chat_server.says = ["" + "…" * 400]
    result = describe(book, machine(chat_server, retries=0), OPTIONS, latents=[4])
    assert (result.descriptions, result.undescribed) == ((), (4,))
    seen = len(chat_server.seen)
    describe(book, machine(chat_server, retries=0), OPTIONS, latents=[4])
    assert len(chat_server.seen) == seen, "what was no description is not asked for again"


def test_markup_and_escapes_are_stored_as_text_and_shown_escaped(book, chat_server):
    hostile = "<script>alert(1)</script> \x1b[2J\u202e \ud800 {texts} {0}"

    def saying(handler):
        question = handler.body["messages"][0]["content"]
        handler.say(hostile) if "have in common" in question else constant(handler)

    chat_server.says = [saying]
    result = describe(book, machine(chat_server), OPTIONS, latents=[1, 2])
    label = book.labels.current()[0]
    assert label.text.startswith("<script>alert(1)</script> \x1b[2J")
    shown = [book.feature(1)._repr_html_(), repr(book.feature(1)), repr(label), result._repr_html_()]
    assert not any("\x1b" in text or "\u202e" in text for text in shown)
    assert not any("<script" in text for text in (shown[0], shown[3]))
    assert json.loads((book.folder / "labels.jsonl").read_text().splitlines()[0])["text"] == label.text


def test_rare_dense_and_wrong_latents(book, chat_server, scanned):
    chat_server.says = [honest]
    with pytest.raises(InterpError, match="latent 99 does not exist"):
        describe(book, machine(chat_server), OPTIONS, latents=[99])
    with pytest.raises(InterpError, match="2 autoencoders; name one"):
        describe(scanned, machine(chat_server), OPTIONS)
    result = describe(book, machine(chat_server), OPTIONS.model_copy(update={"shown": 1000}), latents=[1])
    assert (result.descriptions, result.few, chat_server.seen) == ((), (1,), [])


def test_a_local_model_describes_in_its_own_words(book, tiny):
    model = tiny("llama")
    options = OPTIONS.model_copy(update={"max_tokens": 4, "shown": 2, "tested": 2, "per_request": 1})
    with pytest.raises(
        InterpError, match=r"tokens and .* reads 64 with its reply; ask less \(--shown"
    ):  # its context is shorter than the question
        describe(book, model, options, latents=[1, 2])
