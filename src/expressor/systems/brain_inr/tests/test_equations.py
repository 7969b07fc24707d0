"""The equations against loops and closed forms."""

import math

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from expressor.systems.brain_inr import equations
from expressor.systems.brain_inr.slabs import Boundaries


@pytest.mark.covers("C1")
def test_sine_layer() -> None:
    x, W, b = torch.randn(3, 4), torch.randn(2, 4), torch.randn(2)
    found = equations.sine_layer(x, W, b, 30.0)
    for i in range(3):
        for j in range(2):
            inner = sum(float(W[j, k]) * float(x[i, k]) for k in range(4)) + float(b[j])
            assert float(found[i, j]) == pytest.approx(math.sin(30 * inner), abs=1e-3)


@pytest.mark.covers("C2")
def test_start_bound() -> None:
    assert equations.start_bound(512, 30.0) == pytest.approx(math.sqrt(6 / 512) / 30)
    assert equations.start_bound(27, 30.0, first=True) == pytest.approx(1 / 27)


@pytest.mark.covers("C3")
def test_encoding_of_the_gene() -> None:
    found = equations.encode_scalar(np.array([0.0, 0.3]))
    assert found.shape == (2, 23)
    naive = [0.3]
    for k in range(11):
        naive += [math.sin(2**k * 0.3), math.cos(2**k * 0.3)]
    np.testing.assert_allclose(found[1], naive)


@pytest.mark.covers("C4")
def test_the_spectral_order_finds_the_order_of_a_line() -> None:
    rng = np.random.default_rng(0)
    place = rng.permutation(np.linspace(0, 1, 60))
    X = np.exp(-((place[:, None] - np.linspace(0, 1, 200)) ** 2) / 0.01)
    order = equations.spectral_order(X)[:, 0]
    assert order.min() == 0
    assert order.max() == 1
    assert abs(np.corrcoef(np.argsort(np.argsort(order)), np.argsort(np.argsort(place)))[0, 1]) > 0.999


@pytest.mark.covers("C4")
def test_spectral_coordinates_solve_the_generalised_eigenproblem() -> None:
    """Against scikit-learn's graph and scipy's solver; equal but for the weak link between all genes and the sign."""
    from scipy.linalg import eigh
    from sklearn.neighbors import kneighbors_graph

    X = np.random.default_rng(1).normal(size=(40, 3))
    A = kneighbors_graph(X, 4, include_self=True).toarray()
    A = (A + A.T) / 2
    np.fill_diagonal(A, 0)
    degree = np.diag(A.sum(axis=1))
    vector = eigh(degree - A, degree)[1][:, 1]
    assert abs(np.corrcoef(vector, equations.spectral_order(X)[:, 0])[0, 1]) > 0.999


@pytest.mark.covers("C5")
def test_scaling_of_all_axes_together() -> None:
    found = equations.scale_together(np.array([[-10.0, 0.0, 30.0]]), -10.0, 30.0)
    np.testing.assert_allclose(found, [[-1.0, -0.5, 1.0]])


@pytest.mark.covers("C6")
def test_tissue_code() -> None:
    found = equations.tissue_code(np.array([0.9, 0.1, 0.4]), np.array([0.05, 0.8, 0.4]))
    assert found.tolist() == [-1.0, 1.0, 0.0]


@pytest.mark.covers("C7")
def test_loss() -> None:
    y, f = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert float(equations.squared_loss(y, f)) == 2.5


@pytest.mark.covers("I1")
def test_fourier_features() -> None:
    x, B = torch.randn(2, 3), torch.randn(3, 4)
    found = equations.fourier_features(x, B)
    inner = 2 * math.pi * float(x[1] @ B[:, 2])
    assert float(found[1, 2]) == pytest.approx(math.sin(inner), abs=1e-4)
    assert float(found[1, 6]) == pytest.approx(math.cos(inner), abs=1e-4)


@pytest.mark.covers("I2")
def test_gene_values() -> None:
    t, v, b = torch.randn(3, 4), torch.randn(2, 4), torch.randn(2)
    assert float(equations.gene_values(t, v, b)[2, 1]) == pytest.approx(float(t[2] @ v[1] + b[1]), abs=1e-5)


@pytest.mark.covers("I3")
def test_matern() -> None:
    x, z = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[2.0, 5.0]]).double()
    r = math.sqrt((1 / 2) ** 2 + (3 / 4) ** 2)
    found = equations.matern32(x, z, torch.tensor([2.0, 4.0]).double())
    assert float(found) == pytest.approx((1 + math.sqrt(3) * r) * math.exp(-math.sqrt(3) * r))


@pytest.mark.covers("I4")
def test_inverse_distance_weights() -> None:
    found = equations.inverse_distance_weights(np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 1.0]]))
    np.testing.assert_allclose(found[0], np.array([4, 2, 1]) / 7)
    np.testing.assert_allclose(found[1], [1, 0, 0], atol=1e-8)
    np.testing.assert_allclose(equations.inverse_distance_weights(np.ones((1, 4)), 0.0), 0.25)


@pytest.mark.covers("I5")
def test_standard_score() -> None:
    y = np.array([[3.0, 5.0]])
    np.testing.assert_allclose(equations.standard_score(y, np.array([1.0, 5.0]), np.array([4.0, 0.0])), [[0.5, 0.0]])


@pytest.mark.covers("I6")
def test_conformal_quantile_covers_a_new_error_as_often_as_it_says() -> None:
    errors = np.random.default_rng(0).permutation(19)[:, None].astype(float)
    assert equations.conformal_quantile(errors, 0.9).tolist() == [17.0]  # the 18th of 19: (19 + 1) * .9
    assert equations.conformal_quantile(errors, 0.99).tolist() == [18.0]


@pytest.mark.covers("I7")
def test_blocks() -> None:
    x = np.array([[1.0, 1.0, 1.0], [19.0, 2.0, 3.0], [21.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    found = equations.block_of(x, 20.0)
    assert found[0] == found[1]
    assert len(set(found.tolist())) == 3


@pytest.mark.parametrize("classes", [2, 3])
def test_boundaries_are_those_of_scikit_learn(classes: int) -> None:
    rng = np.random.default_rng(classes)
    places = rng.uniform(-60, 60, size=(300, 3))
    label = np.digitize(places[:, 1] + 10 * np.sin(places[:, 0] / 20), [-20, 25][: classes - 1])
    asked = rng.uniform(-70, 70, size=(5000, 3))
    machine = make_pipeline(StandardScaler(), SVC(C=10.0, gamma=1.0)).fit(places, label)
    np.testing.assert_array_equal(Boundaries.of(places, label).classify(asked), machine.predict(asked))
