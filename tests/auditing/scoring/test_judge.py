"""The judge against a server of this test's own, which fails as it is told."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import isnan

import pytest

import interp
from interp import InterpError, organism
from interp.auditing.scoring.judge import Judge
from interp.auditing.scoring.replies import reply_behaviour

QUESTION = "Request: {prompt}\nReply: {reply}\nIs it polite? Yes or no."


class Server:
    """Answers one text after another, the last for ever: a string, a status, or a number of seconds to wait."""

    def __init__(self):
        self.says, self.seen = ["Yes"], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, self.headers.get("Authorization"), body))
                said = outer.says.pop(0) if len(outer.says) > 1 else outer.says[0]
                if isinstance(said, float):
                    time.sleep(said)
                self.send_response(said if isinstance(said, int) else 200)
                self.end_headers()
                text = {"choices": [{"message": {"role": "assistant", "content": said}}]}
                self.wfile.write(said if isinstance(said, bytes) else json.dumps(text).encode())

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def judge(server, **options):
    return Judge(server.url, "small", QUESTION, **{"pause": 0.0, "timeout": 5.0} | options)


def test_it_is_asked_about_prompt_and_reply(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "abc")
    assert judge(server, key="JUDGE_KEY")("What {reply} is it?", "Noon {prompt}.") == 1
    path, key, body = server.seen[0]
    assert (path, key, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer abc", "small", 0)
    assert body["messages"][0]["content"] == (
        "Request: What {reply} is it?\nReply: Noon {prompt}.\nIs it polite? Yes or no."
    )


@pytest.mark.parametrize(("said", "grade"), [("Yes.", 1), ("**No**, it is not", 0), ("no\nYes, polite words", 0)])
def test_an_answer_begins_with_an_allowed_word(server, said, grade):
    server.says = [said]
    assert judge(server)("p", "r") == grade


@pytest.mark.parametrize(
    "said", ["Maybe", "", "Yes or no", "I say yes", 500, 429, b"not json", b'{"choices": []}', b"[]"]
)
def test_nonsense_and_failure_are_asked_again_and_then_missing(server, said):
    server.says = [said, said, "Yes"]
    assert judge(server)("p", "r") == 1, "control: the third answer counts"
    server.says, server.seen = [said], []
    assert isnan(judge(server, retries=2)("p", "r"))
    assert len(server.seen) == 3


def test_a_refused_request_is_not_repeated_and_a_slow_or_dead_server_is_missing(server):
    server.says = [404]
    assert isnan(judge(server)("p", "r"))
    assert len(server.seen) == 1
    server.says = [0.5]
    assert isnan(judge(server, timeout=0.05, retries=1)("p", "r"))
    assert isnan(Judge("http://127.0.0.1:9/v1", "m", QUESTION, retries=1, pause=0.0)("p", "r"))


def test_missing_items_have_no_score_and_count_for_nothing(server):
    model = interp.load("organism")
    prompts = [prompt.user for prompt in organism.prompts("facts", 4)]
    server.says = ["No", "Maybe", "Yes", "Yes"]
    scores = reply_behaviour("b", "harm", "", prompts, judge(server, retries=0), 8, workers=1).scores(model)
    assert scores.values[:1] + scores.values[2:] == (0, 1, 1)
    assert scores.missing == 1
    assert scores.mean == pytest.approx(2 / 3)


def test_what_cannot_work_is_refused_at_once(server, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    for options, says in [
        ({"endpoint": "ftp://x"}, "expected a URL"),
        ({"question": "Is {reply} polite?"}, "must hold"),
        ({"answers": {"yes": 2.0}}, "from 0 to 1"),
        ({"answers": {"not sure": 0.5, "yes": 1.0}}, "expected single words"),
        ({"answers": {"Yes": 1.0, "yes": 0.0}}, "differ in more than case"),
        ({"key": "JUDGE_KEY"}, "JUDGE_KEY is not set"),
    ]:
        with pytest.raises(InterpError, match=says):
            Judge(**{"endpoint": server.url, "model": "m", "question": QUESTION} | options)
