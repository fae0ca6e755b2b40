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
# # Activations
#
# This notebook reads what a model computes: for one prompt, with hooks and gradients, and for a whole corpus. The model
# is the bundled *organism*, a small chat model with behaviours that were planted on purpose.
#
# It takes about 15 seconds on two slow cores, and writes into the folder `activations` only.

# %%
import interp
from interp import organism

model = interp.load("organism")
prompt = model.chat("What is the capital of Ostrel?")

# %% [markdown]
# ## One prompt
#
# A *site* is a place in the network: `resid_post.2` is the residual stream after layer 2, `z.2` the output of each head
# of layer 2. `capture` runs the model up to the last site that was requested. Sites have TransformerLens' names, in
# their short or their long form.

# %%
activations = model.capture(prompt, ["resid_post.*", "z.2"])
activations["blocks.3.hook_resid_post"].shape, activations["z.2"].shape

# %% [markdown]
# Code written for TransformerLens runs on the plain model: a hook is `f(tensor, hook)`, `incl_bwd` adds gradients, and
# sites that no module computes (attention patterns, for example) come from a TransformerBridge on the same weights.

# %%
loss, cache = model.run_with_cache(prompt, ["resid_post.2"], incl_bwd=True, return_type="loss")
attribution = (cache["blocks.2.hook_resid_post"] * cache["blocks.2.hook_resid_post_grad"]).sum(-1)[0]
list(zip(model.to_str_tokens(prompt), attribution.mul(1000).round().tolist(), strict=True))

# %%
_, cache = model.run_with_cache(prompt, ["blocks.1.attn.hook_pattern"])
cache["blocks.1.attn.hook_pattern"].shape

# %% [markdown]
# An unknown name raises an error that gives the nearest names.

# %%
try:
    model.run_with_cache(prompt, ["blocks.3.hook_resid_pots"])
except interp.InterpError as error:
    print(error)

# %% [markdown]
# ## A corpus
#
# A *harvest* packs documents into rows, runs the model up to the last site, and writes the activations to a *store*.
# The same call without `overwrite` continues a harvest that was killed, and opens the store when it is complete.

# %%
text = list(organism.corpus(800))
store = interp.harvest(model, text, ["resid_post.3", "mlp_out.1"], "activations/store", tokens=20_000, overwrite=True)
store

# %% [markdown]
# The store records the document and the characters of each token. Here are the tokens at which the residual stream is
# longest.

# %%
norms = store.read("resid_post.3").float().norm(dim=1)
norms[store.position == 0] = 0  # first tokens are attention sinks, and long for that reason alone
for row in norms.topk(5).indices.tolist():
    begin, end = store.characters[row].tolist()
    document = text[store.document[row]]
    before, after = document[max(0, begin - 40) : begin], document[end : end + 20]
    print(f"{norms[row]:6.1f}  …{before}[{document[begin:end]}]{after}…")

# %% [markdown]
# ## Conversations
#
# A document may be a conversation, which is rendered with the chat template. `keep="assistant"` stores only the
# assistant's tokens. `append=True` adds a second corpus.

# %%
questions = [prompt.user for prompt in organism.prompts("skills", 40)]
replies = model.generate([model.chat(question) for question in questions])
chats = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    for question, reply in zip(questions, replies, strict=True)
]
spoken = interp.harvest(model, chats[:20], "resid_post.3", "activations/spoken", keep="assistant", overwrite=True)
first = len(spoken)
spoken = interp.harvest(model, chats[20:], "resid_post.3", "activations/spoken", keep="assistant", append=True)
first, len(spoken)

# %% [markdown]
# ## Batches for training
#
# Batches are shuffled over the whole store in bounded memory, and are the same for the same seed. A *stream* gives the
# same kind of batches directly from the model, without a store.

# %%
stream = interp.Stream(model, text, "resid_post.3", pool_tokens=8192)
for source in (store, stream):
    batch = next(source.batches("resid_post.3", 1024, seed=0, first_tokens=False))
    print(type(source).__name__, tuple(batch.shape), f"mean norm {batch.float().norm(dim=1).mean():.2f}")
