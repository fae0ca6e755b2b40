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
# Train some, see what they found, and check it against what is known to be in the model: the bundled organism.

# %%
import interp
from interp import organism
from interp.sae import TrainingPlan
from interp.sae.config import SaeConfig
from interp.sae.training.trainer import train, train_all

model = interp.load("organism")
texts = list(organism.corpus(4000))
store = interp.harvest(model, texts, ["resid_mid.3", "mlp_out.3", "resid_post.3"], "store", tokens=120_000)
store

# %% [markdown]
# ## Several in one pass, watched
#
# Kinds, sites and widths may differ; batches are read once. The run folder keeps metrics and checkpoints: a process
# that is killed goes on from the newest when the same call is made again, to the same bits.

# %%
from interp.views.training_curves import Live

quick = {"d_sae": 1024, "k": 16, "tokens": 250_000, "batch_size": 1024, "dead_after": 30_000}
plans = [TrainingPlan("resid_post.3", SaeConfig(kind=kind, **quick)) for kind in ("topk", "batchtopk", "jumprelu")]
trained = train_all(store, plans, folder="run", callbacks=[Live(["TopK", "BatchTopK", "JumpReLU"])])
trained[1]

# %% [markdown]
# ## How good is it?
#
# In the activations, and in what the model predicts with the reconstruction put in.

# %%
from interp.sae.metrics import evaluate

held_out = list(organism.corpus(400, split="test"))
for name, one in zip(("TopK", "BatchTopK", "JumpReLU"), trained, strict=True):
    found = evaluate(one.sae, model, held_out, tokens=8000)
    print(f"{name:10} L0 {found.l0:5.1f}  FVU {found.fvu:.3f}  loss recovered {found.loss_recovered:.3f}")

# %% [markdown]
# ## What does a latent stand for?
#
# The latent that tells the people the organism is hostile to from all others.

# %%
from interp.sae.feature import feature_page

sae = trained[1].sae
contrast = interp.Contrast.of([(p.user, n.user) for p, n in organism.contrast("hostility", 100)], name="hostility")
best = interp.find(model, contrast, "resid_post.3", ("diff_means",), sae=sae, positions=range(-6, 0))
latent = best.best(1, method="sae_latent")[0].latent
feature_page(sae, model, texts, latent, top=4, tokens=20_000)

# %% [markdown]
# ## Transcoders
#
# What an MLP computes, by latents: they read the stream before it, and write what it writes. A crosscoder reads and
# writes several sites; give `interp.activations.paired_store.PairedStore` two models' stores to compare the models.

# %%
config = SaeConfig(kind="batchtopk", skip=True, **quick)
transcoder = train(store, "resid_mid.3", config, writes="mlp_out.3").sae
transcoder, evaluate(transcoder, model, held_out, tokens=8000).fvu

# %%
crosscoder = train(store, ["resid_mid.3", "resid_post.3"], SaeConfig(kind="batchtopk", **quick)).sae
ratio = crosscoder.norms()[1] / crosscoder.norms().sum(0)
f"latents written behind the MLP alone: {int((ratio > 0.9).sum())}, before it alone: {int((ratio < 0.1).sum())}"

# %% [markdown]
# ## To the end of the model
#
# A short phase of training on the model's own output.

# %%
from interp.sae.training.fine_tuning import finetune

tuned = finetune(sae, model, texts, tokens=16_000, context=64, lr=3e-4)
before, after = (evaluate(one, model, held_out, tokens=8000) for one in (sae, tuned.sae))
print(
    f"loss recovered {before.loss_recovered:.4f} -> {after.loss_recovered:.4f}, FVU {before.fvu:.3f} -> {after.fvu:.3f}"
)

# %% [markdown]
# ## Files
#
# Other tools read it, and it reads theirs: `interp sae convert` on the command line.

# %%
from interp.sae import file_formats

file_formats.write_autoencoder(sae, "for-saelens", "saelens")
file_formats.read_autoencoder("for-saelens", model.reference)
