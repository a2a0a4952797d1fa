import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tslearn.metrics import dtw_path_from_metric, dtw_subsequence_path, sakoe_chiba_mask

from modalign.models.time_warping import drop_dtw, dtw, one_to_many_dtw

INF = float("inf")


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def paths(c, s, many_to_many):
    """Every warping path through c clips and s snippets, as pairs (clip, snippet)."""
    steps = [(1, 1), (1, 0), *([(0, 1)] if many_to_many else [])]

    def onward(path):
        j, i = path[-1]
        if (j, i) == (c - 1, s - 1):
            yield path
        for dj, di in steps:
            if j + dj < c and i + di < s:
                yield from onward([*path, (j + dj, i + di)])

    yield from onward([(0, 0)])


def subsets(n):
    return itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(n + 1))


def every_alignment(cost, clip_drop, snippet_drop, many_to_many):
    """The cost and the assignment of every alignment there is: what is kept, and how."""
    c, s = cost.shape
    for clips, snippets in itertools.product(subsets(c), subsets(s)):
        drops = sum(clip_drop[j] for j in range(c) if j not in clips)
        drops += sum(snippet_drop[i] for i in range(s) if i not in snippets)
        if not clips and not snippets:
            yield drops, [-1] * c
        if not clips or not snippets:
            continue
        for path in paths(len(clips), len(snippets), many_to_many):
            pairs = [(clips[j], snippets[i]) for j, i in path]
            assignment = [-1] * c
            for j in clips:
                assignment[j] = min((cost[pair], pair[1]) for pair in pairs if pair[0] == j)[1]
            yield drops + sum(cost[pair] for pair in pairs), assignment


@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([(0.2, 0.2), (0.4, 0.1), (0.3, INF), (INF, 0.3)]),
    st.booleans(),
)
def test_the_best_of_all_alignments_is_found(seed, c, s, drops, many_to_many):
    cost = draw(c, s, seed=seed) - 0.1
    rng = np.random.default_rng(seed)
    clip_drop, snippet_drop = drops[0] * rng.uniform(1, 2, c), drops[1] * rng.uniform(1, 2, s)
    known = list(every_alignment(cost.numpy(), clip_drop, snippet_drop, many_to_many))
    assume(min(known)[0] < INF)  # unlike more snippets than clips and no drop
    found = drop_dtw(
        cost,
        clip_drop=torch.tensor(clip_drop),
        snippet_drop=torch.tensor(snippet_drop),
        many_to_many=many_to_many,
    )
    assert found.cost.item() == pytest.approx(min(known)[0])
    assert found.assignment.tolist() == min(known)[1]


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 3))
def test_one_to_many_is_the_best_where_no_snippet_may_be_dropped(seed, c, s):
    assume(s <= c)
    cost = draw(c, s, seed=seed)
    known = every_alignment(cost.numpy(), [0.3] * c, [INF] * s, False)
    found = one_to_many_dtw(cost, clip_drop=0.3)
    least, assignment = min(known)
    assert found.cost.item() == pytest.approx(least)
    assert found.assignment.tolist() == assignment


@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 7), (30, 12), (12, 30)])
def test_dtw_is_tslearns(shape):
    cost = draw(*shape)
    # its torch backend has nothing to compile
    path, known = dtw_path_from_metric(cost, metric="precomputed", be="pytorch")
    found = dtw(cost)
    assert found.cost.item() == pytest.approx(float(known))
    for clip, snippet in enumerate(found.assignment.tolist()):
        own = [(cost[pair].item(), int(pair[1])) for pair in path if pair[0] == clip]
        assert snippet == min(own)[1]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 4))
def test_a_band_is_the_best_of_the_paths_within(seed, c, s, band):
    cost = draw(c, s, seed=seed)
    within = sakoe_chiba_mask(c, s, radius=band, be="pytorch")
    known = [
        sum(cost[pair] for pair in path)
        for path in paths(c, s, many_to_many=True)
        if all(within[pair] for pair in path)
    ]
    assert dtw(cost, band=band).cost.item() == pytest.approx(min(known).item())
    steep = drop_dtw(cost, clip_drop=INF, snippet_drop=INF, many_to_many=True, band=band)
    assert steep.cost == dtw(cost, band=band).cost


def test_a_band_of_no_width_is_the_diagonal_and_a_wide_one_is_none():
    cost = draw(6, 6)
    assert dtw(cost, band=0).cost.item() == pytest.approx(cost.diagonal().sum().item())
    assert dtw(cost, band=0).assignment.tolist() == list(range(6))
    assert dtw(cost, band=5).cost == dtw(cost).cost
    one = one_to_many_dtw(draw(9, 3), band=0, clip_drop=0.01)
    kept = [(clip, snippet) for clip, snippet in enumerate(one.assignment.tolist()) if snippet >= 0]
    assert len(kept) == 3
    assert all(0 <= clip - snippet <= 6 for clip, snippet in kept)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.booleans())
def test_open_ends_are_the_best_of_all_parts(seed, c, s, open_begin, open_end):
    cost = draw(c, s, seed=seed)
    found = dtw(cost, open_begin=open_begin, open_end=open_end)
    begins, ends = range(c if open_begin else 1), range(1, c + 1) if open_end else [c]
    known = [
        (dtw(cost[begin:end]).cost.item(), begin, end)
        for begin in begins
        for end in ends
        if begin < end
    ]
    least, begin, end = min(known)
    assert found.cost.item() == pytest.approx(least)
    free = found.assignment == -1
    assert free.tolist() == [not begin <= clip < end for clip in range(c)]
    torch.testing.assert_close(found.assignment[begin:end], dtw(cost[begin:end]).assignment)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(4, 12))
def test_open_ends_are_the_subsequence_of_tslearn(seed, s, c):
    query, series = draw(s, 2, seed=seed), draw(c, 2, seed=seed + 1)
    path, known = dtw_subsequence_path(query, series, be="pytorch")
    cost = (series[:, None] - query).square().sum(-1)
    found = dtw(cost, open_begin=True, open_end=True)
    assert found.cost.item() == pytest.approx(float(known) ** 2)
    clips = (found.assignment >= 0).nonzero().flatten().tolist()
    assert clips == sorted({int(clip) for _, clip in path})


def test_free_drops_leave_nothing_and_dear_ones_drop_nothing():
    cost = draw(9, 4)
    nothing = drop_dtw(cost, clip_drop=0.0, snippet_drop=0.0)
    assert nothing.cost == 0
    assert (nothing.assignment == -1).all()
    all_ = drop_dtw(cost, clip_drop=1e6, snippet_drop=1e6, many_to_many=True)
    assert all_.cost == pytest.approx(dtw(cost).cost)
    torch.testing.assert_close(all_.assignment, dtw(cost).assignment)


def test_a_sequence_with_outliers_is_found():
    # three clips a snippet, then two clips of nothing, then a snippet that no clip shows
    truth = torch.tensor([0, 0, 0, -1, -1, 2, 2, 2])
    cost = torch.full((8, 3), 2.0)
    cost[truth >= 0, truth[truth >= 0]] = 0.1
    found = drop_dtw(cost, clip_drop=0.5, snippet_drop=0.5)
    torch.testing.assert_close(found.assignment, truth)
    assert found.cost.item() == pytest.approx(6 * 0.1 + 3 * 0.5)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_assignments_are_in_order(seed):
    found = drop_dtw(draw(20, 8, seed=seed), clip_drop=0.2, snippet_drop=0.2)
    kept = found.assignment[found.assignment >= 0]
    assert (kept.diff() >= 0).all()


METHODS = {
    "dtw": dtw,
    "band": lambda cost, **options: dtw(cost, band=1, **options),
    "open": lambda cost, **options: dtw(cost, open_begin=True, open_end=True, **options),
    "open end, band": lambda cost, **options: dtw(cost, open_end=True, band=2, **options),
    "one to many": lambda cost, **options: one_to_many_dtw(cost, clip_drop=0.3, **options),
    "drop": lambda cost, **options: drop_dtw(cost, clip_drop=0.3, snippet_drop=0.2, **options),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_padded_batch_is_each_of_its_examples(method):
    cost, clips, snippets = draw(4, 10, 6), torch.tensor([10, 7, 4, 5]), torch.tensor([6, 2, 4, 1])
    for k in range(4):
        cost[k, clips[k] :] = torch.nan
        cost[k, :, snippets[k] :] = torch.nan
    found = method(cost, clips=clips, snippets=snippets)
    for k in range(4):
        alone = method(cost[k, : clips[k], : snippets[k]])
        torch.testing.assert_close(found.assignment[k, : clips[k]], alone.assignment)
        assert (found.assignment[k, clips[k] :] == -1).all()
        torch.testing.assert_close(found.cost[k], alone.cost)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_shapes_and_types_of_what_comes_back(method):
    cost = draw(2, 3, 9, 5).float()
    found = method(cost)
    assert found.assignment.shape == (2, 3, 9)
    assert found.cost.shape == (2, 3)
    assert found.cost.dtype == torch.float32
    one = method(cost[1, 2].T.contiguous().T)
    torch.testing.assert_close(found.assignment[1, 2], one.assignment)
    assert method(cost.requires_grad_()).cost.requires_grad is False


def test_a_drop_for_each_element():
    cost = torch.zeros(3, 1)
    drops = torch.tensor([-1.0, 5.0, -2.0])  # a drop may pay
    found = drop_dtw(cost, clip_drop=drops, snippet_drop=9.0)
    assert found.assignment.tolist() == [-1, 0, -1]
    assert found.cost == -3


def with_entry(value):
    cost = draw(2, 3, 2)
    cost[1, 2, 0] = value
    return cost


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dtw(with_entry(torch.nan)), "cost: expected finite values, got NaN in row 1"),
        (lambda: dtw(with_entry(INF)), "cost: expected finite values, got an infinity in row 1"),
        (lambda: dtw(draw(0, 2)), r"cost: expected clips and snippets, got shape \(0, 2\)"),
        (lambda: dtw(draw(2, 3, 0)), r"cost: expected clips and snippets"),
        (lambda: dtw(draw(3)), "cost: expected"),
        (lambda: dtw(draw(3, 2).long()), "cost: expected"),
        (
            lambda: dtw(draw(3, 2), band=-1),
            "band: expected a number of places from 0, or None, got",
        ),
        (lambda: one_to_many_dtw(draw(2, 3)), "no alignment of the 2 clips and 3 snippets"),
        (lambda: dtw(draw(2, 3, 2), clips=torch.tensor([3, 4])), "clips: .* from 1 to 3, got 4"),
        (lambda: dtw(draw(2, 3, 2), snippets=torch.tensor([0, 2])), "snippets: .*to 2, got 0"),
        (lambda: dtw(draw(2, 3, 2), clips=torch.tensor([3])), "clips: expected"),
        (
            lambda: drop_dtw(draw(3, 2), clip_drop=torch.nan, snippet_drop=1.0),
            "clip_drop: expected costs of a drop",
        ),
        (
            lambda: drop_dtw(draw(3, 2), clip_drop=1.0, snippet_drop=-INF),
            "snippet_drop: expected costs of a drop",
        ),
        (
            lambda: drop_dtw(draw(3, 2), clip_drop=draw(2), snippet_drop=1.0),
            "clip_drop: expected",
        ),
    ],
)
def test_warping_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_sum_beyond_the_dtype_is_refused():
    cost = torch.full((3, 2), 2.0**15, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"cost: the sum of an alignment, 9.83e\+04, is more than"):
        dtw(cost)
    assert dtw(cost.float()).cost.item() == 3 * 2**15


@pytest.mark.parametrize("value", [1e308, -1e308])
def test_sums_beyond_float64_are_refused(value):
    with pytest.raises(ValueError, match="cost: expected sums that float64 holds"):
        dtw(torch.full((3, 2), value, dtype=torch.float64))
    padded = torch.zeros(1, 3, 2, dtype=torch.float64)
    padded[0, 2] = value
    assert dtw(padded, clips=torch.tensor([2])).cost.item() == 0
