"""Each equation against a loop over single paths, on a toy."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from expressor.systems.diphw import equations as eq

N, G = 8, 6


@pytest.fixture(scope="module")
def gamma() -> np.ndarray:
    rng = np.random.default_rng(0)
    gamma = rng.gamma(2.0, 1.5, size=(N, G)) * (rng.random((N, G)) < 0.6)
    gamma[0, 0] = 1.0
    return gamma


def shares(weights: list[float]) -> list[float]:
    total = sum(weights)
    return [one / total if total else 0.0 for one in weights]


def two_steps(gamma: np.ndarray, of_gene, of_cell) -> np.ndarray:
    """Walk every path cell, gene, cell; ``of_gene(v, e)`` and ``of_cell(e, w)`` weigh the steps."""
    P = np.zeros((N, N))
    for v in range(N):
        genes = shares([of_gene(v, e) if gamma[v, e] > 0 else 0.0 for e in range(G)])
        for e in range(G):
            cells = shares([of_cell(e, w) if gamma[w, e] > 0 else 0.0 for w in range(N)])
            for w in range(N):
                P[v, w] += genes[e] * cells[w]
    return P


def weight(gamma: np.ndarray, e: int) -> float:
    return sum(gamma[v, e] for v in range(N))


@pytest.mark.covers("H1")
def test_the_weight_of_a_gene(gamma: np.ndarray) -> None:
    np.testing.assert_allclose(eq.gene_weight(gamma), [weight(gamma, e) for e in range(G)])


@pytest.mark.covers("H2")
@given(
    arrays(np.float64, (4, 5), elements=st.floats(0, 20).filter(lambda x: x == 0 or x > 1e-3)),
    st.sampled_from([0.0, 0.5, 1.0, 3.0, 50.0, 400.0]),
)
def test_preferences_are_probabilities_that_do_not_overflow(gamma: np.ndarray, alpha: float) -> None:
    p = eq.preference(gamma, alpha)
    assert np.isfinite(p).all()
    np.testing.assert_allclose(p.sum(axis=1), gamma.any(axis=1).astype(float), atol=1e-12)
    assert (p[gamma == 0] == 0).all()
    if alpha <= 3:
        there = np.where(gamma > 0, gamma, 1.0) ** alpha * (gamma > 0)
        np.testing.assert_allclose(
            p, there / np.maximum(there.sum(axis=1, keepdims=True), 1e-300), rtol=1e-9, atol=1e-300
        )


@pytest.mark.covers("W1")
def test_edvw(gamma: np.ndarray) -> None:
    P = two_steps(gamma, lambda v, e: weight(gamma, e), lambda e, w: gamma[w, e])
    np.testing.assert_allclose(eq.edvw_walk(gamma), P, rtol=1e-12)


@pytest.mark.covers("W2")
@pytest.mark.parametrize("alpha", [0.0, 1.0, 4.5])
def test_diphw(gamma: np.ndarray, alpha: float) -> None:
    P = two_steps(gamma, lambda v, e: weight(gamma, e) * gamma[v, e], lambda e, w: gamma[w, e] ** alpha)
    np.testing.assert_allclose(eq.diphw_walk(gamma, alpha), P, rtol=1e-10)


@pytest.mark.covers("W3")
def test_the_exponent_on_both_steps(gamma: np.ndarray) -> None:
    P = two_steps(gamma, lambda v, e: weight(gamma, e) * gamma[v, e] ** 3, lambda e, w: gamma[w, e] ** 3)
    np.testing.assert_allclose(eq.both_walk(gamma, 3.0), P, rtol=1e-10)


@pytest.mark.covers("W4")
def test_networks_are_correlations_without_loops(gamma: np.ndarray) -> None:
    G_V = eq.coexpression(gamma)
    np.testing.assert_allclose(G_V, np.abs(np.corrcoef(gamma)) - np.eye(N), atol=1e-12)
    flat = np.vstack([gamma, np.full(G, 0.1)])
    assert (eq.coexpression(flat)[-1] == 0).all()
    np.testing.assert_allclose(eq.coexpression(flat)[:-1, :-1], G_V, atol=1e-12)


@pytest.mark.covers("W5")
@pytest.mark.parametrize(
    ("alpha", "beta", "mu", "weighted"), [(1.0, 1.0, 1.0, False), (5.0, 1.0, 1.0, False), (2.0, 3.0, 4.0, True)]
)
def test_comem(gamma: np.ndarray, alpha: float, beta: float, mu: float, weighted: bool) -> None:
    G_V, G_E = eq.coexpression(gamma), eq.coexpression(gamma.T.copy())
    omega = eq.gene_weight(gamma)
    P = np.zeros((N, N))
    for v in range(N):
        remembered = shares([(omega[e] if weighted else 1.0) * gamma[v, e] ** mu * (gamma[v, e] > 0) for e in range(G)])
        for e, f in itertools.product(range(G), range(G)):
            genes = shares([G_E[e, k] * gamma[v, k] ** alpha * (gamma[v, k] > 0) for k in range(G)])
            cells = shares([gamma[w, f] ** beta * (gamma[w, f] > 0) * G_V[v, w] for w in range(N)])
            for w in range(N):
                P[v, w] += remembered[e] * genes[f] * cells[w]
        P[v] = shares(list(P[v]))
    found = eq.comem_walk(gamma, G_V, G_E, alpha, beta, mu, omega if weighted else None)
    np.testing.assert_allclose(found, P, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert (np.diag(found) == 0).all()


@pytest.mark.covers("W6")
def test_a_walk_that_never_stays(gamma: np.ndarray) -> None:
    P = eq.without_staying(eq.diphw_walk(gamma, 2.0))
    assert (np.diag(P) == 0).all()
    np.testing.assert_allclose(P.sum(axis=1), 1.0)
    kept = eq.diphw_walk(gamma, 2.0)
    np.testing.assert_allclose(P[2, 3] / P[2, 4], kept[2, 3] / kept[2, 4])
    np.testing.assert_array_equal(eq.without_staying(np.array([[1.0, 0.0], [0.5, 0.5]])), [[0, 0], [1, 0]])


def every_walk(gamma: np.ndarray) -> dict[str, np.ndarray]:
    G_V, G_E = eq.coexpression(gamma), eq.coexpression(gamma.T.copy())
    return {
        "edvw": eq.edvw_walk(gamma), "diphw": eq.diphw_walk(gamma, 7.0), "both": eq.both_walk(gamma, 7.0),
        "comem": eq.comem_walk(gamma, G_V, G_E, 1.0), "comem_diphw": eq.comem_walk(gamma, G_V, G_E, 7.0),
        "comem_both": eq.comem_walk(gamma, G_V, G_E, 7.0, 7.0),
    }  # fmt: skip


def test_rows_are_probabilities_and_names_do_not_matter(gamma: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    cells, genes = rng.permutation(N), rng.permutation(G)
    shuffled = every_walk(np.ascontiguousarray(gamma[cells][:, genes]))
    for name, P in every_walk(gamma).items():
        assert (P >= 0).all(), name
        np.testing.assert_allclose(P.sum(axis=1), 1.0, err_msg=name)
        np.testing.assert_allclose(shuffled[name], P[np.ix_(cells, cells)], rtol=1e-9, err_msg=name)


def test_one_gene_and_one_cell() -> None:
    one_gene = np.array([[1.0], [2.0], [1.0]])
    np.testing.assert_allclose(eq.edvw_walk(one_gene), np.tile([0.25, 0.5, 0.25], (3, 1)))
    np.testing.assert_allclose(eq.diphw_walk(one_gene, 2.0), np.tile([1 / 6, 4 / 6, 1 / 6], (3, 1)))
    for walk in (eq.edvw_walk(np.array([[3.0, 1.0]])), eq.diphw_walk(np.array([[3.0, 1.0]]), 9.0)):
        np.testing.assert_allclose(walk, [[1.0]])


@pytest.mark.covers("E1", "E2", "E3")
def test_expected_pairs_by_every_path(gamma: np.ndarray) -> None:
    """Every path, by its probability; every pair in the window, by the chance that skip-gram's window reaches it."""
    P, T, W = eq.diphw_walk(gamma[:4], 2.0), 5, 3
    n = len(P)
    f, reached = np.zeros(n), np.zeros((W + 1, n, n))
    for path in itertools.product(range(n), repeat=T + 1):
        p = np.prod([P[i, j] for i, j in itertools.pairwise(path)])
        for v in path:
            f[v] += p / n / (T + 1)
        for r in range(1, W + 1):
            reached[r, path[0], path[r]] += p
    np.testing.assert_allclose(eq.visits(P, T), f, rtol=1e-10)
    S = sum(f[:, None] * reached[r] * (W - r + 1) / W * (T + 1 - r) for r in range(1, W + 1))
    np.testing.assert_allclose(eq.cooccurrence(P, T, W), S + S.T, rtol=1e-10)
    np.testing.assert_allclose(eq.window_weights(T, W), [5.0, 4.0 * 2 / 3, 3.0 / 3])
    assert eq.window_weights(2, 5).tolist() == [2.0, 0.8, 0.0, 0.0, 0.0]


def test_the_mean_over_steps_stands_for_each_step(gamma: np.ndarray) -> None:
    """E2 has the mean over all steps where the pairs of a distance begin at the first T + 1 - r: little is lost by that."""
    P, T, W = eq.diphw_walk(gamma, 7.0), 30, 5
    at, exact = [np.full(N, 1.0 / N)], np.zeros((N, N))
    for _ in range(T):
        at.append(P.T @ at[-1])
    for r in range(1, W + 1):
        exact += (W - r + 1) / W * sum(at[: T + 1 - r])[:, None] * np.linalg.matrix_power(P, r)
    exact += exact.T
    assert np.abs(eq.cooccurrence(P, T, W) - exact).max() < 0.01 * exact.max()


@pytest.mark.covers("E4")
def test_positive_pmi_by_loop(gamma: np.ndarray) -> None:
    C = eq.cooccurrence(eq.diphw_walk(gamma, 4.0), 10, 3)
    C[2, 3] = C[3, 2] = 0.0
    M = eq.positive_pmi(C)
    for i, j in itertools.product(range(N), range(N)):
        chance = C[i].sum() * C[:, j].sum() / C.sum()
        assert M[i, j] == pytest.approx(max(0.0, np.log(C[i, j] / chance)) if C[i, j] > 0 else 0.0, abs=1e-12)
    assert (eq.positive_pmi(np.zeros((3, 3))) == 0).all()


@pytest.mark.covers("E5", "E6")
def test_positions_hold_what_the_matrix_holds(gamma: np.ndarray) -> None:
    M = eq.positive_pmi(eq.cooccurrence(eq.diphw_walk(gamma, 4.0), 10, 3))
    x = eq.positions(M, N)
    np.testing.assert_allclose((x**2).sum(axis=1), 1.0)
    # With all directions, inner products before scaling are the square root of M M^T.
    value, vector = np.linalg.eigh(M @ M.T)
    root = vector * np.sqrt(np.maximum(value, 0.0)) @ vector.T
    scale = np.sqrt(np.diag(root))
    np.testing.assert_allclose(x @ x.T, root / scale / scale[:, None], atol=1e-7)
    assert eq.positions(M, 3).shape == (N, 3)
    np.testing.assert_array_equal(eq.unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


@pytest.mark.covers("E7")
def test_genes_that_carry_a_cluster(gamma: np.ndarray) -> None:
    A = eq._rows_to_one(eq.gene_weight(gamma) * gamma)
    B, f = eq.preference(gamma.T, 3.0), eq.visits(eq.diphw_walk(gamma, 3.0), 9)
    inside = np.array([1.0, 1, 1, 0, 0, 0, 1, 0])
    flow = np.zeros(G)
    for v, e, w in itertools.product(range(N), range(G), range(N)):
        if inside[v] and inside[w]:
            flow[e] += f[v] * A[v, e] * B[e, w]
    np.testing.assert_allclose(eq.carried(f, A, B, inside), flow / flow.sum(), rtol=1e-10)
    assert (eq.carried(f, A, B, np.zeros(N)) == 0).all()
