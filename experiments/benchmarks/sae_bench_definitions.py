"""Figures of SAEBench's and sae-probes' own functions, for tests of `interp.auditing.autoencoders`.

    PYTHONPATH=DIR python experiments/benchmarks/sae_bench_definitions.py --json FILE

DIR is a folder that holds sae-bench 0.6.0 and sae-probes 0.4.2 (`pip install --no-deps --target DIR`), and zstandard.
Their pins clash with interp's: only the modules of the functions below are imported, and names of sae-lens that these
do not use are left empty. The figures:

- probing: which latents a k-sparse probe takes, and its accuracy on held-out rows, of small arrays.
- core: `run_evals` of an autoencoder of the organism, on documents of equal length. The first token keeps its
  activations (`exclude_special_tokens_from_reconstruction`) and is left out of means, as in interp.
- absorption: which rows `FeatureAbsorptionCalculator` calls absorbed, of activations with a concept of which other
  latents have taken over a part.
"""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

import interp
from interp.activations import SiteColumns
from interp.core.files import write_json
from interp.models.hooked import HookedModel
from interp.sae import SparseAutoencoder, TopK

KS = (1, 2, 5)
SITE, LAYER, LENGTH, DOCUMENTS, LATENTS, K = "resid_post.2", 2, 40, 24, 256, 16


def arrays(seed: int) -> tuple[Float[Tensor, "row latent"], Bool[Tensor, "row"]]:
    """Sparse latents, some of which depend on a label; the first 200 rows are to choose and to fit on."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.rand(400, generator=draw) < 0.5
    rate = 0.1 + 0.3 * torch.rand(40, generator=draw) + truth[:, None] * 0.4 * (torch.rand(40, generator=draw) < 0.2)
    size = 5 ** torch.randn(40, generator=draw)
    return (torch.rand(400, 40, generator=draw) < rate) * size * torch.rand(400, 40, generator=draw), truth


def documents(model: HookedModel) -> Int[Tensor, "document pos"]:
    """The first tokens of documents that are long enough, and one more, which the last of them predicts."""
    texts = [model.tokens([text], beginning="document").ids[0] for text in interp.organism.corpus(300, seed=5)]
    long = [ids[: LENGTH + 1] for ids in texts if len(ids) > LENGTH and (ids[1 : LENGTH + 1] != ids[0]).all()]
    return torch.stack(long[:DOCUMENTS])


def autoencoder(model: HookedModel) -> SparseAutoencoder:
    """Random rows that encode and decode, about a bias of its own."""
    draw = torch.Generator().manual_seed(0)
    width = model.reference.d_model
    rows = normalize(torch.randn(LATENTS, width, generator=draw), dim=1)
    bias = 0.3 * torch.randn(width, generator=draw)
    place = (SiteColumns(site=SITE, model=model.reference, width=width),)
    return SparseAutoencoder(rows, -rows @ bias, rows, bias, TopK(k=K), place, place)


def absorbing(seed: int) -> tuple[Float[Tensor, "row d_in"], SparseAutoencoder, Float[Tensor, "d_in"], Tensor]:
    """Activations with a concept, an autoencoder whose children have part of it, a probe, and the concept's latents."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.linalg.qr(torch.randn(64, 60, generator=draw)).Q.T  # the concept, 19 children, 40 others
    codes = (torch.rand(200, 60, generator=draw) < 0.04) * (0.2 + 1.5 * torch.rand(200, 60, generator=draw))
    codes[:, 0] = 1 + torch.rand(200, generator=draw)
    encoder, rows = features.clone(), features.clone()
    encoder[0] -= 5 * features[1:20].sum(0)  # silent beside a child
    rows[1:20] = normalize(features[1:20] + features[0], dim=1)
    probe = features[0] + 0.3 * torch.randn(64, generator=draw) / 8
    place = (SiteColumns(site="resid_post.0", model=interp.load("organism").reference, width=64),)
    sae = SparseAutoencoder(encoder, torch.zeros(60), rows, torch.zeros(64), TopK(k=8), place, place)
    return codes @ features, sae, probe, torch.tensor([0])


def main() -> None:
    """Write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    absent = ("", ".saes.sae", ".training.activations_store", ".loading.pretrained_saes_directory")
    parts = {f"sae_lens{name}".rsplit(".", n)[0] for name in absent for n in (0, 1)}
    for name in (
        *parts,
        "xgboost",
        "sae_bench.sae_bench_utils.sae_selection_utils",
        "sae_probes.generate_sae_activations",
    ):
        sys.modules.setdefault(name, _Absent(name))
    # TransformerLens 4 has these no more, or elsewhere; only annotations name them.
    vars(importlib.import_module("transformer_lens"))["HookedTransformer"] = object
    vars(importlib.import_module("transformer_lens.hook_points"))["HookedRootModule"] = object
    write_json(args.json, {"probing": _probing(), "core": _core(), "absorption": _absorption()})


def _probing() -> list[dict[str, Any]]:
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
    return figures


def _as_theirs(sae: SparseAutoencoder, layer: int) -> Any:
    """An autoencoder as SAEBench's own class."""
    topk = importlib.import_module("sae_bench.custom_saes.topk_sae")
    theirs = topk.TopKSAE(
        sae.d_in, sae.d_sae, sae.nonlinearity.k, "organism", layer, torch.device("cpu"), torch.float32
    )
    with torch.no_grad():
        theirs.W_enc.copy_(sae.W_enc.T)
        theirs.W_dec.copy_(sae.W_dec)
        theirs.b_dec.copy_(sae.b_dec)
        theirs.b_enc.copy_(sae.b_enc + sae.W_enc @ sae.b_dec)  # it subtracts b_dec first
    return theirs


def _core() -> dict[str, float]:
    core = importlib.import_module("sae_bench.evals.core.main")
    model = interp.load("organism")
    ids = documents(model)[:, :LENGTH]
    batches = SimpleNamespace(
        get_batch_tokens=lambda count: ids,
        reset_input_dataset=lambda: None,
        context_size=LENGTH,
        store_batch_size_prompts=len(ids),
    )
    options = core.CoreEvalConfig(
        n_eval_reconstruction_batches=1,
        n_eval_sparsity_variance_batches=1,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
    )
    sae = _as_theirs(autoencoder(model), LAYER)
    metrics, _ = core.run_evals(sae, batches, model.bridge, options, ignore_tokens={int(ids[0, 0])})
    return {key: value for part in metrics.values() for key, value in part.items()}


def _absorption() -> list[dict[str, Any]]:
    module = importlib.import_module("sae_bench.evals.absorption.feature_absorption_calculator")
    figures = []
    for seed in range(3):
        x, sae, probe, main = absorbing(seed)

        def run_with_cache(
            prompts: list[str], names_filter: list[str], x: Tensor = x
        ) -> tuple[None, dict[str, Tensor]]:
            return None, {names_filter[0]: x[[int(one) for one in prompts]][:, None]}

        reader = SimpleNamespace(run_with_cache=run_with_cache, to_tokens=lambda text: [[0]])
        calculator = module.FeatureAbsorptionCalculator(
            reader,
            [],
            base_template="{word}",
            answer_formatter=str,
            word_token_pos=0,
            example_separator="",
            prepend_separator_to_first_example=False,
        )
        words = [str(number) for number in range(len(x))]
        found = calculator.calculate_absorption(_as_theirs(sae, 0), words, probe, main.tolist(), 0, show_progress=False)
        rows = [row.is_full_absorption for row in found.word_results]
        figures.append({"seed": seed, "absorbed": [number for number, row in enumerate(rows) if row]})
    return figures


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
