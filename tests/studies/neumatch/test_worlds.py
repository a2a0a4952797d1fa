"""Views of YMS that may be easier for a network: drawn anew, with dense text, and the full arm."""

import pytest
import torch
from torch import nn

from modalign.models.neumatch import NeuMATCH
from modalign.studies.neumatch.experiments import Setting
from modalign.studies.neumatch.worlds import SimulatedView, yms_samples


def test_another_draw_hides_other_parts_and_the_first_is_as_before():
    text = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    view = SimulatedView(text, 16)
    truth = [0, 1, -1, 5]
    first, again, other = (view.clips("v", text, truth, draw=draw) for draw in (0, 0, 1))
    assert torch.equal(first, view.clips("v", text, truth))
    assert torch.equal(first, again)
    assert not (first == other).all(1).any()


def test_dense_text_keeps_what_singular_vectors_can_of_the_sparse(real_data):
    sparse, dense = (yms_samples("test", clip_width=4, dense=dense) for dense in (0, 64))
    assert {each.snippets.shape[1] for each in dense} == {64}
    for whole, part in zip(sparse, dense, strict=True):
        assert (part.snippets.norm(dim=1) <= whole.snippets.norm(dim=1) + 1e-5).all()
        assert part.clip_snippet.equal(whole.clip_snippet)
    empty = torch.cat([each.snippets for each in sparse]).abs().sum(1) == 0
    assert torch.cat([each.snippets for each in dense])[~empty].norm(dim=1).mean() > 0.3


def test_the_full_arm_without_its_relu_is_the_projected_one_but_for_who_draws_the_matrix():
    kinds = {}
    for name, options in (
        ("RP", {}),
        ("ReLU", {"projection": False}),
        ("linear", {"projection": False, "full_relu": False}),
    ):
        model = NeuMATCH(12, 9, hidden=16, **options)
        kinds[name] = [type(layer) for layer in model.video.fc]
    assert kinds["ReLU"][:2] == [nn.Linear, nn.ReLU]
    assert kinds["linear"] == [nn.Linear, *kinds["RP"]]


@pytest.mark.parametrize("options", [{"dense": 8}, {"redraw": True}])
def test_views_of_yms_are_refused_where_nothing_is_simulated(options):
    for world in ({"dataset": "shapes"}, {"dataset": "yms", "pretrain_epochs": 2}):
        with pytest.raises(ValueError, match="dense, redraw: expected dataset 'yms'"):
            Setting(**world, **options)
