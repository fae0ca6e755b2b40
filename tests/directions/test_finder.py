"""Find separates what differs, scores on pairs it was not fitted on, and finds nothing where there is nothing."""

import random
from inspect import unwrap

import pytest
import torch
from sae_samples import autoencoder
from tiny_models import one_site
from torch.nn.functional import normalize
from word_contrasts import choices, last_words, noise, sentences

from interp import Contrast, Direction, InterpError, SparseAutoencoder, find
from interp.directions.fitting import METHODS, TRAINED
from interp.directions.methods.closed_form import FITS
from interp.directions.methods.steering_vectors import steering_vector
from interp.directions.scores import auroc
from interp.models.sites import Site
from interp.sae.nonlinearities import TopK


def test_it_finds_the_word_that_differs(tiny):
    model = tiny("llama")
    findings = find(model, last_words(), positions=(-1, -2))
    assert len(findings) == len(FITS) * model.n_layers, "nothing is fitted before the word that differs"
    assert findings.methods == sorted(FITS)
    assert all(row.auroc == 1 and row.direction.position == -1 for row in findings)
    best = findings.best()[0]
    assert best.direction.scores == {"auroc": best.auroc, "cohens_d": best.cohens_d}
    assert {row.direction.method for row in findings.best(3, method="logistic")} == {"logistic"}


def test_scores_are_of_held_out_pairs(tiny):
    """Random labels: a probe separates the pairs it was fitted on, and must not be reported to."""
    model, rng = tiny("llama"), random.Random(0)
    words = [[" ".join(f"w{rng.randint(4, 127)}" for _ in range(5)) for _ in range(40)] for _ in range(2)]
    noise = Contrast.of(zip(*words, strict=True))
    finding = find(model, noise, sites="resid_post.2", methods=("logistic",)).rows[0]
    train, _ = noise.split(0.3, seed=0)
    sides = [model.capture(list(side), "resid_post.2", positions=-1)["resid_post.2"][:, 0] for side in train.texts(str)]
    fitted = auroc(*(finding.direction.read(x)[:, 0] for x in sides))
    assert fitted > 0.85, "control: it does separate what it was fitted on"
    assert finding.auroc < fitted - 0.15


def test_the_difference_of_means_is_what_it_says(tiny):
    model = tiny("gpt2")
    pairs = last_words()
    direction = find(model, pairs, sites="mlp_out.1", methods=("diff_means",), seed=3).rows[0].direction
    train, _ = pairs.split(0.3, seed=3)
    means = [
        model.capture(list(side), "mlp_out.1", positions=-1)["mlp_out.1"].mean((0, 1)) for side in train.texts(str)
    ]
    torch.testing.assert_close(direction.rows[0], normalize(means[0] - means[1], dim=0), atol=1e-5, rtol=1e-4)


def test_an_autoencoders_latent_is_found(tiny):
    """One latent is made to read the difference of means; it is the one that is found."""
    model = tiny("llama")
    row = find(model, last_words(), sites="resid_post.1", methods=("diff_means",)).rows[0].direction.rows[0]
    draw = torch.Generator().manual_seed(0)
    rows = normalize(torch.randn(30, 32, generator=draw), dim=1)
    rows[17] = row
    site, bias = Site("resid_post", 1), torch.zeros(30)
    sae = SparseAutoencoder(rows, bias, rows, torch.zeros(32), TopK(k=4), **one_site(32, site, model.reference))
    findings = find(model, last_words(), sites="mlp_out.0", sae=sae)
    latent = findings.best(1, method="sae_latent")[0]
    assert (latent.latent, latent.direction.site) == (17, site)
    assert latent.auroc > 0.95
    torch.testing.assert_close(latent.direction.rows[0], row)


def test_another_models_autoencoder_is_refused(tiny):
    rows = normalize(torch.randn(30, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    other = tiny("llama", seed=1).reference
    place = one_site(32, "resid_post.1", other)
    sae = SparseAutoencoder(rows, torch.zeros(30), rows, torch.zeros(32), TopK(k=4), **place)
    with pytest.raises(InterpError, match="this SAE was made for tiny llama 1"):
        find(tiny("llama"), last_words(), sae=sae)


def test_bad_requests_are_named(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match=r"contrast is a str; expected an interp\.Contrast"):
        unwrap(find)(model, "hostility")  # past the type checks of the test run
    with pytest.raises(InterpError, match=r"mlp_post\.1 is not in the residual stream's basis"):
        find(model, last_words(), sites="mlp_post.1")
    with pytest.raises(InterpError, match="did you mean diff_means"):
        find(model, last_words(), methods=("dif_means",))
    with pytest.raises(InterpError, match="are outside prompt"):
        find(model, last_words(), positions=(-9,))
    with pytest.raises(InterpError, match="no finding by 'logistic'; known: diff_means"):
        find(model, last_words(), methods="diff_means").best(method="logistic")
    same = Contrast.of([("w5 w6", "w5  w6"), ("w7 w8", "w7  w8")])
    with pytest.raises(InterpError, match="both sides have the same activations at positions"):
        find(model, same, methods=("diff_means",))


def test_the_same_seed_gives_the_same_findings(tiny):
    first, again, other = (find(tiny("llama"), noise(), sites="resid_post.1", seed=seed) for seed in (0, 0, 1))
    assert [f.row for f in first] == [f.row for f in again]
    assert first.baselines == again.baselines
    assert [f.row for f in first] != [f.row for f in other], "control"


def direction(model, rows, site="resid_post.1"):
    return Direction(rows, Site.parse(site), -1, "made", model.reference, "none")


def test_alignment_with_protected_directions_is_the_cosine(tiny):
    model = tiny("llama")
    (unprotected,) = find(model, last_words(), sites="resid_post.1", methods="diff_means").rows
    row = unprotected.direction.rows[0]
    other = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    orthogonal = normalize(other - (other @ row)[:, None] * row, dim=1)  # orthogonal to the finding
    protected = {
        "same": direction(model, row[None]),
        "opposite": direction(model, -row[None]),
        "orthogonal": direction(model, orthogonal, "mlp_out.0"),
        "at 60 degrees": direction(model, (row / 2 + orthogonal[0] * 3**0.5 / 2)[None]),
        "a plane that holds it": direction(model, torch.stack([orthogonal[0] + row, orthogonal[0] - row])),
    }
    (finding,) = find(model, last_words(), sites="resid_post.1", methods="diff_means", protected=protected).rows
    expected = {"same": 1, "opposite": 1, "orthogonal": 0, "at 60 degrees": 0.5, "a plane that holds it": 1}
    assert dict(finding.alignment) == pytest.approx(expected, abs=1e-5)
    assert finding.row["alignment"] == dict(finding.alignment)
    assert unprotected.alignment == {}


def test_protected_directions_of_another_model_or_basis_are_refused(tiny):
    model, other = tiny("llama"), tiny("llama", seed=1)
    row = torch.eye(32)[:1]
    with pytest.raises(InterpError, match="protected direction 'refusal' was made for tiny llama 1"):
        find(model, last_words(), protected={"refusal": direction(other, row)})
    with pytest.raises(InterpError, match=r"'refusal' is at q\.1, not in the residual stream's basis"):
        find(model, last_words(), protected={"refusal": direction(model, row, "q.1")})
    with pytest.raises(InterpError, match="bootstrap is -1"):
        find(model, last_words(), bootstrap=-1)


def test_a_search_trains_what_is_named(tiny):
    model = tiny("llama")
    findings = find(model, sentences(), sites="resid_post.1", methods=("diff_means", "reft_r1", "steering_vector"))
    assert findings.methods == ["diff_means", "reft_r1"]
    assert [failure.method for failure in findings.failures] == ["steering_vector"]
    assert "has no answers" in findings.failures[0].reason
    assert findings.best(1, "reft_r1")[0].stability is None, "training again is not worth a stability"
    pairs = choices()
    chosen = find(model, pairs, sites="resid_post.1", methods=("steering_vector",)).best()[0].direction
    train, _ = pairs.split(0.3, seed=0)
    gap = torch.linalg.vector_norm(chosen.means[0] - chosen.means[1])
    torch.testing.assert_close(chosen.rows, steering_vector(model, train, "resid_post.1", float(gap)).direction.rows)


def test_all_are_all_and_what_trains_runs_where_the_best_is(tiny):
    model, few, sae = tiny("llama"), last_words(n=14), autoencoder(tiny("llama"))
    findings = find(model, few, ["resid_post.0", "resid_post.1"], "all", sae=sae, bootstrap=2)
    assert {*findings.methods, *(failure.method for failure in findings.failures)} == {*METHODS}
    assert {failure.method for failure in findings.failures} == {"steering_vector", "sae_latent_attribution"}
    places = {name: {f.direction.site for f in findings if f.direction.method == name} for name in findings.methods}
    closed = max((f for f in findings if f.direction.method not in TRAINED), key=lambda f: (f.auroc, f.cohens_d))
    assert places["lda"] == places["leace"] == {Site("resid_post", 0), Site("resid_post", 1)}
    assert places["reft_r1"] == places["unsupervised"] == {closed.direction.site}
    assert places["sae_latent"] == {Site("resid_post", 1)}
    assert findings.seconds.keys() == {*findings.methods}
    assert all(taken > 0 for taken in findings.seconds.values())
    closed_form = find(model, few, ["resid_post.0", "resid_post.1"], "closed_form", bootstrap=2)
    by_place = {(f.direction.method, f.direction.site): f.direction.rows for f in findings}
    for finding in closed_form:
        method, site = finding.direction.method, finding.direction.site
        assert torch.equal(by_place[method, site], finding.direction.rows), "the rest changes nothing"
