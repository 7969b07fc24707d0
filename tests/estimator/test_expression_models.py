"""Models on expression give what the models they were made of give, and come back from what is saved of them."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import nn

from expressor.core.errors import DataError
from expressor.estimator import State
from expressor.estimator.expression_models import ExpressionModel, expression_model

GENES = list("ABCDEF")
CLASSIFIERS: dict[str, tuple[Any, bool]] = {
    "logistic": (LogisticRegression(max_iter=500), True),
    "scaled": (make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), True),
    "lda": (LinearDiscriminantAnalysis(), True),
    "perceptron": (MLPClassifier((5,), activation="tanh", max_iter=20, random_state=0), True),
    "forest": (RandomForestClassifier(10, random_state=0), False),
    "bayes": (GaussianNB(), False),
    "powers": (make_pipeline(PolynomialFeatures(2), LogisticRegression(max_iter=500)), False),
}
REGRESSORS: dict[str, tuple[Any, bool]] = {
    "ridge": (Ridge(), True), "lasso": (Lasso(0.01), True), "forest": (RandomForestRegressor(5, random_state=0), False),
    "perceptron": (MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0), True),
}  # fmt: skip


def data(n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, 80)
    return rng.normal(size=(80, 6)) + np.eye(6)[y] * 2, np.array(["b", "a", "c"])[y]


def fitted(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 20 rounds do not converge is meant
        return model.fit(x, y)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name: str, n_classes: int) -> None:
    (model, differentiable), (x, y) = CLASSIFIERS[name], data(n_classes)
    fitted(model, x, y)
    own = expression_model(model, genes=GENES)
    assert (own.network is not None) == differentiable
    assert own.outputs == tuple(model.classes_)
    np.testing.assert_allclose(own.predict(x.astype(np.float32)), model.predict_proba(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors(name: str, n_outputs: int) -> None:
    (model, differentiable), (x, _) = REGRESSORS[name], data()
    y = x @ np.arange(6.0 * n_outputs).reshape(6, n_outputs)
    fitted(model, x, y[:, 0] if n_outputs == 1 else y)
    own = expression_model(model, genes=GENES, outputs=["one", "two"][:n_outputs])
    assert (own.network is not None) == differentiable
    expected = model.predict(x.astype(np.float32)).reshape(len(x), -1)
    np.testing.assert_allclose(own.predict(x.astype(np.float32)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["scaled", "perceptron", "forest", "bayes"])
def test_what_is_saved_comes_back(name: str) -> None:
    x, y = data()
    own = expression_model(
        fitted(CLASSIFIERS[name][0], x, y), genes=GENES, unit="log1p_cp10k", mean=x.mean(0), spread=x.std(0)
    )
    state = own.pack("inner")
    again = ExpressionModel.unpack(State(dict(state.values), dict(state.arrays), dict(state.tensors)), "inner")
    assert again.describe() == own.describe()
    assert np.array_equal(again.mean, own.mean)
    assert again.unit == "log1p_cp10k"
    assert np.array_equal(again.predict(x.astype(np.float32)), own.predict(x.astype(np.float32)))


def test_the_digest_tells_models_apart() -> None:
    x, y = data()
    one, other = (expression_model(LogisticRegression(C=c).fit(x, y), genes=GENES) for c in (1.0, 0.1))
    assert one.describe() != other.describe()
    trees = [expression_model(RandomForestClassifier(3, random_state=i).fit(x, y), genes=GENES) for i in (0, 1, 0)]
    assert trees[0].describe() == trees[2].describe() != trees[1].describe()


def test_names_of_a_table_are_known() -> None:
    import pandas as pd

    x, y = data()
    model = LogisticRegression().fit(pd.DataFrame(x, columns=GENES), y)
    assert list(expression_model(model).genes) == GENES


def test_what_is_refused() -> None:
    x, _ = data()
    with pytest.raises(DataError, match="a object is no model on expression"):
        expression_model(object(), genes=GENES)
    with pytest.raises(DataError, match="outputs of a network need names"):
        expression_model(nn.Linear(6, 2), genes=GENES)
    with pytest.raises(DataError, match="need names of their own"):
        expression_model(nn.Linear(6, 2), genes=GENES, outputs=["a", "a"])
    with pytest.raises(DataError, match="mean of the source's genes is not usable; expected 6 finite numbers"):
        expression_model(nn.Linear(6, 2), genes=GENES, outputs=["a", "b"], mean=np.zeros(5))
    forest = expression_model(RandomForestRegressor(2).fit(x, x[:, 0]), genes=GENES)
    with pytest.raises(DataError, match="a RandomForestRegressor, cannot be saved without running code"):
        forest.pack("inner")


def test_a_network_is_copied() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 2)).train()
    own = expression_model(network, genes=GENES, outputs=["a", "b"])
    assert network.training
    assert own.network is not None
    assert not own.network.training
    with torch.no_grad():
        network[1].weight.zero_()
    assert own.network[1].weight.abs().sum() > 0  # type: ignore[index, union-attr]
