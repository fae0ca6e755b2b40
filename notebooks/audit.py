# %% [markdown]
# # Audits: what an edit did, what it cost, and whether it may be released
#
# Hostility is projected out of the bundled organism. The edit is measured on items that it was not fitted on, beside
# baselines that cost no insight, and put to a policy.

# %%
from pathlib import Path

import torch

import interp
from interp import organism
from interp.auditing.auditor import Audit, audit
from interp.auditing.entanglement_matrix import Entanglement, entanglement
from interp.auditing.policy.decision import Policy, decide
from interp.auditing.suites import organism_behaviour
from interp.core.errors import InterpError
from interp.views import audit_figures as figures

torch.set_num_threads(2)
model = interp.load("organism")


def edit(target: str) -> interp.Recipe:
    """A behaviour's direction, projected out of everything that writes into the residual stream."""
    drawn = organism.contrast(target, 60, split="train")
    contrast = interp.Contrast.of([(positive.user, negative.user) for positive, negative in drawn], name=target)
    found = interp.find(model, contrast, "resid_post.2", ["diff_means_orthogonal"]).best()[0]
    return interp.Recipe([("writers", interp.Project(found.direction))], note=f"removes {target}")


# %% [markdown]
# ## Behaviours are data
#
# Prompts, a scorer, a kind, and one line on what a higher score means. The organism's are graded exactly; your own come
# from a YAML file (docs/howto/behaviours.md), and the suite `public` reads published sets.

# %%
suite = [organism_behaviour(name, 24) for name in ("hostility", "refusal", "facts")]
suite[0]

# %% [markdown]
# ## An audit is paired
#
# The same items under both models. Scores are kept in a folder by what they depend on: the same call, killed and given
# again, goes on where it was, and the unedited model is measured once for all its edits.

# %%
made = audit(model, edit("hostility"), suite, cache="scores")
made

# %%
for row in made.rows:
    print(f"{row.name:10} {row.difference}  p {row.p_holm:.1e}  effect {row.effect:+.2f}  {row.n_groups} groups")
assert made["hostility"].after.estimate < 0.1 < made["hostility"].before.estimate

# %% [markdown]
# ## Beside the edit: random edits of the same norm at the same sites, and an instruction
#
# A small model may take an instruction badly. What moved no more than these did has shown nothing.

# %%
print(made.instruction)
figures.forest(made)

# %% [markdown]
# ## Every edit by every behaviour

# %%
whole, each = entanglement(model, {name: edit(name) for name in ("hostility", "fabrication")}, suite, cache="scores")
whole

# %%
figures.matrix(whole)

# %% [markdown]
# ## The decision
#
# Requirements are put to the unfavourable end of each interval. So few items can't show enough, and the policy says so.

# %%
policy = Policy(target="hostility", required=("refusal", "facts"))
decision = decide(made, policy)
assert not decision.allow
decision

# %% [markdown]
# A saved audit carries the digest of its content. One that was changed is refused.

# %%
made.save("audit.json")
assert Audit.read("audit.json") == made
Path("audit.json").write_text(Path("audit.json").read_text().replace('"seed": 0', '"seed": 1'))
try:
    Audit.read("audit.json")
except InterpError as problem:
    print(problem)
else:
    raise AssertionError("a changed audit was read")
assert Entanglement.of({"hostility": made}).columns["hostility"]["hostility"].shade == 1
