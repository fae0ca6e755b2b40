"""Replies are asked for once, by what decides them."""

import json

import pytest

from interp import InterpError
from interp.data import ChatEndpoint
from interp.features.descriptions.replies import Cost, Replies


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
