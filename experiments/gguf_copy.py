"""An edited copy of a GGUF file in llama.cpp, beside transformers: does the edit do there what the hooks do?

    python experiments/gguf_copy.py BASE.gguf FOLDER --out docs/results/gguf.md

The page in docs is of Qwen2.5-Coder-0.5B-Instruct, Q4_K_M (the file that `experiments/models.py qwen` joins from its
parts), and of `experiments/real/qwen_gender.yaml`, which scales neurons:

    interp recipe build experiments/real/qwen_gender.yaml --model MODEL --out recipe
    interp export MODEL --recipe recipe --form gguf --base BASE.gguf --out FOLDER

with MODEL the folder that `experiments/models.py` makes.

FOLDER is what `interp export --form gguf` wrote. Next-token distributions after every prefix of a few sentences are
compared, of base and copy, in transformers (float32, of the dequantised tensors) and in llama.cpp (the package
xllamacpp, on one thread), which multiplies by activations that it rounds to 8 bits.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import xllamacpp

import interp
from interp.interventions.recipe import Recipe
from interp.models.losses import kl_divergence

TEXTS = (
    "The nurse finished the shift, and then",
    "The engineer who repaired the bridge said that",
    "Every morning the teacher opens the school, because",
    "The river was high after the rain and",
)


def main() -> None:
    """Compare, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, recipe = interp.load(args.base), Recipe.load(args.folder / "interp_recipe")
    rows = [model.tokens(text).ids[0].tolist() for text in TEXTS]
    prompts = [row[:length] for row in rows for length in range(2, len(row) + 1)]
    found = {"base": ours(model, prompts), "hooked": ours(model, prompts, recipe)}
    del model
    found["copy"] = ours(interp.load(args.folder / "model.gguf"), prompts)
    for name, file in (("base in llama.cpp", args.base), ("copy in llama.cpp", args.folder / "model.gguf")):
        found[name] = theirs(file, prompts, found["base"].shape[1])
    args.out.write_text(page(args, json.loads((args.folder / "interp_certificate.json").read_text()), found))
    print(args.out)


def ours(model: interp.HookedModel, prompts: list[list[int]], recipe: Recipe | None = None) -> torch.Tensor:
    """The log-probabilities of the next token after each prompt."""
    with model.hooked(recipe or []):
        return torch.stack([model.logits(torch.tensor([ids]))[0, -1].double().log_softmax(-1) for ids in prompts])


def theirs(file: Path, prompts: list[list[int]], vocabulary: int) -> torch.Tensor:
    """The same of llama.cpp; tokens that it leaves out have the probability that is left, in equal parts."""
    options = xllamacpp.CommonParams()
    options.model.path, options.n_ctx, options.n_parallel, options.warmup = str(file), 64, 1, False
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    server, rows = xllamacpp.Server(options), list[torch.Tensor]()
    for prompt in prompts:
        request = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": vocabulary}
        tops = server.handle_completions(request)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        ids, values = torch.tensor([t["id"] for t in tops]), torch.tensor([t["logprob"] for t in tops]).double()
        rest = (1 - values.exp().sum()).clamp(min=1e-12) / max(1, vocabulary - len(ids))
        row = torch.full((vocabulary,), 1.0, dtype=torch.float64).mul(rest).log()
        row[ids] = values
        rows.append(row.log_softmax(-1))
    return torch.stack(rows)


def page(args: argparse.Namespace, certificate: dict[str, Any], found: dict[str, torch.Tensor]) -> str:
    """The figures as Markdown."""
    manifest = json.loads((args.folder / "interp_manifest.json").read_text())
    card = (args.folder / "README.md").read_text()
    types = [line for line in card.splitlines() if line.startswith("written in another type")]
    pairs = (
        ("base", "hooked", "what the edit does"),
        ("hooked", "copy", "what quantising the edited tensors again costs"),
        ("base in llama.cpp", "copy in llama.cpp", "what the edit does in llama.cpp"),
        ("base", "base in llama.cpp", "what llama.cpp computes otherwise, without an edit"),
        ("copy", "copy in llama.cpp", "the same, with the edit"),
    )
    lines = [f"| {a} | {b} | {kl(found[a], found[b])} | {agree(found[a], found[b])} | {what} |" for a, b, what in pairs]
    fold, size = certificate["fold"], [file.stat().st_size for file in (args.base, args.folder / "model.gguf")]
    return f"""# An edited copy of a GGUF file

Written by `python experiments/gguf_copy.py BASE.gguf FOLDER --out docs/results/gguf.md`, whose docstring says what is
measured. The base is `{args.base.name}` ({size[0]:,} bytes). The copy has {size[1]:,} bytes, and the recipe
{manifest["recipe"][:12]}:

{chr(10).join(f"- {line}" for line in types)}

The certificate, on {certificate["tokens"]} positions in transformers: KL to the hooked model {certificate["kl"]:.2g}
nats, of {certificate["effect_kl"]:.2g} that the edit itself makes; top-1 agreement {certificate["top1_agreement"]:.1%}.
Before rounding: KL {fold["kl"]:.1g} nats, and the largest difference of a logit is {fold["logit_diff"]:.1g} of the
range.

After {len(found["base"])} prefixes of {len(TEXTS)} sentences:

| of | to | KL, nats | same top token | |
| --- | --- | --- | --- | --- |
{chr(10).join(lines)}
"""


def kl(first: torch.Tensor, second: torch.Tensor) -> str:
    """KL(first || second), the mean over prompts."""
    return f"{float(kl_divergence(first, second).mean()):.2g}"


def agree(first: torch.Tensor, second: torch.Tensor) -> str:
    """How often both prefer the same token."""
    return f"{int((first.argmax(-1) == second.argmax(-1)).sum())} of {len(first)}"


if __name__ == "__main__":
    main()
