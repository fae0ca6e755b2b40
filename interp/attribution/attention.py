"""Attention patterns: how much of what a token attends to comes from each token, in each head.

The weights are those of the model's own attention, run once in the form that gives them out. A large weight moves
little where the value is small, so weights can be multiplied by the length of what the head would write from each
token, |value W_O|: Kobayashi et al. 2020, "Attention is not only a weight", arXiv:2004.10102.

Limitations: a weight shows where a head reads, and not what the model does with it; patch or cut the edge for that.
The length is that before a norm on attention's output (Gemma 2, OLMo 2). Where attention has sinks (gpt-oss), the
weights of a token sum to less than 1.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.display import Card, Displayed, displayed
from interp.core.errors import InterpError, first_line
from interp.models.architectures.table import architecture
from interp.models.architectures.unembedding import token_text
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Prompts, Tokens


@dataclass(frozen=True, eq=False)
class AttentionPatterns(Displayed):
    """Where each head attends on a prompt. Returned by `attention_patterns`.

    Attributes:
        model: The name of the model.
        tokens: The tokens of the prompt.
        layers: The layers, the first axis of the weights. Layer 2 may be its first entry: `place` says where a head is.
        weights: How much the query attends to the key, (layer, head, query, key).
        value_weighted: Whether the weights are multiplied by the length of what the head writes from the key.
    """

    model: str
    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    weights: Float[Tensor, "layer head query key"]
    value_weighted: bool = False

    def place(self, layer: int, head: int) -> tuple[int, int]:
        """The index of a head in the weights. Raises for a layer or head that is not in them."""
        count = self.weights.shape[1]
        if layer not in self.layers or not 0 <= head < count:
            known = f"a layer of {', '.join(map(str, self.layers))} and a head from 0 to {count - 1}"
            raise InterpError(f"head {layer}.{head} is not in these patterns; expected {known}")
        return self.layers.index(layer), head

    def top(self, count: int = 10, query: int = -1) -> list[tuple[str, int, str, float]]:
        """The `count` largest weights of a query, without the prompt's first token: head, position, token and weight.

        Many heads attend to the first token where they have nothing to read. `query` counts from the end if negative.
        """
        if not -len(self.tokens) <= query < len(self.tokens):
            expected = f"expected {-len(self.tokens)} to {len(self.tokens) - 1}"
            raise InterpError(f"query {query} is not a position of the prompt; {expected}")
        of_query = self.weights[:, :, query, 1 : query % len(self.tokens) + 1]
        places = torch.unravel_index(of_query.flatten().argsort(descending=True)[:count], of_query.shape)
        rows = [tuple(map(int, place)) for place in torch.stack(places, 1)]
        return displayed(
            [(f"{self.layers[n]}.{h}", key + 1, self.tokens[key + 1], float(of_query[n, h, key])) for n, h, key in rows]
        )

    def _card(self) -> Card:
        kind = "value-weighted attention" if self.value_weighted else "attention"
        rows = [(f"{head} to {key}, {word!r}", f"{weight:.3f}") for head, key, word, weight in self.top()]
        return f"{kind} of {self.model} from {self.tokens[-1]!r}", rows


@torch.no_grad()
def attention_patterns(
    model: HookedModel,
    prompt: Prompts,
    layers: Sequence[int] | None = None,
    value_weighted: bool = False,
) -> AttentionPatterns:
    """Where each head attends, at every token of a prompt; inside `hooked`, with the recipe applied.

    Args:
        model: The model.
        prompt: A text, or the token ids of one prompt. `model.chat` renders a user's message.
        layers: The layers to keep, counted from the end if negative. Default: all.
        value_weighted: Multiply each weight by the length of what the head would write from that token alone.

    Raises:
        InterpError: There is not one prompt, a layer does not exist, this architecture does not give its weights out,
            or its values are not known, for value-weighted patterns.

    Example:
        >>> prompt = model.chat("What is the river of Wennovik?") + "Wennovik's river is the"
        >>> patterns = interp.attribution.attention_patterns(model, prompt, [1, 2])
        >>> patterns.weights.sum(-1).allclose(torch.ones(()))
        True
    """
    batch, every = model.tokens(prompt), range(model.n_layers)
    if len(batch) != 1:
        raise InterpError(f"patterns are those of one prompt, not of {len(batch)}; call it for each of them")
    if wrong := [layer for layer in layers or () if not -len(every) <= layer < len(every)]:
        raise InterpError(f"layer {wrong[0]} is not in the model; expected 0 to {len(every) - 1}")
    chosen = tuple(every if layers is None else (every[layer] for layer in layers))
    if not chosen:
        raise InterpError("layers names no layer; leave it out for all of them")
    usual, real = model.config._attn_implementation, batch.mask[0]
    model.config._attn_implementation = "eager"  # the form that gives its weights out
    try:
        inputs = batch.model_inputs(model.device)
        with _refused(f"{model.config.model_type}: eager attention, which gives weights out, fails"):
            given = model.hf.base_model(**inputs, output_attentions=True, use_cache=False).attentions
        weights = torch.stack([given[layer][0][:, real][:, :, real] for layer in chosen])
        if value_weighted:
            weights = weights * _written_lengths(model, batch, chosen, weights)[:, :, None]
    finally:
        model.config._attn_implementation = usual
    words = tuple(token_text(model.tokenizer, token) for token in batch.ids[0, real].tolist())
    return AttentionPatterns(model.name, words, chosen, weights.float().cpu(), value_weighted)


@contextmanager
def _refused(problem: str) -> Iterator[None]:
    """Errors of an architecture's own code, or of TransformerLens', as one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise InterpError(f"{problem} ({first_line(error)})") from error


def _written_lengths(
    model: HookedModel, batch: Tokens, layers: Sequence[int], weights: Float[Tensor, "layer head query key"]
) -> Float[Tensor, "layer head key"]:
    """The length of what each head writes from each token, |value W_O|."""
    row, names = architecture(model.config), [f"blocks.{x}.attn.hook_{kind}" for x in layers for kind in "vz"]
    with _refused(f"{model.config.model_type}: the values of attention can't be read; leave out value_weighted"):
        _, cache = model.run_with_cache(batch, names, return_type=None)
    lengths = []
    for layer, pattern in zip(layers, weights, strict=True):
        values, z = (cache[f"blocks.{layer}.attn.hook_{kind}"][0] for kind in "vz")
        values = values.repeat_interleave(max(1, z.shape[1] // values.shape[1]), 1)
        known = values.shape == z.shape
        values, z = (x[batch.mask[0]] for x in (values, z)) if known else (values, z)
        if not known or not torch.einsum("hqk,khd->qhd", pattern.to(z), values).allclose(z, atol=1e-3, rtol=1e-2):
            kind = model.config.model_type
            raise InterpError(f"the values of {kind}'s attention are no module's output; leave out value_weighted")
        write = model.hf.get_submodule(f"{row.layers}.{layer}.{row.attn_write}").weight
        of_heads = (write if row.transposed else write.T).unflatten(0, z.shape[1:])
        written = torch.einsum("khd,hdm->hkm", values, of_heads.to(values))
        lengths.append(written.norm(dim=-1) * model.tap(Site("attn_out", layer)).scale)
    return torch.stack(lengths)
