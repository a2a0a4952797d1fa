import itertools
import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP, RetrievalMRR

from modalign.metrics import difference, retrieval, retrieval_of_embeddings


def draw(n, m, seed=0, **options):
    return torch.randn(n, m, generator=torch.Generator().manual_seed(seed), **options)


def spread(n, m, seed=0):
    """Owners of m columns, one at least for each of n rows, in random order."""
    generator = torch.Generator().manual_seed(seed)
    more = torch.randint(n, (m - n,), generator=generator)
    return torch.cat([torch.arange(n), more])[torch.randperm(m, generator=generator)]


def slow(scores, own, k):
    """Mean hit, rank and precision of one query over every order of its candidates."""
    hits, ranks, precisions = [], [], []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda j: -scores[j])
        places = sorted(1 + ranked.index(j) for j in own)
        hits.append(places[0] <= k)
        ranks.append(places[0])
        precisions.append(np.mean([found / place for found, place in enumerate(places, start=1)]))
    return np.mean(hits), np.mean(ranks), np.mean(precisions)


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_ties_are_the_mean_over_their_orders(seed, levels, k, by_sorting):
    similarity = torch.randint(levels, (3, 5), generator=torch.Generator().manual_seed(seed))
    owners = spread(3, 5, seed)
    with mock.patch("modalign.metrics.ranking._MANY", 0 if by_sorting else 16):
        found = retrieval(similarity.double(), owners=owners, ks=(k,))
    for i in range(3):
        own = (owners == i).nonzero().flatten().tolist()
        hit, rank, precision = slow(similarity[i].tolist(), own, k)
        assert found.rows.hits[i].item() == pytest.approx(hit, abs=1e-12)
        assert found.rows.ranks[i].item() == pytest.approx(rank)
        assert found.rows.average_precision[i].item() == pytest.approx(precision)
    for j in range(5):
        hit, rank, precision = slow(similarity[:, j].tolist(), [int(owners[j])], k)
        assert found.columns.hits[j].item() == pytest.approx(hit, abs=1e-12)
        assert found.columns.ranks[j].item() == pytest.approx(rank)
        assert found.columns.average_precision[j].item() == pytest.approx(precision)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_without_ties_it_is_torchmetrics(k):
    n, m = 20, 70
    # torchmetrics takes no candidate with a score of 0 or less for relevant
    similarity, owners = draw(n, m).exp(), spread(n, m)
    found = retrieval(similarity, owners=owners)
    target = owners == torch.arange(n)[:, None]
    for ranking, scores, own in (
        (found.rows, similarity, target),
        (found.columns, similarity.T, target.T),
    ):
        queries = torch.arange(len(scores))[:, None].expand(scores.shape).flatten()
        scores, own = scores.flatten(), own.flatten()
        hit_rate = RetrievalHitRate(top_k=k)(scores, own, indexes=queries)
        assert ranking.recall[k] == pytest.approx(hit_rate.item())
        reciprocal = RetrievalMRR()(scores, own, indexes=queries)
        assert (1 / ranking.ranks).mean().item() == pytest.approx(reciprocal.item())
        precision = RetrievalMAP()(scores, own, indexes=queries)
        assert ranking.mean_average_precision == pytest.approx(precision.item())
        assert ranking.mean_rank == pytest.approx(np.mean(ranking.ranks.tolist()))


def test_without_ties_every_hit_is_whole_and_every_rank_too():
    found = retrieval(draw(30, 30))
    for ranking in (found.rows, found.columns):
        assert ((ranking.hits == 0) | (ranking.hits == 1)).all()
        assert (ranking.ranks == ranking.ranks.round()).all()


def test_a_constant_similarity_scores_as_chance():
    n, each, ks = 40, 5, (1, 5, 10)
    owners = torch.arange(n).repeat_interleave(each)
    found = retrieval(torch.ones(n, n * each), owners=owners, ks=ks)
    for k in ks:
        miss = math.comb(n * each - each, k) / math.comb(n * each, k)
        assert found.rows.recall[k] == pytest.approx(1 - miss)
        assert found.columns.recall[k] == pytest.approx(k / n)
    assert found.columns.median_rank == (n + 1) / 2
    assert found.columns.mean_rank == pytest.approx((n + 1) / 2)
    # one own candidate, at each place in one order of n
    inverse = sum(1 / place for place in range(1, n + 1)) / n
    assert found.columns.mean_average_precision == pytest.approx(inverse)


def test_perfect_and_worst():
    found = retrieval(torch.eye(20)).as_dict("video", "sound")
    assert found == {
        "video_to_sound_recall_at_1": 1,
        "video_to_sound_recall_at_5": 1,
        "video_to_sound_recall_at_10": 1,
        "video_to_sound_median_rank": 1,
        "video_to_sound_mean_rank": 1,
        "video_to_sound_map": 1,
        "sound_to_video_recall_at_1": 1,
        "sound_to_video_recall_at_5": 1,
        "sound_to_video_recall_at_10": 1,
        "sound_to_video_median_rank": 1,
        "sound_to_video_mean_rank": 1,
        "sound_to_video_map": 1,
    }
    worst = retrieval(-torch.eye(20))
    assert worst.rows.recall == {1: 0, 5: 0, 10: 0}
    assert worst.columns.median_rank == 20


def test_the_order_of_the_data_does_not_matter():
    similarity, owners = draw(8, 20).round(), spread(8, 20)
    turn, mix = torch.randperm(8), torch.randperm(20)
    mixed = retrieval(similarity[turn][:, mix], owners=turn.argsort()[owners[mix]])
    for name, value in retrieval(similarity, owners=owners).as_dict().items():
        assert mixed.as_dict()[name] == pytest.approx(value)


@pytest.mark.parametrize("change", [lambda s: 3 * s + 5, torch.exp, lambda s: s.mT.contiguous().mT])
def test_only_the_order_of_scores_matters(change):
    similarity = draw(15, 15, dtype=torch.float64)
    assert retrieval(change(similarity)).as_dict() == retrieval(similarity).as_dict()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_read_as_it_is(dtype):
    similarity = draw(50, 50).to(dtype)
    assert retrieval(similarity).as_dict() == retrieval(similarity.double()).as_dict()


def test_infinities_are_ordered_as_any_number():
    similarity = torch.zeros(4, 4).fill_diagonal_(torch.inf)
    assert retrieval(similarity).rows.recall[1] == 1
    masked = torch.full((4, 4), -torch.inf)
    assert retrieval(masked).columns.recall[1] == pytest.approx(0.25)


@given(st.integers(0, 10**6), st.integers(1, 9), st.sampled_from([0, 2, 99]), st.booleans())
def test_counts_are_those_of_the_definition(seed, n, many, infinite):
    similarity, owners = draw(n, 40, seed).round(), spread(n, 40, seed)
    if infinite:
        similarity[similarity.abs() > 1] *= torch.inf
    with mock.patch("modalign.metrics.ranking._MANY", many):
        found = retrieval(similarity, owners=owners).rows
    for i, scores in enumerate(similarity):
        own = scores[owners == i]
        above, level = (scores > own.max()).sum(), (scores == own.max()).sum()
        rank = above + (level + 1) / ((own == own.max()).sum() + 1)
        assert found.ranks[i].item() == pytest.approx(rank.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sorting_a_row_gives_the_numbers_of_comparing_it(dtype, monkeypatch):
    similarity, owners = draw(12, 90).mul(3).round().to(dtype), spread(12, 90)
    known = retrieval(similarity, owners=owners)
    for many in (0, 8):
        monkeypatch.setattr("modalign.metrics.ranking._MANY", many)
        found = retrieval(similarity, owners=owners)
        for name in ("hits", "ranks", "average_precision"):
            assert torch.equal(getattr(found.rows, name), getattr(known.rows, name)), name


class Computed(TorchDispatchMode):
    """How many numbers PyTorch computes."""

    numbers = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        outputs = found if isinstance(found, tuple) else (found,)
        self.numbers += sum(each.numel() for each in outputs if isinstance(each, torch.Tensor))
        return found


def test_the_cost_grows_with_the_matrix_however_many_a_row_owns():
    n, m = 40, 1000
    column = torch.arange(m)
    for owners in (column % n, (column - m + n).clamp(min=0)):  # 25 each; nearly all to the first
        with Computed() as computed:
            retrieval(draw(n, m), owners=owners)
        assert computed.numbers < 40 * n * m  # where each own one beside all others makes m * m
        with Computed() as computed:
            retrieval_of_embeddings(draw(n, 2), draw(m, 2), owners=owners)
        assert computed.numbers < 50 * n * m


def test_portions_do_not_matter(monkeypatch):
    similarity, owners = draw(20, 50).round(), spread(20, 50)
    whole = retrieval(similarity, owners=owners).as_dict()
    monkeypatch.setattr("modalign.metrics.ranking._AT_A_TIME", 130)
    assert retrieval(similarity, owners=owners).as_dict() == whole


def test_many_ties_keep_their_digits():
    n = 20_000
    similarity = torch.zeros(2, n)
    found = retrieval(similarity, owners=torch.arange(n) % 2, ks=(1, 10))
    assert found.rows.recall[1] == pytest.approx(0.5, rel=1e-9)
    assert found.rows.ranks[0].item() == pytest.approx((n + 1) / (n / 2 + 1))


def test_hits_go_into_a_paired_bootstrap():
    noise = draw(100, 100)
    good, bad = retrieval(3 * torch.eye(100) + noise), retrieval(torch.eye(100) + noise)
    found = difference(good.rows.hits[:, 0], bad.rows.hits[:, 0], method="percentile")
    assert found.mean == pytest.approx(good.rows.recall[1] - bad.rows.recall[1])
    assert 0 < found.low < found.mean < found.high


@pytest.mark.parametrize(
    ("similarity", "options", "message"),
    [
        (torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]), {}, "similarity: .* NaN, .*row 1, column 0"),
        (torch.ones(0, 0), {}, r"similarity: expected rows and columns, got \(0, 0\)"),
        (torch.ones(2, 3), {}, "owners: a matrix of 2 rows and 3 columns needs"),
        (torch.ones(2, 2), {"owners": torch.tensor([0, 2])}, "rows from 0 to 1, got 2"),
        (torch.ones(2, 2), {"owners": torch.tensor([0, -1])}, "rows from 0 to 1, got -1"),
        (torch.ones(2, 2), {"owners": torch.tensor([1, 1])}, "got none for row 0"),
        (torch.ones(2, 2), {"owners": torch.tensor([0, 1, 1])}, "owners: expected .*Int"),
        (torch.ones(2, 2), {"ks": (0, 1)}, r"ks: expected whole numbers from 1, got \(0, 1\)"),
        (torch.ones(2, 2), {"ks": ()}, "ks: expected whole numbers"),
        (torch.ones(2, 2, 2), {}, "similarity: expected Float"),
        (torch.ones(2, 2).long(), {}, "similarity: expected Float"),
    ],
)
def test_retrieval_refuses(similarity, options, message):
    with pytest.raises(ValueError, match=message):
        retrieval(similarity, **options)
