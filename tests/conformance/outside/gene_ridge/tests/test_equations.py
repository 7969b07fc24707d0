"""The equations against a naive loop and against each other; the estimator against the closed form."""

import numpy as np
import pytest
import torch

from expressor.datasets.examples import example
from expressor.train import TrainPlan

from ..equations import penalised_squares, ridge  # noqa: TID252 (the package has no fixed place)
from ..estimator import GeneRidge  # noqa: TID252


def numbers() -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.normal(size=(12, 3))), torch.from_numpy(generator.normal(size=(12, 2)))


@pytest.mark.covers("1")
def test_the_objective_is_a_double_loop() -> None:
    X, Y = numbers()
    beta = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    total = 0.0
    for i in range(12):
        for j in range(2):
            fitted = sum(float(X[i, d] * beta[d, j]) for d in range(3))
            total += (float(Y[i, j]) - fitted) ** 2
    total += 0.7 * sum(float(b) ** 2 for b in beta.ravel())
    assert float(penalised_squares(X, Y, beta, 0.7, 12)) == pytest.approx(total / 12)


@pytest.mark.covers("1", "2")
def test_the_closed_form_is_where_the_gradient_vanishes() -> None:
    X, Y = numbers()
    beta = ridge(X, Y, 0.7).requires_grad_()
    penalised_squares(X, Y, beta, 0.7, 12).backward()
    assert beta.grad is not None
    assert float(beta.grad.abs().max()) < 1e-12


@pytest.mark.covers("2")
def test_training_finds_the_closed_form() -> None:
    data = example("histology")
    plan = TrainPlan(epochs=300, batch_size=1000, lr=0.05, device="cpu", patience=None)
    model = GeneRidge(dropout=0.0, penalty=5.0, plan=plan).fit(data)
    X = torch.from_numpy(np.asarray(data.obsm["X_simulated"]))
    X = (X - X.mean(dim=0)) / X.std(dim=0, correction=0)
    Y = torch.from_numpy(np.log1p(data[:, list(model.genes_in_)].X.toarray()))
    beta = ridge(X, Y - Y.mean(dim=0), 5.0)
    expected = (X @ beta + Y.mean(dim=0)).numpy()
    np.testing.assert_allclose(model.predict(data).to_numpy(), expected, atol=1e-4)
