from dataclasses import replace

import pytest

from interp import InterpError
from interp.features import autoencoder_digest


def test_the_digest_tells_autoencoders_apart(saes):
    sae = saes["top"]
    same = replace(sae, W_enc=sae.W_enc.clone())
    others = [
        replace(sae, W_dec=sae.W_dec * 1.5),
        replace(sae, nonlinearity=sae.nonlinearity.model_copy(update={"k": 4})),
        saes["jump"],
    ]
    assert autoencoder_digest(same) == autoencoder_digest(sae)
    assert len({autoencoder_digest(x) for x in (sae, *others)}) == 4


def test_names_and_latents_are_checked(scanned, saes):
    card = scanned.card
    assert card.require(saes["jump"]) == "jump"
    for message, call in [
        ("has 2 autoencoders; name one: jump, top", lambda: card.name(None)),
        ("autoencoder 'tpo' is not in the book; did you mean top", lambda: card.name("tpo")),
        ("latent 40 does not exist; autoencoder top has latents 0 to 39", lambda: card.require_latent("top", 40)),
        ("not of this autoencoder", lambda: card.require(replace(saes["top"], W_dec=saes["top"].W_dec * 2))),
        ("the book is of top", lambda: card.require(saes["jump"], "top")),
    ]:
        with pytest.raises(InterpError, match=message):
            call()
