"""Splicing what was read changes nothing, and splicing something else changes what follows alone."""

import pytest
import torch
from tiny_models import one_site

from interp.activations.token_rows import pack_rows
from interp.sae.coder import SparseAutoencoder
from interp.sae.nonlinearities import TopK
from interp.sae.splice import spliced_logits, unspliced_pass

SITE = "resid_post.0"


@pytest.fixture(scope="module")
def spliced(tiny):
    model = tiny("llama")
    rows = torch.eye(32)
    sites = one_site(32, SITE, model.reference)
    sae = SparseAutoencoder(rows, torch.zeros(32), rows, torch.zeros(32), TopK(k=4), **sites)
    return model, sae, pack_rows(model, ["w4 w5 w6 w7", "w8 w9"], context=16)


def test_what_was_read_put_back_changes_nothing(spliced):
    model, sae, batch = spliced
    plain = unspliced_pass(sae, model, batch)
    assert plain.read.shape == (int(batch.inner.sum()), 32)
    assert torch.equal(plain.read, plain.written)
    assert torch.equal(spliced_logits(sae, model, batch, plain.written), plain.logits)


def test_the_first_token_of_a_document_is_left_as_it_is(spliced):
    model, sae, batch = spliced
    plain = unspliced_pass(sae, model, batch)
    logits = spliced_logits(sae, model, batch, 0 * plain.written)
    changed = (logits != plain.logits).any(-1)
    assert changed[batch.inner].all()
    assert not changed[batch.mask & ~batch.inner].any()


def test_gradients_flow_into_the_values(spliced):
    model, sae, batch = spliced
    values = unspliced_pass(sae, model, batch).written.clone().requires_grad_()
    with torch.enable_grad():
        total = spliced_logits(sae, model, batch, values)[batch.mask].square().sum()
        (gradient,) = torch.autograd.grad(total, values)
    assert gradient.abs().sum(1).all()
