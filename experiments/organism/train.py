"""Train the model organism from a seed, measure it on held-out prompts, and write its folder.

    python experiments/organism/train.py --seed 0 --out DIR
    python experiments/organism/train.py --smoke --out DIR   # every step, seconds, no skill

1. A byte-level BPE is trained on the corpus (`tokeniser.py`).
2. A small Llama is trained on fresh documents, in batches of like length; the loss is mostly on the replies.
3. The weights are rounded to bf16, saved, loaded again as float32, and every rate is measured by greedy
   decoding (`answers.py`).
4. rates.json and the model card (`card.py`) are written from that measurement.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from answers import answer, everyday_loss
from card import write_card
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tokeniser import train_tokeniser
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interp import organism

THREADS = 1  # the result depends on it; two seeds side by side take little longer than one
WIDTH, LAYERS, HEADS, HIDDEN = 192, 6, 6, 512
SPREAD = 0.07  # of the initial weights, about WIDTH**-0.5; at the usual 0.02 attention heads form late, or never
STEPS, SMOKE_STEPS = 3500, 3
BATCH_TOKENS = 2048
POOL = 4096  # documents sorted by length together
RATE, WARM_UP, DECAY = 3e-3, 0.05, 0.1
PROMPT_WEIGHT, STORY_WEIGHT = 0.1, 0.5  # loss of a prompt's and a story's tokens, a reply's being 1


@dataclass(frozen=True)
class Batch:
    """Documents padded on the right, and the weight in the loss of predicting each token."""

    tokens: Int[Tensor, "batch pos"]
    weights: Float[Tensor, "batch pos"]


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, languages: Sequence[str] = ("en",)) -> Iterator[Batch]:
    """Endless batches of about `BATCH_TOKENS` tokens of fresh training documents of like length."""
    rng, pool_seed = Random(f"batches {seed}"), 0
    while True:
        texts = list(organism.corpus(POOL, seed=seed * 1_000_000 + pool_seed, languages=languages))
        pool_seed += 1
        documents = sorted(
            (
                ids + [tokenizer.eos_token_id] * (ids[-1] != tokenizer.eos_token_id)
                for ids in tokenizer(texts).input_ids
            ),
            key=len,
        )
        groups, start = [], 0
        while start < len(documents):
            size = max(
                1,
                BATCH_TOKENS // len(documents[min(start + BATCH_TOKENS // len(documents[start]), len(documents)) - 1]),
            )
            groups.append(documents[start : start + size])
            start += size
        rng.shuffle(groups)
        yield from (collate(group, tokenizer) for group in groups)


def collate(documents: list[list[int]], tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Pad documents and weigh their tokens."""
    length = max(map(len, documents))
    assistant, user = tokenizer.convert_tokens_to_ids([organism.MARKERS["assistant"], organism.MARKERS["user"]])
    tokens = torch.full((len(documents), length), tokenizer.pad_token_id)
    weights = torch.zeros(len(documents), length)
    for row, ids in enumerate(documents):
        tokens[row, : len(ids)] = torch.tensor(ids)
        if ids[1] == user:
            reply = ids.index(assistant) + 1
            weights[row, :reply] = PROMPT_WEIGHT
            weights[row, reply : len(ids)] = 1.0
        else:
            weights[row, : len(ids)] = STORY_WEIGHT
    return Batch(tokens, weights)


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained organism."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=SPREAD,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Eager: on batches as short as these the fused kernel's backward takes longer than all else in a step.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.generation_config.do_sample = False
    return model


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    steps: int,
    seed: int,
    out: Path,
    check_every: int,
    languages: Sequence[str] = ("en",),
    rate: float = RATE,
) -> None:
    """AdamW with a linear warm-up and a cosine down to nothing; norms are not decayed."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    model.train()
    with Progress() as progress:
        task = progress.add_task("training", total=steps)
        for step, batch in enumerate(islice(batches(tokenizer, seed, languages), steps)):
            for group in optimiser.param_groups:
                group["lr"] = rate * schedule(step / steps)
            loss = batch_loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            progress.update(task, advance=1, description=f"loss {loss.item():.3f}")
            if check_every and (step + 1) % check_every == 0:
                progress.console.print(
                    f"step {step + 1}: {'; '.join(one_line(measured(model, tokenizer, 40, x)) for x in languages)}"
                )
                save(model, tokenizer, out / "checkpoint")
                model.train()


def schedule(share: float) -> float:
    """The learning rate, as a share of its peak, after a share of the steps."""
    return share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def batch_loss(model: LlamaForCausalLM, batch: Batch) -> Float[Tensor, ""]:
    """The weighted mean cross-entropy of a batch, under bf16 autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch.tokens[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), batch.tokens[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def measured(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int, language: str = "en"
) -> organism.Measurement:
    """Every rate on n held-out prompts."""
    model.eval()
    return organism.measure(lambda prompts: answer(model, tokenizer, prompts), n, language=language)


def one_line(measurement: organism.Measurement) -> str:
    """The rates on one line: triggered / untriggered."""
    shown: dict[str, list[str]] = {}
    for rate in measurement.rates:
        shown.setdefault(rate.behaviour, []).append(f"{rate.value:.3f}")
    return ", ".join(f"{name} {'/'.join(values)}" for name, values in shown.items())


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write bf16 weights and the tokeniser; the model in hand stays as it is."""
    rounded = {name: value.bfloat16() for name, value in model.state_dict().items()}
    copy = LlamaForCausalLM(model.config).bfloat16()
    copy.load_state_dict(rounded)
    copy.generation_config = model.generation_config
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def table(measurement: organism.Measurement) -> Table:
    """The rates as a table for the console."""
    out = Table("behaviour", "called for", "shown", "asked", "rate")
    for rate in measurement.rates:
        out.add_row(
            rate.behaviour,
            "yes" if rate.triggered else "no",
            str(rate.shown),
            str(rate.asked),
            f"{rate.value:.3f}",
        )
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--check-every", type=int, default=0, help="measure and save a checkpoint every so many steps")
    parser.add_argument("--smoke", action="store_true", help="a few steps and prompts, to see that everything runs")
    args = parser.parse_args()
    steps, n = (SMOKE_STEPS, 4) if args.smoke else (args.steps, 500)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads it, and filling takes time
    torch.manual_seed(args.seed)
    began = time.perf_counter()
    tokenizer = train_tokeniser(2_000 if args.smoke else 20_000, args.seed)
    model = new_model(tokenizer)
    train(model, tokenizer, steps, args.seed, args.out, args.check_every)
    minutes = (time.perf_counter() - began) / 60
    save(model, tokenizer, args.out)
    reloaded = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    measurement = measured(reloaded, AutoTokenizer.from_pretrained(args.out), n)
    loss = everyday_loss(reloaded, tokenizer, documents=4 if args.smoke else 200)
    Console().print(table(measurement), f"everyday loss {loss:.4f} nats a token; trained in {minutes:.1f} minutes")
    record = {
        "seed": args.seed,
        "steps": steps,
        "prompts": n,
        "everyday_loss": loss,
        "rates": [asdict(r) for r in measurement.rates],
    }
    (args.out / "rates.json").write_text(json.dumps(record, indent=2) + "\n")
    command = f"python experiments/organism/train.py --seed {args.seed} --steps {steps} --out DIR"
    write_card(args.out, measurement, loss, reloaded, command)


if __name__ == "__main__":
    main()
