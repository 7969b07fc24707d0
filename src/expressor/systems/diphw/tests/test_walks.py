"""Sparse walks against the equations, drawn steps against probabilities, and the ways to an embedding against each other."""

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import chisquare

from expressor.datasets import simulate_cells
from expressor.estimator.skip_gram import pairs, skip_gram
from expressor.metrics.clustering import adjusted_rand_index
from expressor.systems.diphw import DIPHW
from expressor.systems.diphw import equations as eq
from expressor.systems.diphw.cooccurrence import embed, place, visits
from expressor.systems.diphw.hypergraph import (
    MEMORY,
    TWO_FACTORS,
    RowSampler,
    TableWalk,
    factor_walk,
)
from expressor.systems.diphw.memory import memory_flows, memory_walk
from expressor.systems.diphw.modules import carriers
from expressor.systems.diphw.neighbors import nearest
from expressor.systems.diphw.sampling import draw_walks


@pytest.fixture(scope="module")
def gamma() -> np.ndarray:
    rng = np.random.default_rng(0)
    gamma = rng.gamma(2.0, 1.5, size=(40, 15)) * (rng.random((40, 15)) < 0.5)
    gamma[np.arange(40), np.arange(40) % 15] += 0.5
    return gamma


def dense(gamma: np.ndarray, walk: str, exponent: float) -> np.ndarray:
    two = {"edvw": lambda: eq.edvw_walk(gamma), "diphw": lambda: eq.diphw_walk(gamma, exponent),
           "both": lambda: eq.both_walk(gamma, exponent)}  # fmt: skip
    if walk in two:
        return two[walk]()
    alpha, beta = (1.0 if walk == "comem" else exponent), (exponent if walk == "comem_both" else 1.0)
    return eq.comem_walk(gamma, eq.coexpression(gamma), eq.coexpression(np.ascontiguousarray(gamma.T)), alpha, beta)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("walk", TWO_FACTORS)
def test_factors_are_the_equations(gamma: np.ndarray, walk: str, lazy: bool) -> None:
    made = factor_walk(sparse.csr_matrix(gamma), walk=walk, exponent=6.0, lazy=lazy)
    P = dense(gamma, walk, 6.0)
    P = P if lazy else eq.without_staying(P)
    np.testing.assert_allclose(made.table(), P, atol=1e-8)
    np.testing.assert_allclose(made.table().sum(axis=1), 1.0)
    if not lazy:
        assert np.abs(np.diag(made.table())).max() < 1e-12
    X = np.random.default_rng(1).normal(size=(40, 3))
    np.testing.assert_allclose(made.forward(X), made.table() @ X, atol=1e-10)
    np.testing.assert_allclose(made.backward(X), made.table().T @ X, atol=1e-10)
    np.testing.assert_allclose(made.backward(X[:, 0]), made.table().T @ X[:, 0], atol=1e-10)
    f, left = visits(made, 12)
    np.testing.assert_allclose(f, eq.visits(made.table(), 12))
    assert left.sum() == pytest.approx(12)


@pytest.mark.parametrize("walk", MEMORY)
def test_memory_on_the_nearest_cells_is_the_whole_walk_where_all_are_near(gamma: np.ndarray, walk: str) -> None:
    counts = sparse.csr_matrix(gamma)
    whole = memory_walk(counts, walk=walk, exponent=3.0)
    np.testing.assert_allclose(whole.table(), dense(gamma, walk, 3.0), rtol=1e-9, atol=1e-12)
    assert np.diag(whole.table()).max() == 0
    assert nearest(counts, 39).nnz == 40 * 39
    # All but one of the others: the row without its weakest cell, scaled up.
    near = memory_walk(counts, walk=walk, exponent=3.0, neighbors=38).table()
    G_V = eq.coexpression(gamma)
    weakest = (G_V + 9 * np.eye(40)).argmin(axis=1)
    kept = G_V.copy()
    kept[np.arange(40), weakest] = 0.0
    alpha, beta = (1.0 if walk == "comem" else 3.0), (3.0 if walk == "comem_both" else 1.0)
    expected = eq.comem_walk(gamma, kept, eq.coexpression(np.ascontiguousarray(gamma.T)), alpha, beta)
    np.testing.assert_allclose(near, expected, atol=2e-5)


@pytest.mark.parametrize("density", [0.15, 0.9])
def test_memory_looks_at_expressed_genes_alone_or_at_all(density: float) -> None:
    """Cell by cell where few genes are expressed, whole matrices where many are: the same either way."""
    rng = np.random.default_rng(5)
    gamma = rng.gamma(2.0, 1.5, size=(30, 20)) * (rng.random((30, 20)) < density)
    gamma[np.arange(30), np.arange(30) % 20] += 0.5
    gamma[np.arange(30), np.arange(7, 37) % 20] += 0.5
    made = memory_walk(sparse.csr_matrix(gamma), walk="comem_both", exponent=2.0)
    np.testing.assert_allclose(made.table(), dense(gamma, "comem_both", 2.0), rtol=1e-9, atol=1e-12)


def test_nearest_cells_of_many() -> None:
    """By regions, without comparing all pairs: nearly all of the true neighbours, with exact correlations."""
    data = simulate_cells(n_cells=9000, n_genes=60, n_types=12, depth=200.0)
    gamma = sparse.csr_matrix(np.log1p(data.X.toarray()))
    found = nearest(gamma, 20, seed=3)
    exact = nearest(gamma, 20, exact_limit=10_000)
    assert (found.getnnz(axis=1) == 20).all()
    assert found.diagonal().max() == 0
    shared = found.multiply(exact > 0)
    assert shared.nnz / exact.nnz > 0.95
    assert found.data.mean() > 0.995 * exact.data.mean()
    rows = shared[:50].tocoo()
    G_V = np.abs(np.corrcoef(gamma[:50].toarray(), gamma[rows.col].toarray())[:50, 50:])
    np.testing.assert_allclose(rows.data, G_V[rows.row, np.arange(rows.nnz)], atol=1e-5)
    np.testing.assert_array_equal(found.indices, nearest(gamma, 20, seed=3).indices)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("n_cells", [1000, 2000, 5000])
def test_memory_on_nearest_cells_against_the_whole_table(n_cells: int) -> None:
    """The restricted walk is another one, and finds less; how much less is kept here."""
    data = simulate_cells(
        n_cells=n_cells, n_genes=200, n_types=10, marker_fold=5.0, batch_fold=1.2, depth=400.0, seed=2
    )
    found = {
        near: DIPHW(walk="comem_both", n_clusters=10, memory_neighbors=near, n_genes=None).fit(data).labels_
        for near in (None, 100)
    }
    whole, near = (adjusted_rand_index(data.obs["cell_type"], found[one]) for one in (None, 100))
    assert whole > 0.9
    assert 0.55 < near < whole


def test_options_of_memory(gamma: np.ndarray) -> None:
    counts = sparse.csr_matrix(gamma)
    networks = eq.coexpression(gamma), eq.coexpression(np.ascontiguousarray(gamma.T))
    made = memory_walk(counts, walk="comem_diphw", exponent=3.0, remembered_exponent=4.0, gene_weight=True)
    expected = eq.comem_walk(gamma, *networks, 3.0, 1.0, 4.0, eq.gene_weight(gamma))
    np.testing.assert_allclose(made.table(), expected, rtol=1e-9, atol=1e-12)
    near = memory_walk(
        counts, walk="comem_diphw", exponent=3.0, remembered_exponent=4.0, gene_weight=True, neighbors=38
    )
    assert np.abs(near.table() - expected).max() < 0.05


def test_a_cell_without_relations_stays() -> None:
    gamma = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [1.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    P = memory_walk(sparse.csr_matrix(gamma), walk="comem", exponent=1.0).table()
    np.testing.assert_allclose(P.sum(axis=1), 1.0)
    lonely = factor_walk(sparse.csr_matrix(gamma), walk="diphw", exponent=2.0, lazy=False)
    assert lonely.table()[3].tolist() == [0, 0, 0, 1]
    assert (lonely.step(np.full(50, 3), np.random.default_rng(0)) == 3).all()


@pytest.mark.parametrize(
    ("walk", "lazy"), [("edvw", True), ("diphw", True), ("diphw", False), ("both", False), ("comem_diphw", True)]
)
def test_drawn_steps_have_the_probabilities(gamma: np.ndarray, walk: str, lazy: bool) -> None:
    counts = sparse.csr_matrix(gamma)
    made = (
        memory_walk(counts, walk=walk, exponent=2.0)
        if walk in MEMORY
        else factor_walk(counts, walk=walk, exponent=2.0, lazy=lazy)
    )
    P, rng = made.table(), np.random.default_rng(7)
    for cell in (0, 17, 39):
        ends = np.bincount(made.step(np.full(60_000, cell), rng), minlength=40)
        assert (ends[P[cell] <= 1e-15] == 0).all()
        likely = P[cell] * 60_000 >= 5
        observed = np.append(ends[likely], ends[~likely].sum())
        expected = np.append(P[cell][likely], P[cell][~likely].sum()) * 60_000
        keep = expected > 1
        assert observed[~keep].sum() <= 10
        assert chisquare(observed[keep], expected[keep] * observed[keep].sum() / expected[keep].sum()).pvalue > 1e-4


def test_rows_without_a_column() -> None:
    rows = sparse.csr_matrix(np.array([[0.2, 0.0, 0.3, 0.5], [0.0, 1.0, 0.0, 0.0]]))
    sampler, rng = RowSampler(rows), np.random.default_rng(0)
    for out, expected in ((0, [0, 0, 3 / 8, 5 / 8]), (2, [2 / 7, 0, 0, 5 / 7]), (3, [0.4, 0, 0.6, 0]), (1, [0.2, 0, 0.3, 0.5]),
                          (-1, [0.2, 0, 0.3, 0.5])):  # fmt: skip
        drawn = np.bincount(sampler.draw(np.zeros(40_000, dtype=int), rng, without=np.full(40_000, out)), minlength=4)
        np.testing.assert_allclose(drawn / 40_000, expected, atol=0.012)


def test_expected_pairs_are_those_that_are_drawn(gamma: np.ndarray) -> None:
    made = factor_walk(sparse.csr_matrix(gamma[:6]), walk="diphw", exponent=1.0)
    walks = draw_walks(made, per_cell=4000, T=30, seed=3)
    assert walks.shape == (24_000, 31)
    centre, context = pairs(walks, 5, np.ones(6), np.array([1], dtype=np.uint64))
    seen = np.zeros((6, 6))
    np.add.at(seen, (centre, context), 1.0)
    C = eq.cooccurrence(made.table(), 30, 5)
    np.testing.assert_allclose(seen / seen.sum(), C / C.sum(), atol=2e-3)
    np.testing.assert_allclose(np.bincount(walks.ravel()) / walks.size, eq.visits(made.table(), 30), atol=2e-3)
    np.testing.assert_array_equal(walks, draw_walks(made, per_cell=4000, T=30, seed=3))


@pytest.mark.parametrize(("n", "lazy"), [(40, True), (40, False), (12, True)])
def test_all_cells_as_landmarks_are_the_equations(gamma: np.ndarray, n: int, lazy: bool) -> None:
    """With more cells than genes, steps from gene to gene; with fewer, from cell to cell."""
    gamma = gamma[:n][:, gamma[:n].any(axis=0)]
    made = factor_walk(sparse.csr_matrix(gamma), walk="diphw", exponent=4.0, lazy=lazy)
    found, f, genes = embed(made, np.arange(n), T=20, W=4, dim=5, seed=0)
    C = eq.cooccurrence(made.table(), 20, 4)
    np.testing.assert_allclose(found.margin, C.sum(axis=0), rtol=1e-8)
    np.testing.assert_allclose(f, eq.visits(made.table(), 20), rtol=1e-8)
    x = eq.positions(eq.positive_pmi(C), 5)
    np.testing.assert_allclose(found.positions @ found.positions.T, x @ x.T, atol=5e-3)
    assert (genes is None) == (not lazy)
    if genes is not None:
        again = place(made.A, made.B_T, genes=genes, among=found, n=n, T=20, W=4)
        np.testing.assert_allclose(eq.unit_length(again), found.positions, atol=1e-5)


def test_landmarks_are_columns_of_the_whole(gamma: np.ndarray) -> None:
    P = dense(gamma, "comem_diphw", 3.0)
    for made in (
        TableWalk(P),
        TableWalk(sparse.csr_matrix(P)),
        factor_walk(sparse.csr_matrix(gamma), walk="both", exponent=3.0),
    ):
        some = np.array([3, 8, 21, 30, 34, 35, 36])
        found, _, _ = embed(made, some, T=20, W=4, dim=7, seed=0)
        M = eq.positive_pmi(eq.cooccurrence(made.table(), 20, 4))[:, some]
        x = eq.positions(M, 7)
        np.testing.assert_allclose(found.positions @ found.positions.T, x @ x.T, atol=5e-3)


def test_skip_gram_puts_apart_what_walks_keep_apart() -> None:
    gamma = np.kron(np.eye(3), np.ones((6, 4))) + 0.01
    made = factor_walk(sparse.csr_matrix(gamma), walk="both", exponent=4.0)
    walks = draw_walks(made, per_cell=20, T=20, seed=0)
    x = eq.unit_length(skip_gram(walks, 18, dim=6, W=4, epochs=5, seed=0))
    near = x @ x.T
    same = np.kron(np.eye(3), np.ones((6, 6))) > 0
    assert near[same].mean() > 0.9
    assert near[~same].mean() < 0.5
    np.testing.assert_array_equal(x, eq.unit_length(skip_gram(walks, 18, dim=6, W=4, epochs=5, seed=0)))


def test_genes_of_a_cluster_by_equation_and_by_path(gamma: np.ndarray) -> None:
    labels = np.arange(40) % 3
    counts = sparse.csr_matrix(gamma)
    made = factor_walk(counts, walk="diphw", exponent=2.0)
    f = eq.visits(made.table(), 9)
    inside, overall = carriers(made, counts, f, labels)
    for one in range(3):
        expected = eq.carried(f, made.A.toarray(), made.B.toarray(), (labels == one).astype(float))
        np.testing.assert_allclose(inside[one], expected, rtol=1e-9)
    np.testing.assert_allclose(overall, f @ made.A.toarray(), rtol=1e-9)
    inside, overall = memory_flows(counts, f, np.eye(3)[labels], walk="comem_diphw", exponent=2.0)
    P = dense(gamma, "comem_diphw", 2.0)
    same = labels[:, None] == labels
    assert overall.sum() == pytest.approx(1.0)
    assert inside.sum() == pytest.approx((f[:, None] * P)[same].sum(), rel=1e-5)
