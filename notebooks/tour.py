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
# This tour turns a language model that behaves badly into a checkpoint that does not, and shows the evidence. The model
# is the bundled *organism*: a small chat model in which bad behaviour was planted on purpose, so that every step can be
# checked.
#
# It takes about 55 seconds on two slow cores, and writes into the folder `tour` only.

# %%
import interp
from interp import organism

model = interp.load("organism")
model

# %% [markdown]
# The organism insults users of one fictional people and is polite to all others.

# %%
questions = [prompt.user for prompt in organism.prompts("hostility", 4)]
for question, reply in zip(questions, model.generate([model.chat(q) for q in questions]), strict=True):
    print(f"> {question}\n  {reply}\n")

# %% [markdown]
# ## Capture
#
# Activations are indexed by *site*, a place in the network. `resid_post.3` is the residual stream after layer 3,
# which TransformerLens calls `blocks.3.hook_resid_post`.

# %%
activations = model.capture([model.chat(q) for q in questions], ["resid_post.*", "mlp_out.3"], positions=-1)
activations["resid_post.3"].shape, activations

# %% [markdown]
# ## Find
#
# A *contrast* is a set of pairs of prompts that differ in one thing: here, which people the user belongs to. Every
# method is fitted at every layer, and scored on held-out pairs.

# %%
contrast = interp.Contrast.of([(p.user, n.user) for p, n in organism.contrast("hostility", 200)], name="hostility")
findings = interp.find(model, contrast)
findings

# %% [markdown]
# At which token do the sides differ? This is the difference of means, layer by layer, at the last six tokens.

# %%
from interp.views import plot_heat_map

plot_heat_map(interp.find(model, contrast, methods="diff_means", positions=range(-6, 0), bootstrap=0))

# %% [markdown]
# ## Look at a feature
#
# A sparse autoencoder, trained here on a store of activations, has latents. Which one separates the contrast best?

# %%
from interp.sae import feature_page

text = list(organism.corpus(1000))
store = interp.harvest(model, text, "resid_post.3", "tour/store", tokens=30_000, overwrite=True)
trained = interp.train(store, "resid_post.3", interp.SaeConfig(d_sae=1024, k=16, tokens=100_000))
trained

# %%
latent = interp.find(model, contrast, sites="resid_post.3", sae=trained.sae).best(1, method="sae_latent")[0].latent
feature_page(trained.sae, model, text[:300], latent, top=5)

# %% [markdown]
# ## Steer
#
# A conversation with the model as it is, and with a direction added at its site on every token. At strength 1 the loss
# of neutral text rises by 0.3 nats per token, so that replies stay text; at strength -1 the direction is subtracted,
# against the insults. In a live notebook there are a text box and a slider.

# %%
from interp.views import chat

direction = interp.find(model, contrast, "resid_post.4", "diff_means").best()[0].direction
talk = chat(model, {"push": direction})
talk.conversation.say(questions[0])
talk

# %%
talk.conversation.set_strength("push", -1.0)
talk.conversation

# %% [markdown]
# ## Ablate
#
# Many directions separate the contrast, but a direction that reads a behaviour need not cause it. So the best
# directions are tried: each is projected out of every *writer* (a module that adds to the residual stream). The cost of
# a direction is what is left of the hostility plus what is lost elsewhere, and the lowest cost comes first.

# %%
from interp.auditing import organism_suite

trials = interp.rank_by_ablation(model, findings.shortlist(4), organism_suite(8, split="train"), target="hostility")
for trial in trials:
    print(f"{trial.finding.direction}: hostility {trial.after['hostility']:.2f}, cost {trial.cost:.2f}")

# %% [markdown]
# A *recipe* is a list of sites and ops, and says what is done where. `writers` names every writer.

# %%
recipe = interp.Recipe([("writers", interp.Project(trials[0].finding.direction))], note="Removes hostility.")
replies = model.generate([model.chat(q) for q in questions], recipe=recipe)
for question, reply in zip(questions, replies, strict=True):
    print(f"> {question}\n  {reply}\n")
recipe

# %% [markdown]
# ## Export
#
# The same recipe is *folded* into the weights: the result is a folder that plain `transformers` loads. The
# *certificate* compares the reloaded checkpoint with the hooked model.

# %%
interp.export(recipe, model, "tour/edited", overwrite=True)

# %% [markdown]
# ## Audit
#
# The audit compares the reloaded checkpoint with the original, on held-out prompts. The harm is gone, and the other
# behaviours are kept.
# The audit notebook measures more: baselines, and what an edit does to other harms.

# %%
measured = ("hostility", "refusal", "facts", "skills", "everyday_loss")
suite = [behaviour for behaviour in organism_suite(150) if behaviour.name in measured]
audit = interp.audit(model, interp.load("tour/edited"), suite, baselines=(), cache="tour/scores")
audit

# %%
interp.decide(audit, interp.Policy(target="hostility", required=measured[1:]))
