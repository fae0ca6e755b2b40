"""Which neurons of the MLPs, or latents of transcoders, carry a harm, and how far each is turned down for its cost.

    python experiments/real/units.py smollm2_toxicity        # writes smollm2_toxicity.yaml beside this file
    python experiments/real/units.py smollm2_toxicity_latents --transcoders DIR

1. The benefit b of a unit is what removing it takes off the harm, to first order: its value times the gradient of the
   harm, summed over tokens, mean over the fitting items (attribution patching with zero as the other value).
2. Its cost c is the mean over tokens of plain text of the square of its value times the gradient of the loss. With
   a · value removed, a² c / 2 is the divergence from the unedited model to second order (Fisher information).
3. The amplitudes a = min(2, s b / c) give the largest Σ a b for their Σ a² c. The scale s is set by the Σ a b that is
   wanted; amplitudes are rounded to 0.5, 1 and 2, and an amplitude a means a factor 1 - a.
4. Left out are the first layers, and neurons that write something huge at the first token of every text (massive
   activations; Sun et al. 2024, https://arxiv.org/abs/2402.17762). There, no first-order estimate holds: with one of
   them turned down, perplexity rises by half.

The fitting items of toxicity are texts of ParaDetox as far as a toxic word. The harm is log p(toxic words), plus the
log-odds of the word that comes against the paraphrase's.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import harms
import torch
import yaml
from run import HERE, MODELS
from torch import Tensor
from torch.nn.functional import cross_entropy

import interp
from interp.auditing import public_suite
from interp.auditing.public._texts import toxic_words
from interp.models import HookedModel, Tokens
from interp.models.continuations import frozen_weights
from interp.sae import SparseAutoencoder

AMPLITUDES = (0.5, 1.0, 2.0)
FIRST_LAYER, MOST, LEAST, HUGE = 8, 100, 0.015, 30
TEXTS, ITEMS, BATCH = 48, 160, 16
Objective = Callable[[HookedModel, Tokens, Sequence[int]], Tensor]
Coders = Sequence[SparseAutoencoder]
Place = tuple[list[int], int, int]  # tokens before a word, that word, another one


def main() -> None:
    """Write the recipe file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="such as smollm2_toxicity")
    parser.add_argument("--transcoders", type=Path, help="folder of a transcoder for each layer, for latents")
    parser.add_argument("--take", type=float, default=2.4, help="how much of the harm to remove to first order, nats")
    args = parser.parse_args()
    model = interp.load(HERE.parent / ".cache" / MODELS[args.name.partition("_")[0]])
    folders = [args.transcoders / f"layer-{n}" for n in range(model.n_layers)] if args.transcoders else []
    coders = [SparseAutoencoder.load(folder, model) for folder in folders]
    items = toxic_places(model)
    harm = partial(toxicity, items, single_toxic(model))
    benefit = attribution(model, [ids for ids, *_ in items], harm, coders, square=False) / len(items)
    rows = [ids[:64] for ids in model.tokens(plain_texts(), beginning="document").unpadded()]
    cost = attribution(model, rows, text_loss, coders, square=True) / sum(map(len, rows))
    if not coders:
        benefit[huge_at_first_token(model)] = 0
    groups = amplitudes(benefit, cost, args.take)
    file = HERE / f"{args.name}.yaml"
    file.write_text(recipe(groups, folders, f"python experiments/real/units.py {args.name} --take {args.take:g}"))
    print(file)


def plain_texts() -> list[str]:
    """Excerpts that no audit reads."""
    drawn, audited = (public_suite(200, seed, harms.DATA, ["text_loss"])[0].prompts for seed in (2, 0))
    return [text for text in drawn if text not in set(audited)][:TEXTS]


def single_toxic(model: HookedModel) -> list[int]:
    """The toxic words that are one token."""
    return harms.single_tokens(model, toxic_words(harms.DATA))


def toxic_places(model: HookedModel) -> list[Place]:
    """Texts of the fitting half as far as a toxic word; that word, and what the paraphrase has in its place."""
    toxic, places = set(single_toxic(model)), []
    for row in harms.rows("paradetox/paradetox.jsonl"):
        if harms.part_of(row["toxic"]) == "fit":
            first, second = model.tokens([row["toxic"], row["neutral"]], beginning="document").unpadded()
            same = next((n for n, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), 0)
            if same >= 3 and first[same] in toxic and second[same] not in toxic:
                places.append((first[:same], first[same], second[same]))
    return places[:ITEMS]


def toxicity(
    items: Sequence[tuple[list[int], int, int]],
    toxic: list[int],
    model: HookedModel,
    batch: Tokens,
    rows: Sequence[int],
) -> Tensor:
    """The harm over some items, summed."""
    logits = model.hf(**batch.model_inputs(model.device), use_cache=False, logits_to_keep=1).logits[:, -1]
    here = torch.arange(len(rows))
    word, plain = (torch.tensor([items[row][side] for row in rows]) for side in (1, 2))
    return (logits[here, word] - logits[here, plain] + logits.log_softmax(-1)[:, toxic].logsumexp(-1)).sum()


def text_loss(model: HookedModel, batch: Tokens, rows: Sequence[int]) -> Tensor:
    """The loss of every second token of plain text, summed."""
    hidden = model.hf(**batch.model_inputs(model.device), use_cache=False).logits[:, :-1]
    scored = batch.mask[:, 1:] & batch.mask[:, :-1]
    scored[:, ::2] = False
    return cross_entropy(hidden[scored], batch.ids[:, 1:][scored], reduction="sum") * 2**0.5


def attribution(
    model: HookedModel, sequences: Sequence[list[int]], objective: Objective, coders: Coders, square: bool
) -> Tensor:
    """Value times gradient of every unit (layer, unit), summed over all tokens but first ones; or squared first."""
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    total: Tensor | None = None
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = model.tokens([sequences[row] for row in rows])
        products = _products(model, batch, partial(objective, model, batch, rows), coders)
        summed = torch.stack([(each.square() if square else each).sum(0) for each in products])
        total = summed if total is None else total + summed
    assert total is not None
    return total


def _products(model: HookedModel, batch: Tokens, objective: Callable[[], Tensor], coders: Coders) -> list[Tensor]:
    """For each layer (token, unit): value times gradient."""
    values: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}

    def note(site: str, x: Tensor) -> Tensor:
        values[site], leaves[site] = x.detach(), torch.zeros_like(x, requires_grad=True)
        return x + leaves[site]

    layers = range(model.n_layers)
    sites = [f"mlp_{kind}.{layer}" for layer in layers for kind in (("input", "out") if coders else ("post",))]
    with frozen_weights(model), model.hooked([(site, partial(note, site)) for site in sites]):
        written = [f"mlp_{'out' if coders else 'post'}.{layer}" for layer in layers]
        gradients = torch.autograd.grad(objective(), [leaves[site] for site in written])
    inner = batch.mask.clone()
    inner[torch.arange(len(inner)), inner.int().argmax(1)] = False
    if not coders:
        return [values[site][inner] * g[inner] for site, g in zip(written, gradients, strict=True)]
    read = [values[f"mlp_input.{layer}"][inner] for layer in layers]
    parts = zip(coders, read, gradients, strict=True)
    return [coder.encode(x) * (g[inner] @ coder.W_dec.T) for coder, x, g in parts]


@torch.no_grad()
def huge_at_first_token(model: HookedModel) -> Tensor:
    """Neurons (layer, unit) that write much more at the first token than others do."""
    acts = model.capture(model.tokens(["The end."], beginning="document"), "mlp_post.*")
    columns = [layer.mlp.down_proj.weight.norm(dim=0) for layer in model.hf.model.layers]
    written = torch.stack([acts[f"mlp_post.{n}"][0, 0].abs() * columns[n] for n in range(model.n_layers)])
    return written > HUGE * written.median()


def amplitudes(benefit: Tensor, cost: Tensor, take: float) -> dict[float, list[tuple[int, int]]]:
    """Units (layer, unit) by their amplitude."""
    b, c = benefit.clone(), cost + 1e-4
    b[:FIRST_LAYER] = 0
    worth = torch.where(b > LEAST, b.square() / c, 0.0)
    width, chosen = b.shape[1], worth.flatten().argsort(descending=True)[:MOST].tolist()
    units = [divmod(number, width) for number in chosen if worth.flatten()[number] > 0]
    b, c = (torch.stack([each[unit] for unit in units]) for each in (b, c))
    low, high = 0.0, 1.0
    for _ in range(40):
        scale = (low + high) / 2
        taken = float(((scale * b / c).clamp(max=AMPLITUDES[-1]) * b).sum())
        low, high = (scale, high) if taken < take else (low, scale)
    groups: dict[float, list[tuple[int, int]]] = {}
    for unit, a in zip(units, (scale * b / c).clamp(max=AMPLITUDES[-1]).tolist(), strict=True):
        if a > AMPLITUDES[0] / 2:
            groups.setdefault(min(AMPLITUDES, key=lambda level: abs(level - a)), []).append(unit)
    return {level: sorted(groups[level]) for level in sorted(groups)}


def recipe(groups: dict[float, list[tuple[int, int]]], folders: Sequence[Path], command: str) -> str:
    """The recipe file."""
    edits: list[dict[str, object]] = []
    for level, units in groups.items():
        if not folders:
            edits.append({"op": "Scale", "neurons": [f"{n}.{unit}" for n, unit in units], "factor": 1 - level})
            continue
        for layer in sorted({n for n, _ in units}):
            latents = [unit for n, unit in units if n == layer]
            place = {"op": "Suppress", "sae": f"../transcoders/{folders[layer].name}", "latents": latents}
            edits.append(place | {"factor": 1 - level})
    count = sum(map(len, groups.values()))
    what = "latents of transcoders" if folders else "neurons"
    head = f"# {count} {what} that write toxic words, by attribution; written by\n# `{command}`.\n"
    values = {"note": f"{count} {what} of toxic words", "edits": edits}
    return head + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110)


if __name__ == "__main__":
    main()
