"""Samples, their actions, blocks and batches; what is drawn, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modalign.models.alignment_data import (
    actions_of,
    batches,
    blocks,
    clip_snippet_of,
    make_sample,
    pad,
)
from modalign.models.neumatch_actions import walk
from modalign.studies.neumatch.worlds import (
    EASIER,
    SimulatedView,
    easier_yms_samples,
    shapes_samples,
    yms_samples,
)


@st.composite
def truths(draw):
    """Which snippet each clip has, in order, and how many snippets there are."""
    snippets = draw(st.integers(1, 6))
    chosen = draw(st.lists(st.integers(0, snippets - 1), max_size=10).map(sorted))
    gaps = draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)))
    truth = [
        each
        for one, gap in zip(chosen, gaps, strict=True)
        for each in ([-1, one] if gap else [one])
    ]
    return truth or [-1], snippets


@given(truths(), st.booleans())
def test_actions_lead_back_to_the_truth_and_take_everything(case, five):
    truth, snippets = case
    actions = actions_of(truth, snippets, five=five)
    assert clip_snippet_of(actions, len(truth)) == truth
    assert walk(torch.tensor([actions])).after.tolist() == [[len(truth), snippets]]
    assert set(actions) <= ({0, 1, 2, 3} if five else {0, 1, 2})


@given(truths(), st.integers(1, 7), st.integers(1, 4))
def test_blocks_hold_every_action_and_every_match_once(case, size, shortest):
    truth, snippets = case
    whole = sample_of(truth, snippets)
    parts = blocks(whole, size=size, shortest=shortest)
    offset, matches = 0, []
    for part in parts:
        assert len(part.actions) < size + shortest
        assert clip_snippet_of(part.actions, len(part.clips)) == part.clip_snippet.tolist()
        taken = walk(part.actions[None]).after[0].tolist()
        assert taken[0] == len(part.clips)
        assert taken[1] <= len(part.snippets) <= taken[1] + 1
        # features name their row, so that a block can be held against the whole
        first = int(part.snippets[0, 0])
        assert part.clips[:, 0].int().tolist() == list(range(offset, offset + len(part.clips)))
        matches += [each + first if each >= 0 else -1 for each in part.clip_snippet.tolist()]
        offset += len(part.clips)
    assert matches == truth


def sample_of(truth, snippets, changes=None):
    """A sample whose features are the numbers of its rows."""
    parts = {
        "video": "0007",
        "clips": torch.arange(len(truth)).float()[:, None].expand(-1, 3),
        "snippets": torch.arange(snippets).float()[:, None].expand(-1, 2),
        "clip_snippet": truth,
        "clip_times": seconds(len(truth)),
        "snippet_times": seconds(snippets),
    }
    return make_sample(**(parts | (changes or {})))


def seconds(number):
    return np.stack([np.arange(number), np.arange(1, number + 1)], 1)


def test_a_batch_is_padded_at_the_end():
    one, other = sample_of([0, -1, 1], 2), sample_of([0], 3)
    batch = pad([one, other])
    assert batch.clip_lengths.tolist() == [3, 1]
    assert batch.snippet_lengths.tolist() == [2, 3]
    assert batch.clips[1, 1:].eq(0).all()
    assert batch.actions.tolist() == [[2, 0, 1, 2, 1], [2, 1, 1, 1, -1]]


def test_the_order_of_batches_depends_on_seed_and_epoch_alone():
    samples = [sample_of([0] * (i + 1), 1) for i in range(7)]

    def order(seed, epoch):
        return [
            n for b in batches(samples, 3, seed=seed, epoch=epoch) for n in b.clip_lengths.tolist()
        ]

    assert sorted(order(0, 0)) == list(range(1, 8))
    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(3)}) == 6


NAN = torch.tensor([[0.0], [torch.nan], [0.0]])
BAD = [
    ({"clips": torch.zeros(0, 3), "clip_snippet": [], "clip_times": np.zeros((0, 2), int)},
     "video 0007: expected at least one clip and one snippet, got 0, 2"),
    ({"snippets": torch.zeros(0, 2), "snippet_times": np.zeros((0, 2), int)},
     "video 0007: expected at least one clip and one snippet, got 3, 0"),
    ({"longest": 4}, "video 0007: 3 clips and 2 snippets are more than longest=4"),
    ({"clips": torch.zeros(4, 3)}, "video 0007: expected features of 3 clips.*of another video"),
    ({"snippets": torch.zeros(1, 2)}, "video 0007: expected features of 2 snippets"),
    ({"clips": NAN}, "video 0007, clip 1: expected finite features"),
    ({"snippets": torch.tensor([[1.0], [torch.inf]])}, "video 0007, snippet 1: expected finite"),
    ({"clip_snippet": [0, 1]}, "video 0007: 2 matches for 3 clips"),
    ({"clip_snippet": [0, -1, 2]}, "video 0007, clip 2: snippet 2 is not one of the 2"),
    ({"clip_snippet": [1, -1, 0]}, "video 0007, clip 2: belongs to snippet 0, and one before"),
    ({"clip_times": np.array([[0, 5], [4, 9], [9, 10]])},
     "video 0007, clip 1: starts at 4, before the last ends at 5"),
    ({"snippet_times": np.array([[0, 5], [9, 7]])}, "snippet 1: ends at 7, starts at 9"),
    ({"actions": [2, 0]}, "video 0007, clip 2: actions match it with snippet -1, truth is 1"),
    ({"actions": [2, 0, 1, 2, 1, 1]}, "remove 3 clips and 3 snippets, there are 3 and 2"),
    ({"actions": [2, 0, 1, 2]}, "remove 3 clips and 1 snippets, there are 3 and 2"),
    ({"clip_snippet": [0, -1, -1], "actions": [2, 1, 1]}, "remove 1 clips and 2 snippets"),
    ({"clip_times": np.array([[0, 5], [5, np.nan], [9, 10]])},
     "video 0007, clip 1: expected finite times, got 5 to nan"),
    ({"snippet_times": np.array([[0, 5], [9, np.inf]])}, "snippet 1: expected finite times"),
    ({"clip_times": np.array([[0, 5], [5, 5], [9, 10]])}, "video 0007, clip 1: lasts no time, at"),
    ({"actions": [2, 0, 7]}, "video 0007, actions: expected 0 to 4, got 7"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_bad_sample_is_refused_by_video_and_row(change, message):
    sample_of([0, -1, 1], 2)
    with pytest.raises(ValueError, match=message):
        sample_of([0, -1, 1], 2, changes=change)


def test_shapes_depend_on_seed_and_index_alone():
    few, more = shapes_samples(2, seed=3), shapes_samples(4, seed=3)
    for one, other in zip(few, more, strict=False):
        assert torch.equal(one.clips, other.clips)
        assert torch.equal(one.snippets, other.snippets)
    other_seed, other_split = (
        shapes_samples(1, seed=4)[0],
        shapes_samples(1, seed=3, split="test")[0],
    )
    assert not torch.equal(few[0].clips[0], other_seed.clips[0])
    assert not torch.equal(few[0].clips[0], other_split.clips[0])


def test_clips_of_one_scene_are_alike_but_for_noise():
    clear, noisy = (shapes_samples(5, noise=noise) for noise in (0.0, 1.0))
    for one, other in zip(clear, noisy, strict=True):
        same = one.clip_snippet[:, None] == one.clip_snippet
        same &= (one.clip_snippet >= 0)[:, None]
        assert (torch.cdist(one.clips, one.clips)[same] < 1e-3).all()
        error = (other.clips - one.clips).square().mean() / one.clips.square().mean()
        assert 0.5 < error < 2


def test_the_easier_world_has_one_clip_a_snippet():
    for sample in shapes_samples(10, **EASIER):
        matched = sample.clip_snippet[sample.clip_snippet >= 0]
        assert len(matched) == len(matched.unique())


def test_a_simulated_clip_is_most_like_its_own_snippet():
    generator = torch.Generator().manual_seed(0)
    text = torch.rand(40, 30, generator=generator) * (torch.rand(40, 30, generator=generator) < 0.2)
    truth = sorted([*range(40), *range(0, 40, 2)])
    view = SimulatedView(text, 400, noise=0.1, hidden=0.1, distraction=0.2)
    seen = view.clips("0001", text, truth)
    own = (torch.nn.functional.normalize(text, dim=1) @ view.weight).relu()
    found = torch.corrcoef(torch.cat([seen, own]))[: len(truth), len(truth) :].argmax(1)
    assert (found == torch.tensor(truth)).float().mean() > 0.9
    assert torch.equal(seen, view.clips("0001", text, truth))
    assert not torch.equal(seen, view.clips("0002", text, truth))


def test_an_unmatched_clip_shows_nothing_of_the_snippets():
    text = torch.eye(4)
    view = SimulatedView(torch.zeros(1, 4), 50, noise=0.0, hidden=0.0)
    assert view.clips("0001", text, [-1, -1]).eq(0).all()
    assert view.clips("0001", text, [2]).ne(0).any()


def test_yms_gives_the_blocks_and_actions_of_the_paper(real_data):
    train = yms_samples("train", clip_width=8, text_width=768)
    assert len(train) == 66
    assert sum(len(sample.clips) for sample in train) == 12_140
    parts = [part for sample in train for part in blocks(sample)]
    assert len(parts) == 187
    assert max(len(part.actions) for part in parts) == 108
    exact = [part for sample in train for part in blocks(sample, shortest=1)]
    assert len(exact) == 195
    assert max(len(part.actions) for part in exact) == 100
    assert train[0].snippets.shape[1] == 768


def test_a_video_of_yms_depends_on_seed_and_video_alone(real_data):
    train, test = (yms_samples(split, clip_width=16) for split in ("train", "test"))
    again, other = yms_samples("test", clip_width=16), yms_samples("test", clip_width=16, seed=1)
    assert torch.equal(test[3].clips, again[3].clips)
    assert not torch.equal(test[3].clips, other[3].clips)
    assert torch.equal(test[3].snippets, other[3].snippets)
    assert {sample.video for sample in train}.isdisjoint(sample.video for sample in test)


def test_the_easier_yms_has_real_snippets_and_one_clip_each(real_data):
    train = yms_samples("train", clip_width=16)
    easier = easier_yms_samples(2, clip_width=16)
    assert len(easier) == 2 * len(train)
    assert torch.equal(easier[2].snippets, train[1].snippets)
    for sample in easier[:10]:
        matched = sample.clip_snippet[sample.clip_snippet >= 0]
        assert len(matched) == len(matched.unique()) < len(sample.snippets)
    assert not torch.equal(easier[0].clips[:20], easier[1].clips[:20])


def write_yms(folder, *, clips="0003/0003_00.00.01.000-00.00.02.000\n", text=None):
    """The files of one video in each split, in the format of the real ones."""
    videos = {"training": "0001", "val": "0002", "test": "0003"}
    rows = "{0}_00.00.00.500-00.00.02.500\ta cat sits\n{0}_00.00.02.500-00.00.04.000\ta dog runs\n"
    clip = "{0}/{0}_00.00.01.000-00.00.02.000\n"
    for name, video in videos.items():
        (folder / f"{name}_split.txt").write_text(video + "\n")
    annotations = "".join(rows.format(video) for video in videos.values())
    segmentation = "".join(clip.format(video) for video in ("0001", "0002"))
    (folder / "annotations_phrases.txt").write_text(annotations if text is None else text)
    (folder / "clip_segmentation.txt").write_text(segmentation + clips)
    return {"folder": folder, "clip_width": 4, "text_width": 20}


def test_real_features_are_taken_from_files(tmp_path):
    options = write_yms(tmp_path)
    videos = ("0001", "0002", "0003")
    np.savez(tmp_path / "clips.npz", **{video: np.full((1, 5), 7.0) for video in videos})
    np.savez(tmp_path / "texts.npz", **{video: np.full((2, 6), 8.0) for video in videos})
    (sample,) = yms_samples(
        "test",
        **options,
        clip_features=str(tmp_path / "clips.npz"),
        snippet_features=str(tmp_path / "texts.npz"),
    )
    assert sample.clips.tolist() == [[7.0] * 5]
    assert sample.snippets.tolist() == [[8.0] * 6] * 2


def test_features_of_another_video_are_refused(tmp_path):
    options = write_yms(tmp_path)
    np.savez(tmp_path / "clips.npz", **{"0001": np.ones((1, 5)), "0002": np.ones((1, 5))})
    with pytest.raises(ValueError, match="no features of '0003'"):
        yms_samples("test", **options, clip_features=str(tmp_path / "clips.npz"))
    np.savez(tmp_path / "rows.npz", **{f"000{i}": np.ones((i, 5)) for i in (1, 2, 3)})
    with pytest.raises(ValueError, match="video 0003.*expected 1 rows, as there are clips, got 3"):
        yms_samples("test", **options, clip_features=str(tmp_path / "rows.npz"))


BAD_FILES = [
    ({"clips": "0003/0003_00.00.03.000-00.00.02.000\n"},
     "clip_segmentation.txt, row 3: .*end after the start, got '0003_00.00.03.000"),
    ({"clips": "0003/0003_00.00.01.000-00.00.02.000\n0003/0003_00.00.01.500-00.00.03.000\n"},
     "clip_segmentation.txt, row 4: video 0003: starts at 1500 ms, before the last ends at 2000"),
    ({"clips": "0003/0004_00.00.01.000-00.00.02.000\n"},
     "clip_segmentation.txt, row 3: .*got '0003/0004_"),
    ({"clips": ""}, "video 0003: 0 clips and 2 snippets"),
    ({"text": "0001_00.00.00.500-00.00.02.500 a cat\n"},
     "annotations_phrases.txt, row 1: expected INTERVAL TAB TEXT, got .*'0001_"),
    ({"text": "0001_00.00.00.500-00.00.02.500\tcat\n0001_00.00.01.500-00.00.02.900\tdog\n"},
     "annotations_phrases.txt, row 2: video 0001: starts at 1500 ms, before the last ends at 2500"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "message"), BAD_FILES)
def test_bad_annotations_are_refused_by_file_row_and_video(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        yms_samples("test", **write_yms(tmp_path, **files))


def test_a_video_longer_than_allowed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="video 0003: 1 clips and 2 snippets .* longest=2"):
        yms_samples("test", **write_yms(tmp_path), longest=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": torch.empty(0, 4)}, "text: a simulated view needs at least 1 row"),
        ({"text": torch.full((2, 4), torch.nan)}, "text: expected finite values"),
        ({"noise": float("nan")}, "noise, distraction, hidden: expected"),
        ({"hidden": 1.5}, "noise, distraction, hidden: expected"),
        ({"distraction": -1.0}, "noise, distraction, hidden: expected"),
        ({"width": 0}, "width: expected a number above 0"),
    ],
)
def test_a_view_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatedView(**{"text": torch.rand(2, 4), "width": 3, **options})


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_view_sees_directions_and_no_sizes(scale):
    text = torch.rand(3, 4)
    known, found = (SimulatedView(x, 8).clips("v", x, [0, -1, 2]) for x in (text, scale * text))
    torch.testing.assert_close(found, known)


def test_a_view_refuses_what_is_not_there():
    view = SimulatedView(torch.rand(3, 4), 8)
    with pytest.raises(ValueError, match="snippets: expected finite values"):
        view.clips("v", torch.full((2, 4), torch.inf), [0, 1])
    for wrong in (-2, 2):
        with pytest.raises(ValueError, match="clip_snippet: expected snippets from 0 to 1 or -1"):
            view.clips("v", torch.rand(2, 4), [0, wrong])


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="samples: expected one or more, got none"):
        pad([])
