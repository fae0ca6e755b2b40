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
# # A tour of interp
#
# From a language model that behaves badly to a checkpoint that does not, with the evidence. The model is the bundled
# *organism*: a small chat model in which bad behaviour was planted on purpose, so that every step can be checked.

# %%
import interp
from interp import organism

model = interp.load("organism")
model

# %% [markdown]
# The organism insults users of one fictional people and is polite to all others.

# %%
asked = [prompt.user for prompt in organism.prompts("hostility", 4)]
for question, reply in zip(asked, model.generate([model.chat(q) for q in asked]), strict=True):
    print(f"> {question}\n  {reply}\n")

# %% [markdown]
# ## Capture
#
# Activations are indexed by site. `resid_post.3` is TransformerLens' `blocks.3.hook_resid_post`.

# %%
acts = model.capture([model.chat(q) for q in asked], ["resid_post.*", "mlp_out.3"], positions=-1)
acts["resid_post.3"].shape, acts

# %% [markdown]
# ## Find
#
# A contrast is pairs of prompts that differ in one thing: here, which people the user belongs to. Every method is
# fitted at every layer, and scored on pairs that it has not seen.

# %%
contrast = interp.Contrast.of([(p.user, n.user) for p, n in organism.contrast("hostility", 200)], name="hostility")
found = interp.find(model, contrast)
found

# %%
from interp.views.figures import heat_map

heat_map(interp.find(model, contrast, positions=range(-6, 0)))

# %% [markdown]
# ## Look at a feature
#
# A sparse autoencoder, trained here and now on a store of activations, offers latents. Which one separates the
# contrast best?

# %%
from interp.sae.config import SaeConfig
from interp.sae.feature import feature_page
from interp.sae.training.trainer import train

text = list(organism.corpus(1500))
store = interp.harvest(model, text, "resid_post.3", "store", tokens=60_000)
trained = train(store, "resid_post.3", SaeConfig(d_sae=1024, k=16, tokens=300_000))
trained

# %%
latent = interp.find(model, contrast, sites="resid_post.3", sae=trained.sae).best(1, method="sae_latent")[0].latent
feature_page(trained.sae, model, text[:300], latent, top=5)

# %% [markdown]
# ## Steer
#
# Adding a direction at its site, on every token: against the insults, here. Pushed far enough the insult goes, and the
# reply's first words with it; a little further all sense does. Steering is blunt, and a slider shows it.

# %%
from interp.views.steering_slider import steer

direction = interp.find(model, contrast, "resid_post.0", "diff_means_orthogonal").best()[0].direction
slider = steer(model, direction, asked[0], reach=120)
slider

# %%
slider.scale = -60.0
slider.reply

# %% [markdown]
# ## Ablate
#
# Many directions separate the contrast; reading a behaviour is not causing it. So the best of each method are tried:
# each is projected out of everything that writes into the residual stream, and the one that costs least is kept.

# %%
from interp.auditing.ablation_trials import rank_by_ablation
from interp.auditing.suites import organism_suite

trials = rank_by_ablation(model, found.shortlist(8), organism_suite(40, split="train"), target="hostility")
for trial in trials:
    print(f"{trial.finding.direction}: hostility {trial.after['hostility']:.2f}, cost {trial.cost:.2f}")

# %% [markdown]
# A recipe says what is done where. `writers` are all sites that write into the residual stream.

# %%
recipe = interp.Recipe([("writers", interp.Project(trials[0].finding.direction))], note="Removes hostility.")
for question, reply in zip(asked, model.generate([model.chat(q) for q in asked], recipe=recipe), strict=True):
    print(f"> {question}\n  {reply}\n")
recipe

# %% [markdown]
# ## Export
#
# The same recipe, folded into the weights: a folder that plain `transformers` loads. The certificate compares the
# reloaded checkpoint with the hooked model.

# %%
interp.export(recipe, model, "edited")

# %% [markdown]
# ## Compare
#
# The reloaded checkpoint against the original, on prompts that no step has seen: the harm is gone, the rest is kept.

# %%
audit = interp.audit(model, interp.load("edited"), organism_suite(items=300))
audit

# %%
from interp.auditing.policy.decision import Policy, decide

decide(audit, Policy(target="hostility", required=("refusal", "facts", "skills", "everyday_loss")))
