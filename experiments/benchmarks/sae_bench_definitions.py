"""Figures of SAEBench's and sae-probes' own functions on small arrays, for tests of `interp.auditing.autoencoders`.

    PYTHONPATH=DIR python experiments/benchmarks/sae_bench_definitions.py --json FILE

DIR is a folder that holds sae-bench 0.6.0 and sae-probes 0.4.2 (`pip install --no-deps --target DIR`), and zstandard.
Their pins clash with interp's: only the modules of the functions below are imported. The figures: which latents a
k-sparse probe takes, and its accuracy on held-out rows.
"""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.files import write_json

KS = (1, 2, 5)


def arrays(seed: int) -> tuple[Float[Tensor, "row latent"], Bool[Tensor, "row"]]:
    """Sparse latents, some of which depend on a label; the first 200 rows are to choose and to fit on."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.rand(400, generator=draw) < 0.5
    rate = 0.1 + 0.3 * torch.rand(40, generator=draw) + truth[:, None] * 0.4 * (torch.rand(40, generator=draw) < 0.2)
    size = 5 ** torch.randn(40, generator=draw)
    return (torch.rand(400, 40, generator=draw) < rate) * size * torch.rand(400, 40, generator=draw), truth


def main() -> None:
    """Write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    for name in ("sae_lens", "transformer_lens", "xgboost", "sae_probes.generate_sae_activations"):
        sys.modules.setdefault(name, _Absent(name))
    bench = importlib.import_module("sae_bench.evals.sparse_probing.probe_training")
    figures = []
    for seed in range(3):
        x, truth = arrays(seed)
        fit, test, labels = x[:200], x[200:], truth.int()
        rows = {}
        for k in KS:
            mask = bench.get_top_k_mean_diff_mask(fit, labels[:200], k)
            _, accuracy = bench.train_sklearn_probe(fit[:, ~mask], labels[:200], test[:, ~mask], labels[200:])
            rows[str(k)] = {"latents": (~mask).nonzero()[:, 0].tolist(), "accuracy": float(accuracy)}
        figures.append({"seed": seed, "sae-bench": rows, "sae-probes": _sae_probes(fit, labels[:200])})
    write_json(args.json, figures)


def _sae_probes(fit: Tensor, labels: Tensor) -> list[int]:
    """The order in which sae-probes takes latents."""
    probes = importlib.import_module("sae_probes.run_sae_evals")
    order: list[int] = probes.get_sorted_indices(fit, labels, probes.mean_act_normalization)[: max(KS)].tolist()
    return order


class _Absent(ModuleType):
    """Stands for a module that the functions do not use."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


if __name__ == "__main__":
    main()
