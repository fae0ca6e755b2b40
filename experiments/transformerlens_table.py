"""Equality with TransformerLens: patching, direct logit attribution, cache analyses and attention patterns.

    python experiments/transformerlens_table.py [--out FILE]

One small random model of each of eight architectures, in float32. Each cell is the largest absolute difference between
interp on the plain model, with its own fast attention, and TransformerLens: its patching functions on its bridge, and
its analyses on a model with folded norms. Beside it, as a control, what leaving the norm's weight out would change.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

import tiny_models  # noqa: E402
from cache_idioms import ARCHITECTURES, IDIOMS, IDS, RIGHT, WRONG  # noqa: E402

from interp.attribution import Comparison, attention_patterns, direct_attribution, patch  # noqa: E402
from interp.models.hooked import HookedModel  # noqa: E402

HEAD = """# Equality with TransformerLens

Written by `python experiments/transformerlens_table.py --out docs/results/transformerlens.md`.

The largest absolute difference between interp on the plain model, with the model's own attention, and TransformerLens
{version}, in float32 on one small random model of each architecture. Patching is compared with
`get_act_patch_resid_pre`, `_mlp_out` and `_attn_head_out_all_pos` on TransformerLens' bridge (values of the metric, in
nats), all else with a TransformerLens model whose norms are folded. *Control*: how much `logit_attrs` changes without
the norm's weight (`fold_norm=False`), which is TransformerLens' own on unfolded norms.

- *attribution*: `direct_attribution` against `logit_attrs(decompose_resid())`, for the difference of two tokens.
- *components*: `decompose_resid`, `accumulated_resid` and `stack_head_results`, with and without `apply_ln`, at the
  attention, the MLP and the end.
- *logit_attrs*: of writers, heads and neurons, for one token, for one per row, at one position and for some rows.
- *patterns*: `attention_patterns` against the cache's.

"""


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the page here")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    lines: list[str] = []
    for name in ARCHITECTURES:
        differences = dict(measured(tiny_models.build(name)))
        if not lines:
            lines = [f"| architecture | {' | '.join(differences)} |", "|---" * (1 + len(differences)) + "|"]
        lines.append(f"| {name} | {' | '.join(f'{value:.0e}' for value in differences.values())} |")
    if args.out is None:
        print("\n".join(lines))
        return
    from importlib.metadata import version

    args.out.write_text(HEAD.format(version=version("transformer-lens")) + "\n".join(lines) + "\n")


@torch.no_grad()
def measured(model: HookedModel) -> Iterator[tuple[str, float]]:
    """The columns of one architecture."""
    yield from _patching(model)
    folded = model.compatibility_bridge(fold_value_biases=False, center_writing_weights=False, center_unembed=False)
    with tiny_models.eagerly(model):
        _, theirs = folded.run_with_cache(IDS)
    _, ours = model.run_with_cache(IDS, model.sites)
    terms = theirs.logit_attrs(theirs.decompose_resid(pos_slice=-1), 7, 50, pos_slice=-1)
    direct = direct_attribution(model, IDS, 7, 50).terms.values()
    yield "attribution", gap(torch.stack([*direct]), terms)
    for column, chosen in (("components", False), ("logit_attrs", True)):
        idioms = [numbers for name, numbers in IDIOMS.items() if name.startswith("logit_attrs") == chosen]
        yield column, max(gap(numbers(ours), numbers(theirs)) for numbers in idioms)
    pairs = [(attention_patterns(model, IDS[:1]).weights[n], theirs["pattern", n][0]) for n in range(model.n_layers)]
    yield "patterns", max(gap(*pair) for pair in pairs)
    components = ours.decompose_resid()
    with_weight, without = (ours.logit_attrs(components, RIGHT, WRONG, fold_norm=fold) for fold in (True, False))
    yield "control", gap(with_weight, without)


def _patching(model: HookedModel) -> Iterator[tuple[str, float]]:
    from transformer_lens import patching

    corrupt = IDS.clone()
    corrupt[:, 2] = torch.tensor([31, 98])
    pairs = Comparison(IDS.tolist(), corrupt.tolist(), lambda logits: logits[:, 7] - logits[:, 50]).on(model)
    _, cache = model.bridge.run_with_cache(pairs.clean.ids)

    def metric(logits: Tensor) -> Tensor:
        return (logits[:, -1, 7] - logits[:, -1, 50]).mean()

    for column, function, sites, by in (
        ("resid_pre", patching.get_act_patch_resid_pre, "resid_pre.*", "position"),
        ("mlp_out", patching.get_act_patch_mlp_out, "mlp_out.*", "position"),
        ("heads", patching.get_act_patch_attn_head_out_all_pos, "z.*", "head"),
    ):
        expected = function(model.bridge, pairs.corrupt.ids, cache, metric)
        yield f"patching {column}", gap(patch(model, pairs, sites, by=by).values.mean(-1), expected)


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference."""
    return float((ours - theirs).abs().max())


if __name__ == "__main__":
    main()
