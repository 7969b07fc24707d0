"""Each equation against a loop, and the layer against the equations."""

import numpy as np
import pytest
import torch
from scipy import sparse

from expressor.nn.masked_linear import MaskedLinear
from expressor.systems.tron import conversion, equations


def graph(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    M = np.where(rng.random((6, 8)) < 0.3, rng.choice([0.5, 1.0], (6, 8)), 0.0)
    M[2], M[0, 0], M[1, 1:4] = 0.0, 1.0, (1.0, 0.5, 1.0)
    return M, rng.normal(size=(6, 8)), rng.normal(size=6), rng.normal(size=(5, 8))


def layer(M: np.ndarray, **options: object) -> MaskedLinear:
    rows, columns = (torch.from_numpy(one) for one in np.nonzero(M))
    confidence = torch.from_numpy(M[M > 0])
    return MaskedLinear(rows, columns, M.shape, confidence=confidence, **options).double()


@pytest.mark.covers("I1")
def test_conversion_is_a_sum_over_orthologs() -> None:
    M, W, b, x = graph()
    got = equations.convert(x, W, M, b)
    for n in range(5):
        for i in range(6):
            expected = b[i] + sum(M[i, j] * W[i, j] * x[n, j] for j in range(8))
            assert got[n, i] == pytest.approx(expected)
    own = layer(M)
    with torch.no_grad():
        own.weight.copy_(torch.from_numpy(W[M > 0]))
        own.bias.copy_(torch.from_numpy(b))
    np.testing.assert_allclose(own.eval()(torch.from_numpy(x)).detach().numpy(), got, atol=1e-12)


@pytest.mark.covers("I2")
def test_a_gene_starts_as_the_weighted_mean_of_its_orthologs() -> None:
    M, _, _, x = graph()
    W = equations.start_weights(M)
    got = equations.convert(x, W, M, np.zeros(6))
    np.testing.assert_allclose(got[:, 0], np.average(x, weights=M[0], axis=1))
    assert (got[:, 2] == 0).all()
    np.testing.assert_allclose(layer(M).start.numpy(), W[M > 0])
    single = np.eye(3)
    np.testing.assert_array_equal(equations.start_weights(single), single)


@pytest.mark.covers("I3")
@pytest.mark.parametrize("moments", [False, True])
def test_matched_genes_have_the_means_of_the_source(moments: bool) -> None:
    rng = np.random.default_rng(0)
    c = rng.normal(3.0, [0.5, 1.0, 1.5, 100.0], size=(200, 4))
    mean, spread, joined = (
        np.array([1.0, 2.0, 3.0, 4.0]),
        np.array([1.0, 1.0, 1.0, 1.0]),
        np.array([True, True, False, True]),
    )
    a, b = equations.match(mean, spread, c.mean(0), c.std(0), joined, moments=moments)
    new = a * c + b
    np.testing.assert_allclose(new.mean(0)[joined], mean[joined])
    assert (a[2], b[2]) == (1.0, 3.0)
    np.testing.assert_allclose(new.std(0)[:2], spread[:2] if moments else c.std(0)[:2], rtol=1e-2)
    assert a[3] == (0.25 if moments else 1.0)


@pytest.mark.covers("I4")
def test_the_objective_is_the_layers_own_penalty() -> None:
    M, W, _, _ = graph()
    own = layer(M, pull=0.3, l1=0.7)
    with torch.no_grad():
        own.weight.copy_(torch.from_numpy(W[M > 0]))
    w, start = W[M > 0], own.start.numpy()
    by_hand = 2.0 + sum(0.3 * (a - b) ** 2 + 0.7 * abs(a) for a, b in zip(w, start))
    assert equations.objective(2.0, w, start, 0.3, 0.7) == pytest.approx(by_hand)
    assert own.penalty().item() == pytest.approx(by_hand - 2.0, rel=1e-6)


@pytest.mark.covers("I5")
def test_importance_is_gradient_times_input_on_edges() -> None:
    M, W, _, x = graph()
    gradient = np.random.default_rng(1).normal(size=(5, 6))
    got = equations.importance(sparse.csr_matrix(W * M), x, gradient)
    expected = []
    for i, j in zip(*np.nonzero(M)):
        moved = [abs(W[i, j] * M[i, j] * (x[n, j] - x[:, j].mean()) * gradient[n, i]) for n in range(5)]
        expected.append(np.mean(moved))
    np.testing.assert_allclose(got, expected)


def test_the_layer_is_converted_in_parts() -> None:
    M, _, _, _ = graph()
    own, x = layer(M).float().eval(), np.random.default_rng(0).normal(size=(2100, 8)).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_array_equal(conversion.convert(own, x), own(torch.from_numpy(x)).numpy())
