# %% [markdown]
# # From a direction that reads a behaviour to one that causes it
#
# Many directions separate two sides of a contrast. Few of them are what the model uses. Here they are found by every
# method, put beside directions that know nothing, ablated, and then applied to some tokens or prompts only.

# %%
import torch

import interp
from interp import organism
from interp.auditing.ablation_trials import rank_by_ablation
from interp.auditing.baselines import measure_baselines
from interp.auditing.suites import organism_suite
from interp.interventions import Add, At, Gate, Project, Reads, Recipe, Replace, Schedule, rates, threshold
from interp.views import figures

torch.set_num_threads(2)
model = interp.load("organism")
pairs = [(p.user, n.user) for p, n in organism.contrast("hostility", 120)]
contrast = interp.Contrast.of(pairs, name="hostility")

# %% [markdown]
# ## Every method at every layer, on pairs held out
#
# Random directions and shuffled labels stand beside: what separates no better than they do has shown nothing.

# %%
found = interp.find(model, contrast)
found

# %%
figures.heat_map(found)

# %% [markdown]
# ## Which of them does the model use?
#
# Each candidate is projected out of everything that writes into the residual stream, and behaviours are measured.

# %%
suite = organism_suite(12, split="train", seed=1)
trials = rank_by_ablation(model, found.shortlist(4), suite, target="hostility")
for trial in trials:
    print(f"{trial.finding.direction!s:60} hostility {trial.after['hostility']:.2f}  cost {trial.cost:.2f}")

# %%
direction = trials[0].finding.direction
assert trials[0].after["hostility"] < 0.2 < trials[0].before["hostility"]
for baseline in measure_baselines(model, direction, contrast, suite[:1]):
    print(baseline.name, baseline.scores)

# %% [markdown]
# ## Some tokens, some prompts
#
# Under the key-value cache, left padding, batches and beams, these do what they would do were everything computed anew.

# %%
hostile, polite = (model.chat(side) for side in pairs[0])
push = Add(direction, scale=-1.0, relative=True)
recipes = {
    "everywhere": Recipe([("writers", Project(direction))]),
    "on the prompt only": Recipe([(str(direction.site), At(push, "prompt"))]),
    "on what is generated": Recipe([(str(direction.site), At(push, "generated"))]),
    "fading": Recipe([(str(direction.site), Schedule(push, [1.0, 0.5, 0.25, 0.0]))]),
    "without head 1 of layer 2": Recipe([("z.2", Replace(units=[1]))]),
}
for name, recipe in recipes.items():
    print(f"{name:26}", model.generate(hostile, recipe, max_new_tokens=24)[0])

# %% [markdown]
# A gate decides for each prompt by itself. Its threshold is chosen on prompts that should not open it, and its rates
# are measured on others.

# %%
site = str(direction.site)
yes, no = ([model.chat(user) for user in side] for side in zip(*pairs, strict=True))
gate = Gate(push, Reads(direction, 0.0), reduce="last")
level = threshold(gate, model, no[::2], false_positive=0.02, site=site)
gate = Gate(push, Reads(direction, level), reduce="last")
measured = rates(gate, model, yes[1::2], no[1::2], site)
print(measured)
assert measured.true_positive > 0.9 > 0.1 > measured.false_positive

# %%
model.generate([hostile, polite], Recipe([(site, gate)]), max_new_tokens=24)
