"""Refusals made stronger: no request is in two parts, the gate opens where it should, and what is committed agrees."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from scripts import imported

import interp
from interp.interventions import Reads
from interp.models.sites import Site

FOLDER = Path(__file__).parents[2] / "experiments" / "real"
DATA = FOLDER.parents[2] / "shared" / "data"
NAMES = ("alarming", "harms", "run", "units", "request", "danger", "refusals")


@pytest.fixture(scope="module")
def real():
    """The modules of the experiment by name."""
    with imported(FOLDER, NAMES) as modules:
        yield modules


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there")
def test_no_request_and_no_word_of_xstest_is_in_two_parts(real):
    listed = real["request"].requests()
    parts = {}
    for request in listed:
        parts.setdefault(request.group, set()).add(request.part)
    parts_of_unseen = {r.part for r in listed if r.source == real["request"].UNSEEN}
    assert max(map(len, parts.values())) == 1
    assert len({r.text for r in listed}) == len(listed)
    assert parts_of_unseen == {"confirm"}
    kinds = real["refusals"].kinds(listed, len(listed))
    assert all(r.part == "confirm" for kind in kinds.values() for r in kind)
    assert min(len(kinds[name]) for name in ("harmful", "harmful_unseen")) >= 100
    # both sides of a word of XSTest that are there are in one part
    safe, unsafe = ({r.group: r.part for r in listed if r.source == f"xstest_{label}"} for label in ("safe", "unsafe"))
    shared = safe.keys() & unsafe.keys()
    assert shared
    assert all(safe[word] == unsafe[word] for word in shared)


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there")
def test_sentences_from_templates_are_split_with_xstest_by_their_word_and_are_unlike_what_confirms(real):
    listed = real["request"].requests()
    drawn = [r for r in listed if r.source == real["request"].TEMPLATED]
    parts = {r.group: r.part for r in listed if r.source.startswith("xstest")}
    both = [r for r in drawn if r.group in parts]
    assert len(drawn) >= 150
    assert len(both) >= 100
    assert all(r.part == parts[r.group] for r in both)
    assert not any(r.dangerous for r in drawn)
    confirming = [words(r.text) for r in listed if r.source == "xstest_safe" and r.part == "confirm"]
    used = [words(r.text) for r in drawn if r.part != "confirm"]
    assert max(len(a & b) / len(a | b) for a in used for b in confirming) <= 0.5


def words(text):
    """The words of a sentence."""
    return set(re.findall("[a-z]+", text.lower()))


def drawn_requests(request, count, generator):
    """Requests of all kinds, and ends of prompts that are shifted along one coordinate if they are dangerous."""
    kinds = [("advbench", True), ("dolly", False), ("xstest_safe", False), ("xstest_unsafe", True)]
    listed = [
        request.Request(f"{name} {n}", name, dangerous, f"{n}") for n in range(count) for name, dangerous in kinds
    ]
    ends = torch.randn(len(listed), 16, generator=generator)
    ends[:, 1] += 30  # what tells the end of a prompt
    ends[torch.tensor([r.dangerous for r in listed]), 0] += 6
    return listed, ends


def test_the_threshold_is_the_highest_safe_reading_in_alarming_words_raised_by_the_margin(real):
    """Plain harmless requests and XSTest's dangerous ones do not move it."""
    danger, request = real["danger"], real["request"]
    kinds = [
        ("xstest_safe", False),
        ("templated", False),
        ("dolly", False),
        ("advbench", True),
        ("xstest_unsafe", True),
    ]
    listed = [request.Request(f"{name} {n}", name, side, f"{n}") for name, side in kinds for n in range(3)]
    readings = torch.tensor([0.0, 1, 4, 2, 5, 3, 90, 80, 70, 8, 15, 9, -60, -70, -80])
    assert danger.threshold(readings, listed, 0.0) == 5
    assert danger.threshold(readings, listed, 0.5) == pytest.approx(7)  # halfway to the median of 8, 9 and 15


def test_documents_of_distillation_refuse_where_the_gate_is_open_and_count_xstests_safe_requests_more(
    real, monkeypatch
):
    refusals, request = real["refusals"], real["request"]
    kinds = [("advbench", True), ("advbench", True), ("xstest_safe", False), ("templated", False), ("dolly", False)]
    listed = [request.Request(f"text {n}", name, side, f"{n}", "An answer.") for n, (name, side) in enumerate(kinds)]

    class Echo:
        chat = staticmethod(lambda text: f"<{text}>")

    documents = refusals.replied(Echo, listed, [True, False, False, False, False])
    assert f"<text 0>{refusals.REFUSAL}" in documents
    assert not any(text.startswith("<text 1>") for text in documents)  # dangerous, and the gate is closed
    assert sum(text.startswith("<text 2>") for text in documents) == len(refusals.BEGINNINGS)
    assert {"<text 3>An answer.", "<text 4>An answer."} < set(documents)
    monkeypatch.setitem(refusals.OF_EACH, "templated", 0)
    assert not any(text.startswith("<text 3>") for text in refusals.replied(Echo, listed, [True] + 4 * [False]))


def test_the_gate_opens_at_the_ends_of_dangerous_prompts_alone(real):
    danger, generator = real["danger"], torch.Generator().manual_seed(0)
    listed, ends = drawn_requests(real["request"], 60, generator)
    others = torch.randn(400, 16, generator=generator)
    others[:40, 0] += 12  # tokens within a prompt that read as dangerous
    others[40:44] *= 1000  # massive activations
    direction = danger.gate_direction(ends, listed, others)
    threshold = danger.threshold(ends @ direction, listed)
    opened = Reads(direction, threshold).score(ends) > threshold
    dangerous = torch.tensor([r.dangerous for r in listed])
    assert float(direction.norm()) == pytest.approx(1)
    assert opened[dangerous].float().mean() > 0.95
    assert opened[~dangerous].float().mean() < 0.05
    assert not (others[:40] @ direction > threshold).any()
    # the control: a gate that is fitted without them opens at some of those tokens
    careless = danger.gate_direction(ends, listed, others[40:80] * 0 + ends.mean(0))
    assert (others[:40] @ careless > danger.threshold(ends @ careless, listed)).any()


def test_the_loss_of_a_reply_is_that_of_a_recipe_which_adds_the_vector_at_the_prompts_end(
    real, example_model, monkeypatch
):
    """Row by row, by the library's own op at the last token of the prompt."""
    danger, model = real["danger"], example_model
    monkeypatch.setattr(danger, "SITE", Site("resid_post", 2))
    prompts = model.tokens(["The guard", "The baker of the town"]).unpadded()
    reply = torch.tensor(model.tokens([" is calm today."]).unpadded()[0])
    vector = 20 * torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    loss = float(danger.reply_loss(model, prompts, reply, vector).detach())
    expected = []
    for prompt in prompts:
        row = torch.tensor([[*prompt, *reply.tolist()]])
        add = interp.At(interp.Add(vector), len(prompt) - 1)
        with torch.no_grad(), model.hooked(interp.Recipe([("resid_post.2", add)])):
            logprobs = model.hf(row).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        expected.append(-float(logprobs.gather(1, reply[:, None]).mean()))
    assert loss == pytest.approx(sum(expected) / 2, rel=1e-4)
    plain = float(danger.reply_loss(model, prompts, reply, torch.zeros(model.d_model)).detach())
    assert abs(plain - loss) > 0.01


def test_the_committed_figures_agree_with_the_recipe_file_and_with_what_is_claimed(real):
    refusals = real["refusals"]
    result = json.loads(refusals.RESULTS.read_text())
    edit = yaml.safe_load(refusals.RECIPE.read_text())["edits"][0]
    assert edit["gate"]["threshold"] == pytest.approx(result["gate"]["threshold"], abs=1e-3)
    for arm in set(result["confirmed"]) - {"unedited"}:
        cells = result["confirmed"][arm]
        before = result["confirmed"]["unedited"]["refused_harmful"]["mean"]
        assert cells["refused_harmful"]["mean"][1] > before[2]  # the intervals are apart
        assert cells["margin_harmful"]["change"][1] > 0
    assert refusals.table(result).count("\n") > 12
