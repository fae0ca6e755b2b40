"""What an edit changes where nothing should change: KL of the next token along the unedited model's own replies.

1. The unedited model writes a greedy reply to each benign prompt.
2. At each token of that reply, KL(unedited || edited) of the whole vocabulary is measured, in nats; no text is written.
3. The score of a prompt is the mean over its reply.

The first token alone, which common tools look at, sees neither a reply that goes wrong later nor one that never ends.

Limitations: the edited model is measured on the unedited one's text, not on what it would write itself.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from interp.auditing.behaviours import Behaviour, Scores, by_items, render_prompts
from interp.auditing.scoring._token_reads import Score, TokenRead
from interp.auditing.scoring.likelihoods import summed_scores, tokenise_items
from interp.core.errors import InterpError
from interp.models.architectures.unembedding import stream_logits
from interp.models.hooked import HookedModel

_LOGITS = 25_000_000  # in memory at once


@torch.no_grad()
def reply_kl(
    name: str,
    model: HookedModel,
    prompts: Sequence[str],
    max_new_tokens: PositiveInt = 16,
    chat: bool = True,
    replies: Sequence[str] | None = None,
) -> Behaviour:
    """A capability that scores how far a model's next-token distributions are from the unedited model's, in nats.

    Args:
        name: Name of the behaviour.
        model: The unedited model, which writes the replies now.
        prompts: Benign prompts.
        max_new_tokens: Length of the replies.
        chat: Render prompts with the chat template.
        replies: Its replies, if they are known already.

    Returns:
        A behaviour whose score is 0 in the unedited model. It has the prompts to which the model replies with text.

    Raises:
        InterpError: The model is inside a `hooked` block, or replies to no prompt.

    Example:
        >>> from interp.auditing import reply_kl
        >>> kl = reply_kl("kl", model, ["what is the river of Brabedun?"], max_new_tokens=8)
        >>> kl.scores(model).mean
        0.0
    """
    model.require_unhooked()
    texts = render_prompts(model, prompts, chat=chat)
    written = model.generate(texts, max_new_tokens=max_new_tokens, chat=False) if replies is None else replies
    items = [item for item in zip(prompts, texts, written, strict=True) if item[2].strip()]
    if not items:
        raise InterpError(f"{model.name} replies to none of {len(prompts)} benign prompts; give other prompts")
    kept, texts, written = map(list, zip(*items, strict=True))
    return _along(name, kept, texts, written, _unedited(model, texts, written))


@by_items("prompts", "texts", "replies", "base")
def _along(
    name: str, prompts: Sequence[str], texts: Sequence[str], replies: Sequence[str], base: Sequence[Tensor]
) -> Behaviour:
    """The behaviour, given the unedited model's input to the unembedding where each token of a reply is predicted."""

    @torch.no_grad()
    def measure(model: HookedModel) -> Scores:
        items = tokenise_items(model, texts, [[reply] for reply in replies])
        sums = summed_scores(model, items, partial(_read_kl, base))
        return Scores(tuple(total / len(hidden) for (total,), hidden in zip(sums, base, strict=True)))

    spec = {"answers": [[reply] for reply in replies]}
    scorer = "KL(unedited || edited) of the next token along the unedited model's greedy reply"
    statement = "nats a token from the unedited model on benign prompts: more is worse"
    return Behaviour(name, "capability", statement, tuple(prompts), measure, "nats", spec=spec, scorer=scorer)


def _unedited(model: HookedModel, texts: Sequence[str], replies: Sequence[str]) -> list[Float[Tensor, "token d_model"]]:
    """What the unembedding receives where each token of a reply is predicted."""
    rows: list[list[Tensor]] = [[] for _ in texts]

    def read(model: HookedModel, reads: Sequence[TokenRead], inputs: Any, **options: Any) -> tuple[list[Score], None]:
        for each, hidden in zip(reads, _hidden(model, reads, inputs, **options), strict=True):
            rows[each.item.number].append(hidden)
        return [], None

    summed_scores(model, tokenise_items(model, texts, [[reply] for reply in replies]), read)
    return [torch.stack(row) for row in rows]


def _read_kl(
    base: Sequence[Tensor], model: HookedModel, reads: Sequence[TokenRead], inputs: Any, **options: Any
) -> tuple[list[Score], None]:
    """The divergence at each read; those of an item come in the order of its tokens."""
    tokens = [iter(hidden) for hidden in base]
    before = torch.stack([next(tokens[each.item.number]) for each in reads])
    after = _hidden(model, reads, inputs, **options)
    size = max(1, _LOGITS // model.hf.get_output_embeddings().weight.shape[0])
    values = [_kl(model, *pair) for pair in zip(before.split(size), after.split(size), strict=True)]
    pairs = zip(reads, torch.cat(values).tolist(), strict=True)
    return [(each.item, each.answer, value) for each, value in pairs], None


def _kl(
    model: HookedModel, before: Float[Tensor, "token d_model"], after: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token"]:
    p, q = (stream_logits(model, hidden).float().log_softmax(-1) for hidden in (before, after))
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)  # rounding


class _Read(Exception):
    """What the unembedding receives is read: the rest of the forward pass is not needed."""


def _hidden(
    model: HookedModel, reads: Sequence[TokenRead], inputs: dict[str, Tensor], **options: Any
) -> Float[Tensor, "token d_model"]:
    """What the unembedding receives where each token is predicted, after the final norm."""

    def read(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        raise _Read(given[0])

    handle = model.hf.get_output_embeddings().register_forward_pre_hook(read)
    try:
        model.hf(**{name: x.to(model.device) for name, x in inputs.items()}, **options)
    except _Read as end:
        rows, columns = torch.tensor([(each.row, each.column) for each in reads], device=model.device).T
        return end.args[0][rows, columns]
    finally:
        handle.remove()
    raise InterpError(f"{model.config.model_type}: its unembedding is no part of a forward pass")
