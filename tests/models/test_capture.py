"""Captured activations: independent of the batches, by position, copies."""

import pytest
import torch

from interp import InterpError
from interp.models.sites import Site

WORDS = ["w5 w9 w77", "w8", "w12 w99 w101 w4 w66 w31 w7", "w100 w50"]


def ids(batch=2, pos=9, seed=1):
    return torch.randint(4, 128, (batch, pos), generator=torch.Generator().manual_seed(seed))


def test_batches_of_a_capture_do_not_change_it(tiny):
    model = tiny("gpt2")
    whole, cut = (model.capture(WORDS, "mlp_out.1", batch_size=size) for size in (4, 1))
    torch.testing.assert_close(whole.at_tokens("mlp_out.1"), cut.at_tokens("mlp_out.1"), atol=1e-5, rtol=1e-4)


def test_positions_count_from_each_prompts_own_ends(tiny):
    model = tiny("llama")
    everything = model.capture(WORDS, "resid_post.1")["resid_post.1"]
    ends = model.capture(WORDS, "resid_post.1", positions=[0, -1], batch_size=2)["resid_post.1"]
    lengths = model.tokens(WORDS).lengths
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(ends[row], everything[row, [-length, -1]], atol=1e-5, rtol=1e-4)
    with pytest.raises(InterpError, match=r"positions \[-3\] are outside prompt 1, which has 1 token"):
        model.capture(WORDS, "resid_post.1", positions=-3)


def test_captured_tensors_are_copies(tiny):
    model = tiny("llama")
    acts = model.capture(ids(), "resid_post.0")
    assert repr(acts) == "Activations(2 prompts: resid_post.0 (2, 9, 32))"
    before = model.logits(ids())
    acts["resid_post.0"].zero_()
    torch.testing.assert_close(model.logits(ids()), before)


def test_a_copy_is_spared_on_request(tiny):
    model, seen = tiny("llama"), []
    with model.hooked([("resid_post.1", seen.append)]):
        shared = model.capture(ids(), "resid_post.1", copy=False)["resid_post.1"]
        copied = model.capture(ids(), "resid_post.1")["resid_post.1"]
    assert shared.data_ptr() == seen[0].data_ptr()
    assert copied.data_ptr() != seen[1].data_ptr()
    assert torch.equal(shared, copied)


def test_activations_are_a_mapping_from_sites(tiny):
    acts = tiny("llama").capture(ids(), ["z.0", "resid_post.*"], positions=-1)
    names = ["z.0", "resid_post.0", "resid_post.1", "resid_post.2"]
    assert list(acts) == list(acts.keys()) == list(dict(acts)) == names
    assert len(acts) == len(acts.values()) == 4
    assert all(x is acts[name] for name, x in acts.items())
    for site in ("resid_post.1", "blocks.1.hook_resid_post", Site("resid_post", 1)):
        assert site in acts
        assert acts[site] is acts.get(site)
    assert not any(site in acts for site in ("z.1", "nothing", Site("z", 2), 5))
    assert acts["resid_post", 1] is acts["resid_post.1"]
    assert acts._ipython_key_completions_() == acts.keys()
    assert repr(acts.keys()) == f"keys({names})"
    assert acts.get("z.1") is None
    assert acts == acts != tiny("llama").capture(ids(), "z.0")
    assert acts["resid_post.1"].shape == (2, 1, 32), "a single position keeps its axis"
