"""Fitted scikit-learn classifiers as plain arrays: saved without pickles, and the same to the bit after loading."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from expressor.core.errors import FormatError

KINDS = ("linear", "trees", "neighbours", "bayes")
_ROWS = 1024  # samples that go down the trees at once


@dataclass(frozen=True, eq=False)
class PlainClassifier:
    """A classifier that only predicts; made by :func:`as_plain`.

    Attributes
    ----------
    kind
        One of ``KINDS``.
    arrays
        What it consists of, by name.
    """

    kind: str
    arrays: dict[str, np.ndarray]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the probability of each class, float64 (sample, class), classes in the order of the fit."""
        X = np.ascontiguousarray(X, dtype=np.float64)
        by_kind = {"linear": _linear, "trees": _trees, "neighbours": _neighbours, "bayes": _bayes}
        return by_kind[self.kind](X, self.arrays)


def as_plain(model: Any) -> PlainClassifier:
    """Take what predicts out of a fitted classifier of scikit-learn.

    Parameters
    ----------
    model
        LogisticRegression, LinearDiscriminantAnalysis, a forest (random or extra trees), KNeighborsClassifier (Euclidean, weights
        ``"uniform"`` or ``"distance"``), or GaussianNB.

    Raises
    ------
    FormatError
        It is another kind of model.
    """
    name = type(model).__name__
    if name in ("LogisticRegression", "LinearDiscriminantAnalysis"):
        coefficients, intercept = np.asarray(model.coef_), np.asarray(model.intercept_)
        if len(coefficients) == 1:
            # Two classes share one line: the first has the logit 0.
            coefficients = np.vstack([np.zeros_like(coefficients), coefficients])
            intercept = np.append(0.0, intercept)
        return PlainClassifier("linear", {"coefficients": coefficients, "intercept": intercept})
    if name in ("RandomForestClassifier", "ExtraTreesClassifier"):
        return PlainClassifier("trees", _flatten(model))
    if name == "KNeighborsClassifier":
        codes = np.searchsorted(model.classes_, np.asarray(model.classes_)[model._y]).astype(np.int64)
        settings = np.array([model.n_neighbors, len(model.classes_), model.weights == "distance"], dtype=np.int64)
        return PlainClassifier("neighbours", {"X": np.asarray(model._fit_X), "codes": codes, "settings": settings})
    if name == "GaussianNB":
        return PlainClassifier("bayes", {"mean": model.theta_, "variance": model.var_, "prior": model.class_prior_})
    raise FormatError(f"a {name} cannot be saved as plain arrays")


def _flatten(forest: Any) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("left", "right", "feature", "threshold", "value")}
    roots, start = [], 0
    for one in forest.estimators_:
        tree = one.tree_
        roots.append(start)
        leaf = tree.children_left < 0
        here = np.arange(start, start + tree.node_count)
        # A leaf points to itself, so that samples that have arrived stay.
        parts["left"].append(np.where(leaf, here, tree.children_left + start))
        parts["right"].append(np.where(leaf, here, tree.children_right + start))
        parts["feature"].append(np.where(leaf, 0, tree.feature))
        parts["threshold"].append(np.where(leaf, 0.0, tree.threshold))
        value = tree.value[:, 0, :]
        parts["value"].append(value / value.sum(axis=1, keepdims=True))
        start += tree.node_count
    joined = {name: np.concatenate(one) for name, one in parts.items()}
    whole = {name: joined[name].astype(np.int32) for name in ("left", "right", "feature")}
    return joined | whole | {"roots": np.array(roots, dtype=np.int32)}


def _trees(X: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    found = np.empty((len(X), arrays["value"].shape[1]))
    for start in range(0, len(X), _ROWS):
        # scikit-learn compares single precision with thresholds in double.
        part = X[start : start + _ROWS].astype(np.float32)
        rows = np.arange(len(part))[:, None]
        node = np.broadcast_to(arrays["roots"], (len(part), len(arrays["roots"])))
        while True:
            down = part[rows, arrays["feature"][node]] <= arrays["threshold"][node]
            following = np.where(down, arrays["left"][node], arrays["right"][node])
            if np.array_equal(following, node):
                break
            node = following
        found[start : start + _ROWS] = arrays["value"][node].mean(axis=1)
    return found


def _linear(X: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return _softmax(X @ arrays["coefficients"].T + arrays["intercept"])


def _softmax(logits: np.ndarray) -> np.ndarray:
    relative = np.exp(logits - logits.max(axis=1, keepdims=True))
    return relative / relative.sum(axis=1, keepdims=True)


def _neighbours(X: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    n_neighbours, n_classes, by_distance = arrays["settings"].tolist()
    known, found = arrays["X"], np.zeros((len(X), n_classes))
    for i, one in enumerate(X):
        distance = np.sqrt(np.square(known - one).sum(axis=1))
        nearest = np.argsort(distance, kind="stable")[:n_neighbours]
        weight = np.ones(len(nearest))
        if by_distance:
            same = distance[nearest] == 0
            weight = same.astype(np.float64) if same.any() else 1.0 / distance[nearest]
        np.add.at(found[i], arrays["codes"][nearest], weight)
    return found / found.sum(axis=1, keepdims=True)


def _bayes(X: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    mean, variance = arrays["mean"], arrays["variance"]
    squares = np.stack([np.square(X - m) @ (1 / v) for m, v in zip(mean, variance)], axis=1)
    return _softmax(np.log(arrays["prior"]) - 0.5 * (np.log(2 * np.pi * variance).sum(axis=1) + squares))


def pack_classifier(model: PlainClassifier, *, name: str = "classifier") -> tuple[str, dict[str, np.ndarray]]:
    """Return its kind, and its arrays under names that begin with ``name``: what a saved model keeps."""
    return model.kind, {f"{name}.{key}": one for key, one in model.arrays.items()}


def unpack_classifier(kind: str, arrays: dict[str, Any], *, name: str = "classifier") -> PlainClassifier:
    """Rebuild what :func:`pack_classifier` took apart; ``arrays`` may hold others too."""
    if kind not in KINDS:
        raise FormatError(f"unknown kind of classifier {kind!r}", expected=f"one of {KINDS}")
    mine = {key.removeprefix(f"{name}."): one for key, one in arrays.items() if key.startswith(f"{name}.")}
    return PlainClassifier(kind, mine)
