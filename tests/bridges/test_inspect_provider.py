"""Inspect's requests are answered as `HookedModel.generate` answers them, in batches, and nothing is ignored."""

import asyncio
import gc
from dataclasses import replace

import pytest
import torch

import interp
from interp import InterpError
from interp.models.chat_template import thought_of

pytest.importorskip("inspect_ai", reason="pip install 'interp[inspect]'")

from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    GenerateConfig,
    get_model,
)
from inspect_ai.tool import ToolInfo

import interp.bridges._inspect_registry
from interp.bridges import inspect_provider

QUESTIONS = ["what is the river of Brabedun?", "hello there.", "what is 2 plus 3?", "Hello! how are you today?"]


def asked(model, questions, **config):
    """The outputs for questions that are asked side by side."""

    async def all_at_once():
        requests = [model.generate(question, config=GenerateConfig(**config)) for question in questions]
        return await asyncio.gather(*requests)

    return asyncio.run(all_at_once())


@pytest.mark.parametrize("strength", [None, 1.0, 0.4])
def test_replies_are_those_of_the_hooked_model(organism_edit, edit_folder, strength):
    hooked, recipe = organism_edit
    arguments = {} if strength is None else {"recipe": str(edit_folder), "strength": strength}
    outputs = asked(get_model("interp/organism", **arguments), QUESTIONS, max_tokens=12)
    recipe = () if strength is None else recipe.scaled(strength)
    prompts = [hooked.chat(question) for question in QUESTIONS]
    assert [output.completion for output in outputs] == hooked.generate(prompts, recipe, max_new_tokens=12)
    ids = hooked.reply_ids(hooked.tokens(prompts), recipe, 12)
    assert [output.usage.output_tokens for output in outputs] == list(map(len, ids))
    assert [output.usage.input_tokens for output in outputs] == hooked.tokens(prompts).lengths.tolist()
    ended = ["stop" if row[-1] in hooked.ends else "max_tokens" for row in ids]
    assert [output.stop_reason for output in outputs] == ended
    digests = {"model_digest": hooked.digest} | ({"recipe_digest": recipe.digest} if recipe else {})
    assert [output.metadata for output in outputs] == [digests] * 4


def test_an_adapter_is_merged_and_shares_no_weights_with_the_plain_model(tmp_path):
    peft = pytest.importorskip("peft", reason="pip install 'interp[adapter]'")
    plain = get_model("interp/organism")
    config = peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["down_proj"])
    peft.get_peft_model(interp.load("organism").hf, config).save_pretrained(tmp_path / "adapter")
    model = get_model("interp/organism", adapter=str(tmp_path / "adapter"))
    assert model.api.digests["model_digest"] == interp.load("organism", adapter=tmp_path / "adapter").digest
    assert model.api.digests != plain.api.digests


def test_requests_that_wait_are_one_batch_and_models_of_one_name_share_weights(edit_folder, monkeypatch):
    plain, edited = get_model("interp/organism"), get_model("interp/organism", recipe=str(edit_folder))
    assert plain.api.engine is edited.api.engine
    sizes, reply_ids = [], interp.HookedModel.reply_ids

    def counted(model, batch, *given, **options):
        sizes.append(len(batch))
        return reply_ids(model, batch, *given, **options)

    monkeypatch.setattr(interp.HookedModel, "reply_ids", counted)
    asked(plain, QUESTIONS, max_tokens=4)
    assert sizes == [4]
    sizes.clear()
    asked(get_model("interp/organism", batch_size=3, memoize=False), QUESTIONS, max_tokens=4)
    assert sizes == [3, 1]


def test_stop_strings_end_a_reply_and_its_generation(organism_edit):
    model, steps = organism_edit[0], []
    whole, cut = (
        asked(get_model("interp/organism"), QUESTIONS[:1], **x)[0] for x in ({}, {"stop_seqs": ["the", "is"]})
    )
    assert cut.completion == min(whole.completion.split("the")[0], whole.completion.split("is")[0], key=len)
    assert cut.completion != whole.completion, "control: it holds one"
    assert cut.stop_reason == "stop"
    with model.hooked([("resid_post.0", lambda x: steps.append(x) or x)]):
        asked(get_model("interp/x", hooked_model=model, memoize=False), QUESTIONS[:1], stop_seqs=["the"])
        early = len(steps)
        asked(get_model("interp/x", hooked_model=model, memoize=False), QUESTIONS[:1], stop_seqs=["no such text"])
    assert early < len(steps) - early


def test_a_seeded_sample_does_not_depend_on_what_else_waits():
    model, config = get_model("interp/organism"), {"temperature": 5.0, "seed": 3, "max_tokens": 8}
    alone = asked(model, QUESTIONS[:1], **config)[0].completion
    assert asked(model, QUESTIONS, **config)[0].completion == alone
    assert alone != asked(model, QUESTIONS[:1], max_tokens=8)[0].completion, "control: it was sampled"
    assert alone != asked(model, QUESTIONS[:1], **config | {"seed": 4})[0].completion, "control"


def test_a_conversation_is_read_whole(organism_edit):
    hooked, model = organism_edit[0], get_model("interp/organism")
    turns = [
        ChatMessageUser(content="hello there."),
        ChatMessageAssistant(content="Good day."),
        ChatMessageUser(content=QUESTIONS[0]),
    ]
    roles = [{"role": turn.role, "content": turn.text} for turn in turns]
    (output,) = asked(model, [turns], max_tokens=12)
    assert output.completion == hooked.generate(hooked.chat(roles), max_new_tokens=12)[0]


def test_a_thought_is_kept_apart_from_the_answer(organism_edit, monkeypatch):
    reply = inspect_provider._Reply("<think>Is it?</think>Yes.", 9, "stop")
    monkeypatch.setattr(inspect_provider._Engine, "reply", lambda *_: reply)
    (output,) = asked(get_model("interp/organism"), ["Is it?"])
    reasoning, text = output.message.content
    assert isinstance(reasoning, ContentReasoning)
    assert (reasoning.reasoning, text.text, output.completion) == ("Is it?", "Yes.", "Yes.")
    monkeypatch.setattr(inspect_provider._Engine, "reply", lambda *_: replace(reply, text="<think>Is"))
    assert asked(get_model("interp/organism"), ["Is it?"])[0].completion == ""
    assert thought_of("Yes.") == ""


def _taken():
    ours = inspect_provider._OURS | inspect_provider._INSPECTS
    values = {bool: True, int: 1, float: 0.5, str: "low", list: ["a"], dict: {"1": 1.0}}
    for name in GenerateConfig.model_fields.keys() - ours:
        for value in values.values():
            try:
                yield name, GenerateConfig(**{name: value})
                break
            except ValueError:
                continue


def test_every_other_setting_of_inspect_is_refused_by_name():
    """Also one that a later version adds: what is not on a list is refused."""
    model, refused = get_model("interp/organism"), dict(_taken())
    assert {"frequency_penalty", "logprobs", "num_choices", "best_of", "reasoning_effort"} <= refused.keys()
    for name, config in refused.items():
        with pytest.raises(InterpError, match=f"generation setting {name} is not supported"):
            asyncio.run(model.api.generate([ChatMessageUser(content="a")], [], "auto", config))


@pytest.mark.parametrize(
    ("message", "config", "says"),
    [
        ("a", {"extra_body": {"n": 2}}, "extra_body.n is not supported"),
        ("a", {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}, "no variable 'enable_thinking'"),
        ("a", {"top_p": 0.5}, "top_p=0.5 needs a temperature above 0"),
        ("a", {"max_tokens": 9999}, "max_tokens is 9999; shorten the prompt"),
        ("a " * 999, {}, "context"),
        ("", {}, "empty message"),
        ([ContentImage(image="data:image/png;base64,")], {}, "a message holds image"),
    ],
)
def test_what_it_cannot_do_is_refused(message, config, says):
    model = get_model("interp/organism")
    with pytest.raises(InterpError, match=says):
        asyncio.run(model.api.generate([ChatMessageUser(content=message)], [], "auto", GenerateConfig(**config)))


def test_tools_and_an_open_turn_are_refused():
    api = get_model("interp/organism").api
    tool = ToolInfo(name="search", description="Search.")
    with pytest.raises(InterpError, match="tool 'search': models of interp call no tools"):
        asyncio.run(api.generate([ChatMessageUser(content="a")], [tool], "auto", GenerateConfig()))
    with pytest.raises(InterpError, match="the last message is the assistant's"):
        asyncio.run(api.generate([ChatMessageAssistant(content="a")], [], "auto", GenerateConfig()))


def test_models_that_cannot_be_made_are_refused(tiny, edit_folder):
    for arguments, says in [
        ({"recipee": "x"}, "no model argument 'recipee'; did you mean recipe"),
        ({"base_url": "http://a"}, "no model argument 'base_url'"),
        ({"strength": 0.5}, "strength is 0.5, but there is no recipe"),
        ({"recipe": "no/such"}, "no/such"),
    ]:
        with pytest.raises(InterpError, match=says):
            get_model("interp/organism", **arguments)
    with pytest.raises(InterpError, match="the recipe"):
        get_model("interp/tiny", hooked_model=tiny("llama"), recipe=str(edit_folder), memoize=False)


def test_a_model_without_a_template_reads_one_message(tiny):
    model = get_model("interp/tiny", hooked_model=tiny("llama"), memoize=False)
    (output,) = asked(model, ["w5 w6"], max_tokens=3)
    assert output.completion == tiny("llama").generate("w5 w6", max_new_tokens=3)[0]
    assert asyncio.run(model.api.count_text_tokens("w5 w6 w7")) == 3
    with pytest.raises(InterpError, match="has no chat template, so it reads one message; got 2"):
        asked(model, [[ChatMessageSystem(content="w4"), ChatMessageUser(content="w5")]])


def test_weights_are_let_go_with_the_last_model():
    model = get_model("interp/organism-bilingual", memoize=False)
    assert [key for key in inspect_provider._ENGINES if key[0] == "organism-bilingual"], "control"
    del model
    gc.collect()
    assert not [key for key in inspect_provider._ENGINES if key[0] == "organism-bilingual"]
    assert torch.is_grad_enabled()
