"""The public suite on small files in each set's format; and on the sets themselves, where they are."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from audit_rows import two_arms
from public_files import ROWS, write_sets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from interp import InterpError
from interp.auditing.audit_row import audit_rows
from interp.auditing.auditor import Audit
from interp.auditing.baselines import Baseline
from interp.auditing.behaviours import Scores
from interp.auditing.conditions import today
from interp.auditing.policy.decision import Policy, decide
from interp.auditing.public._rows import DEFAULT_FOLDER, VARIABLE, PublicItem, sample_items
from interp.auditing.public._texts import NextWord, toxic_words
from interp.auditing.public.suite import PUBLIC_SETS, public_suite
from interp.auditing.suites import suite as named_suite
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference

SETS = Path(os.environ.get(VARIABLE) or DEFAULT_FOLDER)
FILES = sorted({(name, file) for name, one in PUBLIC_SETS.items() for file in one.files})
NO_LETTER = ("text_loss", "toxicity_continued", "lambada")


MODEL = ModelReference(name="m", digest="0" * 64, model_type="llama", d_model=8, n_layers=2)


@pytest.fixture(scope="module")
def model():
    """A random model that reads bytes, with a chat template."""
    torch.manual_seed(0)
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: n for n, letter in enumerate(["<pad>", "<s>", "</s>", *sorted(letters)])}
    tokens = Tokenizer(models.BPE(vocabulary, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **names)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        initializer_range=0.3,
    )  # fmt: skip
    return HookedModel(transformers.LlamaForCausalLM(config).eval(), tokenizer, name="bytes")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def suite(sets):
    return {behaviour.name: behaviour for behaviour in public_suite(8, data=sets)}


@torch.no_grad()
def slow(model, prompt, answer):
    ids, start = model.tokenizer(prompt + answer)["input_ids"], len(model.tokenizer(prompt)["input_ids"])
    logp = model.hf(torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logp[n - 1, ids[n]] for n in range(start, len(ids)))), len(ids) - start


def slow_values(model, behaviour, prompts=None):
    """Answers' log-probabilities, a plain pass for each, normalised as the behaviour says."""
    spec = behaviour.spec
    for prompt, answers in zip(prompts or behaviour.prompts, spec["answers"], strict=True):
        text = model.chat(prompt) if spec.get("chat", behaviour.unit == "margin") else prompt
        found = [slow(model, text, answer) for answer in answers]
        by = spec.get("normalise", "token" if behaviour.unit == "margin" else "none")
        lengths = {"none": [1] * 99, "token": [n for _, n in found], "acc_norm": [len(a) - 1 for a in answers]}[by]
        yield torch.tensor([nats / n for (nats, _), n in zip(found, lengths, strict=False)])


CHOICES = [
    name for name in PUBLIC_SETS
    if name not in (*NO_LETTER, "blimp", "crows_pairs", "toxicity_pairs", "winogender_flips")
    and not name.startswith(("refusal_h", "refusal_x", "overrefusal")) and not name.endswith("_bias")
]  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_scores_as_the_plain_loop_says(name, suite, model):
    behaviour, expected = suite[name], []
    for values, gold in zip(slow_values(model, behaviour), behaviour.spec["gold"], strict=True):
        best = (values == values.max()).float()
        share = values.double().softmax(0) if behaviour.spec["mass"] else best / best.sum()
        expected.append(float(share[list(gold)].sum()))
    assert behaviour.scores(model).values == pytest.approx(expected, abs=1e-3)


def test_the_model_tells_items_apart(suite, model):
    """The control of the test before this one: scores that all are alike would agree with any loop."""
    varied = [name for name in CHOICES if not suite[name].scores(model).constant]
    assert len(varied) > len(CHOICES) * 2 / 3


@pytest.mark.parametrize(("name", "by"), [("blimp", "none"), ("crows_pairs", "none"), ("toxicity_pairs", "token")])
def test_the_likelier_of_two_texts_is_the_plain_loops(name, by, suite, model):
    behaviour, expected = suite[name], []
    for pair in zip(behaviour.prompts, behaviour.spec["answers"], strict=True):
        (a, m), (b, n) = (slow(model, "<s>", text) for text in pair)
        expected.append(float(a > b if by == "none" else a / m > b / n))
    assert list(behaviour.scores(model).values) == expected


def test_bias_scores_are_the_papers(suite, model):
    """s_AMB = (1 - accuracy) * (2 * biased / named - 1), and its accuracy is that of the other behaviour."""
    for condition in ("ambig", "disambig"):
        behaviour, accuracy = suite[f"bbq_{condition}_bias"], suite[f"bbq_{condition}_accuracy"]
        said = [int(values.argmax()) for values in slow_values(model, behaviour)]
        named = sum(answer != 2 for answer in said)
        disambiguated = 2 * said.count(0) / named - 1
        assert behaviour.scores(model).mean == pytest.approx(named / len(said) * disambiguated)
        if condition == "ambig":
            assert accuracy.scores(model).mean == pytest.approx(1 - named / len(said))
        assert behaviour.prompts == accuracy.prompts
    assert {answers[2] for answers in suite["bbq_ambig_bias"].spec["answers"]} == {"Not known"}


def test_a_flip_is_another_answer_for_the_other_pronoun(suite, model):
    behaviour = suite["winogender_flips"]
    he, she = (
        [int(v.argmax()) for v in slow_values(model, behaviour, texts)]
        for texts in (behaviour.prompts, behaviour.spec["others"])
    )
    assert list(behaviour.scores(model).values) == [float(a != b) for a, b in zip(he, she, strict=True)]
    swapped = [text.replace(" she ", " he ").replace('"she"', '"he"') for text in behaviour.spec["others"]]
    assert swapped == list(behaviour.prompts)


@pytest.mark.parametrize("name", sorted(set(PUBLIC_SETS) - set(CHOICES)))
def test_all_others_score_too(name, suite, model):
    scores = suite[name].scores(model)
    assert len(scores.values) == len(suite[name])
    assert scores.missing == 0


def test_the_last_word_is_a_whole_word():
    grade = NextWord({"a": "sign"})
    assert [grade("a", text) for text in (" sign", "sign.", "signs", "a sign", "")] == [1, 1, 0, 0, 0]


def test_toxic_words_are_those_taken_out(sets):
    assert toxic_words(sets) == ("zounds",)


def test_kinds_and_what_is_secret(suite):
    kinds = Counter(behaviour.kind for behaviour in suite.values())
    assert set(kinds) == {"harm", "protected", "capability"}
    assert len(suite) == len(PUBLIC_SETS)
    assert {b.kind for n, b in suite.items() if n.startswith(("refusal", "truthfulqa", "corrigib"))} == {"protected"}
    offensive = ("refusal_h", "refusal_x", "overrefusal", "toxicity", "crows", "bbq")
    assert all(behaviour.secret for name, behaviour in suite.items() if name.startswith(offensive))
    assert all(PUBLIC_SETS[name].metric and behaviour.scorer for name, behaviour in suite.items())


def test_items_are_drawn_by_seed(sets):
    first, again, other = ({b.name: b.digest for b in public_suite(3, seed, sets)} for seed in (0, 0, 1))
    assert first == again
    assert sum(first[name] != other[name] for name in first) > len(first) / 2
    assert [b.digest for b in named_suite("public", 3, 0, sets)] == list(first.values())


def test_strata_are_dealt_in_turn():
    items = [PublicItem(f"{s}{n}", stratum=s) for s, size in (("a", 9), ("b", 3), ("c", 2)) for n in range(size)]
    counts = Counter(item.stratum for item in sample_items(items, 6, seed=0))
    assert counts == {"a": 2, "b": 2, "c": 2}
    assert Counter(item.stratum for item in sample_items(items, 12, seed=0)) == {"a": 7, "b": 3, "c": 2}
    assert Counter(item.stratum for item in sample_items(items, 12, seed=0, even=True)) == {"a": 2, "b": 2, "c": 2}
    assert len(sample_items([*items, *items], 99, seed=0)) == len(items)
    assert {item.stratum for seed in range(20) for item in sample_items(items, 1, seed)} == {"a", "b", "c"}


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_malformed_row_is_refused_by_file_and_line(name, file, sets, tmp_path):
    for other in (*PUBLIC_SETS[name].files, *PUBLIC_SETS[name].also):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_bytes((sets / other).read_bytes())
    lines = (sets / file).read_text().splitlines()
    row, refused = json.loads(lines[1]), 0
    for column in row:
        left = json.dumps({key: value for key, value in row.items() if key != column})
        (tmp_path / file).write_text("\n".join([lines[0], left, *lines[2:]]))
        try:
            public_suite(4, data=tmp_path, only=[name])
        except InterpError as problem:
            refused += 1
            assert f"{tmp_path / file}, line 2: column '{column}'" in str(problem)
            said = str(problem).split(", line 2:")[1]
            assert not any(isinstance(value, str) and len(value) > 12 and value in said for value in row.values())
    assert refused >= 1
    (tmp_path / file).write_text(lines[0] + "\n{broken\n")
    with pytest.raises(InterpError, match="line 2: not valid JSON"):
        public_suite(4, data=tmp_path, only=[name])


def test_what_is_missing_is_named(sets, tmp_path, monkeypatch):
    with pytest.raises(
        InterpError, match=r"nowhere: no such folder of evaluation sets; give .*--data DIR.*INTERP_DATA"
    ):
        public_suite(4, data=tmp_path / "nowhere")
    with pytest.raises(InterpError, match=r"lacks 1 files of the public suite: xstest/xstest\.jsonl"):
        public_suite(4, data=tmp_path, only=["refusal_xstest"])
    with pytest.raises(InterpError, match="no behaviour 'xtest'"):
        public_suite(4, data=sets, only=["xtest"])
    monkeypatch.setenv(VARIABLE, str(sets))
    assert len(public_suite(4, only=["arc_easy"])) == 1
    monkeypatch.setenv(VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(InterpError, match="gone: no such folder"):
        public_suite(4, only=["arc_easy"])


@pytest.mark.skipif(not SETS.is_dir(), reason=f"the sets themselves are not at {SETS}")
@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_the_sets_themselves(name):
    adapter = PUBLIC_SETS[name]
    whole = {(item.prompt, item.answers) for item in adapter.items(SETS)}
    behaviour = public_suite(200, data=SETS, only=[name])[0]
    assert len(behaviour) >= 200 or len(behaviour) == len(whole)
    assert len(set(zip(behaviour.prompts, behaviour.spec.get("answers", behaviour.prompts), strict=True))) == len(
        behaviour
    )
    if adapter.even:
        golds = Counter(map(str, behaviour.spec["gold"]))
        assert len(golds) == 2
        assert len(set(golds.values())) == 1  # a constant answer scores chance
        assert behaviour.chance == 0.5
    assert not behaviour.groups or len(set(behaviour.groups)) >= 30


@pytest.mark.skipif(not SETS.is_dir(), reason=f"the sets themselves are not at {SETS}")
def test_the_shipped_policy_does_not_deny_a_model_that_did_not_change():
    """At 200 items a behaviour, with the groups that the sets have; and it denies one that refuses less."""

    def scored(behaviour, lost):
        """Nothing harmful, about half of else, and some of that lost."""
        draw = np.random.default_rng(len(behaviour.name))
        if behaviour.unit != "rate":
            values = draw.normal(3 if behaviour.unit == "nats" else 0, 1e-2, len(behaviour))
        else:
            values = draw.random(len(behaviour)) < (0 if behaviour.kind == "harm" else 0.5)
        values = np.where(draw.random(len(behaviour)) < lost, 0, values)
        return Scores(tuple(map(float, values)))

    def put(lost):
        found = {
            b.name: two_arms(b, scored(b, 0), scored(b, lost if b.name == "refusal_harmful" else 0)) for b in suite
        }
        beside = Baseline("random", {}), Baseline("prompt", {})
        made = Audit(audit_rows(suite, found, 0), MODEL, MODEL, baselines=beside, measured=today().isoformat())
        policy = Policy.read("release")
        return decide(made, policy, policy.tiers[1].safeguards, approvals=("A. Reviewer",))

    suite = public_suite(200, data=SETS)
    unchanged = put(lost=0)
    assert unchanged.outcome == "allow", [reason.text for reason in unchanged.unmet]
    assert put(lost=0.2).outcome == "deny"


def test_every_file_is_small_enough_to_draw_from(sets):
    assert all(len((sets / file).read_text().splitlines()) >= ROWS for _, file in FILES)
