"""Token batches: padding, positions and common prefixes."""

import pickle
from copy import deepcopy

import pytest
import tiny_models
import torch
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import interp
from interp import InterpError
from interp.core.calls import checked
from interp.editing import ExportOptions
from interp.models import RenderedText
from interp.models.tokens import common_length, padded


def test_positions_count_real_tokens_only():
    batch = padded([[5, 6, 7], [8]])
    assert batch.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.predicted.tolist() == [[True, True], [False, False]]


def test_rows_lose_the_padding_that_they_do_not_need():
    batch = padded([[5, 6, 7], [8], [9, 4]])
    assert batch.rows(1, 2).ids.tolist() == [[8]]
    assert batch.pick(torch.tensor([2, 1])).ids.tolist() == [[9, 4], [0, 8]]


def test_the_common_length_is_that_of_every_pair():
    assert common_length([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2
    assert common_length([[1], [2]]) == 0


@pytest.fixture
def chat_model():
    model = tiny_models.build("llama")
    model.tokenizer.chat_template = "<s> {% for message in messages %}{{ message.content }} w9 {% endfor %}"
    return model


def post_processed(model, single):
    special = [("<s>", 1), ("</s>", 2)]
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    return model


@pytest.mark.parametrize("opening", ["", "<s> ", "</s> <s> "])
@pytest.mark.parametrize("single", ["$A", "<s> $A", "$A </s>", "<s> $A </s>", "</s> <s> $A"])
def test_rendered_text_gets_no_special_tokens_and_plain_text_those_before_it(chat_model, single, opening):
    model = post_processed(chat_model, single)
    model.tokenizer.chat_template = opening + "{% for message in messages %}{{ message.content }} w9 {% endfor %}"
    rendered, ids = model.chat("w5 w6"), {"tokenize": True, "add_generation_prompt": True, "return_dict": False}
    expected = model.tokenizer.apply_chat_template([{"role": "user", "content": "w5 w6"}], **ids)
    assert model.tokens(rendered).ids.tolist() == [expected]
    assert model.tokens(str(rendered), rendered=True).ids.tolist() == [expected]
    assert model.tokens(rendered + "w7").ids.tolist() == [[*expected, 7]]
    assert model.tokens("w5 w6", chat=True).ids.tolist() == model.tokens(rendered, chat=True).ids.tolist() == [expected]
    whole, (before, _) = model.tokenizer("w5 w6")["input_ids"], single.split("$A")
    plain = [{"<s>": 1, "</s>": 2}[token] for token in before.split()] + [5, 6]
    assert model.tokens(["w5 w6"]).ids.tolist() == [plain] == [whole[: len(plain)]]
    # How a text begins decides nothing.
    assert model.tokens(str(rendered)).ids.tolist() == [plain[:-2] + expected]


def test_a_doubled_beginning_is_said(chat_model, recwarn):
    model = post_processed(chat_model, "<s> $A")
    model.tokens(model.chat("w5"))
    assert not [warning for warning in recwarn if warning.category is UserWarning], "control"
    with pytest.warns(UserWarning, match="begins with '<s>', and the tokenizer puts another before it"):
        model.tokens(str(model.chat("w5")))


def test_rendered_text_stays_so_in_the_hands_of_users_and_options(chat_model):
    text = chat_model.chat("w5")
    kept = [
        text + "w6", "w6 " + text, text[2:], text.strip(), text.replace("w5", "w6"), text.removesuffix(" "),
        *ExportOptions(prompts=[text]).prompts, pickle.loads(pickle.dumps(text)), deepcopy(text),
        chat_model.render(text),
        checked(interp.auditing.render_prompts)(chat_model, text)[0],
        *interp.Contrast.of([(text, text + "w6")] * 2).texts(chat_model.render)[1],
    ]  # fmt: skip
    assert {type(x) for x in kept} == {RenderedText}
    assert type(f"{text}") is str, "control: what the limitation names"
    with chat_model.instructed("w7"), pytest.raises(InterpError, match="can't be put into a prompt that is rendered"):
        chat_model.render(text)


@pytest.mark.parametrize("kind", [torch.tensor, list])
def test_padding_on_either_side_is_no_token(kind):
    model = tiny_models.build("llama")
    ids = kind([[0, 5, 6, 0], [7, 8, 9, 4]])
    assert model.tokens(ids).unpadded() == [[5, 6], [7, 8, 9, 4]]
    assert model.tokens(kind([5, 6, 0])).unpadded() == [[5, 6]]
    last = model.capture(ids, "resid_post.1", -1)["resid_post.1"][0]
    torch.testing.assert_close(last, model.capture([[5, 6]], "resid_post.1", -1)["resid_post.1"][0])
    mask = kind([[1, 1, 1, 0], [1, 1, 1, 1]])
    assert model.tokens(ids, mask=mask).unpadded() == [[0, 5, 6], [7, 8, 9, 4]]
    with pytest.raises(InterpError, match=r"a mask of shape \(2, 4\) does not fit the prompts"):
        model.tokens(["w5", "w6"], mask=mask)


def test_padding_that_also_ends_texts_needs_a_mask():
    model = tiny_models.build("llama")
    model.tokenizer.pad_token = "</s>"
    for ids in ([[5, 6, 2]], torch.tensor([[7, 8, 9], [5, 6, 2]])):
        with pytest.raises(InterpError, match=r"ends with token 2, .* as well as its end token; .*mask=attention_mask"):
            model.logits(ids)
    assert model.tokens([[5, 6, 2]], mask=[[1, 1, 0]]).unpadded() == [[5, 6]]
    assert model.tokens([[5, 6, 2]], mask=[[True] * 3]).unpadded() == model.tokens([5, 6, 2]).unpadded() == [[5, 6, 2]]
    assert model.tokens([[2, 5, 6]]).unpadded() == [[5, 6]], "control: on the left it is padding"


def test_chat_means_the_same_in_every_call(chat_model):
    model, rendered = chat_model, chat_model.chat("w5 w6")
    assert model.tokens(rendered).ids.tolist() == [[1, 5, 6, 9]]
    for chat, prompt in ((True, rendered), (False, "w5 w6")):
        tokens = model.tokens("w5 w6", chat=chat)
        assert torch.equal(model.tokens(prompt, chat=chat).ids, tokens.ids), "what is rendered is not rendered again"
        assert tokens.ids.tolist() == model.tokens(prompt).ids.tolist()
        logits = model.forward(tokens)
        assert torch.equal(model.capture("w5 w6", "embed", chat=chat)["embed"], model.capture(tokens, "embed")["embed"])
        assert torch.equal(model("w5 w6", chat=chat), logits)
        assert torch.equal(model.logits(["w5 w6"], chat=chat), logits)
        assert torch.equal(model.run_with_hooks("w5 w6", chat=chat), logits)
        assert torch.equal(model.run_with_cache("w5 w6", "embed", chat=chat)[0], logits)
        assert model.generate("w5 w6", max_new_tokens=4, chat=chat) == model.generate(tokens, max_new_tokens=4)
    contrast = interp.Contrast.of([(f"w{n} w5", f"w{n} w6") for n in range(10, 18)])
    train, _ = contrast.split()
    for chat in (True, False):
        sides = train.texts(model.chat if chat else str)
        positive, negative = (model.capture(side, "resid_post.1", -1)["resid_post.1"][:, 0] for side in sides)
        found = interp.find(model, contrast, "resid_post.1", "diff_means", chat=chat, bootstrap=0)
        expected = torch.nn.functional.normalize((positive - negative).mean(0), dim=0)
        torch.testing.assert_close(found.best()[0].direction.rows[0], expected, atol=1e-5, rtol=1e-4)


def test_a_chat_model_says_once_that_a_text_has_no_template(chat_model, capsys):
    for prompts in (chat_model.chat("w5"), chat_model.tokens("w5"), torch.tensor([5]), [5, 6]):
        chat_model.capture(prompts, "embed")
    chat_model.capture("w5", "embed", chat=False)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        chat_model.generate(["w5"], max_new_tokens=2)
    assert capsys.readouterr().err.count("is a chat model, and this text has no chat template; chat=True renders") == 1
    tiny_models.build("llama").generate("w5", max_new_tokens=2)
    assert capsys.readouterr().err == "", "control: a model without a template"


def test_what_chat_cannot_do_is_said(chat_model):
    for prompts in (torch.tensor([5]), [5], [[5]], chat_model.tokens("w5")):
        with pytest.raises(InterpError, match="these prompts are token ids; leave chat out"):
            chat_model.logits(prompts, chat=True)
    contrast = interp.Contrast.of([(f"w{n} w5", f"w{n} w6") for n in range(10, 18)])
    with pytest.raises(InterpError, match="reft_r1 trains on prompts with the chat template"):
        interp.find(chat_model, contrast, methods="reft_r1", chat=False)


def test_dropout_of_merges_is_switched_off():
    letters = {letter: number for number, letter in enumerate("abcd_")} | {"ab": 5, "cd": 6, "abcd": 7}
    merges = [("a", "b"), ("c", "d"), ("ab", "cd")]

    def cuts(dropout, wrap):
        backend = Tokenizer(models.BPE(letters, merges, dropout=dropout, unk_token="_"))
        tokenizer = wrap(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="_", pad_token="_"))
        return {tuple(tokenizer("abcdabcd")["input_ids"]) for _ in range(20)}

    hf = tiny_models.build("llama").hf
    assert len(cuts(0.5, lambda tokenizer: tokenizer)) > 1, "control"
    assert cuts(0.5, lambda tokenizer: interp.HookedModel(hf, tokenizer).tokenizer) == {(7, 7)}
