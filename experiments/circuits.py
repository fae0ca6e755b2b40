"""Where the organism's hostility is computed, edge by edge, and how well circuits do it; induction heads of SmolLM2.

    python experiments/circuits.py [--pairs 16] [--smollm2 DIR] [--json FILE] [--smoke]

The pairs differ in the word for the user's people, region or custom, and have the same length. All effects are shares
of the difference between the clean runs (insulted) and the corrupt ones (not), read as the logit difference of the
first tokens of both replies; intervals are 95 % over pairs.

1. *Passage*: attention from the last token to the trigger's tokens is knocked out, layer by layer and head by head:
   `resampled` reads the corrupt prompt's keys and values there; `cut` removes the keys, so that attention is shared out
   among other tokens. The heads that pass most are knocked out together, and as many random others.
2. *Estimates*: scores of edges by one gradient and by integrated gradients, against exact effects on a sample.
3. *Circuits*: the edges with the highest scores at several budgets, against random circuits of the same size, circuits
   of another behaviour and edges ranked by weight norms; and on the other split's wordings. MIB's areas.
4. *Induction*, with `--smollm2`: heads that attend to the token after an earlier occurrence, in repeated random tokens;
   the loss of the second half when they are replaced by their mean, against as many random other heads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import interp
from interp import organism
from interp.attribution import (
    Circuit,
    ComparedPairs,
    Comparison,
    EdgeGraph,
    EdgeScores,
    attribute_edges,
    faithfulness_curve,
    measure_circuits,
    patch_edges,
)
from interp.core.display import print_table
from interp.core.files import write_json
from interp.models import HookedModel, Site
from interp.models.architectures.table import attention_mask_tap
from interp.models.losses import next_token_losses
from interp.organism.world import Split

BUDGETS: tuple[int, ...] = (20, 50, 100, 200)
RANDOM, STEPS = 10, 5
Rows = list[dict[str, Any]]
Heads = Sequence[tuple[int, int]]


def compared(model: HookedModel, behaviour: str, count: int, split: Split = "train") -> ComparedPairs:
    """Pairs of the same length that the model tells apart."""
    drawn = organism.contrast(behaviour, 6 * count, split=split)
    clean, corrupt = ([pair[side].messages for pair in drawn] for side in (0, 1))
    pairs = Comparison(clean, corrupt, alignment="ends", name=f"{behaviour}, {split}").on(model, drop=True)
    return pairs.pick(pairs.whole[:count])


def cut(model: HookedModel, pairs: ComparedPairs, heads: Heads) -> float:
    """The effect that goes where these heads' attention from the last token to the trigger's tokens is cut."""
    trigger = trigger_of(pairs)

    def mask(chosen: list[int], visible: Tensor) -> Tensor:
        changed = visible.clone()
        changed[:, chosen, -1] &= ~trigger[:, None]
        return changed

    edits = [(attention_mask_tap(model.config, layer), partial(mask, x)) for layer, x in by_layer(heads).items()]
    return removed(model, pairs, edits)


def resampled(model: HookedModel, pairs: ComparedPairs, heads: Heads) -> float:
    """The effect that goes where these heads read the corrupt prompt's keys and values at the trigger's tokens, from
    the last token."""
    trigger, edits = trigger_of(pairs)[..., None, None], list[tuple[Any, Any]]()

    def at_trigger(value: Tensor, x: Tensor) -> Tensor:
        return torch.where(trigger, value, x)

    def at_end(chosen: list[int], value: Tensor, x: Tensor) -> Tensor:
        changed = x.clone()
        changed[:, -1, chosen] = value[:, -1, chosen]
        return changed

    for layer, chosen in sorted(by_layer(heads).items()):
        read = model.capture(pairs.corrupt, [f"k.{layer}", f"v.{layer}"], chat=False)
        with model.hooked([*edits, *((str(site), partial(at_trigger, x)) for site, x in read.items())]):
            z = model.capture(pairs.clean, f"z.{layer}", chat=False)[f"z.{layer}"]
        edits.append((f"z.{layer}", partial(at_end, chosen, z)))
    return removed(model, pairs, edits)


def trigger_of(pairs: ComparedPairs) -> Tensor:
    """Where clean and corrupt prompts have different tokens."""
    return (pairs.clean.ids != pairs.corrupt.ids) & pairs.clean.mask


def by_layer(heads: Heads) -> dict[int, list[int]]:
    """The heads of each layer."""
    return {layer: [head for x, head in heads if x == layer] for layer, _ in heads}


def removed(model: HookedModel, pairs: ComparedPairs, edits: list[tuple[Any, Any]]) -> float:
    """The share of the effect that is gone under these edits of the clean run."""
    return 1 - pairs.effect_of(model, edits)


def passage(model: HookedModel, pairs: ComparedPairs) -> dict[str, Rows]:
    """How much of the effect is gone without the attention of each layer, each head, and the best heads together."""
    layers = range(model.n_layers)
    heads = [(layer, head) for layer in layers for head in range(model.config.num_attention_heads)]

    def both(chosen: Heads) -> dict[str, float]:
        return {"resampled": resampled(model, pairs, chosen), "cut": cut(model, pairs, chosen)}

    rows: Rows = [{"layer": layer, **both([x for x in heads if x[0] == layer])} for layer in layers]
    rows.append({"layer": "all", **both(heads)})
    alone = {head: both([head]) for head in heads}
    best = sorted(alone, key=lambda head: -alone[head]["resampled"])
    together: Rows = []
    for count in (1, 2, 4):
        drawn = [both(Random(seed).sample(best[4:], count)) for seed in range(RANDOM)]
        random = {f"random, {name}": max(x[name] for x in drawn) for name in ("resampled", "cut")}
        together.append({"heads": ", ".join(map(named, best[:count])), **both(best[:count]), **random})
    top = [{"head": named(head), **alone[head]} for head in best[:6]]
    return {"passage: removed, by layer": rows, "by head": top, "best heads, and the worst random ones": together}


def named(head: tuple[int, int]) -> str:
    """A head as in edges."""
    return f"a{head[0]}.h{head[1]}"


def estimates(model: HookedModel, pairs: ComparedPairs) -> tuple[EdgeScores, dict[str, Rows]]:
    """The scores by integrated gradients, their agreement with exact effects, and that of one gradient."""
    rows, plain, scores = Rows(), *(attribute_edges(model, pairs, steps=steps) for steps in (1, STEPS))
    for steps, agreement in ((1, plain.agreement), (STEPS, scores.agreement)):
        if agreement is not None:
            name, estimate, exact = agreement.misses[0]
            correlations = {"Spearman": agreement.spearman, "Pearson": agreement.pearson}
            rows.append({"steps": steps, **correlations, "worst miss": name, "estimate": estimate, "exact": exact})
    names = [name for name, _ in scores.top(10)]
    changes = patch_edges(model, pairs, names).changes.tolist()
    top = [{"edge": name, "score": score, "exact": x} for (name, score), x in zip(scores.top(10), changes, strict=True)]
    return scores, {"agreement of scores with exact effects": rows, "edges with the highest scores": top}


def weight_norms(model: HookedModel, graph: EdgeGraph) -> EdgeScores:
    """The norm of each product of what a source writes with and what a target reads with, gains of norms included."""
    hf, heads = model.hf, graph.n_heads
    writes, reads = [hf.get_input_embeddings().weight.T], []
    for layer in hf.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        writes += [*attention.o_proj.weight.split(attention.head_dim, 1), mlp.down_proj.weight]
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            rows = projection.weight * layer.input_layernorm.weight
            each = rows.split(attention.head_dim)
            reads += [each[head * len(each) // heads] for head in range(heads)]
        both = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        reads.append(both * layer.post_attention_layernorm.weight)
    reads.append(hf.lm_head.weight * hf.model.norm.weight)
    written = torch.stack([w @ w.T for w in writes]).flatten(1)
    read = torch.stack([r.T @ r for r in reads]).flatten(1)
    return EdgeScores(graph, (written @ read.T).clamp(min=0).sqrt().detach() * graph.edges, "weight norms")


def sized(scores: EdgeScores, size: int) -> Circuit:
    """The circuit of a ranking with the smallest budget that leaves as many connected edges."""
    for budget in range(size, 8 * size):
        circuit = scores.circuit(budget)
        if len(circuit) >= size:
            return circuit
    return circuit


def circuits(model: HookedModel, pairs: ComparedPairs, scores: EdgeScores, other: EdgeScores) -> dict[str, Rows]:
    """Each circuit by itself, and the model without it, beside others of the same size."""
    norms, rows = weight_norms(model, scores.graph), Rows()
    for budget in BUDGETS:
        circuit = scores.circuit(budget)
        size = len(circuit)
        random = [Circuit.random(scores.graph, size, seed) for seed in range(RANDOM)]
        chosen = {"these edges": circuit, other.name: sized(other, size), "weight norms": sized(norms, size)}
        for ablation in ("resample", "mean"):
            *found, baseline = [measure_circuits(model, pairs, x, ablation) for x in ([*chosen.values()], random)]
            for name, result in zip(chosen, found[0], strict=True):
                rows.append({"circuit": name, "edges": len(result.circuit), "ablation": ablation, **values(result)})
            rows.append({
                "circuit": f"{RANDOM} random, mean", "edges": size, "ablation": ablation,
                "faithfulness": mean(x.faithfulness for x in baseline), "interval": "",
                "completeness": mean(x.completeness for x in baseline),
            })  # fmt: skip
    return {"circuits": rows}


def values(result: Any) -> dict[str, Any]:
    """Faithfulness with its interval, and completeness."""
    low, high = result.intervals[0].tolist()
    interval = f"{low:.3f} to {high:.3f}"
    return {"faithfulness": result.faithfulness, "interval": interval, "completeness": result.completeness}


def transfer(model: HookedModel, fresh: ComparedPairs, scores: EdgeScores) -> dict[str, Rows]:
    """The circuits on wordings, peoples and towns of the other split."""
    chosen = [scores.circuit(budget) for budget in BUDGETS]
    results = measure_circuits(model, fresh, chosen)
    return {"on fresh wordings": [{"edges": len(x.circuit), **values(x)} for x in results]}


def areas(model: HookedModel, pairs: ComparedPairs, rankings: dict[str, EdgeScores]) -> dict[str, Rows]:
    """MIB's areas of each ranking."""
    rows = Rows()
    for name, scores in rankings.items():
        curve = faithfulness_curve(model, pairs, scores)
        rows.append({"ranking": name, "CPR": curve.cpr, "CMD": curve.cmd})
    return {"areas (MIB)": rows}


def induction(model: HookedModel, length: int = 50, rows: int = 4, count: int = 6) -> dict[str, Rows]:
    """Induction heads by score, and what their mean ablation does to the loss of the second half."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(100, model.config.vocab_size, (rows, length), generator=generator)
    ids = torch.cat([torch.zeros(rows, 1, dtype=torch.long), drawn, drawn], 1)
    _, cache = model.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_pattern"))
    scores = {
        (layer, head): float(
            cache[f"blocks.{layer}.attn.hook_pattern"][:, head].diagonal(1 - length, 1, 2)[:, 1:].mean()
        )
        for layer in range(model.n_layers)
        for head in range(model.config.num_attention_heads)
    }
    best = sorted(scores, key=lambda head: -scores[head])
    tokens = model.tokens(ids, mask=torch.ones_like(ids))
    means = {
        layer: model.capture(tokens, f"z.{layer}", chat=False)[f"z.{layer}"].mean((0, 1))
        for layer in range(model.n_layers)
    }

    def losses(heads: Sequence[tuple[int, int]]) -> tuple[float, float]:
        layers = {layer: [head for x, head in heads if x == layer] for layer, _ in heads}
        edits = [(Site("z", layer), interp.Replace(means[layer], chosen)) for layer, chosen in layers.items()]
        with model.hooked(edits):
            each = next_token_losses(model.logits(tokens), ids, torch.ones_like(ids[:, 1:], dtype=torch.bool))
        halves = each.view(rows, 2 * length)
        return float(halves[:, :length].mean()), float(halves[:, length + 1 :].mean())

    kept = {layer for layer, _ in best[:count]}
    same = [head for head in best[2 * count :] if head[0] in kept]
    others = {"of all layers": best[count:], "of the same layers": same}
    results: dict[str, Any] = {"none": losses([]), f"{count} induction heads": losses(best[:count])}
    for name, pool in others.items():
        random = [losses(Random(seed).sample(pool, count)) for seed in range(RANDOM)]
        results[f"{count} random {name}, mean of {RANDOM}"] = tuple(map(mean, zip(*random, strict=True)))
        results[f"{count} random {name}, worst"] = max(random, key=lambda x: x[1])
    table = [{"replaced by their mean": name, "first half": x, "second half": y} for name, (x, y) in results.items()]
    top = [{"head": named(head), "score": scores[head]} for head in best[: count + 4]]
    return {"induction scores": top, "loss, nats a token": table}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--smollm2", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true", help="two pairs, and small budgets")
    options = parser.parse_args()
    global BUDGETS, RANDOM, STEPS
    if options.smoke:
        options.pairs, BUDGETS, RANDOM, STEPS = 2, (50,), 2, 2
    model, tables = interp.load("organism"), dict[str, Rows]()

    def show(part: dict[str, Rows]) -> None:
        tables.update(part)
        for title, rows in part.items():
            print_table(False, rows, title, narrow=True)

    pairs, fresh = (compared(model, "hostility", options.pairs, split) for split in ("train", "test"))
    print(f"{len(pairs)} pairs, {len(fresh)} of the other split")
    show(passage(model, pairs))
    scores, part = estimates(model, pairs)
    show(part)
    other = attribute_edges(model, compared(model, "refusal", options.pairs), steps=STEPS, sample=False)
    show(circuits(model, pairs, scores, other))
    show(transfer(model, fresh, scores))
    plain = attribute_edges(model, pairs, steps=1, sample=False)
    noise = torch.rand(scores.scores.shape, generator=torch.Generator().manual_seed(0))
    rankings = {"EAP-IG": scores, "EAP": plain, "weight norms": weight_norms(model, scores.graph)}
    show(areas(model, pairs, rankings | {"refusal": other, "random": EdgeScores(scores.graph, noise)}))
    if options.smollm2:
        show(induction(interp.load(options.smollm2)))
    if options.json:
        write_json(options.json, tables)


if __name__ == "__main__":
    main()
