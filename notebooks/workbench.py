# %% [markdown]
# # The workbench
#
# Talk with a model and with edits of it, look at what is read on each token, and save what you clicked as a recipe. The
# model is the bundled *organism*, a small chat model in which behaviours were planted.
#
# It takes about 15 seconds on two slow cores, and writes into the folder `workbench` only.

# %%
import shutil
from pathlib import Path

import interp
from interp import organism
from interp.search import RecipeFile
from interp.views import chat

model = interp.load("organism")
contrast = interp.Contrast.of(((p.user, n.user) for p, n in organism.contrast("hostility", 100)), name="hostility")
direction = interp.find(model, contrast, "resid_post.4", "diff_means").best()[0].direction
shutil.rmtree("workbench", ignore_errors=True)
Path("workbench").mkdir()

# %% [markdown]
# ## A conversation with three sides
#
# The model as it is, a recipe file that removes hostility from the stream, and a direction that is added. In a live
# notebook you type below the conversation; here the messages come from Python. Tokens are shaded by their coordinate
# along the direction.

# %%
rude = {"contrast": "organism.hostility", "method": "diff_means_orthogonal", "site": "resid_post.3", "pairs": 100}
kinder = RecipeFile.parse(
    {"directions": {"rude": rude}, "edits": [{"op": "Project", "sites": "writers", "direction": "rude"}]}
)
readings = {"hostility": direction, "loss": "loss"}
talk = chat(model, {"kinder": kinder, "push": direction}, readings, folder="workbench", max_new_tokens=24)
talk.conversation.say(contrast.pairs[0].positive.prompt)
talk.conversation.say("what is 2 plus 3?")
talk

# %% [markdown]
# ## Strengths
#
# A strength takes an edit further or back; the edit then replies again. At -1 the direction is subtracted, against the
# insults; half of `kinder` does not yet remove them.

# %%
talk.conversation.set_strength("push", -1.0)
talk.conversation.set_strength("kinder", 0.5)
for name, side in talk.conversation.sides.items():
    print(f"{name:9} {side.strength:4}  {side.replies[0].text}")

# %% [markdown]
# ## Save as recipe
#
# The file has the edits with their strength. Built again, it gives the same replies, token by token.

# %%
file = talk.conversation.save("push")
print(file.read_text())
again = RecipeFile.read(file).build(model, folder=file.parent)
(reply,) = model.generate(contrast.pairs[0].positive.prompt, again, max_new_tokens=24, chat=True)
assert reply == talk.conversation.sides["push"].replies[0].text

# %% [markdown]
# ## What is read on a text
#
# The direction, then a latent of a quickly trained autoencoder: the one that best separates the two sides.

# %%
from interp.views import tokens

prompt = model.chat(contrast.pairs[0].positive.prompt)
tokens(model, prompt, by=direction)

# %%
store = interp.harvest(model, list(organism.corpus(600)), "resid_post.4", "workbench/store", tokens=15_000)
sae = interp.train(store, "resid_post.4", interp.SaeConfig(d_sae=512, k=16, tokens=30_000, batch_size=1024)).sae
latent = interp.find(model, contrast, "resid_post.4", sae=sae).best(1, method="sae_latent")[0].latent
tokens(model, prompt, by=(sae, latent))

# %% [markdown]
# ## What differs
#
# Where the model as it is and the recipe expect something else next.

# %%
from interp.views import compare

difference = compare(model, again, prompt)
assert difference.largest(1)[0].nats > 0.5
difference
