"""Scrubbing leaves no covariance with the concept at any site; erasers fitted each by itself do not."""

import pytest
import torch

from interp import Contrast, InterpError, Recipe
from interp.directions.methods.erasure import ErasureFitter, NothingToErase
from interp.directions.methods.scrubbing import scrub
from interp.interventions.affine_ops import Erase


def material(n=60, length=9, seed=0):
    """Prompts of random words, and the class of each token: whether its word has an odd number."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(4, 128, (n, length), generator=draw)
    # Rows of unlike lengths, so that batches are padded.
    rows = [row[: length - number % 3].tolist() for number, row in enumerate(words)]
    return [" ".join(f"w{word}" for word in row) for row in rows], [[word % 2 for word in row] for row in rows]


def correlation(model, prompts, labels, site):
    """The largest correlation of a coordinate with the class, over all tokens but first ones."""
    acts, tokens = model.capture(prompts, site)[site], model.tokens(prompts)
    x, z = [], []
    for row, label in zip(range(len(prompts)), labels, strict=True):
        x.append(acts[row][tokens.mask[row]][1:])
        z += label[1:]
    joint = torch.cat([torch.cat(x).double(), torch.tensor(z)[:, None].double()], dim=1)
    return float(torch.corrcoef(joint.T)[-1, :-1].abs().max())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("fit", [ErasureFitter.leace, ErasureFitter.sal], ids=["leace", "sal"])
def test_after_scrubbing_no_site_has_covariance_with_the_concept(tiny, architecture, fit):
    model = tiny(architecture)
    prompts, labels = material()
    last = f"resid_post.{model.n_layers - 1}"
    fitted = scrub(model, prompts, labels, fit=fit, level=1.0, batch_size=16)
    apart = scrub(model, prompts, labels, fit=fit, level=1.0, sequential=False)
    assert [str(site) for site, _ in fitted] == [f"resid_post.{layer}" for layer in range(model.n_layers)]
    assert correlation(model, prompts, labels, last) > 0.05, "control: it is there before"
    with model.hooked(fitted):
        for site, _ in fitted:
            assert correlation(model, prompts, labels, str(site)) < 1e-3
    first = str(apart[0][0])
    with model.hooked(apart):
        assert correlation(model, prompts, labels, first) < 1e-3
        assert correlation(model, prompts, labels, last) > 0.02, "control: erasers that do not know of each other"
    with model.hooked(apart[-1:]):
        assert correlation(model, prompts, labels, last) < 1e-3, "each is right by itself"


def test_a_recipe_of_fitted_erasers_is_saved_and_runs_the_same(tiny, tmp_path):
    model = tiny("llama")
    prompts, labels = material()
    fitted = scrub(model, prompts, labels, level=1.0)
    recipe = Recipe([(str(site), Erase.of(eraser)) for site, eraser in fitted])
    recipe.save(tmp_path / "recipe")
    with model.hooked(fitted):
        expected = model.logits(prompts)
    for edit in (recipe, Recipe.load(tmp_path / "recipe")):
        with model.hooked(edit):
            torch.testing.assert_close(model.logits(prompts), expected, atol=1e-5, rtol=1e-5)
    assert (expected - model.logits(prompts)).abs().max() > 1e-3, "control"
    for edits in (recipe, fitted):
        with pytest.raises(InterpError, match="was made for tiny llama 0"), tiny("llama", 1).hooked(edits):
            pass


def test_behind_the_first_eraser_every_site_gets_one(tiny):
    model = tiny("llama")
    prompts, labels = material(n=300)
    assert len(scrub(model, prompts, labels, level=1e-6)) == model.n_layers
    noise = [torch.randint(0, 2, (len(row),), generator=torch.Generator().manual_seed(7)).tolist() for row in labels]
    sites = [str(site) for site, _ in scrub(model, prompts, noise, level=0.6, sequential=False)]
    assert len(sites) < model.n_layers, "control: by chance, not every site is significant"
    first = int(sites[0][-1])
    assert [site.layer for site, _ in scrub(model, prompts, noise, level=0.6)] == list(range(first, model.n_layers))


def test_a_contrast_labels_itself_and_is_read_at_its_positions(tiny):
    model = tiny("llama")
    prompts, _ = material(n=80, seed=1)
    contrast = Contrast.of((f"{a} w5 w9", f"{b} w6 w9") for a, b in zip(prompts[::2], prompts[1::2], strict=True))
    ((site, eraser),) = scrub(model, contrast, sites="resid_post.1", positions=-1, level=1.0)
    positive, negative = contrast.texts(model.render, model.chat)
    acts = torch.cat([model.capture(side, site, -1)[site][:, 0] for side in (positive, negative)]).double()
    z = torch.tensor([1.0] * len(positive) + [0.0] * len(negative), dtype=torch.float64) - 0.5
    gap = lambda x: float((x.T @ z).norm() / x.std())  # noqa: E731
    assert eraser.count == len(acts)
    assert gap(eraser(acts)) < 1e-3 * gap(acts)
    torch.testing.assert_close(eraser.mean, acts.mean(0), atol=1e-5, rtol=1e-5)


def test_sites_without_significance_get_no_eraser_and_bad_input_is_named(tiny):
    model = tiny("llama")
    prompts, labels = material()
    chance = [torch.randint(0, 2, (len(row),), generator=torch.Generator().manual_seed(3)).tolist() for row in labels]
    with pytest.raises(NothingToErase, match="can't be told from chance"):
        scrub(model, prompts, chance, level=1e-6)
    for arguments, message in (
        ((prompts, labels[:3]), "3 labels for 60 prompts"),
        ((prompts, [[0]] * len(prompts)), "prompt 0 has 9 tokens but 1 labels"),
        ((prompts, [-1] * len(prompts)), "prompt 0 has the label -1"),
        ((prompts, [10**6] * len(prompts)), "prompt 0 has the label 1000000"),
        ((prompts, torch.full((60,), 0.5)), r"prompt 0 has the label 0\.5"),
        ((prompts,), "prompts have no labels"),
        ((prompts, [0, 1] * 30, "z.0"), r"z\.0 is not in the residual stream's basis"),
        ((prompts, [0, 1] * 30, "resid_post.0", 40), r"no prompt has a token to fit on at positions \[40\]"),
    ):
        with pytest.raises(InterpError, match=message):
            scrub(model, *arguments)
    as_tensor = scrub(model, prompts, torch.tensor([0, 1] * 30), level=1.0)
    as_list = scrub(model, prompts, [0, 1] * 30, level=1.0)
    torch.testing.assert_close(as_tensor[0][1].read, as_list[0][1].read)
