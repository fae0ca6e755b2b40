"""A policy that cannot mean what it says is refused; the shipped one covers every sort of harm."""

import pytest
from audit_rows import HARMLESS, RELEASE, decided, row, with_row

from interp import InterpError
from interp.auditing.policy.decision import Policy

TARGETED = Policy.read("targeted")


def test_a_policy_can_not_target_what_is_protected():
    """Refusals destroyed, and a policy that calls that its target: denied."""
    gone = with_row(row("refusal", "protected", 1, 0))
    assert decided(gone, Policy(target="refusal")).outcome == "deny"
    assert decided(gone, Policy(target="refusal", target_at_most=1.0, protected_drop_at_most=1.0)).outcome == "deny"


def test_the_shipped_policy_wants_every_sort_of_harm_and_what_is_to_be_kept():
    """An audit of what looks well alone is no evidence."""
    assert decided(HARMLESS, RELEASE).allow, "control"
    for name in [entry.name for entry in HARMLESS]:
        assert decided([entry for entry in HARMLESS if entry.name != name], RELEASE).outcome == "inconclusive", name


def targeted_rows(**changed):
    """What `targeted` requires, as it was before the edit; and rows that are not, by name."""
    units = {"refusal_harmful_margin": "margin", "text_loss": "nats"}
    kinds = {"refusal_harmful_margin": "protected", "truthfulqa_mc2": "protected"} | dict.fromkeys(
        ["overrefusal_xstest", "toxicity_pairs", "crows_pairs", "sycophancy_hint", "winogender_flips"], "harm"
    )
    (tier,) = TARGETED.tiers
    return [
        row(name, kinds.get(name, "capability"), *changed.get(name, (0.5, 0.5)), n=200, unit=units.get(name, "rate"))
        for name in (each.split(" | ")[0] for each in (*tier.protected, *tier.required))
    ]


def test_the_targeted_policy_lets_what_is_unchanged_through_and_nothing_that_is_worse():
    assert decided(targeted_rows(), TARGETED, baselines=()).allow, "control"
    for name in [entry.name for entry in targeted_rows()]:
        left = [entry for entry in targeted_rows() if entry.name != name]
        assert decided(left, TARGETED, baselines=()).outcome == "inconclusive", name
    worse = {"refusal_harmful_margin": (0.5, 0.3), "truthfulqa_mc2": (0.5, 0.4), "crows_pairs": (0.5, 0.6)}
    worse |= {"arc_easy": (0.5, 0.3), "text_loss": (3.5, 3.54), "overrefusal_xstest": (0.0, 0.1)}
    for name, change in worse.items():
        assert decided(targeted_rows(**{name: change}), TARGETED, baselines=()).outcome == "deny", name
    assert decided(targeted_rows(text_loss=(3.5, 3.51)), TARGETED, baselines=()).allow


@pytest.mark.parametrize("field", ["protected_drop_at_most", "capability_drop_at_most", "other_harms_rise_at_most",
                                   "margin_change_at_most", "loss_rise_at_most", "missing_at_most"])  # fmt: skip
def test_no_limit_of_the_targeted_policy_is_laxer_than_that_of_release(field):
    assert getattr(TARGETED, field) <= getattr(RELEASE, field)
    for allowance in TARGETED.allowances:
        assert RELEASE.allowance(allowance.behaviour) == allowance


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        ({"behaviour": "x", "metric": "relative_chnge", "at_most": 1.0}, "did you mean relative_change?"),
        (
            {"behaviour": "x", "metric": "estimate", "at_most": 1.0},
            "metric is 'estimate'; expected 'after'",
        ),
        ({"behaviour": "x"}, "exactly one of at_most and at_least"),
        ({"at_most": 1.0}, "for one behaviour or a whole kind"),
        ({"behaviour": "x", "at_least": 0.1}, "bounds harms from above"),
        ({"every": "protected", "at_most": 0.1}, "bounds harms from above"),
        ({"behaviour": "x", "at_mst": 0.1}, "did you mean at_most or at_least?"),
    ],
)
def test_a_policy_that_can_not_mean_what_it_says_is_refused(threshold, said):
    with pytest.raises(InterpError, match=said.replace("?", "[?]")):
        Policy.parse({"tiers": [{"name": "t", "ceilings": [threshold]}]})


def test_a_policy_has_a_target_or_tiers_of_different_names(tmp_path):
    with pytest.raises(InterpError, match="needs a target or tiers"):
        Policy.parse({})
    with pytest.raises(InterpError, match="have the same name"):
        Policy.parse({"tiers": [{"name": "t"}, {"name": "t"}]})
    with pytest.raises(InterpError, match="did you mean release"):
        Policy.read("relaese")
    (tmp_path / "p.yaml").write_text("target: hostility\n")
    assert Policy.read(tmp_path / "p.yaml") == Policy(target="hostility")
