"""An endpoint against a server of this test's own: what it is asked, what is retried, and what never leaks."""

import time

import pytest
from chat_server import NO_COMPLETIONS, drip, redirecting, serving

from interp import InterpError
from interp.data import ChatEndpoint


def endpoint(server, **options):
    return ChatEndpoint(server.url, "small", **{"pause": 0.0, "timeout": 5.0} | options)


def test_it_asks_one_user_message_at_temperature_0(chat_server, monkeypatch):
    monkeypatch.setenv("KEY", " abc\n")
    assert endpoint(chat_server, key="KEY").reply("Who?", max_tokens=7) == "Yes"
    path, key, body = chat_server.seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer abc")
    assert body == {
        "model": "small", "messages": [{"role": "user", "content": "Who?"}], "temperature": 0, "max_tokens": 7,
    }  # fmt: skip


def test_a_reply_of_another_form_is_asked_for_again_and_the_last_one_is_returned(chat_server):
    chat_server.says = ["one", 500, "two"]
    assert endpoint(chat_server).reply("q", lambda text: text == "two") == "two"
    assert len(chat_server.seen) == 3
    chat_server.says, chat_server.seen = ["one", 500], []
    assert endpoint(chat_server, retries=2).reply("q", lambda text: text == "two") == "one"
    assert len(chat_server.seen) == 3


@pytest.mark.parametrize("said", NO_COMPLETIONS)
def test_what_is_no_completion_is_asked_again_and_then_an_error(chat_server, said):
    chat_server.says = [said, "Yes"]
    assert endpoint(chat_server).reply("q") == "Yes", "control: the second reply counts"
    chat_server.says, chat_server.seen = [said], []
    with pytest.raises(InterpError, match=r"no reply from small at 127.0.0.1:\d+ \(a reply"):
        endpoint(chat_server, retries=1).reply("q")
    assert len(chat_server.seen) == 2


@pytest.mark.parametrize(
    ("said", "reason", "asked"),
    [(404, "HTTP 404", 1), (503, "HTTP 503", 3), (429, "HTTP 429", 3), (1.0, "none within 0.1 s", 3)],
)
def test_the_reason_of_a_failure_is_named(chat_server, said, reason, asked):
    chat_server.says = [said]
    with pytest.raises(InterpError, match=rf"\({reason}\)"):
        endpoint(chat_server, retries=2, timeout=0.1 if said == 1.0 else 5.0).reply("q")
    assert len(chat_server.seen) == asked


def test_an_endless_reply_ends_with_the_time_limit(chat_server):
    chat_server.says = [drip]
    began = time.perf_counter()
    with pytest.raises(InterpError, match="no reply"):
        endpoint(chat_server, retries=0, timeout=0.2).reply("q")
    assert time.perf_counter() - began < 2


def test_a_redirect_is_not_followed(chat_server, monkeypatch):
    monkeypatch.setenv("KEY", "abc")
    with serving() as other:
        chat_server.says = [redirecting(307, other.url)]
        with pytest.raises(InterpError, match=r"\(HTTP 307\)"):
            endpoint(chat_server, key="KEY").reply("q")
        assert (len(chat_server.seen), other.seen) == (1, [])


def test_the_key_is_in_no_error_and_in_no_reply(chat_server, monkeypatch):
    for key in ("secret-1", "secret-2\r\nX: y", "secret-ü"):
        monkeypatch.setenv("KEY", key)
        asked = endpoint(chat_server, key="KEY", retries=0)
        assert "secret" not in repr(asked)
        chat_server.says = [401]
        with pytest.raises(InterpError) as raised:
            asked.reply("q")
        assert "secret" not in str(raised.value)
    monkeypatch.setenv("KEY", "secret-1")
    chat_server.says = [lambda handler: handler.say(f"You are {handler.headers['Authorization']}.")]
    assert endpoint(chat_server, key="KEY").reply("q") == "You are Bearer [key]."


@pytest.mark.parametrize("url", ["localhost:80", "ftp://x.org", "http://a:b@x.org", "http://[::1", "http://x\x1b.org"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(InterpError, match="expected a URL such as"):
        ChatEndpoint(url, "m")


def test_a_key_that_is_not_set_is_refused(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(InterpError, match="environment variable NO_KEY is not set"):
        ChatEndpoint("http://localhost/v1", "m", key="NO_KEY")
