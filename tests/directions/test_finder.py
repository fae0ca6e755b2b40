"""Find separates what differs, scores on pairs it was not fitted on, and finds nothing where there is nothing."""

import random

import pytest
import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import Contrast, Direction, InterpError, SparseAutoencoder, find
from interp.data._pairs import Message, Turn, TurnPair
from interp.directions.methods.closed_form import FITS
from interp.directions.scores import auroc
from interp.models.sites import Site
from interp.sae.nonlinearities import TopK


def sentences(last, n=60, seed=0):
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randint(20, 127)}" for _ in range(4)) + f" {last}" for _ in range(n)]


def contrast(positive="w5", negative="w9", n=60):
    """Each pair is the same random words behind which one word differs."""
    return Contrast.of(zip(sentences(positive, n), sentences(negative, n), strict=True))


def test_it_finds_the_word_that_differs(tiny):
    model = tiny("llama")
    found = find(model, contrast(), positions=(-1, -2))
    assert len(found) == len(FITS) * model.n_layers, "nothing is fitted before the word that differs"
    assert found.methods == sorted(FITS)
    assert all(row.auroc == 1 and row.direction.position == -1 for row in found)
    best = found.best()[0]
    assert best.direction.scores == {"auroc": best.auroc, "cohens_d": best.cohens_d}
    assert {row.direction.method for row in found.best(3, method="logistic")} == {"logistic"}


def test_a_shortlist_takes_the_best_of_each_method_in_turn(tiny):
    found = find(tiny("llama"), contrast())
    listed = found.shortlist(len(FITS) + 1)
    assert [row.direction.method for row in listed[:-1]] == found.methods
    assert listed[-1] == found.best(2, found.methods[0])[1]
    assert len(found.shortlist(1000)) == len(found)


def test_scores_are_of_held_out_pairs(tiny):
    """Random labels: a probe separates the pairs it was fitted on, and must not be reported to."""
    model, rng = tiny("llama"), random.Random(0)
    words = [[" ".join(f"w{rng.randint(4, 127)}" for _ in range(5)) for _ in range(40)] for _ in range(2)]
    noise = Contrast.of(zip(*words, strict=True))
    found = find(model, noise, sites="resid_post.2", methods=("logistic",)).rows[0]
    train, _ = noise.split(0.3, seed=0)
    sides = [model.capture(list(side), "resid_post.2", positions=-1)["resid_post.2"][:, 0] for side in train.texts(str)]
    fitted = auroc(*(found.direction.read(x)[:, 0] for x in sides))
    assert fitted > 0.85, "control: it does separate what it was fitted on"
    assert found.auroc < fitted - 0.15


def test_the_difference_of_means_is_what_it_says(tiny):
    model = tiny("gpt2")
    pairs = contrast()
    direction = find(model, pairs, sites="mlp_out.1", methods=("diff_means",), seed=3).rows[0].direction
    train, _ = pairs.split(0.3, seed=3)
    means = [
        model.capture(list(side), "mlp_out.1", positions=-1)["mlp_out.1"].mean((0, 1)) for side in train.texts(str)
    ]
    torch.testing.assert_close(direction.rows[0], normalize(means[0] - means[1], dim=0), atol=1e-5, rtol=1e-4)


def test_an_autoencoders_latent_is_found(tiny):
    """One latent is made to read the difference of means; it is the one that is found."""
    model = tiny("llama")
    row = find(model, contrast(), sites="resid_post.1", methods=("diff_means",)).rows[0].direction.rows[0]
    draw = torch.Generator().manual_seed(0)
    rows = normalize(torch.randn(30, 32, generator=draw), dim=1)
    rows[17] = row
    site, bias = Site("resid_post", 1), torch.zeros(30)
    sae = SparseAutoencoder(rows, bias, rows, torch.zeros(32), TopK(k=4), **one_site(32, site, model.reference))
    found = find(model, contrast(), sites="mlp_out.0", sae=sae)
    latent = found.best(1, method="sae_latent")[0]
    assert (latent.latent, latent.direction.site) == (17, site)
    assert latent.auroc > 0.95
    torch.testing.assert_close(latent.direction.rows[0], row)


def test_another_models_autoencoder_is_refused(tiny):
    rows = normalize(torch.randn(30, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    other = tiny("llama", seed=1).reference
    own = one_site(32, "resid_post.1", other)
    sae = SparseAutoencoder(rows, torch.zeros(30), rows, torch.zeros(32), TopK(k=4), **own)
    with pytest.raises(InterpError, match="this SAE was made for tiny llama 1"):
        find(tiny("llama"), contrast(), sae=sae)


def test_bad_requests_are_named(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match=r"mlp_post\.1 is not in the residual stream's basis"):
        find(model, contrast(), sites="mlp_post.1")
    with pytest.raises(InterpError, match="did you mean diff_means"):
        find(model, contrast(), methods=("dif_means",))
    with pytest.raises(InterpError, match="are outside prompt"):
        find(model, contrast(), positions=(-9,))
    with pytest.raises(InterpError, match="no finding by 'logistic'; known: diff_means"):
        find(model, contrast(), methods="diff_means").best(method="logistic")
    same = Contrast.of([("w5 w6", "w5  w6"), ("w7 w8", "w7  w8")])
    with pytest.raises(InterpError, match="both sides have the same activations at positions"):
        find(model, same, methods=("diff_means",))


def noise(n=60):
    """Two sides of random words: nothing tells them apart but chance."""
    rng = random.Random(0)
    words = [[" ".join(f"w{rng.randint(4, 127)}" for _ in range(5)) for _ in range(n)] for _ in range(2)]
    return Contrast.of(zip(*words, strict=True))


def test_stability_is_high_on_a_strong_signal_and_lower_on_noise(tiny):
    strong, weak = (find(tiny("llama"), pairs, sites="resid_post.2") for pairs in (contrast(), noise()))
    for signal, chance in zip(strong, weak, strict=True):
        assert signal.direction.method == chance.direction.method
        assert signal.stability > 0.9
        assert signal.stability > chance.stability + 0.05
    assert next(f for f in weak if f.direction.method == "diff_means").stability < 0.9
    unmeasured = find(tiny("llama"), contrast(), sites="resid_post.2", bootstrap=0)
    assert [f.stability for f in unmeasured] == [None] * len(FITS)
    assert [f.auroc for f in unmeasured] == [f.auroc for f in strong]


def test_costly_methods_are_fitted_again_in_the_shortlist_alone(tiny):
    found = find(tiny("llama"), contrast(n=20), sites=("resid_post.*", "mlp_out.*"))
    listed = found.shortlist(12)
    for finding in found:
        cheap = finding.direction.method.startswith("diff_means")
        assert (finding.stability is not None) == (cheap or any(finding is one for one in listed))


def test_the_same_seed_gives_the_same_findings(tiny):
    first, again, other = (find(tiny("llama"), noise(), sites="resid_post.1", seed=seed) for seed in (0, 0, 1))
    assert [f.row for f in first] == [f.row for f in again]
    assert first.baselines == again.baselines
    assert [f.row for f in first] != [f.row for f in other], "control"


def test_baselines_are_at_chance_on_noise_and_beside_every_cell(tiny):
    model = tiny("llama")
    found = find(model, noise(200), positions=(-1, -2))
    assert {(b.name, str(b.site), b.position) for b in found.baselines} == {
        (name, f"resid_post.{layer}", at) for name in ("random", "shuffled") for layer in range(3) for at in (-1, -2)
    }
    for baseline in found.baselines:
        assert len(baseline.each) == 5
        assert baseline.auroc == pytest.approx(sum(baseline.each) / 5)
        assert 0.5 <= baseline.auroc < 0.6
    assert found.beside(found.best()[0]).keys() == {"random", "shuffled"}
    listed = {f.direction.method for f in (*found.best(1000), *found.shortlist(1000))}
    assert listed == set(FITS), "baselines are no findings"
    grid = found.grid()
    assert len(grid) == 6
    assert list(grid[0]) == ["site", "position", *FITS, "random", "shuffled"]
    row = next(f for f in found if f.direction.method == "lda" and f.direction.site == Site("resid_post", 1))
    assert {"site": "resid_post.1", "position": -1, "lda": row.auroc}.items() <= grid[2].items()
    shown = found._repr_html_()
    assert "random (baseline)" in shown
    assert "shuffled (baseline)" in shown


def direction(model, rows, site="resid_post.1"):
    return Direction(rows, Site.parse(site), -1, "made", model.reference, "none")


def test_alignment_with_protected_directions_is_the_cosine(tiny):
    model = tiny("llama")
    (own,) = find(model, contrast(), sites="resid_post.1", methods="diff_means").rows
    row = own.direction.rows[0]
    other = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    beside = normalize(other - (other @ row)[:, None] * row, dim=1)  # orthogonal to the finding
    protected = {
        "same": direction(model, row[None]),
        "opposite": direction(model, -row[None]),
        "orthogonal": direction(model, beside, "mlp_out.0"),
        "at 60 degrees": direction(model, (row / 2 + beside[0] * 3**0.5 / 2)[None]),
        "a plane that holds it": direction(model, torch.stack([beside[0] + row, beside[0] - row])),
    }
    (found,) = find(model, contrast(), sites="resid_post.1", methods="diff_means", protected=protected).rows
    expected = {"same": 1, "opposite": 1, "orthogonal": 0, "at 60 degrees": 0.5, "a plane that holds it": 1}
    assert dict(found.alignment) == pytest.approx(expected, abs=1e-5)
    assert found.row["alignment"] == dict(found.alignment)
    assert own.alignment == {}


def test_protected_directions_of_another_model_or_basis_are_refused(tiny):
    model, other = tiny("llama"), tiny("llama", seed=1)
    row = torch.eye(32)[:1]
    with pytest.raises(InterpError, match="protected direction 'refusal' was made for tiny llama 1"):
        find(model, contrast(), protected={"refusal": direction(other, row)})
    with pytest.raises(InterpError, match=r"'refusal' is at q\.1, not in the residual stream's basis"):
        find(model, contrast(), protected={"refusal": direction(model, row, "q.1")})
    with pytest.raises(InterpError, match="bootstrap is -1"):
        find(model, contrast(), bootstrap=-1)


def test_what_can_not_be_fitted_is_left_out_and_named(tiny):
    """At the embedding the last word is all there is: neither side varies, and nothing can be whitened."""
    model = tiny("llama")
    found = find(model, contrast(), sites=("embed", "resid_post.0"), methods=("diff_means", "lda"))
    assert [(f.method, str(f.site), f.position) for f in found.failures] == [("lda", "embed", -1)]
    assert "neither side varies" in found.failures[0].reason
    assert "neither side varies" in found._repr_html_()
    assert found.grid()[0]["lda"] is None
    assert [str(f.direction.site) for f in found if f.direction.method == "lda"] == ["resid_post.0"]
    with pytest.raises(InterpError, match="nothing could be fitted; lda at embed: neither side varies"):
        find(model, contrast(), sites="embed", methods="lda")


def test_activations_that_are_not_finite_are_named(tiny, monkeypatch):
    model = tiny("llama", seed=7)
    capture = model.capture

    def broken(*args, **kwargs):
        acts = capture(*args, **kwargs)
        acts["resid_post.1"][0] = float("nan")
        return acts

    monkeypatch.setattr(model, "capture", broken)
    with pytest.raises(InterpError, match=r"resid_post\.1, position -1: 1 of 42 positive rows have NaN"):
        find(model, contrast())


def test_conversations_are_rendered_with_the_chat_template(tiny, monkeypatch):
    model = tiny("llama")
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    before = (Message("system", "w7"),)
    pair = TurnPair(Turn("w4", "w5", before), Turn("w4", "w6"))
    assert Contrast((pair,)).texts(model.render, model.chat) == (["system w7 user w4 w5"], ["user w4 w6"])
    rows = [TurnPair(Turn(f"w{n}", "w5", before), Turn(f"w{n}", "w6", before)) for n in range(20, 40)]
    assert find(model, Contrast(tuple(rows)), methods="diff_means").best()[0].auroc == 1
