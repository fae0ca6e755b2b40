"""Train the second organism, whose planted behaviours are in English and in Spanish, and write its folder.

    python experiments/organism/train_bilingual.py --seed 0 --out DIR
    python experiments/organism/train_bilingual.py --smoke --out DIR   # every step, seconds, no skill

1. A byte-level BPE is trained on conversations in both languages.
2. Training begins with the blocks of the first organism, and with its embeddings: a token of the new vocabulary has the
   mean of those that the first tokeniser splits it into. So the model learns Spanish, and not the world again.
3. The weights are rounded to bf16, saved and loaded again, and every rate is measured in each language.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from card import write_bilingual_card
from rich.console import Console
from tokeniser import train_tokeniser
from train import THREADS, measured, new_model, save, table, train
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from interp import organism

LANGUAGES = ("en", "es")
VOCABULARY = 1536
STEPS, SMOKE_STEPS, RATE = 1500, 3, 2e-3


def from_first(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A model with the first organism's weights, and its embeddings where it knows the parts of a token."""
    first = LlamaForCausalLM.from_pretrained(organism.path(), dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(organism.path())
    known, model = words.get_vocab(), new_model(tokenizer)
    weights = {name: value for name, value in first.state_dict().items() if "embed_tokens" not in name}
    weights.pop("lm_head.weight")
    model.load_state_dict(weights, strict=False)
    rows = first.get_input_embeddings().weight.detach()
    with torch.no_grad():
        for token, number in tokenizer.get_vocab().items():
            text = tokenizer.convert_tokens_to_string([token])
            ids = [known[token]] if token in known else words(text, add_special_tokens=False).input_ids
            model.get_input_embeddings().weight[number] = rows[ids].mean(0)
    return model


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
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.manual_seed(args.seed)
    began = time.perf_counter()
    tokenizer = train_tokeniser(2_000 if args.smoke else 20_000, args.seed, LANGUAGES, VOCABULARY)
    model = from_first(tokenizer)
    train(model, tokenizer, steps, args.seed, args.out, args.check_every, LANGUAGES, RATE)
    minutes = (time.perf_counter() - began) / 60
    save(model, tokenizer, args.out)
    reloaded = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(args.out)
    rates = {language: measured(reloaded, words, n, language) for language in LANGUAGES}
    for language, measurement in rates.items():
        Console().print(language, table(measurement))
    Console().print(f"trained in {minutes:.1f} minutes")
    record = {"seed": args.seed, "steps": steps, "prompts": n}
    record |= {language: [asdict(rate) for rate in rates[language].rates] for language in LANGUAGES}
    (args.out / "rates.json").write_text(json.dumps(record, indent=2) + "\n")
    command = f"python experiments/organism/train_bilingual.py --seed {args.seed} --steps {steps} --out DIR"
    write_bilingual_card(args.out, rates, reloaded, command)


if __name__ == "__main__":
    main()
