"""Attribution graphs in figures: are their sums exact, and do they predict ablations?

    python experiments/graph_tables.py [--json FILE]
    python experiments/graph_tables.py MODEL --transcoders DIR --prompt "The capital of France is" [--prompt …]

Without a model: the organism with its own transcoders, a prompt of each planted behaviour. Columns:

- sums: the largest difference between a node's value and the sum of its edges and its constant
- freeze: the largest difference between the predicted and the measured change under the freeze, all kept nodes ablated
- replacement, completeness, errors: the scores, and the share of errors in all influence
- r: correlation of predicted total effects with ablations in the unfrozen model, of latents and errors, and of
  embeddings; "r, norms frozen" is that of latents and errors where norms do not respond
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import interp
from interp import organism
from interp.attribution import AttributionGraph, load_transcoders, measure_effects, trace_graph
from interp.attribution.graphs._influence import total_effects

Row = dict[str, float | str]


def frozen_correlation(graph: AttributionGraph) -> float:
    """The correlation of the measured effects of latents and errors with total effects whose norms are frozen."""
    effects = graph.effects
    assert effects is not None
    predicted = total_effects(graph.edges, graph.activations, effects.sources)[effects.nodes].T
    return replace(effects, predicted=predicted).correlation or 0.0


def row(name: str, model: interp.HookedModel, transcoders: list[interp.SparseAutoencoder], prompt: str) -> Row:
    """The figures of one prompt's graph."""
    start = time.monotonic()
    graph = trace_graph(model, transcoders, prompt)
    seconds = time.monotonic() - start
    frozen, effects, pruning = measure_effects(graph, model, freeze=True), graph.effects, graph.pruning
    assert effects is not None
    return {
        "prompt": name,
        "tokens": len(graph.tokens),
        "latents": len(graph.activations),
        "kept": len(effects.sources),
        "sums": float((graph.edges.sum(1) + graph.constants - graph.nodes.values).abs().max()),
        "freeze": float((frozen.predicted - frozen.measured).abs().max()),
        "replacement": pruning.replacement,
        "completeness": pruning.completeness,
        "errors": pruning.error_share,
        "r": effects.correlation or 0.0,
        "r, embeddings": effects.embedding_correlation or 0.0,
        "r, norms frozen": frozen_correlation(graph),
        "seconds": seconds,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="organism")
    parser.add_argument("--transcoders", type=Path, default=organism.transcoders())
    parser.add_argument("--prompt", action="append", help="prompt to trace; the organism has its own")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    model = interp.load(args.model)
    transcoders = load_transcoders(args.transcoders, model)
    prompts = {prompt: prompt for prompt in args.prompt or ()}
    if not prompts:
        prompts = {name: model.chat(organism.prompts(name, 1)[0].user) for name in organism.BEHAVIOURS}
    rows = [row(name, model, transcoders, prompt) for name, prompt in prompts.items()]
    table = Table(*rows[0])
    for figures in rows:
        table.add_row(*(f"{x:.3g}" if isinstance(x, float) else str(x) for x in figures.values()))
    Console(width=170).print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
