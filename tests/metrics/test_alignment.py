import numpy as np
import pandas as pd
import pytest
import torch

from modalign import data
from modalign.data.shapes import sample_sequence
from modalign.data.yms import match_clips
from modalign.metrics import (
    alignment_scores,
    summarise_alignment,
    times_of,
    times_of_matches,
)


def draw(clips=20, snippets=6, seed=0):
    """Clips without a gap, and snippets with some; whole numbers, so that sums are exact."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(1, 20, clips))
    cuts = np.sort(rng.choice(ends[-1], 2 * snippets, replace=False))
    return np.stack([np.append(0, ends[:-1]), ends], 1), cuts.reshape(-1, 2)


def slow(predicted, clips, snippets):
    """Both measures, a unit of time at a time."""
    clip_of = np.repeat(np.arange(len(clips)), clips[:, 1] - clips[:, 0])
    guess = np.asarray(predicted)[clip_of]
    truth = np.full(len(clip_of), -1)
    for k, (start, end) in enumerate(snippets):
        truth[start:end] = k
    ious = [
        ((guess == k) & (truth == k)).sum() / ((guess == k) | (truth == k)).sum()
        for k in range(len(snippets))
    ]
    return np.mean(guess == truth), ious


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_every_moment(seed):
    clips, snippets = draw(seed=seed)
    predicted = np.sort(np.random.default_rng(seed).integers(-1, 6, 20))
    found = alignment_scores(torch.from_numpy(predicted), clips, snippets)
    accuracy, ious = slow(predicted, clips, snippets)
    assert found.video_accuracy == pytest.approx(accuracy)
    assert found.ious == pytest.approx(ious)
    assert found.text_iou == pytest.approx(np.mean(ious))
    unit = alignment_scores(predicted, clips / 1000 + 7, snippets / 1000 + 7)
    assert (unit.video_accuracy, unit.text_iou) == pytest.approx((accuracy, np.mean(ious)))


def test_the_longest_overlap_is_the_best_that_clips_allow():
    clips, snippets = draw()
    truth = match_clips(clips, snippets)
    best = alignment_scores(truth, clips, snippets).video_accuracy
    for place in range(len(clips)):
        for other in range(-1, len(snippets)):
            changed = truth.copy()
            changed[place] = other
            assert alignment_scores(changed, clips, snippets).video_accuracy <= best + 1e-12


@pytest.mark.parametrize(
    ("split", "accuracy", "iou"),
    [("train", 98.46, 96.53), ("validation", 98.24, 96.06), ("test", 98.59, 96.48)],
)
def test_the_bounds_of_yms(real_data, split, accuracy, iou):
    found = summarise_alignment(
        alignment_scores(row["clip_snippet"], times_of(row["clips"]), times_of(row["snippets"]))
        for row in data.load("yms", split)
    )
    assert 100 * found["video_accuracy"] == pytest.approx(accuracy, abs=0.005)
    assert 100 * found["text_iou"] == pytest.approx(iou, abs=0.005)


@pytest.mark.parametrize("index", range(5))
def test_the_truth_of_a_made_sequence_scores_1(index):
    sequence = sample_sequence(0, index, events=12)
    lengths = np.array([clip.stop - clip.start for clip in sequence.clips])
    truth = sequence.clip_snippet
    clips, snippets = times_of_matches(sequence.matches, lengths)
    found = alignment_scores(truth, clips, snippets)
    assert (found.video_accuracy, found.text_iou) == pytest.approx((1, 1))
    assert np.isnan(found.ious).tolist() == (~sequence.matches.any(1)).tolist()
    worst = alignment_scores(np.full(len(truth), -1), clips, snippets)
    assert worst.text_iou == 0
    assert worst.video_accuracy == pytest.approx(lengths[truth < 0].sum() / lengths.sum())


def test_a_snippet_without_clip_costs_the_clips_that_go_to_it():
    clips, snippets = times_of_matches(np.array([[True, False], [False, False]]))
    assert alignment_scores([0, -1], clips, snippets).video_accuracy == 1
    found = alignment_scores([0, 1], clips, snippets)
    assert (found.video_accuracy, found.text_iou) == (0.5, 1)


def test_means_over_videos_and_over_all_there_is():
    first = alignment_scores([0, 1], [[0, 1], [1, 2]], [[0, 1], [1, 2]])
    second = alignment_scores([-1], [[0, 6]], [[0, 6]])
    assert summarise_alignment(iter([first, second])) == {
        "video_accuracy": 0.5,
        "text_iou": 0.5,
        "pooled_video_accuracy": 0.25,
        "pooled_text_iou": pytest.approx(2 / 3),
    }
    with pytest.raises(ValueError, match="videos: expected"):
        summarise_alignment([])


CLIPS, SNIPPETS = [[0, 1], [1, 2]], [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0], CLIPS, SNIPPETS), "predicted: expected a whole number for each of 2 clips"),
        (([0.0, 1.0], CLIPS, SNIPPETS), "predicted: expected a whole number"),
        (([0, 2], CLIPS, SNIPPETS), "predicted: expected snippets from 0 to 1 or -1, got 2"),
        (([0, -2], CLIPS, SNIPPETS), "predicted: .* got -2"),
        (([0, 1], [[0, 1], [0.5, 2]], SNIPPETS), "clip_times: .*overlap, got .* row 1, after"),
        (([0, 1], CLIPS, [[0, 2], [1, 2]]), "snippet_times: expected times in order"),
        (([0, 1], [[0, 1], [2, 1]], SNIPPETS), r"clip_times: .* got \[2.0, 1.0\] in row 1"),
        (([0, 1], [[1, 0], [1, 2]], SNIPPETS), r"clip_times: .* got \[1.0, 0.0\] in row 0$"),
        (([0, 1], [[0, 1], [1, 1]], SNIPPETS), "clip_times: expected an end after .* row 1"),
        (([0, 1], CLIPS, [[0, 0], [1, 1]]), "snippet_times: expected a snippet that has a time"),
        (([0, 1], CLIPS, [[0, np.nan], [1, 1]]), "snippet_times: expected finite times, got nan"),
        (([], np.empty((0, 2)), SNIPPETS), "clip_times: expected starts and ends"),
        (([0, 1], CLIPS, []), "snippet_times: expected starts and ends"),
        (([0, 1], [0, 1], SNIPPETS), "clip_times: expected starts and ends"),
    ],
)
def test_scores_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        alignment_scores(*arguments)


@pytest.mark.parametrize(
    ("matches", "message"),
    [
        ([[1, 0, 1], [0, 1, 0]], "expected one run of clips in row 0"),
        ([[0, 1, 1], [1, 0, 0]], "expected snippets in order, got clips .* in row 1"),
        ([[1, 1, 0], [0, 1, 1]], "expected snippets in order"),
    ],
)
def test_matches_that_are_no_runs_in_order_are_refused(matches, message):
    with pytest.raises(ValueError, match=message):
        times_of_matches(np.array(matches, bool))


# labels, and what is no number


def test_clips_are_paired_by_label():
    clips, snippets = draw()
    predicted = np.sort(np.random.default_rng(0).integers(-1, 6, len(clips)))
    known = alignment_scores(predicted, clips, snippets)
    names = [f"clip {i}" for i in range(len(clips))]
    times = pd.DataFrame(clips, names, columns=["start", "end"])
    shuffled = times.sample(frac=1, random_state=0)
    found = alignment_scores(pd.Series(predicted, names), shuffled, snippets)
    assert (found.right, found.total) == (known.right, known.total)
    assert found.ious == pytest.approx(known.ious)
    assert alignment_scores(predicted, pd.DataFrame(clips), pd.DataFrame(snippets)).right == (
        known.right
    )


def test_labels_of_other_clips_are_refused():
    times = pd.DataFrame(CLIPS, ["a", "b"])
    with pytest.raises(ValueError, match="clip_times: lacks c, which predicted has"):
        alignment_scores(pd.Series([0, 1], ["a", "c"]), times, SNIPPETS)
    with pytest.raises(
        TypeError, match="predicted, clip_times: expected .* a DataFrame and a list"
    ):
        alignment_scores([0, 1], times, SNIPPETS)


@pytest.mark.parametrize(
    "times", [[[0, 1], [1]], [["a", "b"], ["c", "d"]], None, [[-1e308, 1e308]]]
)
def test_times_that_are_none_are_refused(times):
    with pytest.raises(ValueError, match="snippet_times: expected"):
        alignment_scores([0, 1], CLIPS, times)


@pytest.mark.parametrize("lengths", [[1, np.nan], [1, np.inf], [1, 0], [1, -1], [1e308, 1e308]])
def test_lengths_that_are_none_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths: expected finite numbers above 0"):
        times_of_matches(np.eye(2, dtype=bool), np.array(lengths, float))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_matches_of_nothing_are_refused(shape):
    with pytest.raises(ValueError, match="matches: expected snippets and clips"):
        times_of_matches(np.zeros(shape, bool))
