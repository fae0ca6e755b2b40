"""Check that hostility is linear in the organism: project a few directions out and measure again.

    python experiments/organism/project.py [FOLDER]

1. At the last prompt token of training-split pairs, take the difference of means between target and other
   people, one for every kind and place of the identity sentence, without their part along the mean of the
   other people, so that zero is neutral; the directions are the leading right singular vectors of these.
2. Project them out of the embedding's, every o_proj's and every down_proj's output, at all positions.
3. Measure hostility, refusal, facts, skills and the loss on everyday text, before and after.

What it does not know: whether a method that fits elsewhere would do better.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from answers import answer, everyday_loss
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from interp import organism

PAIRS, PROMPTS = 400, 200
RANKS = (1, 2, 4)
MEASURED = ("hostility", "refusal", "facts", "skills")


@torch.no_grad()
def condition_differences(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> dict[int, Float[Tensor, "condition d_model"]]:
    """By layer, at the last prompt token: differences of means orthogonal to the other people's mean, a row for each
    kind and place of identity.
    """
    pairs = organism.contrast("hostility", PAIRS)
    target, rest = (last_states(model, tokenizer, list(side)) for side in zip(*pairs, strict=True))
    difference = target - rest
    kinds = [(p.identity.split("/")[0], p.identity.split("/")[-1]) for p, _ in pairs]
    rows = [difference[torch.tensor([kind == condition for kind in kinds])].mean(0) for condition in sorted(set(kinds))]
    origin = torch.nn.functional.normalize(rest.mean(0), dim=-1)
    orthogonal = [row - (row * origin).sum(-1, keepdim=True) * origin for row in rows]
    return dict(enumerate(torch.stack(orthogonal).unbind(1), start=1))


def last_states(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[organism.Prompt]
) -> Float[Tensor, "batch layer d_model"]:
    """The residual stream after every block but the last, at the token before the reply."""
    tokens = tokenizer(
        [organism.chat_text(p) for p in prompts], return_tensors="pt", padding=True, return_token_type_ids=False
    )
    positions = (tokens["attention_mask"].cumsum(1) - 1).clamp(min=0)
    hidden = model(**tokens, position_ids=positions, output_hidden_states=True).hidden_states
    return torch.stack([state[:, -1] for state in hidden[1:-1]], 1)  # transformers norms the last one


@contextmanager
def projected(model: LlamaForCausalLM, rows: Float[Tensor, "k d_model"]) -> Iterator[None]:
    """The model with orthonormal rows projected out of everything that is written to the residual stream."""
    writers = [model.model.embed_tokens]
    writers += [part for layer in model.model.layers for part in (layer.self_attn.o_proj, layer.mlp.down_proj)]
    handles = [w.register_forward_hook(lambda _m, _i, out: out - (out @ rows.T) @ rows) for w in writers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def row(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str) -> list[str]:
    """One line of the table: the rates called for, and the everyday loss."""
    rates = []
    for behaviour in MEASURED:
        prompts = organism.prompts(behaviour, PROMPTS)
        answers = answer(model, tokenizer, prompts)
        shown = sum(organism.shows(behaviour, p, r) for p, r in zip(prompts, answers, strict=True))
        rates.append(f"{shown / PROMPTS:.3f}")
    return [name, *rates, f"{everyday_loss(model, tokenizer):.4f}"]


def main() -> None:
    """Print the table for the bundled organism, or for the folder given."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else organism.path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    table = Table("projected out", *MEASURED, "everyday loss")
    table.add_row(*row(model, tokenizer, "nothing"))
    for layer, rows in condition_differences(model, tokenizer).items():
        for rank in RANKS:
            directions = torch.linalg.svd(rows, full_matrices=False).Vh[:rank]
            with projected(model, directions):
                table.add_row(*row(model, tokenizer, f"after block {layer}, rank {rank}"))
    Console().print(table)


if __name__ == "__main__":
    main()
