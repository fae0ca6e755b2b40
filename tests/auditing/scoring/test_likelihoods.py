"""Log-probabilities against a slow loop over plain forwards."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import interp
from interp import Contrast, HookedModel, InterpError, organism
from interp.auditing.scoring.choices import choice, margin, prefers, text_loss
from interp.auditing.scoring.likelihoods import AnswerLogprobs, answer_logprobs, continuation_logprobs, text_losses
from interp.data import Turn, TurnPair
from interp.data._pairs import Message
from interp.directions.methods._answers import answer_continuations
from interp.models.continuations import logprobs
from interp.models.tokens import RenderedText

LETTERS = "ABCDE2:"
PROMPTS = ["w5 w9", "w8", "w12 w99 w101 w4"]
ENDS = [" w7", " w100 w3", " w6 w66 w31"]


def slow(model, prompt, end):
    ids = model.tokens(prompt + end).ids
    start = model.tokens(prompt).ids.shape[1]
    with torch.no_grad():
        logp = model.hf(ids).logits.log_softmax(-1)[0]
    return float(sum(logp[i - 1, ids[0, i]] for i in range(start, ids.shape[1])))


def test_continuations_equal_a_loop(tiny):
    model = tiny("gpt2")
    expected = [slow(model, *pair) for pair in zip(PROMPTS, ENDS, strict=True)]
    assert continuation_logprobs(model, PROMPTS, ENDS).tolist() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InterpError, match="item 2: answer 0, '', adds no token"):
        continuation_logprobs(model, PROMPTS, [" w7", "", " w7"])


@pytest.mark.parametrize("beginning", ["document", "tokenizer", "none"])
def test_text_losses_are_the_models_own(tiny, beginning):
    """The tokenizer puts nothing before a text; a document begins with its BOS, and then its first token counts."""
    model, options = tiny("llama"), {"beginning": beginning}
    texts = [a + b for a, b in zip(PROMPTS, ENDS, strict=True)]
    first = [1] if beginning == "document" else []
    rows = [torch.tensor([first + model.tokens(text).ids[0].tolist()]) for text in texts]
    expected = [float(model.hf(x, labels=x).loss) for x in rows]
    assert text_losses(model, texts, **options) == pytest.approx(expected, rel=1e-5)
    behaviour = text_loss("loss", texts, **options)
    assert behaviour.measure(model).values == pytest.approx(expected, rel=1e-5)
    assert behaviour.spec == options
    assert [model.loss(text, **options) for text in texts] == pytest.approx(expected, rel=1e-5)
    with model.instructed("w20 w21 w22"):
        skipped = 0 if first else 3
        before = "<s> " * len(first) + "w20 w21 w22\n\n"
        behind = [slow(model, before + text[:skipped], text[skipped:]) for text in texts]
        told = [-nats / (n + len(first)) for nats, n in zip(behind, (2, 2, 6), strict=True)]
        assert text_losses(model, texts, **options) == pytest.approx(told, rel=1e-5)
    assert told != pytest.approx(expected, rel=1e-3), "control: an instruction changes what is expected"
    long = "w5 w6 " * 64
    assert text_losses(model, [long], **options) == pytest.approx(text_losses(model, ["w5 w6 " * 32], **options))
    if not first:
        with pytest.raises(InterpError, match="nothing to predict"):
            text_losses(model, ["w5"], **options)


def test_losses_under_another_beginning_are_other_scores():
    digests = {text_loss("loss", ["w5 w6"], beginning=name).digest for name in ("document", "tokenizer", "none")}
    assert len(digests) == 3


@pytest.mark.parametrize("answers", [(" w7", " w9"), (" w5 w7", " w5 w100"), (" w7", " w9 w31 w5")])
def test_a_choice_prefers_the_likelier_answer(tiny, answers):
    model = tiny("llama")
    first, second = answers
    pairs = [TurnPair(Turn(p, first), Turn(p, second), p) for p in PROMPTS]
    behaviour = prefers("b", "harm", "", Contrast(tuple(pairs)))
    expected = [float(slow(model, p, first) > slow(model, p, second)) for p in PROMPTS]
    assert list(behaviour.measure(model).values) == expected
    swapped = [TurnPair(pair.negative, pair.positive, pair.group) for pair in pairs]
    other = prefers("b", "harm", "", Contrast(tuple(swapped)))
    assert list(other.measure(model).values) == [1 - value for value in expected]
    with pytest.raises(InterpError, match="one prompt with two answers"):
        prefers("b", "harm", "", Contrast.of([("a", "b"), ("c", "d")]))


def test_a_choice_takes_the_messages_before_it_into_account():
    model = interp.load("organism")
    before = (Message("user", "My name is Arda."), Message("assistant", "Good day."))
    people = organism.prompts("facts", 12)
    pairs = tuple(TurnPair(Turn(p.user, " I", before), Turn(p.user, " The", before), p.user) for p in people)
    said = [{"role": m.role, "content": m.content} for m in before]
    rendered = [model.chat([*said, {"role": "user", "content": p.user}]) for p in people]
    first, second = (continuation_logprobs(model, rendered, [end] * 12) for end in (" I", " The"))
    values = prefers("b", "harm", "", Contrast(pairs)).measure(model).values
    assert list(values) == (first > second).double().tolist()
    assert rendered[0] != model.chat(people[0].user), "control"
    other = TurnPair(Turn("Is it so?", " yes", before), Turn("Is it so?", " no"), "x")
    with pytest.raises(InterpError, match="one prompt with two answers"):
        prefers("b", "harm", "", Contrast((other,)))


@pytest.fixture(scope="module")
def merging():
    """A model whose tokens reach across the border of prompt and answer: a space with a letter, a colon with both."""
    space, line = "\u0120", "\u010a"  # as byte-level vocabularies write them
    merges = [(space, "C"), (":", space + "C"), (space, "D"), ("C", "D"), (space, space), (line, line), ("E", ":")]
    pieces = [*LETTERS, space, line, "\u00c3", "\u00a9", *map("".join, merges)]
    vocabulary = {piece: number for number, piece in enumerate(["<s>", "<unk>", *pieces])}
    bpe = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", unk_token="<unk>")
    return HookedModel(transformers.AutoModelForCausalLM.from_config(config), tokenizer)


def whole(model, text):
    """log p of all tokens of a text after its first, by one plain pass."""
    ids = torch.tensor([model.tokenizer(text).input_ids])
    with torch.no_grad():
        logp = model.hf(ids).logits.log_softmax(-1)[0]
    return float(sum(logp[i - 1, ids[0, i]] for i in range(1, ids.shape[1])))


prompts = st.text(LETTERS + " \n", max_size=6).map("B{}".format)
texts = st.text(LETTERS + " \n", min_size=1, max_size=4).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(prompt=prompts, answers=st.lists(texts, min_size=2, max_size=4, unique=True), data=st.data())
def test_answers_compare_as_their_whole_texts_do_wherever_the_space_stands(merging, prompt, answers, data):
    """The theorem that makes the sums comparable, against passes over whole texts, which have no border."""
    item = answer_logprobs(merging, [prompt], [answers])[0]
    full = [whole(merging, prompt + answer) for answer in answers]
    assert [x - item.nats[0] for x in item.nats] == pytest.approx([x - full[0] for x in full], abs=1e-4)
    assert continuation_logprobs(merging, [prompt] * len(answers), answers).tolist() == pytest.approx(
        list(item.nats), abs=1e-4
    )
    space = data.draw(st.text(" \n", max_size=3))
    stands = [
        answer_logprobs(
            merging, [prompt.rstrip() + space[:cut]], [[space[cut:] + answer.lstrip() for answer in answers]]
        )
        for cut in range(len(space) + 1)
    ]
    for by in ("none", "token", "byte", "acc_norm", "acc_bytes"):
        first, *others = ([x for item in moved for x in item.normalised(by)] for moved in stands)
        assert all(other == first for other in others)


def test_a_merge_across_the_border_does_not_hide_what_another_answer_pays(merging):
    """`:` and ` C` are one token, so from the end of the prompt on, the sum of ` D` would lack log p(:)."""
    nats = answer_logprobs(merging, ["BA:"], [[" C", " D"]])[0].nats
    assert nats[0] - nats[1] == pytest.approx(whole(merging, "BA: C") - whole(merging, "BA: D"), abs=1e-4)
    control = answer_logprobs(merging, ["BA:"], [[" D"]])[0].nats[0]
    assert abs(control - nats[1]) > 0.1, "control: log p(:) is not small"
    gap = margin("b", "harm", "", ["BA:"], [" C"], [" D"]).measure(merging).values[0]
    assert gap == pytest.approx(nats[0] - nats[1])
    pair = TurnPair(Turn("BA:", " C"), Turn("BA:", " D"))
    sides = answer_continuations(merging, Contrast((pair,)))
    both = [float(logprobs(merging, side).detach()) for side in sides]
    assert both == pytest.approx(list(nats), abs=1e-4)


def test_lengths_are_those_of_lm_evaluation_harness(merging):
    """Its `process_results` divides by len(choice), and by its bytes, where the request is delimiter + choice."""
    choices = ["\u00e9", "ABCD", "C D"]
    item = answer_logprobs(merging, ["BA:"], [[f" {text}" for text in choices]])[0]
    assert item.acc_norm == tuple(map(len, choices))
    assert item.acc_bytes == tuple(len(text.encode()) for text in choices)
    assert item.bytes == tuple(len(f" {text}".encode()) for text in choices), "what files of before call byte"
    lengths = {"bytes": (3, 5), "acc_bytes": (2, 4), "acc_norm": (1, 4)}
    two = AnswerLogprobs((-2.5, -8.0), (1, 4), **lengths)
    assert two.normalised("acc_norm") == (-2.5, -2.0)
    assert two.normalised("acc_bytes") == (-1.25, -2.0)
    assert two.normalised("byte") == (-2.5 / 3, -1.6), "control: by bytes the other one wins"
    scorers = {
        by: choice("b", "harm", "", ["BA:"], [[" C", " D"]], [0], normalise=by) for by in lengths if by != "bytes"
    }
    assert all(by in behaviour.scorer for by, behaviour in scorers.items())
    assert len({behaviour.digest for behaviour in scorers.values()}) == 2


TEMPLATES = {  # what each writes between the prompt and the answer " C", and the answer itself
    "{% for m in messages %}{{ m.role[0] }}:{{ ' ' + m.content|trim }}{% if m.role == 'assistant' %}E{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}a:{% endif %}": ("a:", " C"),
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}E{% endfor %}{% if add_generation_prompt %}a:{% endif %}": (
        "a:", " C",
    ),
    "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}BB\n{{ m.content|trim }}{% else %}"
    "{{ m.content }}{% endif %}E{% endfor %}{% if add_generation_prompt %}a:BA{% endif %}": ("a:BB\n", "C"),
}  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("recipe", [(), [("embed", lambda x: 2 * x)]])
def test_an_answer_to_a_chat_prompt_is_the_turn_that_the_template_writes(merging, template, recipe):
    """The template may write a space before it, strip it, or begin the turn otherwise than the prompt for a reply."""
    between, words = TEMPLATES[template]
    merging.tokenizer.chat_template = template
    prompt = merging.chat("BA")
    try:
        with merging.hooked(recipe):
            item = answer_logprobs(merging, [prompt], [[" C", " D", " CD "]])[0]
            head = merging.chat("BA").removesuffix("a:").removesuffix("a:BA") + between
            turns = [words.replace("C", text) for text in ("C", "D", "CD")]
            turns[2] += " " if "trim" not in template else ""
            full = [whole(merging, head + text) for text in turns]
            assert [x - item.nats[0] for x in item.nats] == pytest.approx([x - full[0] for x in full], abs=1e-4)
            contrast = Contrast((TurnPair(Turn("BA", " C"), Turn("BA", " D")),))
            sides = [float(logprobs(merging, side).detach()) for side in answer_continuations(merging, contrast)]
            assert sides[0] - sides[1] == pytest.approx(item.nats[0] - item.nats[1], abs=1e-4)
            assert contrast.texts(merging.render, merging.chat)[0] == [head + turns[0]]
            glued = answer_logprobs(merging, [RenderedText(prompt)], [[" C", " D", " CD "]])[0]
            same = glued.nats == pytest.approx(item.nats, abs=1e-4)
            assert same == (head + turns[2] == prompt + " CD "), "control: gluing is another text"
    finally:
        merging.tokenizer.chat_template = None
