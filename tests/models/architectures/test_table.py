"""docs/results/architectures.md is what the table of architectures does; run as a script, this file writes it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))  # for the run as a script; pytest has it there

import tiny_models
import torch
import transformers

from interp import InterpError
from interp.models.architectures.table import architecture, site_taps
from interp.models.architectures.writers import writers
from interp.models.sites import Site

DOCUMENT = Path(__file__).parents[3] / "docs" / "results" / "architectures.md"
_INTRODUCTION = """# Architectures

Written by `python tests/models/architectures/test_table.py` from the table in `interp/models/architectures/table.py`
and one small random model per row. On each model the tests check that every site equals its reference, that attention
and MLP outputs sum to the residual stream, that a padded batch equals its prompts run one by one, that documents
harvested together equal each document alone, and that exported weights equal the hooked model.

- *blocks*: in parallel blocks, attention and MLP read the same input, so there is no `resid_mid`.
- *no site*: the kinds of site that no module of the architecture computes (fused q/k/v, experts).
- *packed*: whether documents share rows in a harvest. Where they would leak into each other, each has its own row.
- *folds*: whether projections fold exactly into the weights, and if not, why ([editing.md](editing.md) measures every
  op).
- *compared with*: the reference for the sites. Where TransformerLens 4.3 lacks an architecture, or computes a different
  function from the model, the reference is the model's own hidden states.

Gemma 4 adds per-layer inputs after its MLP and scales the sum, so its `resid_post` is not the sum of the other sites.

| model_type | variant | blocks | no site | packed | folds | compared with |
|---|---|---|---|---|---|---|
"""


def table() -> str:
    """The document."""
    return _INTRODUCTION + "\n".join(_row(name) for name in sorted(tiny_models.CONFIGS)) + "\n"


def _row(name: str) -> str:
    config = tiny_models.CONFIGS[name]()
    arch, present = architecture(config), {site.kind for site in site_taps(config)}
    absent = [kind for kind in ("q", "k", "v", "mlp_post") if kind not in present]
    assert (Site("resid_mid", 0) in site_taps(config)) is not arch.is_parallel(config)
    cells = [
        config.model_type,
        name.removeprefix(config.model_type).strip("_ ") if name.startswith(config.model_type) else "",
        "parallel" if arch.is_parallel(config) else "sequential",
        ", ".join(absent),
        "yes" if arch.packs else "own rows",
        _folds(config),
        "hidden states" if name in tiny_models.NO_BRIDGE else "TransformerLens",
    ]
    return f"| {' | '.join(cells)} |"


def _folds(config) -> str:
    with torch.device("meta"):
        names = transformers.AutoModelForCausalLM.from_config(config).state_dict()
    try:
        writers(config, names)
    except InterpError as refusal:
        return "no: norms its embeddings" if "embeddings" in str(refusal) else "no: writers without a site"
    row = architecture(config)
    return "yes, before the norm" if row.attn_post_norm or row.mlp_post_norm else "yes"


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text() == table(), "run python tests/models/architectures/test_table.py"


if __name__ == "__main__":
    DOCUMENT.write_text(table())
