"""Casts to 16 bits, norms that are kept, what each leaves along a direction, and how far two machines may be apart."""

import doctest

import pytest
import torch
from folding import IDS, on_disk, planned, reloaded, rows

import interp
from interp import InterpError, Project, Recipe
from interp.core.linalg import orthonormal_rows
from interp.editing.fold import rounding
from interp.editing.fold.affine_maps import MapChange, TensorMap
from interp.editing.fold.plan import Plan
from interp.editing.fold.rounding import round_onto, rounding_units_of
from interp.editing.options import FoldOptions

TYPES = [torch.bfloat16, torch.float16]


def written(d, n, k=1, spike=False, seed=0):
    """Weights (n inputs, d_model) with a subspace taken out, the subspace, and the weights before."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(k, d, generator=generator)
    if spike:
        basis[:, :3] *= 100
    basis = orthonormal_rows(basis)
    before = torch.randn(n, d, generator=generator) * 0.02
    return before - (before @ basis.T) @ basis, basis, before


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("k", "spike"), [(1, False), (4, False), (1, True), (2, True)])
def test_a_tenth_of_the_leak_for_a_twentieth_more_error(dtype, k, spike):
    """At the width of SmolLM2; also where few coordinates carry the direction. k rows are a joint problem."""
    exact, basis, before = written(576, 512, k, spike)

    def figures(rounded):
        leak = (rounded.double() @ basis.T.double()).norm() / (before.double() @ basis.T.double()).norm()
        return float(leak), float((rounded.double() - exact.double()).norm())

    (plain_leak, plain_error), (leak, error) = figures(exact.to(dtype)), figures(round_onto(exact, basis, dtype))
    assert plain_leak > (5e-4 if dtype == torch.bfloat16 else 5e-5), "control: a cast leaves this much"
    assert leak < plain_leak / 10
    assert error < 1.05 * plain_error


def test_the_example_holds():
    assert doctest.testmod(rounding).attempted == 3
    assert doctest.testmod(rounding).failed == 0


def test_every_entry_is_one_of_its_two_neighbours_or_near():
    exact, basis, _ = written(256, 64)
    rounded = round_onto(exact, basis, torch.bfloat16)
    unit = torch.ldexp(torch.ones_like(exact), torch.frexp(exact).exponent - 8)
    assert ((rounded.float() - exact).abs() <= unit).all()
    with pytest.raises(InterpError, match=r"expected one of torch\.bfloat16"):
        round_onto(exact, basis, torch.float32)


@pytest.mark.parametrize("layout", ["out_in", "in_out", "table"])
@pytest.mark.parametrize("dtype", TYPES)
def test_tensors_are_rounded_along_the_axis_that_is_written(layout, dtype):
    _, basis, before = written(192, 96, 2)
    tensor = (before.T if layout == "out_in" else before).to(dtype)
    leaks = {}
    for compensate in (False, True):
        made = MapChange(layout, (TensorMap(basis, basis),), compensate=compensate).apply(tensor)
        assert (made.dtype, made.shape) == (dtype, tensor.shape)
        vectors = made.double().T if layout == "out_in" else made.double()
        leaks[compensate] = float((vectors @ basis.T.double()).norm())
    assert leaks[True] < leaks[False] / 10


def test_experts_of_three_axes_and_biases_are_rounded_too():
    _, basis, before = written(192, 96)
    experts = torch.stack([before.T, 2 * before.T]).bfloat16()
    plain, made = (MapChange("out_in", (TensorMap(basis, basis),), compensate=c).apply(experts) for c in (False, True))
    for expert in range(2):
        left = [float((basis.double() @ x[expert].double()).norm()) for x in (plain, made)]
        assert left[1] < left[0] / 10
    bias = MapChange("bias", (TensorMap(basis, basis),), compensate=True).apply(before[0].bfloat16())
    assert float((basis.double() @ bias.double()).abs().max()) < 1e-3 * float((basis @ before[0]).abs().max())


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_moe"])
def test_a_bfloat16_model_writes_less_along_the_direction(tiny, name):
    """In the loaded model, writers' outputs in float32 from the rounded weights, behind norms as well."""
    model, recipe = tiny(name), Recipe([("writers", Project(rows()))])
    leaks = {}
    for compensate in (False, True):
        edited = reloaded(model, planned(model, recipe, compensate=compensate), torch.bfloat16)
        edited.hf.float()
        acts = edited.capture(IDS, ("attn_out.*", "mlp_out.*")).tensors.values()
        leaks[compensate] = float(torch.cat([(x @ recipe.edits[0].op.rows[0]).flatten() for x in acts]).norm())
    assert leaks[True] < leaks[False] / 10


def test_norms_are_kept_by_columns_and_not_by_rows(tiny):
    """In float64: scaling what each input writes keeps rᵀ W' = 0; scaling output rows puts much of the write back."""
    _, basis, before = written(64, 200, seed=3)
    basis, weight = basis.double(), before.T.double()
    made = MapChange("out_in", (TensorMap(basis, basis),), keep_norms=True).apply(weight)
    assert torch.allclose(made.norm(dim=0), weight.norm(dim=0), atol=1e-12)
    assert (basis @ made).norm() < 1e-7 * (basis @ weight).norm()
    projected = weight - basis.T @ (basis @ weight)
    by_rows = projected * (weight.norm(dim=1) / projected.norm(dim=1))[:, None]
    assert (basis @ by_rows).norm() > 0.02 * (basis @ weight).norm()
    model, recipe = tiny("llama"), Recipe([("writers", Project(rows()))])
    with pytest.raises(InterpError, match="keep their former norms"):
        planned(model, recipe, keep_norms=True)
    plan = planned(model, recipe, keep_norms=True, approximate=True)
    for tensor in ("model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"):
        old, new = on_disk(model)[0][tensor], plan.apply(tensor, on_disk(model)[0][tensor])
        axis = 1 if "embed" in tensor else 0
        assert torch.allclose(old.norm(dim=axis), new.norm(dim=axis))
        assert not torch.equal(old, new)


def test_a_vector_that_was_all_along_the_direction_stays_gone():
    basis = torch.eye(8)[:1]
    weight = torch.cat([torch.eye(8)[:1], torch.ones(1, 8)])
    made = MapChange("table", (TensorMap(basis, basis),), keep_norms=True).apply(weight)
    assert not made[0].any()
    assert made[1].norm() == pytest.approx(8**0.5)


def test_a_cast_at_export_folds_by_the_gains_that_are_written(tiny, tmp_path):
    """Gemma's gains are rounded as well; a fold that went by those of the source would leave their difference."""
    left = {}
    for compensate in (False, True):
        out, choices = tmp_path / str(compensate), FoldOptions(compensate=compensate)
        recipe = Recipe([("writers", Project(rows()))])
        interp.export(recipe, tiny("gemma2"), out, dtype="bfloat16", fold=choices)
        acts = interp.load(out).capture(IDS, ("attn_out.*", "mlp_out.*")).tensors.values()
        left[compensate] = float(torch.cat([(x @ recipe.edits[0].op.rows[0]).flatten() for x in acts]).norm())
    assert left[True] < left[False] / 10


WIDTH, COUNT = 512, 600


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_arithmetic_is_within_a_unit_and_what_it_does_to_a_vector(dtype):
    """The same projection in float32 and in float64, each rounded once: as far apart as two processors."""
    draw = torch.Generator().manual_seed(0)
    row = torch.nn.functional.normalize(torch.randn(1, WIDTH, generator=draw), dim=1)
    base = (row.T @ torch.randn(1, COUNT, generator=draw) + 1e-3 * torch.randn(WIDTH, COUNT, generator=draw)).to(dtype)
    plan = Plan({"w": MapChange("out_in", (TensorMap(row, row),))})
    one = plan.apply("w", base.clone())
    other = plan.apply("w", base.double()).to(dtype)
    room = plan.rounding_reach("w", base, one, dtype)
    assert not torch.equal(one, other)
    assert rounding_units_of(one, other, dtype) > 1, "control: near nothing, entries are many of their own units apart"
    assert rounding_units_of(one, other, dtype, room) <= plan.allowed_units("w") == 1
    assert float(room.max()) < 1e-4 * float(base.float().norm(dim=0).max())
    changed = one.clone()
    changed[3, 5] += 5e-3 * base.float().norm(dim=0).max()
    assert rounding_units_of(changed, other, dtype, room) > 1
    changed[3, 5] = torch.nan
    assert rounding_units_of(changed, other, dtype, room) == torch.inf


def test_tensors_that_are_kept_have_no_room():
    x = torch.tensor([1.0, 2.0])
    assert Plan({}).rounding_reach("w", x, x, torch.float32) == 0.0
    assert rounding_units_of(x, x + 1e-6, torch.float32) > 1
    assert rounding_units_of(torch.tensor([1]), torch.tensor([2]), torch.int64) == torch.inf
