"""Weights that do what the hooks do, architecture by architecture, through plain transformers' own loading."""

import copy

import pytest
import tiny_models
import torch
from folding import EXPERTS, IDS, POST_NORM, PRE_NORM, gap, loaded, on_disk, planned, reloaded, rows, written

import interp
from interp import Add, InterpError, Project, Recipe
from interp.editing.fold.steps import fold, plan_fold
from interp.interventions import At, Erase, Gate, LowRank, Reads, Replace, Scale, Schedule

WRITTEN = ("embed", "attn_out.*", "mlp_out.*")  # by models whose norms follow their writers, too
BAND = ("mlp_out.1", "attn_out.0-1")
EVERYWHERE = ("resid_pre.*", "resid_mid.*", "resid_post.*")
ERASE = Erase(torch.eye(32)[:1], torch.eye(32)[:1], rows(3)[0])
LOW_RANK = LowRank(torch.eye(32)[:1], torch.eye(32)[:1], torch.ones(1))


def gate(op):
    return Gate(op, Reads(rows(1)[0], -1e9), per="token", site="resid_pre.0")


def projection(k=1, scale=1.0, sites="writers", seed=0):
    return Recipe([(sites, Project(rows(seed, k), scale))])


HEADS = Scale(torch.tensor([1.0, 0.0, 0.5, 2.0]))
EXACT = {
    "projection": [("writers", Project(rows(k=3)))],
    "scale and band": [("writers", Project(rows(), 0.4)), (BAND, Project(rows(1, 2)))],
    "scaled heads": [("z.*", HEADS), ("z.1", Scale(torch.full((4,), 0.9)))],
    "ablation": [("z.1", Replace(units=[0, 3])), ("mlp_out.0", Replace()), ("attn_out.2", Replace(units=[4, 9]))],
}
TOGETHER = [*EXACT["projection"], *EXACT["scale and band"], ("z.0", HEADS), *EXACT["ablation"]]


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *((name, Recipe(TOGETHER)) for name in PRE_NORM),
        *((name, Recipe(edits)) for name in ("llama", "gpt2", "phi3", "mixtral") for edits in EXACT.values()),
    ],
    ids=[*PRE_NORM, *(f"{name} {kind}" for name in ("llama", "gpt2", "phi3", "mixtral") for kind in EXACT)],
)
def test_pre_norm_models_fold_exactly(tiny, name, recipe):
    plan = planned(tiny(name), recipe)
    off, effect = gap(tiny(name), recipe, plan)
    assert plan.status == "exact"
    assert effect > 1e-2, "control: the edit does something"
    assert off < 2e-6


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_fold_fused_and_one_by_one(tiny, name):
    """A model in memory has fused experts; the file has them one by one, but for gpt-oss. Both give the same model."""
    model, recipe = tiny(name), projection(k=2)
    state = model.hf.state_dict()
    fused = fold(recipe, model.config, state, tied=False)
    hf = type(model.hf)(model.config)
    hf.load_state_dict({n: fused.apply(n, x) for n, x in state.items()})
    from_file = reloaded(model, planned(model, recipe)).hf.state_dict()
    assert any("experts.down_proj" in n for n in fused.changes)
    for n, x in hf.state_dict().items():
        assert torch.allclose(x, from_file[n], atol=1e-7)


def test_a_wrong_axis_of_square_experts_would_be_seen(tiny):
    """gpt-oss' experts are [expert, in, out], square in the released models: the other axis would raise nothing."""
    square = tiny("gpt_oss").config.to_dict() | {"intermediate_size": 32}
    model = interp.HookedModel(type(tiny("gpt_oss").hf)(type(tiny("gpt_oss").config).from_dict(square)))
    recipe = projection()
    plan = planned(model, recipe)
    off, effect = gap(model, recipe, plan)
    assert off < 2e-6 < 1e-2 < effect
    r, name = recipe.edits[0].op.rows[0], "model.layers.1.mlp.experts.down_proj"
    weight = on_disk(model)[0][name]
    assert weight.shape[1] == weight.shape[2]
    assert (plan.apply(name, weight) @ r).abs().max() < 1e-6 < 1e-2 < (weight @ r).abs().max()


def test_the_unembedding_stays_where_the_table_changes(tiny):
    """Editing a tied table would edit the unembedding too."""
    model, recipe = tiny("smollm3"), projection()
    plan = planned(model, recipe)
    assert plan.untie == "model.embed_tokens.weight"
    assert plan.config == {"tie_word_embeddings": False}
    assert torch.equal(written(model, plan)["lm_head.weight"], on_disk(model)[0][plan.untie])
    untied, _ = gap(model, recipe, plan)
    tied_tensors = {n: plan.apply(n, x) for n, x in on_disk(model)[0].items()}
    with model.hooked(recipe):
        hooked = model.logits(IDS)
    tied = (loaded(tied_tensors, on_disk(model)[1]).logits(IDS) - hooked).abs().max() / (hooked.max() - hooked.min())
    assert untied < 2e-6 < 1e-2 < tied


@pytest.mark.parametrize("apart", [0.0, 0.1])
def test_a_tied_checkpoint_that_holds_its_unembedding_keeps_it(tiny, apart):
    """transformers ties the two only where they are equal; after the edit they are not, and the file's own counts."""
    tensors, config = on_disk(tiny("smollm3"))
    tensors = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + apart}
    model, recipe = loaded(tensors, config), projection()
    plan = fold(recipe, model.config, tensors, tied=True)
    assert (plan.untie, plan.config) == (None, {"tie_word_embeddings": False})
    with model.hooked(recipe):
        hooked = model.logits(IDS)
    edited = loaded({n: plan.apply(n, x) for n, x in tensors.items()}, config | plan.config)
    assert (edited.logits(IDS) - hooked).abs().max() < 2e-6 * (hooked.max() - hooked.min())


def test_leaving_the_embedding_is_a_choice_with_a_name(tiny):
    model, recipe = tiny("smollm3"), projection()
    with pytest.raises(InterpError, match="token table does not change"):
        planned(model, recipe, leave_embedding=True)
    plan = planned(model, recipe, leave_embedding=True, approximate=True)
    assert plan.untie is None
    assert "model.embed_tokens.weight" not in plan.changes
    assert plan.status == "approximate"
    off, effect = gap(model, recipe, plan)
    assert 1e-4 < off < effect
    for edit in (("embed", Add(rows()[0])), ("resid_pre.0", Add(rows()[0])), ("resid_pre.0", Project(rows()))):
        with pytest.raises(InterpError, match=r"so it has to change|token table does not"):
            planned(model, Recipe([edit]), leave_embedding=True)


REFUSED = [
    ("llama", [("resid_post.1", Project(rows()))], "no single tensor writes that site"),
    ("llama", [(("resid_pre.*", "resid_mid.*", "resid_post.*"), Project(rows(), 0.5))], r"\(1 - s\)\^n"),
    ("llama", [("mlp_out.1", Add(rows()[0], relative=True))], "not an affine function"),
    ("llama", [("writers", At(Project(rows()), "last"))], "acts at some tokens only"),
    ("llama", [("q.1", Replace())], "no single tensor writes that site|not an affine"),
    ("llama", [("z.1", Scale(torch.ones(3)))], "3 factors for the 4 units at z.1"),
    ("llama", [("z.1", Scale(torch.ones(4))), ("z.1", Replace(units=[1]))], "are both replaced and scaled"),
    ("llama", [("z.1", Replace(units=[9]))], "unit 9 at z.1 is not there"),
    ("llama", [("mlp_post.1", Replace(units=[64]))], "unit 64 at mlp_post.1 is not there"),
    ("llama", [("attn_out.1", Replace(units=[32]))], "attn_out.1 has 32 coordinates"),
    ("llama", [("attn_out.1", Replace(torch.ones(31)))], "attn_out.1 has 32 coordinates"),
    ("llama", [(("resid_pre.*", "resid_mid.*", "resid_post.*", "z.1"), Project(rows()))], "'z.1' does not fold"),
    ("llama", [("mlp_out.1", Replace(torch.randn(7, 32)))], "differs between positions"),
    ("llama", [("resid_mid.1", Add(rows()[0]))], "seen by the MLP alone"),
    ("llama", [("resid_post.1", LowRank(rows() / rows().norm(), rows(1), torch.ones(1)))], "no single tensor"),
    ("mistral", [("mlp_out.1", Add(rows()[0]))], "Llama class"),
    ("phi3", [("resid_post.1", Add(rows()[0]))], "needs a bias on its writer"),
    ("mixtral", [("mlp_out.1", Add(rows()[0]))], "needs a bias on its writer"),
    ("gemma2", [("resid_post.1", Add(rows()[0]))], "normalises what attention and MLP write"),
    ("gemma2", [("writers", Add(rows()[0]))], "a norm follows there"),
    ("bloom", [("writers", Project(rows()))], "normalises its embeddings"),
    ("gemma4", [("writers", Project(rows()))], "per-layer inputs"),
]


@pytest.mark.parametrize(("name", "edits", "message"), REFUSED, ids=[f"{n}-{e[0][0]}" for n, e, _ in REFUSED])
def test_what_does_not_fold_is_refused_with_the_reason(tiny, name, edits, message):
    with pytest.raises(InterpError, match=message):
        planned(tiny(name), Recipe(edits))


def test_what_is_refused_leaves_no_trace(tiny):
    """Without a reader, what depends on gains is refused; the rest of the recipe is examined all the same."""
    model = tiny("gemma2")
    sites = ("resid_pre.*", "resid_mid.*", "resid_post.*")
    recipe = Recipe([(sites, Project(rows())), ("z.1", Replace(units=[1]))])
    plan = plan_fold(recipe, model.config, on_disk(model)[0], tied=True)
    assert [item.status for item in plan.items] == ["refused", "exact"]
    assert list(plan.changes) == ["model.layers.1.self_attn.o_proj.weight"]


def test_a_vector_is_added_whole_where_lengths_are_kept(tiny):
    plan = planned(tiny("llama"), Recipe([("embed", Add(rows()[0]))]), keep_norms=True)
    off, effect = gap(tiny("llama"), Recipe([("embed", Add(rows()[0]))]), plan)
    assert off < 2e-6 < 1e-2 < effect


def test_a_checkpoint_that_lacks_a_writer_is_refused(tiny):
    for name, lost, message in [
        ("llama", "model.layers.1.mlp.down_proj.weight", "no tensor 'model.layers.1.mlp.down_proj.weight'"),
        ("qwen3_moe", "model.layers.1.mlp.experts.3.down_proj.weight", "no tensor .*experts.3"),
        ("deepseek_v3", "model.layers.2.mlp.shared_experts.down_proj.weight", "no tensor .*shared_experts"),
    ]:
        names = set(on_disk(tiny(name))[0]) - {lost}
        with pytest.raises(InterpError, match=message):
            fold(projection(), tiny(name).config, names, tied=False)
    names = {n.replace("down_proj", "down_proj_blocks") for n in on_disk(tiny("gpt_oss"))[0]}
    with pytest.raises(InterpError, match="quantised"):
        fold(projection(), tiny("gpt_oss").config, names, tied=False)
    names = set(on_disk(tiny("llama"))[0]) | {"model.layers.0.mlp.down_proj.weight_scale_inv"}
    with pytest.raises(InterpError, match="is quantised"):
        fold(projection(), tiny("llama").config, names, tied=False)


def gained(model, seed=4):
    """The model with gains that differ from entry to entry, some of them 0 or nearly."""
    hf, draw = copy.deepcopy(model.hf), torch.Generator().manual_seed(seed)
    zero = -1.0 if "gemma" in model.config.model_type else 0.0
    with torch.no_grad():
        for tensor, x in hf.named_parameters():
            if "norm" in tensor and ".layers." in tensor:
                x += 0.8 * torch.randn(x.shape, generator=draw)
                if x.shape == (32,):
                    x[3], x[5] = zero, zero + 1e-6
    return interp.HookedModel(hf, model.tokenizer)


@pytest.mark.parametrize("name", POST_NORM)
@pytest.mark.parametrize(
    "recipe",
    [
        projection(),
        projection(k=3, scale=0.5),
        Recipe([("writers", Project(torch.eye(32)[3:5]))]),
        Recipe([("attn_raw.1", Project(rows())), ("writers", Project(rows(1, 2))), ("mlp_raw.*", Replace(units=[4]))]),
    ],
    ids=["one row", "half of three", "one of two rows without gain", "a band and coordinates"],
)
def test_before_a_norm_hooks_and_weights_do_the_same(tiny, name, recipe):
    """`writers` names the raw outputs where a norm follows. P W, and the hook after the norm, are other edits."""
    model = gained(tiny(name))
    plan = planned(model, recipe)
    off, effect = gap(model, recipe, plan)
    assert plan.status == "exact"
    assert "attn_raw.1" in str(plan.items)
    assert off < 2e-6
    assert effect > 1e-2
    after_norm = Recipe([(WRITTEN, edit.op) for edit in recipe.edits])
    assert gap(model, after_norm, plan)[0] > 1e-3, "control"


@pytest.mark.parametrize("name", POST_NORM)
@pytest.mark.parametrize("k", [1, 3])
def test_nothing_is_left_along_the_direction_behind_a_norm(tiny, name, k):
    """By hooks and in weights. P W, the fold of a model without that norm, leaves a share one sees."""
    model, recipe = gained(tiny(name)), projection(k)
    edited = reloaded(model, planned(model, recipe))
    assert leak(edited, recipe) < 1e-6
    with model.hooked(recipe):
        assert leak(model, recipe) < 1e-6
    with model.hooked([("writers", recipe.edits[0].op)]):
        assert leak(model, recipe) < 1e-6, "an op as a plain function, too"
    assert all(x.isfinite().all() and x.abs().max() < 10 for x in edited.hf.state_dict().values())
    with model.hooked([("writers", recipe.edits[0].op.__call__)]):
        assert leak(model, recipe) > 1e-2, "control: P y before the norm"


def leak(model, recipe):
    """The largest share along the recipe's rows of what anything adds to the stream."""
    removed = recipe.edits[0].op.rows
    acts = model.capture(IDS, WRITTEN).tensors.values()
    return max(float(((x @ removed.T).norm(dim=-1) / x.norm(dim=-1)).max()) for x in acts)


OPS = [Project(rows()), Add(rows()[0]), ERASE, LOW_RANK]


@pytest.mark.parametrize(  # Gemma 2 has every op at every site, each of the others an op at each site
    ("name", "site", "op"),
    [
        (name, site, op)
        for number, name in enumerate(POST_NORM)
        for place, site in enumerate(["mlp_out.1", "attn_out.*", EVERYWHERE])
        for kind, op in enumerate(OPS)
        if name == "gemma2" or (kind + place + number) % len(OPS) == 0
    ],
    ids=lambda part: part if isinstance(part, str) else type(part).__name__,
)
def test_behind_a_norm_nothing_folds_and_a_projection_can_be_put_before_it(tiny, name, site, op):
    model, recipe = tiny(name), Recipe([(site, op)])
    with pytest.raises(InterpError, match=r"no weight holds an edit after that norm|compounds"):
        planned(model, recipe, approximate=True)
    with model.hooked(recipe):
        assert model.logits(IDS).isfinite().all(), "by hooks each runs there as before"
    if isinstance(op, Project) and site != EVERYWHERE:
        moved = recipe.before_norms(model)
        off, effect = gap(model, moved, planned(model, moved))
        assert off < 2e-6 < 1e-3 < effect


@pytest.mark.parametrize("op", [Add(rows()[0]), ERASE, LOW_RANK, Add(rows()[0], relative=True)], ids=str)
def test_what_has_no_form_before_a_norm_is_refused_there(tiny, op):
    model, recipe = tiny("gemma3"), Recipe([("writers", op)])
    for run in (lambda: planned(model, recipe, approximate=True), lambda: model.hooked(recipe).__enter__()):
        with pytest.raises(InterpError, match=r"a norm follows there.*attn_out\.\*"):
            run()


@pytest.mark.parametrize(
    "wrap",
    [lambda op: At(op, [0, 2]), lambda op: Schedule(op, [1.0], prompt=1.0), gate],
    ids=["at", "schedule", "gate"],
)
def test_ops_inside_others_are_put_before_the_norm_with_them(tiny, wrap):
    """With hooks: at the tokens where they act, they leave what the bare op leaves."""
    model, op = gained(tiny("olmo2")), Project(rows())
    with model.hooked(Recipe([("attn_raw.1", wrap(op))])):
        wrapped = model.capture(IDS, "attn_out.1")["attn_out.1"]
    along = (wrapped @ op.rows[0]).abs()
    plain = (model.capture(IDS, "attn_out.1")["attn_out.1"] @ op.rows[0]).abs()
    assert along[:, [0, 2]].max() < 1e-6 < 1e-2 < plain[:, [0, 2]].max()


@pytest.mark.parametrize("edits", [
    [("attn_raw.1", Project(rows())), ("attn_out.1", Replace())],
    [("attn_out.1", Replace()), ("attn_raw.1", Replace(rows()[0]))],
    [("mlp_raw.1", Replace(rows()[0])), ("mlp_raw.1", Project(rows(1)))],
], ids=["then zeros", "zeros last whatever the order", "a mean"])  # fmt: skip
def test_what_acts_on_both_sides_of_a_norm_acts_in_the_order_of_the_forward_pass(tiny, edits):
    model = gained(tiny("gemma2"))
    recipe = Recipe(edits)
    if "mlp_raw" in edits[0][0]:
        with pytest.raises(InterpError, match="needs a bias on its writer"):
            planned(model, recipe)
        return
    off, effect = gap(model, recipe, planned(model, recipe))
    assert off < 2e-6 < 1e-2 < effect


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2", "exaone4", "glm4"])
def test_what_acts_before_the_norm_is_exact(tiny, name):
    """Heads and whole writes are ablated before the norm, which sees the same as with hooks."""
    model = tiny(name)
    recipe = Recipe([("z.1", Replace(units=[0, 2])), ("mlp_out.2", Replace()), ("mlp_post.0", Replace(units=[5, 6]))])
    plan = planned(model, recipe)
    off, effect = gap(model, recipe, plan)
    assert plan.status == "exact"
    assert off < 2e-6 < 1e-2 < effect


def test_a_vector_is_added_before_the_first_block_or_not_at_all(tiny):
    model, recipe = tiny("gemma3"), Recipe([("resid_pre.0", Add(rows()[0]))])
    off, effect = gap(model, recipe, planned(model, recipe))
    assert off < 2e-6 < 1e-2 < effect
    for site in ("mlp_out.1", "resid_post.0"):
        with pytest.raises(InterpError, match="no weight holds an edit after that norm"):
            planned(model, Recipe([(site, Add(rows()[0]))]), approximate=True)


def test_gains_have_to_be_read(tiny):
    model = tiny("olmo2")
    with pytest.raises(InterpError, match="give fold a function that reads them"):
        fold(Recipe([("writers", Project(rows()))]), model.config, model.hf.state_dict(), tied=False)


def test_every_architecture_has_its_place():
    assert set(PRE_NORM) | set(POST_NORM) | {"gemma4", "bloom"} == set(tiny_models.CONFIGS)
