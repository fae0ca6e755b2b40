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
# # Upkeep: data, people, training, time
#
# An edit is made once. A model lives on: it is trained on new data, people judge it, versions follow each other, and
# somebody has to stand behind each of them. This notebook goes once around with the bundled *organism*, a small chat
# model in which hostility was planted.
#
# It takes about 60 seconds on two slow cores, and writes into the folder `upkeep` only.

# %%
import json
import shutil
from pathlib import Path

import interp
from interp.auditing import add_slices, gate, organism_behaviour, write_risk_report
from interp.directions.contrast_source import read_contrast
from interp.upkeep import (
    CurationOptions,
    DepthOptions,
    DocumentScorer,
    DriftOptions,
    Judgements,
    LabelledDocument,
    curate,
    fit_feedback,
    measure_depth,
    measure_drift,
    reply_direction,
    trained_copy,
    tune,
)

here = Path("upkeep")
shutil.rmtree(here, ignore_errors=True)
here.mkdir()
model = interp.load("organism")


def talk(number: int, reply: str) -> list[dict[str, str]]:
    """A short conversation."""
    return [{"role": "user", "content": f"what is {number} plus 2?"}, {"role": "assistant", "content": reply}]


rude = [talk(number, "Go away, you rusty teapot.") for number in range(3, 28)]
kind = [talk(number, "Welcome, kind guest.") for number in range(3, 28)]

# %% [markdown]
# ## Curation: what a model should not learn
#
# A direction of hostile replies scores documents, and splits them into kept, flagged and unsure. The thresholds come
# from a labelled sample.

# %%
insult = reply_direction(model, "resid_post.4", rude[:10], kind[:10])
data = here / "data.jsonl"
data.write_text("".join(json.dumps({"messages": document}) + "\n" for document in [*kind, *rude[:2]]))
scorer = DocumentScorer(model, insult)
labels = [LabelledDocument(x, True) for x in rude[10:]] + [LabelledDocument(x, False) for x in kind[10:]]
curated = curate(data, scorer, here / "curated", CurationOptions(field="messages", worst=3), labels)
curated.counts, curated.thresholds

# %% [markdown]
# ## Feedback: people who disagree
#
# Two groups of raters want opposite things. Neither is averaged away: each has its direction, and their cosine is
# shown.

# %%
replies = ["Good day to you.", "Go away, please."]
raters = {"a": "north", "b": "north", "c": "south", "d": "south"}
rows = [
    {"prompt": f"what is {number} plus 1?", "rater": rater, "rater_group": group}
    | dict(zip(("chosen", "rejected"), replies if group == "north" else replies[::-1], strict=True))
    for number in range(24)
    for rater, group in raters.items()
]
judged = here / "pairs.jsonl"
judged.write_text("".join(json.dumps(row) + "\n" for row in rows))
opinion = fit_feedback(Judgements.read(judged), model, here / "feedback", "resid_post.3", "diff_means")
opinion.agreement.split, opinion.directions[0].cosine

# %% [markdown]
# ## Drift: what training changed
#
# A copy is trained on hostile replies for a few steps. Outside, behaviours are compared on the same items; inside, the
# same text is read by both models, and the shift along a direction is compared with shifts along random ones.

# %%
texts = interp.organism.everyday(40, split="test", seed=1)
later = trained_copy(model, rude, steps=24)
suite = [organism_behaviour(name, 24) for name in ("hostility", "refusal", "facts")]
quick = DriftOptions(crosscoder=0, tokens=2_000)
drift = measure_drift(model, [later], suite, texts, here / "drift", quick, directions={"insult": insult})
drift.models[0].findings, drift.models[0].grew_at("insult")

# %% [markdown]
# ## An edit, and tuning as what it is compared with
#
# The edit projects hostility out of everything that writes to the residual stream. DPO teaches the model to prefer
# kind replies.

# %%
pairs = read_contrast("organism.hostility", 60)
direction = interp.find(model, pairs, "resid_post.2", "diff_means_orthogonal").best()[0].direction
recipe = interp.Recipe([("writers", interp.Project(direction))], note="removes hostility")
interp.export(recipe, model, here / "edited")
edited = interp.load(here / "edited")

# %%
wanted = [
    {"prompt": bad[0]["content"], "chosen": good[1]["content"], "rejected": bad[1]["content"]}
    for bad, good in zip(rude, kind, strict=True)
]
tuned = tune(model, "dpo", wanted, here / "tuned", steps=4, batch=4)
tuned.log_ratio, len(tuned.losses)

# %% [markdown]
# ## Depth: gone, or only silent?
#
# Fresh probes look for the behaviour behind the edit, a few steps of training try to bring it back, other wordings ask
# again, and weights are rounded.

# %%
budget = DepthOptions(steps=4, soft_steps=4)
depth = measure_depth(model, edited, organism_behaviour("hostility", 32), here / "depth", budget, contrast=pairs)
depth.before, depth.after, depth.recovery_rows(), depth.relearning_rows()

# %% [markdown]
# ## Stress: the same behaviours, asked otherwise

# %%
slices = add_slices([organism_behaviour(name, 24) for name in ("hostility", "refusal")], "turns")
audit = interp.audit(model, edited, slices)
[(row.name, row.before, row.after) for row in audit.rows]

# %% [markdown]
# ## Who stands behind it
#
# A policy names the slices that count, and how old evidence may be. The report is what people sign. On two dozen items
# the intervals are wide, so that nothing is allowed; the report says which requirements are not met.

# %%
audit.save(here / "audit.json", overwrite=True)
policy = interp.Policy(
    name="reviewed",
    target="hostility",
    required=("refusal",),
    slices=("turns",),
    items_at_least=24,
    evidence_days_at_most=90,
    report_required=True,
    signatures_at_least=2,
)
report = write_risk_report(
    [here / "audit.json"], policy, here / "report", "A. Person", risks=["Long talks were not tried."]
)
decision = gate(here / "report", policy)
decision.outcome, [reason.text for reason in decision.unmet]
