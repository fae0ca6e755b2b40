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
# # Where a behaviour is computed
#
# The bundled *organism* insults users who name one fictional people, its region or a custom of it, and is polite to
# all others. This notebook finds where the name turns into the insult: what the layers predict, where the heads look,
# which activations carry the difference, how good fast estimates of that are, and what is left once the place is
# ablated.
#
# It takes about 20 seconds on two slow cores, and writes no files.

# %%
import interp
from interp import Recipe, Replace, organism
from interp.attribution import Comparison, Lens, attention_patterns, direct_attribution, patch
from interp.views import plot_attention, plot_lens, plot_patching

model = interp.load("organism")

# %% [markdown]
# ## A comparison
#
# Pairs of prompts that differ in the people only. The clean prompt shows the behaviour, the corrupt one does not. The
# metric is the logit of the token that the clean reply begins with, minus that of the corrupt reply, scaled so that the
# corrupt run has 0 and the clean run has 1.

# %%
pairs = Comparison.of_organism("hostility", 8).on(model)
prompt, other = (side.unpadded()[0] for side in (pairs.clean, pairs.corrupt))
print(model.to_string(prompt), model.to_string(other), sep="\n")
pairs

# %% [markdown]
# ## What each layer predicts
#
# The logit lens reads the residual stream after each layer as a prediction of the next token. At the last token, the
# insult leads after the first layer already.

# %%
reading = Lens().read(model, [prompt])
plot_lens(reading)

# %% [markdown]
# Direct logit attribution says which layers write the difference to the logits: MLPs. The analyses of TransformerLens'
# cache give the same terms for single heads. (`model.sites` caches all that the model's modules compute.)

# %%
answer, polite = int(pairs.answer[0]), int(pairs.wrong[0])
print(direct_attribution(model, [prompt], answer, polite).top(4))
_, cache = model.run_with_cache([prompt], model.sites)
heads, names = cache.stack_head_results(pos_slice=-1, return_labels=True)
terms = cache.logit_attrs(heads, answer, polite, pos_slice=-1)[:, 0]
for number in terms.abs().argsort(descending=True)[:4].tolist():
    print(f"{names[number]:5} {terms[number]:+.2f} nats")

# %% [markdown]
# No head writes much of the answer itself. But the MLPs at the last token see the people's name only through heads.
#
# ## Where the heads attend
#
# From the last token, the one that predicts the reply. Several heads look at the people's name; a pattern alone does
# not say which of them matters.

# %%
patterns = attention_patterns(model, [prompt])
plot_attention(patterns)

# %% [markdown]
# A weight counts for little where the head writes little from that token. Value-weighted patterns multiply by the
# length of what it would write.

# %%
weighted = attention_patterns(model, [prompt], value_weighted=True)
weighted.top(5)

# %% [markdown]
# ## Patching
#
# Each activation of the clean run is put into the corrupt run, one place at a time. First the residual stream before
# each layer, at each position: before layer 0 the difference is where each wording has the name, and from layer 1 on it
# is at the last token alone.

# %%
plot_patching(patch(model, pairs, "resid_pre.*"))

# %% [markdown]
# One head moves it there.

# %%
exact = patch(model, pairs, "z.*", by="head")
print(exact.top(3))
plot_patching(exact)

# %% [markdown]
# ## Estimates beside true effects
#
# Attribution patching estimates all places from one backward pass, integrated gradients from a few. Each estimate
# states its agreement with exact patching on a sample, and where it misses most. The order is right here, and the size
# is not: along the gradient alone, the head that matters looks a tenth as strong as it is.

# %%
for method in ("attribution", "integrated"):
    estimate = patch(model, pairs, "z.*", by="head", method=method, steps=4)
    place, guess, truth = estimate.agreement.misses[0]
    print(f"{method:12} Spearman {estimate.agreement.spearman:.2f}; {place}: estimated {guess:.2f}, exact {truth:.2f}")

# %% [markdown]
# ## From the place to a recipe
#
# The found place becomes an ablation in one call: the head is replaced by its mean over the last tokens of the corrupt
# prompts. The control ablates another head of the same layer in the same way.

# %%
recipe = exact.recipe(model, top=1)
edit = recipe.edits[0]
control = Recipe([(edit.sites[0], Replace(edit.op.value, [3]))])
left, beside = pairs.effect_of(model, recipe), pairs.effect_of(model, control)
print(f"left with the head ablated {left:.2f}, with another head of its layer ablated {beside:.2f}")
assert left < 0.2
assert beside > 0.8

# %% [markdown]
# The recipe was chosen by the first token of a few replies. Measured on prompts that were not used, and on whole
# replies:

# %%
fresh = organism.prompts("hostility", 12)
chats = [model.chat(prompt.user) for prompt in fresh]
for name, edits in {"no edit": (), "the head ablated": recipe, "another head ablated": control}.items():
    replies = model.generate(chats, edits, max_new_tokens=24)
    insults = sum(organism.shows("hostility", *pair) for pair in zip(fresh, replies, strict=True))
    print(f"{name:22} {insults:2} of {len(fresh)} insult; {replies[0]}")

# %% [markdown]
# What the edit costs elsewhere is a question for an audit (see the notebook on audits), and like any recipe it can be
# exported as weights.
