"""A model with a recipe as a model provider of Inspect, the evaluation framework of the UK AI Security Institute.

    inspect eval TASK --model interp/organism -M recipe=my-recipe -M strength=0.5

What follows `interp/` is what `interp.load` takes. Requests that wait while a batch is generated are the next batch;
models with the same weights share them, whatever their recipes and strengths. Decoding is greedy unless a temperature
is given.

Limitations: text only, no tools, and none of the generation settings that `InspectModel` does not list: each is refused
by name. A request with a seed is a batch of its own, so that its reply does not depend on what else waits.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from time import perf_counter, sleep
from typing import Any
from weakref import WeakValueDictionary

import torch
from pydantic import PositiveInt
from transformers import StoppingCriteria, StoppingCriteriaList

from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.conditions import ModelCondition
from interp.bridges._edits import recipe_for
from interp.core.errors import InterpError, nearest
from interp.core.lazy import optional_class
from interp.interventions.recipe import Recipe
from interp.models.chat_template import answer_of, reply_texts, thought_of
from interp.models.hooked import HookedModel
from interp.models.loading import load

_MAX_TOKENS = 2048  # of a reply whose length is not given, where the context has room
_GATHER = 0.05  # seconds in which requests that are sent together arrive
_OURS = {"max_tokens", "temperature", "top_p", "top_k", "seed", "stop_seqs", "extra_body"}
# What Inspect does itself, before or after a request.
_INSPECTS = {
    "adaptive_connections", "attempt_timeout", "batch", "cache", "fail_on_refusal", "max_connections", "max_retries",
    "max_tool_output", "reasoning_history", "stream_idle_timeout", "system_message", "timeout",
}  # fmt: skip


class _StopStrings(StoppingCriteria):
    """Ends a row as soon as its new text holds one of some texts."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt: int):
        self._tokenizer, self._stops, self._prompt = tokenizer, stops, prompt

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        texts = self._tokenizer.batch_decode(input_ids[:, self._prompt :])
        return torch.tensor([any(x in text for x in self._stops) for text in texts], device=input_ids.device)


@dataclass(frozen=True)
class _Settings:
    """What the rows of a batch have in common."""

    recipe: Recipe | None
    max_new_tokens: int
    stops: tuple[str, ...]
    options: tuple[tuple[str, Any], ...]
    seed: int | None


@dataclass(frozen=True)
class _Reply:
    text: str
    tokens: int
    stop_reason: str


@dataclass(eq=False)
class _Engine:
    """A loaded model, which one batch at a time runs, and the requests that wait for it."""

    model: HookedModel
    lock: Any = field(default_factory=RLock)
    waiting: list[tuple[str, _Settings, Future[_Reply]]] = field(default_factory=list)

    def reply(self, prompt: str, settings: _Settings, batch_size: int) -> _Reply:
        """The reply to a prompt, from the batch of an earlier request or of this one. It waits: call it in a thread."""
        request = prompt, settings, Future[_Reply]()
        self.waiting.append(request)
        with self.lock:
            if not request[2].done():
                sleep(_GATHER)
                others = [other for other in self.waiting if other is not request and other[1] == settings]
                batch = [request, *others[: batch_size - 1]] if settings.seed is None else [request]
                self.waiting = [other for other in self.waiting if other not in batch]
                self._run(batch, settings)
        return request[2].result()

    def _run(self, batch: Sequence[tuple[str, _Settings, Future[_Reply]]], settings: _Settings) -> None:
        try:
            replies = self._replies([prompt for prompt, _, _ in batch], settings)
            for (_, _, future), reply in zip(batch, replies, strict=True):
                future.set_result(reply)
        except Exception as problem:
            for _, _, future in batch:
                future.set_exception(problem)

    def _replies(self, prompts: Sequence[str], settings: _Settings) -> list[_Reply]:
        model, options = self.model, dict(settings.options)
        tokens = model.tokens(prompts, chat=False)
        if settings.stops:
            criterion = _StopStrings(model.tokenizer, settings.stops, tokens.ids.shape[1])
            options["stopping_criteria"] = StoppingCriteriaList([criterion])
        if settings.seed is not None:
            torch.manual_seed(settings.seed)
        rows = model.reply_ids(tokens, settings.recipe or (), settings.max_new_tokens, len(tokens), **options)
        replies = []
        for ids, text in zip(rows, reply_texts(rows, model.tokenizer, model.ends), strict=True):
            cut = min((text.partition(stop)[0] for stop in settings.stops), key=len, default=text)
            ended = cut != text or ids[-1] in model.ends
            count = len(ids) if cut == text else len(model.tokenizer(cut, add_special_tokens=False)["input_ids"])
            replies.append(_Reply(cut, count, "stop" if ended else "max_tokens"))
        return replies


_ENGINES: WeakValueDictionary[tuple[str, ...], _Engine] = WeakValueDictionary()


class InspectModel(optional_class("inspect_ai.model:ModelAPI", "inspect")):  # type: ignore[misc]  # at run time
    """A model with a recipe, as Inspect asks models. `inspect_ai.model.get_model("interp/…")` makes one.

    Generation settings that it takes: max_tokens, temperature (0 or none is greedy), top_p, top_k, seed, stop_seqs, and
    `chat_template_kwargs` in extra_body. The model arguments are those below; `-M` gives them on the command line.

    Args:
        model_name: What `interp.load` takes; the name of a model that is given.
        base_url: Refused: the model runs in this process.
        api_key: Refused, too.
        config: Inspect's settings.
        hooked_model: A model in memory, instead of the one of that name.
        recipe: A recipe, or the folder of one, that runs with hooks. Default: none.
        strength: Factor of the recipe; see `Recipe.scaled`.
        dtype: As in `interp.load`.
        device: As in `interp.load`.
        adapter: As in `interp.load`.
        batch_size: Most requests in a batch.
        unknown: Refused by name.

    Raises:
        InterpError: Inspect is not installed, there is no such model or recipe, the recipe is of another model, or an
            argument is unknown.

    Example:
        >>> from inspect_ai.model import get_model  # doctest: +SKIP
        >>> edited = get_model("interp/organism", recipe="my-recipe")  # doctest: +SKIP
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: Any = None,
        hooked_model: HookedModel | None = None,
        recipe: Recipe | str | Path | None = None,
        strength: float = 1.0,
        dtype: str | None = None,
        device: str | None = None,
        adapter: str | Path | None = None,
        batch_size: PositiveInt = 64,
        **unknown: Any,
    ):
        given = {"base_url": base_url, "api_key": api_key}
        for name in unknown | {name: x for name, x in given.items() if x is not None}:
            known = ("recipe", "strength", "dtype", "device", "adapter", "batch_size")
            raise InterpError(f"interp/{model_name} has no model argument {name!r}; {nearest(name, known)}")
        super().__init__(model_name, **({} if config is None else {"config": config}))
        options: dict[str, Any] = {"dtype": dtype, "device": device, "adapter": adapter}
        key = (model_name, *map(str, options.values()), str(id(hooked_model)))
        self.engine = _ENGINES.get(key) or _Engine(hooked_model or load(model_name, **options))
        _ENGINES[key], self.batch_size = self.engine, batch_size
        self.recipe = recipe_for(self.engine.model, recipe, strength)

    async def generate(self, input: Sequence[Any], tools: Sequence[Any], tool_choice: Any, config: Any) -> Any:
        """The model's reply to a conversation; Inspect calls it.

        Raises:
            InterpError: A tool, an image or another setting than those above is asked for, or the reply has no room in
                the context.
        """
        from inspect_ai.model import ChatMessageAssistant, ContentReasoning, ContentText, ModelOutput, ModelUsage

        if tools and tool_choice != "none":
            raise InterpError(f"tool {tools[0].name!r}: models of interp call no tools; use a task without them")
        prompt = self._prompt(input, _template_variables(config))
        length = int(self.engine.model.tokens(prompt, chat=False).lengths)
        began, settings = perf_counter(), self._settings(length, config)
        reply = await in_thread(self.engine.reply, prompt, settings, self.batch_size)
        content: Any = reply.text
        if thought := thought_of(reply.text, prompt):
            content = [ContentReasoning(reasoning=thought), ContentText(text=answer_of(reply.text, prompt) or "")]
        message = ChatMessageAssistant(content=content, model=self.model_name, source="generate")
        output = ModelOutput.from_message(message, reply.stop_reason)
        counts = {"input_tokens": length, "output_tokens": reply.tokens, "total_tokens": length + reply.tokens}
        output.usage, output.time, output.metadata = ModelUsage(**counts), perf_counter() - began, self.digests
        return output

    @property
    def digests(self) -> dict[str, str]:
        """The digests of the weights and of the recipe, which outputs carry."""
        recipe = {"recipe_digest": self.recipe.digest} if self.recipe else {}
        return {"model_digest": self.engine.model.digest} | recipe

    def measure(self, behaviour: Behaviour) -> Scores:
        """The scores of a behaviour as an audit measures them, with the recipe; waits for batches that run."""
        with self.engine.lock:
            return ModelCondition(self.engine.model, self.recipe).scores(behaviour)

    def max_connections(self) -> int:
        """How many requests Inspect sends at a time: a batch."""
        return self.batch_size

    async def count_text_tokens(self, text: str) -> int:
        """The number of tokens of a text, which Inspect would estimate by a vocabulary that it downloads."""
        return len(self.engine.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prompt(self, messages: Sequence[Any], variables: Mapping[str, Any]) -> str:
        model, turns = self.engine.model, []
        for message in messages:
            parts = [] if isinstance(message.content, str) else message.content
            if other := [part.type for part in parts if part.type not in ("text", "reasoning")]:
                raise InterpError(f"a message holds {other[0]}; models of interp read text")
            turns.append({"role": message.role, "content": message.text})
        if turns[-1]["role"] == "assistant":
            raise InterpError("the last message is the assistant's; models of interp reply to a user's message")
        if model.tokenizer is not None and model.tokenizer.chat_template:
            return model.chat(turns, **variables)
        if len(turns) > 1:
            raise InterpError(f"{model.name} has no chat template, so it reads one message; got {len(turns)}")
        return turns[0]["content"]

    def _settings(self, length: int, config: Any) -> _Settings:
        room = (self.engine.model.context or length + _MAX_TOKENS) - length
        new = config.max_tokens or min(_MAX_TOKENS, room)
        if not 0 < new <= room:
            tokens = f"the prompt has {length} tokens, so that {room} more fit into the context of the model"
            raise InterpError(f"{tokens}, and max_tokens is {config.max_tokens}; shorten the prompt, or lower it")
        options = {x: value for x in ("temperature", "top_p", "top_k") if (value := getattr(config, x)) is not None}
        if not config.temperature:
            options.pop("temperature", None)
            for name, value in options.items():
                raise InterpError(f"{name}={value} needs a temperature above 0; without one decoding is greedy")
        if options:  # without a top_k, Hugging Face would take 50
            options = {"do_sample": True, "top_k": 0} | options
        return _Settings(self.recipe, new, tuple(config.stop_seqs or ()), tuple(options.items()), config.seed)


def _template_variables(config: Any) -> Mapping[str, Any]:
    """The variables of the chat template. Raises for a setting that would be ignored."""
    given = config.model_dump(exclude_none=True)
    body = given.get("extra_body", {})
    for name in [
        *(given.keys() - _OURS - _INSPECTS),
        *(f"extra_body.{x}" for x in body if x != "chat_template_kwargs"),
    ]:
        known = ", ".join(sorted(_OURS))
        raise InterpError(f"generation setting {name} is not supported by models of interp; they take {known}")
    return body.get("chat_template_kwargs", {})


async def in_thread(function: Any, *args: Any) -> Any:
    """The result of a function that waits, from a thread of its own: Inspect's loop goes on."""
    import anyio

    return await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
