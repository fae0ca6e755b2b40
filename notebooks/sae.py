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

# %%
import interp
from interp import organism
from interp.sae import TrainingPlan, train_all

model = interp.load("organism")
texts = list(organism.corpus(2000))
store = interp.harvest(model, texts, ["resid_mid.3", "mlp_out.3", "resid_post.3"], "store", tokens=60_000)
store

# %% [markdown]
# ## Several in one pass
#
# Kinds, sites and widths may differ; each batch is read once. The run folder keeps metrics and checkpoints: the same
# call continues a killed run from the newest checkpoint, to the same bits.

# %%
from interp.views import LiveCurves

quick = {"d_sae": 1024, "k": 16, "tokens": 120_000, "batch_size": 1024, "dead_after": 20_000}
plans = [
    TrainingPlan("resid_post.3", interp.SaeConfig(kind=kind, **quick)) for kind in ("topk", "batchtopk", "jumprelu")
]
trained = train_all(store, plans, folder="run", callbacks=[LiveCurves(["TopK", "BatchTopK", "JumpReLU"])])
trained[1]

# %% [markdown]
# ## Quality
#
# *L0* is the number of latents that fire per token, *FVU* the fraction of variance unexplained. *Loss recovered* is 1
# if the model predicts as well with the reconstruction in place of the activations.

# %%
from interp.sae import evaluate

held_out = list(organism.corpus(200, split="test"))
for name, result in zip(("TopK", "BatchTopK", "JumpReLU"), trained, strict=True):
    metrics = evaluate(result.sae, model, held_out, tokens=4000)
    print(f"{name:10} L0 {metrics.l0:5.1f}  FVU {metrics.fvu:.3f}  loss recovered {metrics.loss_recovered:.3f}")

# %% [markdown]
# ## What does a latent stand for?
#
# The latent that best separates users of the people that the organism insults from all other users.

# %%
from interp.sae import feature_page

sae = trained[1].sae
contrast = interp.Contrast.of([(p.user, n.user) for p, n in organism.contrast("hostility", 100)], name="hostility")
findings = interp.find(model, contrast, "resid_post.3", ("diff_means",), sae=sae, positions=range(-6, 0))
latent = findings.best(1, method="sae_latent")[0].latent
feature_page(sae, model, texts, latent, top=4, tokens=20_000)

# %% [markdown]
# ## Transcoders and crosscoders
#
# A *transcoder* reads the residual stream before an MLP and reconstructs what the MLP writes. A *crosscoder* reads and
# writes several sites; `interp.activations.PairedStore` gives it the stores of two models, to compare the models.

# %%
config = interp.SaeConfig(kind="batchtopk", skip=True, **quick)
transcoder = interp.train(store, "resid_mid.3", config, writes="mlp_out.3").sae
transcoder, evaluate(transcoder, model, held_out, tokens=4000).fvu

# %%
config = interp.SaeConfig(kind="batchtopk", **quick)
crosscoder = interp.train(store, ["resid_mid.3", "resid_post.3"], config).sae
share = crosscoder.norms()[1] / crosscoder.norms().sum(0)
f"latents written only after the MLP: {int((share > 0.9).sum())}, only before it: {int((share < 0.1).sum())}"

# %% [markdown]
# ## Fine-tuning
#
# A short phase of training on the model's own output, rather than on the activations.

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
# Other tools read the autoencoder, and interp reads theirs. On the command line: `interp sae convert`.

# %%
from interp.sae import write_autoencoder

write_autoencoder(sae, "for-saelens", "saelens")
interp.SparseAutoencoder.load("for-saelens", model)
