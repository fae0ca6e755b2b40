"""The steering slider answers for its scale, and for the unsteered model at zero."""

import torch

import interp
from interp.directions.direction import Direction
from interp.interventions.affine_ops import Add
from interp.models.sites import Site
from interp.views.steering_slider import steer


def test_the_reply_follows_the_slider(tiny):
    model = tiny("llama")
    direction = Direction(torch.ones(1, 32), Site("resid_post", 1), -1, "diff_means", model.reference, "0" * 64)
    slider = steer(model, direction, "w5 w9 w77", max_scale=20.0, max_new_tokens=6)
    assert (slider.low, slider.high) == (-20.0, 20.0)
    assert slider.reply == model.generate("w5 w9 w77", max_new_tokens=6)[0]
    slider.scale = 15.0
    assert slider.reply == model.generate("w5 w9 w77", [("resid_post.1", Add(direction, 15.0))], max_new_tokens=6)[0]
    assert slider.reply != model.generate("w5 w9 w77", max_new_tokens=6)[0]
    slider.scale = 0.0
    assert slider.reply == model.generate("w5 w9 w77", max_new_tokens=6)[0]


def test_the_slider_ends_where_replies_would_not_be_text():
    model = interp.load("organism")
    direction = Direction.of(torch.eye(model.d_model)[3], "resid_post.2", model)
    slider = steer(model, direction, "hello there.", max_new_tokens=2, relative=True)
    ends = [Add.auto(model, direction, sign=sign, relative=True).scale for sign in (-1, 1)]
    assert [slider.low, slider.high] == ends
    assert ends[0] < 0 < ends[1]
