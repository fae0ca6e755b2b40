"""The algebra of an edit, statement by statement, where no other test has it; identities in float64.

Notation: r a unit direction of the residual stream, P = I - Q Qᵀ for several; weights in Hugging Face layout.
"""

import pytest
import torch
import transformers
from folding import IDS, POST_NORM, PRE_NORM, on_disk, planned, reloaded, rows, written
from torch.nn.functional import log_softmax

import interp
from interp import Add, HookedModel, InterpError, Project, Recipe
from interp.directions.methods.erasure import ErasureFitter
from interp.editing.fold.affine_maps import MapChange, TensorMap
from interp.editing.fold.rounding import round_onto
from interp.interventions import Gate, Reads
from interp.models.tokens import Tokens

READERS = ("q_proj", "k_proj", "v_proj", "qkv", "query", "c_attn", "gate", "up_proj", "c_fc", "fc1", "fc_in", "h_to_4h",
           "lm_head", "embed_out", "router", "kv_a", "kv_b", "q_a", "q_b")  # fmt: skip


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("k", [1, 3])
def test_each_layout_has_its_formula(k):
    """(out, in): W - Qᵀ (Q W). Conv1D (in, out) and tables: W - (W Qᵀ) Q. Biases: P b. The other axis does it not."""
    basis = torch.linalg.qr(drawn(16, k)).Q.T
    change = {layout: MapChange(layout, (TensorMap(basis, basis),)) for layout in ("out_in", "in_out", "table", "bias")}
    weight, bias = drawn(16, 16, seed=1), drawn(16, seed=2)
    slow = {
        "out_in": torch.stack([w - sum((w @ r) * r for r in basis) for w in weight.T]).T,
        "in_out": torch.stack([w - sum((w @ r) * r for r in basis) for w in weight]),
    }
    slow["table"] = slow["in_out"]
    for layout, expected in slow.items():
        assert (change[layout].apply(weight) - expected).abs().max() < 1e-14
    assert (change["bias"].apply(bias) - (bias - sum((bias @ r) * r for r in basis))).abs().max() < 1e-14
    assert (basis @ change["out_in"].apply(weight)).abs().max() < 1e-14
    assert (basis @ change["in_out"].apply(weight)).abs().max() > 0.1, "control: a wrong axis of a square weight"


@pytest.mark.parametrize("name", [*PRE_NORM, *POST_NORM])
def test_readers_stay_as_they_are(tiny, name):
    """Queries, keys, values, gates, up-projections, routers and the unembedding read the stream."""
    model = tiny(name)
    plan = planned(model, Recipe([("writers", Project(rows(k=2)))]), approximate=True)
    assert plan.changes
    assert not [tensor for tensor in plan.changes if any(reader in tensor for reader in READERS)]
    assert any(reader in tensor for tensor in on_disk(model)[0] for reader in READERS), "control: there are such"
    head = on_disk(model)[0].get(plan.unembedding, on_disk(model)[0].get(plan.untie or ""))
    after = written(model, plan).get(plan.unembedding)
    assert after is None or torch.equal(after, head)


def test_an_edit_behind_a_gate_does_not_fold(tiny):
    gate = Gate(Project(rows()), Reads(rows(1)[0], 0.0), per="token")
    with pytest.raises(InterpError, match="Gate"):
        planned(tiny("llama"), Recipe([("writers", gate)]))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_before_a_norm_the_projection_along_gain_times_rows_is_one_map_of_the_weight(k, scale):
    """y' = y - s Q Qᵀ y with Q a basis of g · R is W' x; at s = 1, r · (g y' / rms(y')) is 0 whatever the epsilon.

    Projecting R itself before the norm, or R after it and folding that, does neither.
    """
    gain, weight, z = 1 + 0.3 * drawn(24), drawn(24, 40, seed=1), drawn(9, 40, seed=2)
    op = Project(drawn(k, 24, seed=3), scale)
    raw = op.before_norm(gain)
    y, r = z @ weight.T, op.rows.double()

    def out(y, eps):
        return gain * y / (y.square().mean(-1, keepdim=True) + eps).sqrt()

    after = z @ MapChange("out_in", (TensorMap.of(raw.affine()),)).apply(weight).T
    basis = torch.linalg.qr((r * gain).T).Q.T
    assert (after - (y - scale * (y @ basis.T) @ basis)).abs().max() < 1e-6
    assert (after - raw(y)).abs().max() < 1e-12
    naive = z @ MapChange("out_in", (TensorMap.of(op.affine()),)).apply(weight).T
    for eps in (0.0, 1e-2):
        assert (out(naive, eps) @ r.T).abs().max() > 1e-2, "control: P W leaves some"
        assert (op(out(y, eps)) - out(after, eps)).abs().max() > 1e-2, "control: the hook after the norm is another"
        assert ((out(after, eps) @ r.T).abs().max() < 1e-6) == (scale == 1.0)


def test_what_the_norm_does_not_let_out_is_not_removed():
    """Null rows of g · R are dropped, as are rows that it makes dependent; without any left, nothing is removed."""
    gain, rows = torch.ones(6, dtype=torch.float64), torch.eye(6)
    gain[0] = 0.0
    y = drawn(4, 6)
    assert torch.equal(Project(rows[:1]).before_norm(gain)(y), y)
    pair = Project(torch.stack([rows[1], rows[0] + rows[1]])).before_norm(gain)
    assert pair.rows.shape == (1, 6)
    assert (pair(y) - y + y * rows[1].double()).abs().max() < 1e-7


def test_quantising_afterwards_undoes_exactness():
    """To 8 bits a row: the leak is back, far above that of bfloat16; the same edit of dequantised weights closes it."""
    r = torch.linalg.qr(drawn(192, 1)).Q.T
    change, weight = MapChange("out_in", (TensorMap(r, r),)), 0.02 * drawn(192, 96, seed=1)

    def quantised(x):
        step = x.abs().amax(1, keepdim=True) / 127
        return (x / step).round() * step

    def leak(x):
        return float((r @ x).norm() / (r @ weight).norm())

    edited = change.apply(weight)
    assert leak(edited) < 1e-14
    assert leak(quantised(edited)) > 3 * leak(edited.bfloat16().double()) > 1e-4
    assert leak(change.apply(quantised(edited))) < 1e-14
    compensated = round_onto(edited.T, r, torch.bfloat16).T.double()
    assert leak(quantised(compensated)) > 10 * leak(compensated), "nor does compensation outlive it"


def test_a_cut_off_on_singular_values_leaves_a_rare_concept_as_it_was():
    """One row in a hundred, moved a little: the whitened covariance has a singular value below .01 and is dropped."""
    draw = torch.Generator().manual_seed(0)
    z = (torch.rand(20_000, generator=draw) < 0.01).double()
    x = drawn(20_000, 16) + 0.9 * z[:, None] * torch.eye(16, dtype=torch.float64)[0]

    def correlation(y):
        return float(torch.corrcoef(torch.stack([y[:, 0], z]))[0, 1].abs())

    assert 0.05 < correlation(x) < 0.15
    centred, labels = x - x.mean(0), z - z.mean()
    cross = centred.T @ labels / len(x)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    left, singular, _ = torch.linalg.svd((root @ cross)[:, None], full_matrices=False)
    assert singular[0] < 0.01, "a correlation of a tenth, times the deviation of a rare concept"
    kept = left[:, singular > 0.01]
    cut_off = x - centred @ root @ kept @ kept.T @ torch.linalg.inv(root)
    assert correlation(cut_off) == pytest.approx(correlation(x), abs=1e-12)
    assert correlation(ErasureFitter(16, 1).update(x, z[:, None]).leace()(x)) < 1e-12


def test_centring_the_unembedding_is_no_no_op_under_a_softcap(tiny):
    """Adding the same vector to all rows moves all logits alike: nothing to a softmax, unless a tanh is in between."""
    gaps = {}
    for cap in (None, 2.0):
        config = type(tiny("gemma2").config).from_dict(
            tiny("gemma2").config.to_dict() | {"final_logit_softcapping": cap, "tie_word_embeddings": False}
        )
        torch.manual_seed(0)
        hf = transformers.AutoModelForCausalLM.from_config(config).double()
        with torch.no_grad():
            hf.lm_head.weight.mul_(20).add_(0.5)
            before = log_softmax(hf(IDS).logits, -1)
            hf.lm_head.weight -= hf.lm_head.weight.mean(0)
            gaps[cap] = float((log_softmax(hf(IDS).logits, -1) - before).abs().max())
    assert gaps[None] < 1e-12 < 1e-2 < gaps[2.0]


@pytest.mark.parametrize("cap", [None, 0.05])
def test_folds_leave_softcaps_where_they_are(tiny, cap):
    """A cap near the logits' size: the fold, which leaves the unembedding alone, does what the hooks do under it."""
    config = type(tiny("gemma2").config).from_dict(
        tiny("gemma2").config.to_dict() | {"final_logit_softcapping": cap, "attn_logit_softcapping": cap}
    )
    torch.manual_seed(0)
    model = HookedModel(transformers.AutoModelForCausalLM.from_config(config))
    recipe = Recipe([("resid_pre.0", Add(rows()[0]))])
    with model.hooked(recipe):
        hooked = model.logits(IDS)
    plan = planned(model, recipe)
    edited = reloaded(model, plan)
    assert edited.config.final_logit_softcapping == cap
    assert (edited.logits(IDS) - hooked).abs().max() < 1e-5 * hooked.abs().max()
    assert (model.logits(IDS) - hooked).norm() > 0.1 * hooked.norm()
    assert cap is None or hooked.abs().max() < cap, "control: the cap acts"


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "opt", "gemma2", "falcon_sequential", "mixtral"])
def test_left_padding_changes_nothing_of_an_edit(tiny, name):
    """Hooked and folded model agree on a padded batch, and both with each prompt alone. Columns are no positions."""
    model = tiny(name)
    recipe = Recipe([("z.1", interp.interventions.Replace(units=[0])), ("mlp_out.1", interp.interventions.Replace())])
    edited = reloaded(model, planned(model, recipe))
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[1, :4], mask[2, :7] = False, False
    padded = Tokens(IDS.masked_fill(~mask, 0), mask)
    with model.hooked(recipe):
        hooked = model.logits(padded)
        alone = [model.logits(IDS[row : row + 1, start:]) for row, start in ((1, 4), (2, 7))]
    after = edited.logits(padded)
    scale = float(hooked[mask].abs().max())
    assert (after - hooked)[mask].abs().max() < 1e-5 * scale
    for row, start, single in ((1, 4, alone[0]), (2, 7, alone[1])):
        assert (after[row, start:] - single[0]).abs().max() < 2e-5 * scale
    with torch.no_grad():
        unmasked = edited.hf(input_ids=padded.ids).logits
    assert (unmasked - hooked)[mask].abs().max() > 1e-3 * scale, "control: padding taken for text"
