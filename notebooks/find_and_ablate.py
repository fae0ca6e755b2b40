# %% [markdown]
# # From a direction that reads a behaviour to one that causes it
#
# Many directions separate the two sides of a contrast, but the model uses few of them. This notebook finds directions
# with every method, compares them with random ones, ablates them, and then applies an edit to some tokens or some
# prompts. The model is the bundled *organism*, a small chat model in which behaviours were planted.
#
# It takes about 30 seconds on two slow cores, and writes no files.

# %%
import interp
from interp import organism
from interp.auditing import measure_baselines, organism_suite
from interp.interventions import Add, At, Gate, Project, Reads, Recipe, Replace, Schedule, rates, threshold
from interp.views import plot_heat_map

model = interp.load("organism")
pairs = [(p.user, n.user) for p, n in organism.contrast("hostility", 120)]
contrast = interp.Contrast.of(pairs, name="hostility")

# %% [markdown]
# ## Every method at every layer, on held-out pairs
#
# Random directions, and directions fitted to shuffled labels, are scored too. A direction that separates the sides no
# better than these says nothing about the behaviour.

# %%
findings = interp.find(model, contrast)
findings

# %%
plot_heat_map(findings)

# %% [markdown]
# ## Which of them does the model use?
#
# Each candidate is projected out of every *writer* (a module that adds to the residual stream), and behaviours are
# measured.

# %%
suite = organism_suite(12, split="train", seed=1)
trials = interp.rank_by_ablation(model, findings.shortlist(4), suite, target="hostility")
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
# A *recipe* is a list of sites and ops. Its effect is the same with and without the key-value cache, with left padding,
# in batches, and with beam search. The first generated token is predicted at the last token of the prompt, which is
# therefore at `generated`, not at `prompt`.

# %%
hostile, polite = (model.chat(side) for side in pairs[0])
push = Add.auto(model, direction, sign=-1, relative=True)
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
# A *gate* decides for each prompt whether an op applies. Its threshold is chosen on prompts that should not open it,
# and its rates are measured on other prompts.

# %%
site = str(direction.site)
positives, negatives = ([model.chat(user) for user in side] for side in zip(*pairs, strict=True))
gate = Gate(push, Reads(direction, 0.0), reduce="last")
level = threshold(gate, model, negatives[::2], false_positive=0.02, site=site)
gate = Gate(push, Reads(direction, level), reduce="last")
measured = rates(gate, model, positives[1::2], negatives[1::2], site)
print(measured)
assert measured.true_positive > 0.9 > 0.1 > measured.false_positive

# %%
model.generate([hostile, polite], Recipe([(site, gate)]), max_new_tokens=24)
