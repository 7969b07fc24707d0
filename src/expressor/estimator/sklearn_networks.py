"""Fitted scikit-learn estimators as networks, where they are linear, or perceptrons, behind a scaler or not."""

from typing import Any

import numpy as np
import torch
from torch import nn

from expressor.nn.plain import Standardise, dense_layer

_LINEAR_CLASSIFIERS = ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis")
_LINEAR = (
    "LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "LinearSVR",
    "CoxPHSurvivalAnalysis",
)  # fmt: skip
_PERCEPTRONS = ("MLPClassifier", "MLPRegressor")
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid, "identity": nn.Identity}


def as_network(model: Any) -> nn.Sequential | None:
    """Return a network that gives the model's logits, numbers or log risk; None where there is none.

    Parameters
    ----------
    model
        A fitted estimator. Its classes are told by name, so that nothing is imported for it.
    """
    name = type(model).__name__
    if name == "Pipeline":
        parts = [_as_scaler(one) for _, one in model.steps[:-1]]
        scalers, last = [one for one in parts if one is not None], as_network(model.steps[-1][1])
        return None if last is None or len(scalers) < len(parts) else nn.Sequential(*scalers, *last)
    if name in _LINEAR_CLASSIFIERS:
        if getattr(model, "solver", "") == "liblinear" and len(model.classes_) > 2:
            return None  # one against the rest: no softmax of its lines
        return nn.Sequential(dense_layer(*_with_reference_class(model.coef_, model.intercept_)))
    if name in _LINEAR:
        coefficients = np.atleast_2d(model.coef_)
        return nn.Sequential(
            dense_layer(coefficients, np.broadcast_to(getattr(model, "intercept_", 0.0), len(coefficients)))
        )
    if name in _PERCEPTRONS:
        layers: list[nn.Module] = []
        for weight, offset in zip(model.coefs_[:-1], model.intercepts_[:-1]):
            layers += [dense_layer(weight.T, offset), _ACTIVATIONS[model.activation]()]
        weight, offset = model.coefs_[-1].T, model.intercepts_[-1]
        if model.out_activation_ == "logistic":
            if len(model.classes_) > 2:
                return None  # several labels at once
            weight, offset = _with_reference_class(weight, offset)
        return nn.Sequential(*layers, dense_layer(weight, offset))
    return None


def _with_reference_class(weight: Any, offset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return two lines where two classes share one: the first class has the logit 0."""
    weight, offset = np.atleast_2d(weight), np.atleast_1d(offset)
    if len(weight) > 1:
        return weight, offset
    return np.vstack([np.zeros_like(weight), weight]), np.append(0.0, offset)


def _as_scaler(model: Any) -> Standardise | None:
    if type(model).__name__ != "StandardScaler":
        return None
    zero = np.zeros(model.n_features_in_)
    mean = zero if model.mean_ is None else model.mean_
    scale = zero + 1 if model.scale_ is None else model.scale_
    return Standardise(torch.from_numpy(np.float32(mean)), torch.from_numpy(np.float32(scale)))
