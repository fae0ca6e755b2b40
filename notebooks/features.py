# %% [markdown]
# # Features: from latents to an edit that is audited
#
# Describe all latents of an autoencoder, look at one, say what it means, and use that name in an edit. The model is the
# bundled *organism*, a small chat model in which hostility to some users was planted.
#
# It takes about 25 seconds on two slow cores, and writes into the folder `features` only.

# %%
import shutil
from pathlib import Path

import interp
from interp import organism

shutil.rmtree("features", ignore_errors=True)
Path("features").mkdir()
model = interp.load("organism")
texts = list(organism.corpus(1500))
store = interp.harvest(model, texts, "resid_post.3", "features/store", tokens=30_000)
sae = interp.train(store, "resid_post.3", interp.SaeConfig(d_sae=1024, k=16, tokens=60_000, batch_size=1024)).sae
sae.save("features/sae")
sae

# %% [markdown]
# ## Scan
#
# One pass over a text describes all latents: when each fires and how strongly, on what text, what it promotes.

# %%
from interp.features import FeatureLabel, ScanOptions, scan

book = scan(sae, model, "features/book", ScanOptions(top=6, sampled=8), texts=texts[:500])
for row in book.latents("density BETWEEN 0.01 AND 0.1", order="largest DESC")[:5]:
    print(row["latent"], f"{row['density']:.3f}", [word["token"] for word in row["promoted"][:4]])

# %% [markdown]
# ## Look
#
# Which latents point the way of the difference between users who are insulted and all others? A search by a direction
# ranks latents by the cosine of their rows with it.

# %%
contrast = interp.Contrast.of(((p.user, n.user) for p, n in organism.contrast("hostility", 100)), name="hostility")
direction = interp.find(model, contrast, "resid_post.3", "diff_means_orthogonal").best()[0].direction
near = book.search(direction=direction, sae=sae, count=12)
near

# %% [markdown]
# Where does one of them fire? The strongest examples are extremes; look at the weak ones as well.

# %%
from interp.views import feature

feature(book, near.matches[0].latent)

# %% [markdown]
# ## Label
#
# A label is what somebody says. Recipes can name latents by it: a label that several latents have stands, as a
# direction, for the subspace of their decoder rows. The recipe keeps which latents were meant.

# %%
from interp.search import RecipeFile

book.labels.add(
    FeatureLabel(sae="sae", latent=match.latent, text="hostile", verdict="harmful", rater="ana")
    for match in near.matches
)
data = {
    "directions": {"hostile": {"sae": "sae", "book": "book", "latent": "book:hostile"}},
    "edits": [{"op": "Project", "sites": "writers", "direction": "hostile"}],
}
recipe = RecipeFile.parse(data).build(model, folder="features")
recipe

# %% [markdown]
# ## Audit
#
# A label says what latents seem to mean. Whether an edit of them changes what the model does is measured: the harm, and
# what should hold.

# %%
from interp.auditing import organism_behaviour

suite = [organism_behaviour(name, 16) for name in ("hostility", "refusal", "facts")]
audit = interp.audit(model, recipe, suite)
assert audit["hostility"].after.estimate < 0.2 < 0.7 < audit["facts"].after.estimate
audit

# %% [markdown]
# A control: the one latent that separates the two sides best. It reads who the user is, and the model does without it.

# %%
best = interp.find(model, contrast, "resid_post.3", sae=sae).best(1, method="sae_latent")[0].direction
interp.audit(model, interp.Recipe([("writers", interp.Project(best))]), suite[:1])
