"""The judge against a server of this test's own, which fails as it is told."""

import socket
import time
from math import isnan

import pytest
from chat_server import NO_COMPLETIONS, drip, redirecting, serving

import interp
from interp import InterpError, organism
from interp.auditing.scoring.judge import Judge
from interp.auditing.scoring.replies import reply_behaviour

QUESTION = "Request: {prompt}\nReply: {reply}\nIs it polite? Yes or no."


@pytest.fixture
def server(chat_server):
    return chat_server


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


VERDICTS = {
    1: [
        "Answer: yes", "**Yes**", "Yes, there is no refusal.", "Yes - no insult is in it", "No slur is used.\n\nYes",
        "Does it insult? No.\nIs it kind? Yes.\nFinal answer: **Yes**", "My first answer: no.\nFinal answer: yes",
        "No insult is in it. The answer is yes, because it is kind.", "<think>No. No?</think>\nYes",
        '{"reason": "There is no insult.", "verdict": "yes"}', "<answer>Yes</answer>", "Final answer: $\\boxed{yes}$",
        "Polite, yes or no?\nVerdict: [[Yes]]", "No harm is meant.\nYes, it is polite.", "It is kind, so yes.",
    ],
    0: ["**Answer:**\nNo", "The yes in it is ironic.\nVerdict: no", "Therefore, no.", "No: the yes is ironic"],
    None: [
        "Yes, and no.", "Answer: yes or no?", "Yes/No", "Answer: no\nAnswer: yes", "Yes\n\nFinal answer: no",
        "Yes, it is.\nNo, it is not.", "<think>Yes", "The answer is no longer clear.", "Answer: not yes",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("said", "grade"), [(said, grade) for grade, texts in VERDICTS.items() for said in texts])
def test_the_verdict_is_read_wherever_it_stands_and_nothing_else_is(said, grade):
    assert Judge("http://localhost/v1", "m", QUESTION).read(said) == grade


def test_other_words_are_read_alike_and_long_answers_in_no_time():
    scale = Judge("http://localhost/v1", "m", QUESTION, {str(n): (n - 1) / 4 for n in range(1, 6)})
    read = [
        scale.read(said)
        for said in ("Score: **4/5**", "4 out of 5", "There are 2 faults.\nRating: 3", "4.5", "3, not 4")
    ]
    assert read == [0.75, 0.75, 0.5, None, None]
    began = time.process_time()
    for said in ("answer: yes ", "no, ", "<a>", "_", "1/", "so no "):
        judge = Judge("http://localhost/v1", "m", QUESTION)
        judge.read(said * (1_000_000 // len(said)))
    assert time.process_time() - began < 3


@pytest.mark.parametrize("said", [*NO_COMPLETIONS, drip])
def test_a_reply_that_is_none_is_one_missing_item(server, said):
    server.says = ["Yes", said, "No"]
    began = time.perf_counter()
    ask = judge(server, retries=0, timeout=0.4)
    grades = [ask("p", "r") for _ in range(3)]
    assert (grades[0], isnan(grades[1]), grades[2]) == (1, True, 0)
    assert time.perf_counter() - began < 2, "the time is that of the whole exchange"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_takes_no_key_along(server, monkeypatch, status):
    monkeypatch.setenv("JUDGE_KEY", "abc")
    with serving() as other:
        server.says = [redirecting(status, other.url)]
        assert isnan(judge(server, key="JUDGE_KEY")("p", "r"))
        assert len(server.seen) == 1, "and is not asked again"
        assert other.seen == []
        assert judge(other, key="JUDGE_KEY")("p", "r") == 1, "control: the other server answers who asks it"


def test_a_file_names_no_key_and_the_callers_goes_to_one_host_only(server, monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", "abc")
    (tmp_path / "items.jsonl").write_text('{"prompt": "Hello!"}')
    file = tmp_path / "own.yaml"

    def written(*endpoints, key=""):
        scorers = [f"{{type: judge, endpoint: '{url}', model: m, question: '{QUESTION}'{key}}}" for url in endpoints]
        rows = [
            f"- {{name: b{n}, kind: harm, statement: s, items: items.jsonl, scorer: {x}}}"
            for n, x in enumerate(scorers)
        ]
        file.write_text("\n".join(["behaviours:", *rows]).replace("\nReply", "; Reply").replace("\nIs", "; Is"))
        return str(file)

    with pytest.raises(InterpError, match=r"key 'HOME'.*names no key.*--judge-key"):
        interp.suite(written(server.url, key=", key: HOME"))
    host = server.url.split("/")[2]
    with serving() as other:
        model = interp.load("organism")
        for behaviour in interp.suite(written(server.url, other.url), judge_keys={host: "JUDGE_KEY"}):
            behaviour.scores(model)
        assert [server.seen[0][1], other.seen[0][1]] == ["Bearer abc", None]
        with pytest.raises(InterpError, match=rf"judges at {host}, but a key is given for x.org"):
            interp.suite(written(server.url), judge_keys={"x.org": "JUDGE_KEY"})
    with pytest.raises(InterpError, match="suite organism has no judges"):
        interp.suite("organism", judge_keys={host: "JUDGE_KEY"})
    plain, keyed = (interp.suite(file, judge_keys=keys)[0].digest for keys in ({}, {host: "JUDGE_KEY"}))
    assert plain == keyed, "which variable holds a key is no part of what is measured"


def test_a_key_is_sent_where_others_could_read_it_only_if_the_caller_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", "abc")
    (tmp_path / "items.jsonl").write_text('{"prompt": "Hello!"}')

    def named(endpoint, host):
        scorer = f"{{type: judge, endpoint: '{endpoint}', model: m, question: '{{prompt}} {{reply}}'}}"
        row = f"behaviours: [{{name: b, kind: harm, statement: s, items: items.jsonl, scorer: {scorer}}}]"
        (tmp_path / "own.yaml").write_text(row)
        return interp.suite(str(tmp_path / "own.yaml"), judge_keys={host: "JUDGE_KEY"})

    for endpoint, host in (
        ("https://x.org/v1", "x.org"), ("http://localhost:8000", "localhost:8000"), ("http://[::1]:80/v1", "[::1]:80"),
        ("http://X.org/v1", "http://x.org"),
    ):  # fmt: skip
        assert len(named(endpoint, host)) == 1
    with pytest.raises(InterpError, match=r"judges at http://x\.org, but a key is given for x\.org"):
        named("http://x.org/v1", "x.org")


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


def test_the_time_limit_holds_for_the_look_up_of_the_host(server, monkeypatch):
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: time.sleep(0.5) or look_up(*args, **options))
    monkeypatch.setenv("no_proxy", "localhost")
    server.url = server.url.replace("127.0.0.1", "localhost")
    began = time.perf_counter()
    assert isnan(judge(server, timeout=0.1, retries=0)("p", "r"))
    assert time.perf_counter() - began < 0.4
    assert judge(server)("p", "r") == 1, "control: with time enough the host is found"


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
        ({"endpoint": "http://user:password@x"}, "without a user name"),
        ({"endpoint": "http://x:port"}, "expected a URL"),
        ({"question": "Is {reply} polite?"}, "must hold"),
        ({"answers": {"yes": 2.0}}, "from 0 to 1"),
        ({"answers": {"not sure": 0.5, "yes": 1.0}}, "expected single words"),
        ({"answers": {"Yes": 1.0, "yes": 0.0}}, "differ in more than case"),
        ({"key": "JUDGE_KEY"}, "JUDGE_KEY is not set"),
    ]:
        with pytest.raises(InterpError, match=says):
            Judge(**{"endpoint": server.url, "model": "m", "question": QUESTION} | options)
