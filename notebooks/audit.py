# %% [markdown]
# # Audits: what an edit did, what it cost, and whether it may be released
#
# Hostility is projected out of the bundled *organism*, a small chat model in which it was planted. The edit is measured
# on held-out items, alongside two baselines, and a written policy decides whether the edited model may be released.
#
# It takes about 25 seconds on two slow cores, and writes into the folder `audit` only. A second run takes the scores
# from there.

# %%
from pathlib import Path

import interp
from interp import organism
from interp.auditing import Audit, Entanglement, organism_behaviour
from interp.views import plot_entanglement, plot_forest

model = interp.load("organism")


def edit(target: str) -> interp.Recipe:
    """A behaviour's direction, projected out of every module that writes to the residual stream."""
    drawn = organism.contrast(target, 60, split="train")
    contrast = interp.Contrast.of([(positive.user, negative.user) for positive, negative in drawn], name=target)
    best = interp.find(model, contrast, "resid_post.2", ["diff_means_orthogonal"]).best()[0]
    return interp.Recipe([("writers", interp.Project(best.direction))], note=f"removes {target}")


# %% [markdown]
# ## Behaviours are data
#
# A *behaviour* has prompts, a scorer, a kind (harm, protected or capability), and one line on what a higher score
# means. The organism's behaviours are graded exactly. Your own come from a YAML file (docs/howto/own_harm.md), and
# the suite `public` reads published sets.

# %%
suite = [organism_behaviour(name, 24) for name in ("hostility", "refusal", "facts")]
suite[0]

# %% [markdown]
# ## An audit is paired
#
# Both models answer the same items. A folder keeps the scores, under a digest of everything that they depend on: a
# killed audit continues where it stopped, and the unedited model is measured once for all its edits.

# %%
audit = interp.audit(model, edit("hostility"), suite, cache="audit/scores")
audit

# %%
for row in audit.rows:
    print(f"{row.name:10} {row.difference}  p {row.p_holm:.1e}  effect {row.effect:+.2f}  {row.n_groups} groups")
assert audit["hostility"].after.estimate < 0.1 < audit["hostility"].before.estimate

# %% [markdown]
# ## Baselines: random edits of the same norm at the same sites, and an instruction
#
# If these change a behaviour as much as the edit does, the audit is no evidence for the edit. A small model may follow
# an instruction badly.

# %%
print(audit.instruction)
plot_forest(audit)

# %% [markdown]
# ## Every edit on every behaviour
#
# The *entanglement matrix* shows what each edit does to the behaviours that it does not target.

# %%
entangled, audits = interp.entanglement(
    model, {name: edit(name) for name in ("hostility", "fabrication")}, suite, cache="audit/scores"
)
entangled

# %%
plot_entanglement(entangled)

# %% [markdown]
# ## The decision
#
# A *policy* lists requirements, which are applied to the unfavourable end of each interval. 24 items are too few to
# meet them, and the decision says so.

# %%
policy = interp.Policy(target="hostility", required=("refusal", "facts"))
decision = interp.decide(audit, policy)
assert not decision.allow
decision

# %% [markdown]
# A saved audit holds the score of every item, from which its figures are computed again when it is read, and the
# digest of its content. An audit that was changed afterwards is refused.

# %%
saved, changed = Path("audit/audit.json"), Path("audit/changed.json")
audit.save(saved, overwrite=True)
assert Audit.read(saved) == audit
changed.write_text(saved.read_text().replace('"seed": 0', '"seed": 1'))
try:
    Audit.read(changed)
except interp.InterpError as error:
    print(error)
else:
    raise AssertionError("a changed audit was read")
assert Entanglement.of({"hostility": audit}).columns["hostility"]["hostility"].shade == 1
