import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modalign.metrics import embeddings, retrieval, retrieval_of_embeddings
from modalign.metrics.embeddings import inner_products
from tests._inputs import NOT_FINITE, STRIDES, draw, each


def spread(n, m, seed=0):
    """Owners of m columns, one at least for each of n rows, in random order."""
    generator = torch.Generator().manual_seed(seed)
    more = torch.randint(n, (m - n,), generator=generator)
    return torch.cat([torch.arange(n), more])[torch.randperm(m, generator=generator)]


def whole(x, y):
    """The matrix, entry by entry."""
    return torch.stack([inner_products(row.expand(y.shape), y) for row in x.double()])


def same(found, known):
    """Every number, to the last bit."""
    for ours, theirs in ((found.rows, known.rows), (found.columns, known.columns)):
        assert ours.ks == theirs.ks
        for name in ("hits", "ranks", "average_precision"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def adversarial(seed):
    """Embeddings of which many are equal, a last digit apart, or of other scales."""
    x, y = draw(9, 13, seed=seed), draw(24, 13, seed=seed + 1)
    y[3] = y[11] = y[20]  # equal, at other places of the product
    y[12:15] = x[1]
    x[4] = x[5]
    y[15] = torch.nextafter(y[20], torch.full_like(y[20], 9.0))
    y[16:18] = 0
    y[18] = 2 * y[20]
    y[19] = y[20] * 2.0**-90
    x[6] = x[6].sign() * 2.0**60
    x[7], y[21:23] = 0.1, 0.1  # sums that no order rounds alike
    return x, y


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 7, 9, 100, None]))
def test_chunks_give_the_numbers_of_the_whole_matrix(seed, chunk):
    x, y = adversarial(seed)
    owners = spread(9, 24, seed)
    known = retrieval(whole(x, y.double()), owners=owners)
    same(retrieval_of_embeddings(x, y, owners=owners, chunk=chunk), known)


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_what_the_product_rounds_breaks_no_tie(chunk, monkeypatch):
    x, y = adversarial(0)
    owners = spread(9, 24)
    known = retrieval_of_embeddings(x, y, owners=owners)
    generator = torch.Generator().manual_seed(0)

    def rounded(rows, z):
        # a product as wrong as one may be: d machine epsilons of the sum of sizes
        wrong = torch.rand(len(rows), len(z), generator=generator, dtype=torch.float64) - 0.5
        sizes = rows.abs() @ z.abs().T
        return rows @ z.T + wrong * z.shape[1] * torch.finfo(torch.float64).eps * sizes

    monkeypatch.setattr(embeddings, "_product", rounded)
    same(retrieval_of_embeddings(x, y, owners=owners, chunk=chunk), known)
    plain = rounded(x.double(), y.double())
    assert not torch.equal(retrieval(plain, owners=owners).rows.ranks, known.rows.ranks)


def test_portions_do_not_matter(monkeypatch):
    x, y = adversarial(3)
    owners = spread(9, 24)
    known = retrieval_of_embeddings(x, y, owners=owners)
    monkeypatch.setattr(embeddings, "_AT_A_TIME", 60)
    same(retrieval_of_embeddings(x, y, owners=owners), known)


def test_without_ties_it_is_the_product_of_matrices():
    x, y = draw(40, 16), draw(40, 16, seed=1)
    same(retrieval_of_embeddings(x, y), retrieval(x.double() @ y.double().T))


def test_the_order_of_the_data_does_not_matter():
    x, y = adversarial(1)
    owners = spread(9, 24)
    known = retrieval_of_embeddings(x, y, owners=owners)
    rows, columns = torch.randperm(9), torch.randperm(24)
    mixed = retrieval_of_embeddings(x[rows], y[columns], owners=rows.argsort()[owners[columns]])
    assert torch.equal(mixed.rows.ranks, known.rows.ranks[rows])
    assert torch.equal(mixed.columns.ranks, known.columns.ranks[columns])


def test_collapsed_embeddings_score_as_chance():
    x = torch.full((30, 7), 0.1)
    same(retrieval_of_embeddings(x, x), retrieval(torch.ones(30, 30)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_each_precision_is_read_as_it_is(dtype):
    x, y = draw(20, 6).to(dtype), draw(20, 6, seed=1).to(dtype)
    known = retrieval_of_embeddings(x.double(), y.double(), chunk=3)
    same(retrieval_of_embeddings(x, y), known)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(retrieval_of_embeddings(x, y), known)


@each("change", STRIDES)
def test_strides(change):
    x, y = draw(8, 5), draw(8, 5, seed=1)
    same(retrieval_of_embeddings(change(x), change(y)), retrieval_of_embeddings(x, y))


def test_features_of_all_sizes():
    for d in range(1, 10):
        x, y = draw(6, d).round(), draw(6, d, seed=1).round()
        same(retrieval_of_embeddings(x, y), retrieval(x @ y.T))


def test_one_row_may_own_nearly_all():
    x, y = draw(3, 4).round(), draw(50, 4, seed=1).round()
    owners = torch.tensor([0, 2, *[1] * 48])
    same(retrieval_of_embeddings(x, y, owners=owners, chunk=2), retrieval(x @ y.T, owners=owners))


PARTS = [(range(4), range(6)), (range(4, 9), range(6, 24))]  # not as many each


def of_process(rank):
    """What a process has of the adversarial embeddings, whose first 4 rows own 6 columns."""
    x, y = adversarial(5)
    owners = torch.cat([spread(4, 6), 4 + spread(5, 18)])
    rows, columns = PARTS[rank]
    return x[rows], y[columns], owners[columns] - rows[0]


def run_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    x, y, owners = of_process(rank)
    found = {}
    for chunk in (None, 1, 3):
        result = retrieval_of_embeddings(x, y, owners=owners, chunk=chunk, across_processes=True)
        found[chunk] = [vars(result.rows), vars(result.columns)]
    alone = retrieval_of_embeddings(x, y, owners=owners)
    found["alone"] = [vars(alone.rows), vars(alone.columns)]
    refused = {
        "features": (x[:, : 13 - rank], y[:, : 13 - rank], owners),
        "owners": (x, y, owners - rank),
        "infinite": (x, y * (1 if rank else torch.inf), owners),
        "square": (x, y, None),
    }
    for name, (x, y, owners) in refused.items():
        try:
            retrieval_of_embeddings(x, y, owners=owners, across_processes=True)
        except ValueError as error:
            found[name] = str(error)
    empty = (x[:0], y[:0], owners) if rank else (draw(3, 13), draw(3, 13), None)
    result = retrieval_of_embeddings(*empty[:2], across_processes=True)
    found["empty"] = [vars(result.rows), vars(result.columns)]
    torch.save(found, os.path.join(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("gloo"))
    torch.multiprocessing.spawn(run_rank, (folder,), nprocs=2)
    return [torch.load(os.path.join(folder, f"{rank}.pt"), weights_only=True) for rank in (0, 1)]


def equal(found, known):
    for ours, theirs in zip(found, (known.rows, known.columns), strict=True):
        assert all(torch.equal(ours[name], getattr(theirs, name)) for name in ours if name != "ks")


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_two_processes_give_the_numbers_of_one(of_two, chunk):
    x, y, owners = (torch.cat(each) for each in zip(*map(of_process, (0, 1)), strict=True))
    owners[6:] += 4
    known = retrieval_of_embeddings(x, y, owners=owners)
    for found in of_two:
        equal(found[chunk], known)


def test_a_process_alone_waits_for_no_other(of_two):
    for rank, found in enumerate(of_two):
        x, y, owners = of_process(rank)
        equal(found["alone"], retrieval_of_embeddings(x, y, owners=owners))


def test_a_process_may_have_nothing(of_two):
    known = retrieval_of_embeddings(draw(3, 13), draw(3, 13))
    for found in of_two:
        equal(found["empty"], known)


def test_what_one_process_has_wrong_every_process_refuses(of_two):
    for found in of_two:
        assert found["features"] == "rows: expected 13 features, got 12 in process 1"
        assert found["owners"] == "owners: expected rows from 0 to 4, got -1 in process 1"
        assert found["infinite"].startswith("columns: expected finite values, got")
        assert found["square"].startswith("owners: 4 rows and 6 columns need the row of each")


GOOD = draw(4, 3)


@each("case", NOT_FINITE)
@pytest.mark.parametrize("name", ["rows", "columns"])
def test_what_is_not_finite_is_refused(case, name):
    change, message = case
    given = {"rows": GOOD, "columns": GOOD} | {name: change(GOOD)}
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        retrieval_of_embeddings(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": draw(4, 2)}, "columns: expected"),
        ({"columns": draw(5, 3)}, "owners: 4 rows and 5 columns need the row of each column"),
        ({"rows": draw(0, 3), "columns": draw(0, 3)}, "rows, columns: expected one or more"),
        ({"rows": draw(4, 0), "columns": draw(4, 0)}, "rows: expected at least one feature"),
        ({"owners": torch.tensor([0, 1, 2, 4])}, "owners: expected rows from 0 to 3, got 4"),
        ({"owners": torch.tensor([0, 1, 2, -1])}, "owners: expected rows from 0 to 3, got -1"),
        ({"owners": torch.tensor([0, 1, 2, 2])}, "got none for row 3"),
        ({"ks": (0,)}, "ks: expected whole numbers from 1"),
        ({"chunk": 0}, "chunk: expected a number above 0, got 0"),
        ({"across_processes": True}, "across_processes: expected torch.distributed"),
        ({"rows": 1e200 * GOOD.double(), "columns": 1e200 * GOOD.double()}, "that float64 holds"),
        ({"columns": GOOD.to("meta")}, "columns: expected cpu, as rows, got meta"),
    ],
)
def test_refused(change, message):
    with pytest.raises(ValueError, match=message):
        retrieval_of_embeddings(**{"rows": GOOD, "columns": GOOD} | change)
