"""SAE features in weights: how near each form that folds comes to ablating the latent itself.

    python experiments/feature_folds.py [--smoke] [--only organism|smollm2] [--out docs/results/features.md]
                                        [--json FILE]

On the organism an autoencoder of what the MLP of the middle block writes and one of the stream behind it, and a
transcoder of that MLP of either kind of latent (plain ReLU, and with thresholds), are trained; on SmolLM2-135M-Instruct
the autoencoder of experiments/benchmarks/sae_smollm2.py is taken, of the stream in the middle. Of each, the latents are
looked at that fire on about a tenth, a half and a hundredth of the tokens. SmolLM2's part needs its checkpoint, the
autoencoder and ../shared/data, and is left out without.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

import interp
from interp import organism
from interp.activations.harvester import harvest
from interp.activations.token_rows import pack_rows
from interp.data.corpora import texts
from interp.editing.approximate.affine_features import affine_fit, as_projection
from interp.editing.approximate.fidelity import Fidelity, measure_fidelity
from interp.editing.fold.stream_sites import STREAM
from interp.editing.fold.transcoder_neurons import Neurons
from interp.editing.options import FoldOptions
from interp.interventions import Clamp, Suppress
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae import TrainingPlan
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.training.trainer import train_all

HERE = Path(__file__).parent
MODEL = HERE / ".cache" / "smollm2-135m-instruct"
CODER = HERE / ".cache" / "sae-smollm2" / "SAELens-batchtopk"
TEXT = HERE.parents[1] / "shared" / "data" / "text_corpus" / "*.jsonl"
WANTED = (0.1, 0.5, 0.01)
CHOICES = FoldOptions(approximate=True)
Form = tuple[str, str, Fidelity]
HEAD = """# SAE features in weights

Written by `python experiments/feature_folds.py --out docs/results/features.md`.

Ablating a latent, x - f(x) d, is not affine and has no fold. What can be folded in its place (`interp.editing`):

- *projection* (`as_projection`): d is projected out of every writer, whether the latent fires or not. Folds exactly.
- *affine fit* (`affine_fit`): the affine map nearest to the ablation at its site, by least squares on text. Folds
  exactly at writers (mlp_out, attn_out) that have a bias or can have one; does not fold at a site of the stream.
- *at_writer*: for a site of the stream, the same fit as a function of what the preceding MLP writes, applied to that
  write. Folds exactly.
- *neurons* (`Suppress`): a transcoder's latent as a SwiGLU neuron of the MLP whose input it reads, within 0.279 |d| /
  sharpness of every write on every input (sharpness 256 here). A latent with a threshold takes two neurons, which
  next to the threshold differ from it by up to half its height, because the latent jumps there and neurons cannot.
  Rounding to the saved type adds an error in proportion to what is read: the plan reports it, and refuses thresholds
  in 16 bits, where nothing of them would remain. The transcoder has to read `mlp_input` and write `mlp_out` of one
  layer, in a model with a gate and biases: Llama, SmolLM3, Granite, Seed-OSS, and, under the Llama class (`rehost`),
  Qwen2 and Mistral.

All but the neurons are different edits from the ablation, and the table measures how near they come. Latents of a
top-k transcoder compete with each other, which independent neurons cannot reproduce: such transcoders are refused.

- *fires*: the share of tokens on which the latent fires.
- *explained*: the share of the variance of the ablation's change, at its site, that the form reproduces on held-out
  text. Below 0, the form is further off than the same constant change on every token. For neurons: the share of what
  the MLP writes.
- *effect*: KL(plain || ablated) of the next token, in nats per token. *off*: KL(ablated || form) over that effect: 0
  is the ablation, 1 is as far from it as no edit. Measured in the exported checkpoint for neurons, with hooks for the
  rest.

"""
READING = """
What the table shows:

- A projection is not an ablation of a latent: it removes what every token has along d, and is much further from the
  ablation than no edit.
- The affine fit comes near the ablation at the output of an MLP, where it folds. At a site of the stream it may come
  as near, but does not fold. The form that does fold there, a function of what the last MLP wrote, does not have
  enough information about the latent.
- Neurons are the ablation, within their bound.

To remove one feature from the weights and nothing else, look for it with a transcoder of an MLP, or with an
autoencoder of what an MLP writes. Ablate features of the stream with hooks.

Ops also act on first tokens, which are attention sinks, while fits and *explained* leave them out. SmolLM2's residual
stream has a norm of about 25,000 on a first token and 170 on others, and all three latents here fire on first tokens,
at 379, 638 and 27. Their *effect* and *off* are mostly due to those tokens and say little about the feature.
"""


@dataclass(frozen=True)
class Sizes:
    """How much of everything; `latents` of each autoencoder."""

    harvested: int
    trained: int
    d_sae: int
    fitted: int
    latents: int


FULL, SMOKE = Sizes(100_000, 500_000, 512, 16_000, 3), Sizes(4_000, 16_384, 64, 2_000, 1)
SMOLLM2, SMOLLM2_SMOKE = Sizes(0, 0, 0, 6_000, 3), Sizes(0, 0, 0, 1_600, 1)


@dataclass(frozen=True)
class Row:
    """A form in place of a latent's ablation. `explained` is None where it was not measured."""

    model: str
    coder: str
    latent: int
    fires: float
    form: str
    folds: str
    explained: float
    kl: float
    effect: float

    @property
    def off(self) -> float:
        """Distance from the ablation over its own effect."""
        return self.kl / self.effect


def coders(model: HookedModel, sizes: Sizes) -> dict[str, SparseAutoencoder]:
    """The organism's, by name, all trained in one pass over one store."""
    layer = model.n_layers // 2
    reads, writes, stream = f"mlp_input.{layer}", f"mlp_out.{layer}", f"resid_post.{layer}"
    settings = {"d_sae": sizes.d_sae, "k": 16, "tokens": sizes.trained, "batch_size": min(4096, sizes.harvested // 2)}
    batch, relu = (SaeConfig(kind=kind, **settings) for kind in ("batchtopk", "standard"))
    plans = {
        f"autoencoder of {writes}": TrainingPlan(writes, batch),
        f"autoencoder of {stream}": TrainingPlan(stream, batch),
        f"transcoder {reads} to {writes}": TrainingPlan(reads, relu, writes),
        f"transcoder {reads} to {writes}, with thresholds": TrainingPlan(reads, batch, writes),
    }
    with tempfile.TemporaryDirectory() as scratch:
        corpus = organism.corpus(sizes.harvested // 20, seed=0)
        store = harvest(model, corpus, [reads, writes, stream], Path(scratch) / "store", tokens=sizes.harvested)
        trained = train_all(store, list(plans.values()))
    return {name: each.sae for name, each in zip(plans, trained, strict=True)}


def by_density(
    model: HookedModel, sae: SparseAutoencoder, documents: Sequence[str], tokens: int, count: int
) -> list[tuple[int, float]]:
    """For each of some densities, the latent whose own is nearest, and that."""
    packed, site = pack_rows(model, documents, 128, tokens), Site.parse(sae.reads[0].site)
    fired, total = torch.zeros(sae.d_sae), 0
    for batch in packed.batches(8):
        x = model.forward_to([site], batch.model_inputs(model.device))[site][batch.inner]
        code = sae.encode_sparse(x)
        fired += torch.bincount(code.latents[code.values > 0], minlength=sae.d_sae)
        total += len(x)
    share, chosen = fired / total, list[tuple[int, float]]()
    for density in WANTED[:count]:
        off = (share.clamp(min=1e-9).log() - torch.tensor(density).log()).abs()
        off[[latent for latent, _ in chosen]] = torch.inf
        latent = int(off.argmin())
        chosen.append((latent, float(share[latent])))
    return chosen


def forms(
    model: HookedModel, sae: SparseAutoencoder, latent: int, documents: Sequence[str], tokens: int
) -> Iterator[Form]:
    """Each form that folds in place of an autoencoder's latent, with how it folds and its fidelity."""
    recipe, held = Recipe([(str(sae.site), Clamp(sae, latent))]), documents[::4]
    yield "projection", "exactly", measure_fidelity(model, recipe, as_projection(sae, latent), held, tokens=tokens // 4)
    ways = {"affine fit": False} | ({"affine fit, at_writer": True} if sae.site.kind in STREAM else {})
    for name, at_writer in ways.items():
        fitted = affine_fit(model, recipe, documents, tokens=tokens, at_writer=at_writer)
        yield name, "exactly" if fitted.exports else "no", fitted.fidelity


def grafted(
    model: HookedModel, sae: SparseAutoencoder, latent: int, documents: Sequence[str], tokens: int
) -> Iterator[Form]:
    """A transcoder's latent as neurons, measured in the exported checkpoint."""
    recipe = Recipe([(sae.writes[0].site, Suppress(sae, latent))])
    neurons = Neurons.of(recipe.edits[0].op, CHOICES.sharpness)
    with tempfile.TemporaryDirectory() as scratch:
        interp.export(recipe, model, Path(scratch) / "out", fold=CHOICES)
        near = measure_fidelity(model, recipe, interp.load(Path(scratch) / "out"), documents[::4], tokens=tokens // 4)
    count, away = len(neurons.gate), float(neurons.thresholds[0]) / 10
    within = f"within {neurons.bound(away):.1g}" + (f", {away:.2g} from the threshold" if away else "")
    yield f"{count} neuron{'s' * (count > 1)}", within, near


def measured(
    name: str, model: HookedModel, saes: dict[str, SparseAutoencoder], documents: Sequence[str], sizes: Sizes
) -> Iterator[Row]:
    """A model's rows."""
    for coder, sae in saes.items():
        way = grafted if sae.reads != sae.writes else forms
        for latent, fires in by_density(model, sae, documents, sizes.fitted, sizes.latents):
            for form, folds, near in way(model, sae, latent, documents, sizes.fitted):
                yield Row(name, coder, latent, fires, form, folds, near.explained, near.kl, near.effect_kl)


def table(rows_: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "| model, coder | latent | fires | form | folds | explained | effect | off |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows_:
        figures = f"{row.explained:.1%} | {row.effect:.1e} | {row.off:.2g}"
        where = f"{row.model}, {row.coder} | {row.latent} | {row.fires:.1%}"
        lines.append(f"| {where} | {row.form} | {row.folds} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="few of everything")
    parser.add_argument("--only", choices=("organism", "smollm2"), help="one model's part")
    parser.add_argument("--out", type=Path, help="write the document here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    console, rows = Console(width=200), list[Row]()
    if options.only != "smollm2":
        model, sizes = interp.load("organism"), SMOKE if options.smoke else FULL
        held = list(organism.corpus(max(400, sizes.fitted // 20), split="test", seed=1))
        rows += measured("organism", model, coders(model, sizes), held, sizes)
    if options.only != "organism" and MODEL.exists() and CODER.exists() and TEXT.parent.exists():
        sizes = SMOLLM2_SMOKE if options.smoke else SMOLLM2
        documents = list(islice(texts(str(TEXT)), 200))
        coder = {"autoencoder of resid_post.15": SparseAutoencoder.load(CODER)}
        rows += measured("SmolLM2-135M-Instruct", interp.load(MODEL), coder, documents, sizes)
    elif options.only != "organism":
        console.print(f"left out: SmolLM2's part, which needs {MODEL.name}, {CODER.name} and ../shared/data")
    console.print(table(rows), soft_wrap=True, markup=False)
    if options.out:
        options.out.write_text(HEAD + table(rows) + READING)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) | {"off": row.off} for row in rows], indent=1))


if __name__ == "__main__":
    main()
