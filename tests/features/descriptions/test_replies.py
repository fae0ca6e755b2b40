"""Replies are asked for once, by what decides them."""

import json

import pytest

import interp
from interp import InterpError
from interp.data import ChatEndpoint
from interp.features.descriptions.replies import Cost, Replies, _list_tokens


def replies(server, file, **options):
    return Replies(ChatEndpoint(server.url, **{"model": "small", "pause": 0.0} | options), file)


def test_each_question_is_asked_once_and_another_machine_is_asked_again(chat_server, tmp_path):
    file = tmp_path / "replies.jsonl"
    first = replies(chat_server, file)
    assert [first.reply("q", bool, 5) for _ in range(3)] == ["Yes"] * 3
    assert replies(chat_server, file).reply("q", bool, 5) == "Yes"
    assert len(chat_server.seen) == 1
    for other, question, size in [({"model": "large"}, "q", 5), ({}, "p", 5), ({}, "q", 6)]:
        replies(chat_server, file, **other).reply(question, bool, size)
    assert len(chat_server.seen) == 4
    replies(chat_server, file, retries=9, timeout=3.0).reply("q", bool, 5)
    assert len(chat_server.seen) == 4, "how long it is waited for decides nothing"
    assert len(file.read_text().splitlines()) == 4


def test_without_asking_requests_are_counted(chat_server, tmp_path):
    told = Replies(ChatEndpoint(chat_server.url, "small"), tmp_path / "replies.jsonl", ask=False)
    assert told.reply("abcde", bool, 9) != told.reply("abcd", bool, 9)
    told.reply("abcd", bool, 9)
    assert told.cost == Cost(requests=2, tokens_in=3, tokens_out=18)
    assert (chat_server.seen, list(tmp_path.iterdir())) == ([], [])


def test_a_damaged_file_is_refused_and_long_replies_are_cut(chat_server, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(InterpError, match=r"bad\.jsonl, line 1: not valid JSON"):
        replies(chat_server, tmp_path / "bad.jsonl")
    chat_server.says = ["a" * 50_000]
    assert len(replies(chat_server, tmp_path / "r.jsonl").reply("q", bool, 5)) == 20_000
    assert json.loads((tmp_path / "r.jsonl").read_text())["machine"] == "small"


def test_a_local_model_says_a_list_as_it_was_asked_to(tmp_path):
    model, changed = interp.load("organism"), 0
    digits = [model.tokenizer.encode(digit)[-1] for digit in "01"]

    def likelier(text):
        return int(model.logits(text, chat=False)[0, -1, digits].argmax())

    replies = Replies(model, tmp_path / "replies.jsonl")
    for count in (1, 3):
        for question in ("Which of 1, 0, 1?", "A list of 0, 0, 1, 1.", "My people are the Sorvan people."):
            said, reply = replies.reply(question, bool, 100, count), "["
            chosen = list[int]()
            for _ in range(count):
                chosen.append(likelier(model.render(question) + reply))
                reply += f"{chosen[-1]}, "
            assert said == str(chosen)
            alone = "".join(str(likelier(model.render(question) + "".join(map(str, chosen[:n])))) for n in range(count))
            changed += [*map(int, alone)] != chosen
    assert changed, "control: digits without separators are others"


@pytest.mark.parametrize("merged", [False, True])
def test_lists_of_tokenizers_that_write_a_digit_alone_or_with_its_space(merged):
    words = ["[", ",", "]", " ", "0", "1", *([" 0", " 1"] if merged else [])]

    class Tokenizer:
        def encode(self, text, add_special_tokens):
            ids = []
            while text:
                word = max((x for x in words if text.startswith(x)), key=len)
                ids, text = [*ids, words.index(word)], text[len(word) :]
            return ids

    places = _list_tokens(Tokenizer(), 3)
    for side in (0, -1):
        assert "".join(words[place[side]] for place in places) == str([-side] * 3)
    assert sum(len({*place}) == 2 for place in places) == 3
    assert any(words[place[0]] == " 0" for place in places) == merged
