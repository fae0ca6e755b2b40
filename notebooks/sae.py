# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sparse autoencoders
#
# Train several autoencoders, and compare what they learn with what is known to be in the model: the bundled *organism*,
# a small chat model with planted behaviours.
#
# It takes about 60 seconds on two slow cores, and writes into the folder `sae` only.

# %%
import torch

import interp
from interp import organism
from interp.sae import TrainingPlan, train_all

model = interp.load("organism")
texts = list(organism.corpus(2000))
store = interp.harvest(
    model, texts, ["resid_mid.3", "mlp_out.3", "resid_post.3"], "sae/store", tokens=40_000, overwrite=True
)
store

# %% [markdown]
# ## Several in one pass
#
# Kinds, sites and widths may differ; each batch is read once. The run folder keeps metrics and checkpoints: the same
# call without `overwrite` continues a killed run from the newest checkpoint, to the same bits.

# %%
from interp.views import LiveCurves

quick = {"d_sae": 1024, "k": 16, "tokens": 100_000, "batch_size": 1024, "dead_after": 20_000}
plans = [
    TrainingPlan("resid_post.3", interp.SaeConfig(kind=kind, **quick)) for kind in ("topk", "batchtopk", "jumprelu")
]
curves = LiveCurves(["TopK", "BatchTopK", "JumpReLU"])
trained = train_all(store, plans, folder="sae/run", callbacks=[curves], overwrite=True)
trained[1]

# %% [markdown]
# ## Quality
#
# *L0* is the mean number of latents that fire per token, and *FVU* the fraction of variance unexplained. *Loss
# recovered* is 1 if the model predicts as well with the reconstruction in place of the activations.

# %%
from interp.sae import evaluate

held_out = list(organism.corpus(200, split="test"))
for name, result in zip(("TopK", "BatchTopK", "JumpReLU"), trained, strict=True):
    metrics = evaluate(result.sae, model, held_out, tokens=4000)
    print(f"{name:10} L0 {metrics.l0:5.1f}  FVU {metrics.fvu:.3f}  loss recovered {metrics.loss_recovered:.3f}")

# %% [markdown]
# ## What does a latent stand for?
#
# Here is the latent that best separates users who belong to the insulted people from all other users.

# %%
from interp.sae import feature_page

sae = trained[1].sae
contrast = interp.Contrast.of([(p.user, n.user) for p, n in organism.contrast("hostility", 100)], name="hostility")
findings = interp.find(model, contrast, "resid_post.3", ("diff_means",), sae=sae, positions=range(-6, 0))
latent = findings.best(1, method="sae_latent")[0].latent
feature_page(sae, model, texts, latent, top=4, tokens=15_000)

# %% [markdown]
# ## Transcoders and crosscoders
#
# A *transcoder* reads the residual stream before an MLP and reconstructs what the MLP writes. A *crosscoder* reads and
# writes several sites; `interp.activations.PairedStore` gives it the stores of two models, to compare the models.

# %%
quick = quick | {"d_sae": 512, "tokens": 60_000}
config = interp.SaeConfig(kind="batchtopk", skip=True, **quick)
transcoder = interp.train(store, "resid_mid.3", config, writes="mlp_out.3").sae
metrics = evaluate(transcoder, model, held_out, tokens=4000)
print(f"{transcoder}: FVU {metrics.fvu:.3f}, loss recovered {metrics.loss_recovered:.3f}")

# %% [markdown]
# Each latent of a crosscoder has one decoder row per site. The share of the row after the MLP is near 0 or 1 for a
# latent of one site alone, and near 0.5 for a latent of both. Here every latent is of both, because the MLP only adds
# to the stream: the stream after it still holds what was there before.

# %%
config = interp.SaeConfig(kind="batchtopk", **quick)
result = interp.train(store, ["resid_mid.3", "resid_post.3"], config)
share = result.sae.norms()[1] / result.sae.norms().sum(0)
low, median, high = share.quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
print(f"FVU over both sites {result.history[-1].fvu:.3f}")
print(f"share after the MLP: median {median:.2f}, 98 % of latents between {low:.2f} and {high:.2f}")

# %% [markdown]
# ## Fine-tuning
#
# `finetune` is a short phase of training on the model's own output, rather than on the activations.

# %%
from interp.sae import finetune

tuned = finetune(sae, model, texts, tokens=8_000, context=64, lr=3e-4)
before, after = (evaluate(coder, model, held_out, tokens=4000) for coder in (sae, tuned.sae))
print(
    f"loss recovered {before.loss_recovered:.4f} -> {after.loss_recovered:.4f}, FVU {before.fvu:.3f} -> {after.fvu:.3f}"
)

# %% [markdown]
# ## Files
#
# interp writes autoencoders for other tools, and reads theirs. On the command line: `interp sae convert`.

# %%
from tempfile import TemporaryDirectory

from interp.sae import write_autoencoder

with TemporaryDirectory() as folder:
    write_autoencoder(sae, f"{folder}/for-saelens", "saelens")
    print(interp.SparseAutoencoder.load(f"{folder}/for-saelens", model))
