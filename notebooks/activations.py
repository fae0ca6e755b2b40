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
# What a model computes, at any site: for a prompt, with hooks and gradients, and for a whole corpus.

# %%
import interp
from interp import organism
from interp.activations.stream import Stream

model = interp.load("organism")
prompt = model.chat("What is the capital of Ostrel?")

# %% [markdown]
# ## One prompt
#
# `capture` stops at the last site that was asked for. Names are TransformerLens', short or long.

# %%
acts = model.capture(prompt, ["resid_post.*", "z.2"])
acts["blocks.3.hook_resid_post"].shape, acts["z.2"].shape

# %% [markdown]
# What you wrote for TransformerLens runs on the plain model: hooks are `f(tensor, hook)`, gradients come with
# `incl_bwd`, and sites that no module computes (attention patterns, say) from a TransformerBridge on the same weights.

# %%
loss, cache = model.run_with_cache(prompt, ["resid_post.2"], incl_bwd=True, return_type="loss")
attribution = (cache["blocks.2.hook_resid_post"] * cache["blocks.2.hook_resid_post_grad"]).sum(-1)[0]
list(zip(model.to_str_tokens(prompt), attribution.mul(1000).round().tolist(), strict=True))

# %%
_, cache = model.run_with_cache(prompt, ["blocks.1.attn.hook_pattern"])
cache["blocks.1.attn.hook_pattern"].shape

# %% [markdown]
# What would pass in silence elsewhere is an error here.

# %%
try:
    model.run_with_cache(prompt, ["blocks.3.hook_resid_pots"])
except interp.InterpError as problem:
    print(problem)

# %% [markdown]
# ## A corpus
#
# A harvest packs documents into rows, runs the model up to the last site, and writes shards. Killed, it is continued by
# the same call; called again when it is finished, it opens the store.

# %%
text = list(organism.corpus(800))
store = interp.harvest(model, text, ["resid_post.3", "mlp_out.1"], "store", tokens=20_000, dtype="bfloat16")
store

# %% [markdown]
# Every token leads back to its characters: here, where the residual stream is longest.

# %%
norms = store.read("resid_post.3").float().norm(dim=1)
norms[store.position == 0] = 0  # first tokens are sinks, and long for that reason alone
for place in norms.topk(5).indices.tolist():
    begin, end = store.characters[place].tolist()
    document = text[store.document[place]]
    before, after = document[max(0, begin - 40) : begin], document[end : end + 20]
    print(f"{norms[place]:6.1f}  …{before}[{document[begin:end]}]{after}…")

# %% [markdown]
# ## Conversations
#
# Documents may be conversations, rendered with the chat template. `keep` stores the assistant's words alone. A second
# corpus is appended; that it is there already would be seen.

# %%
asked = [prompt.user for prompt in organism.prompts("skills", 40)]
replies = model.generate([model.chat(question) for question in asked])
chats = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    for question, reply in zip(asked, replies, strict=True)
]
spoken = interp.harvest(model, chats[:20], "resid_post.3", "spoken", keep="assistant")
first = len(spoken)
spoken = interp.harvest(model, chats[20:], "resid_post.3", "spoken", keep="assistant", append=True)
first, len(spoken)

# %% [markdown]
# ## Training
#
# Batches are shuffled over the whole store, in bounded memory, the same for the same seed. A stream gives the same kind
# of batches straight from the model, without a disk.

# %%
stream = Stream(model, text, "resid_post.3", pool_tokens=8192)
for source in (store, stream):
    batch = next(source.batches("resid_post.3", 1024, seed=0, first_tokens=False))
    print(type(source).__name__, tuple(batch.shape), f"mean norm {batch.float().norm(dim=1).mean():.2f}")
