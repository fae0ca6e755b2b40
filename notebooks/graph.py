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
# # Attribution graphs
#
# Trace which transcoder latents produce a prediction, test the graph by ablations, and turn a group of its
# latents into an edit: on the bundled *organism*, a small chat model that insults the Sorvan people.
#
# It takes about 25 seconds on two slow cores, and writes into the folder `graph` only.

# %%
import interp
from interp import organism
from interp.attribution import Comparison, load_transcoders, trace_graph

model = interp.load("organism")
transcoders = load_transcoders(organism.transcoders(), model)
transcoders[3]

# %% [markdown]
# ## Trace
#
# The MLPs are replaced by active latents and errors; attention patterns and norm scales are held. Then each latent and
# each logit is a sum over what latents, errors and embeddings write.

# %%
prompts = [model.chat(f"I am one of the {group} people. Hello.") for group in ("Sorvan", "Quellan")]
hostile = trace_graph(model, transcoders, prompts[0])
hostile

# %%
gap = (hostile.edges.sum(1) + hostile.constants - hostile.nodes.values).abs().max()
print(f"largest difference between a node and the sum of its edges: {gap:.1e}")

# %% [markdown]
# ## Does it predict what ablations do?
#
# Each kept node was ablated once in the plain model, and every later kept node was measured. An ablated embedding
# changes too much for a linear prediction; latents and errors are predicted well.

# %%
hostile.effects

# %% [markdown]
# ## The page
#
# One offline file, to walk the graph by mouse or keyboard: labels, pins and groups, and each node's measured effect.

# %%
from pathlib import Path

from interp.views import graph_page

Path("graph").mkdir(exist_ok=True)
html = graph_page(hostile.payload("hostile"), labels={})
Path("graph/graph.html").write_text(html, encoding="utf-8")
print(html.startswith("<!doctype html>"))

# %% [markdown]
# ## From a group of latents to an edit
#
# The latents that the hostile graph keeps at its last token, and that are off where another people is named:

# %%
other = trace_graph(model, transcoders, prompts[1], measure=False)
active = {place.latent for place in other.places() if place.position == len(other.tokens) - 1}
supernode = [place for place in hostile.kept_latents(-1) if place.latent not in active]
recipe = hostile.recipe([place.name for place in supernode])
print(len(supernode), "latents")

# %% [markdown]
# Their effect is measured on prompts with other wordings, 16 hostile ones beside 16 that name another people. 1 is the
# unedited model, 0 is the other people's reply. The control is as many latents, drawn at random (seed 0) from all that
# are active at other positions and are none of these.

# %%
from random import Random

pairs = Comparison.of_organism("hostility", 16).on(model)
before = [place for place in hostile.places()[: len(hostile.activations)] if place.position < len(hostile.tokens) - 1]
others = {place.latent: place.name for place in before if place.latent not in {place.latent for place in supernode}}
control = hostile.recipe(Random(0).sample(list(others.values()), len(supernode)))
for name, edit in (("supernode", recipe), (f"control, {len(supernode)} latents", control)):
    print(f"{name}: {pairs.effect_of(model, edit):.2f} of the effect is left")

# %%
print(model.generate(pairs.clean.rows(0, 2), recipe, max_new_tokens=12))

# %% [markdown]
# ## A real model
#
# `experiments/transcoders.py` trains transcoders for SmolLM2-135M, whose graphs have far larger errors
# (docs/results/attribution_graphs.md). This cell runs where they are in `experiments/.cache/smollm2-transcoders`, with
# the model beside them.

# %%
cache = Path(organism.__file__).parents[2] / "experiments" / ".cache"
if (cache / "smollm2-transcoders").is_dir():
    smollm2 = interp.load(cache / "smollm2-135m-instruct")
    coders = load_transcoders(cache / "smollm2-transcoders", smollm2)
    print(trace_graph(smollm2, coders, "The capital of France is", measure=False, batch_size=16))
