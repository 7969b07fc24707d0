"""The three steps: Boruta, LIME, and the curve of accuracy over the number of genes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from expressor.core.log import progress
from expressor.core.rng import child_seed, stream
from expressor.metrics.classification import balanced_accuracy
from expressor.systems.bolimes import equations

_WIDTH = 0.75  # of the kernel, times the root of the number of genes, as in LIME
_RIDGE = 1.0


@dataclass(frozen=True)
class Options:
    """The estimator's parameters that the steps need; they are explained there."""

    trees: int
    rounds: int
    level: float
    quantile: float
    prefilter: int
    explained: int
    draws: int
    seed: int


@dataclass(frozen=True, eq=False)
class Boruta:
    """``status`` (gene,): 1 confirmed, 0 undecided, -1 rejected; ``hits`` and ``rounds`` (gene,) behind it."""

    status: np.ndarray
    hits: np.ndarray
    rounds: np.ndarray


def forest(options: Options, purpose: str, *position: int) -> RandomForestClassifier:
    """Return a forest with a seed of its own, trees of balanced classes."""
    seed = child_seed(options.seed, purpose, *position) % 2**32
    return RandomForestClassifier(
        options.trees, class_weight="balanced_subsample", max_features="sqrt", random_state=seed
    )


def prefilter(X: np.ndarray, y: np.ndarray, most: int) -> np.ndarray:
    """Return positions of the ``most`` genes whose variance between labels is largest against that within (F statistic)."""
    if X.shape[1] <= most:
        return np.arange(X.shape[1])
    names, codes = np.unique(y, return_inverse=True)
    size = np.bincount(codes)[:, None]
    means = np.stack([X[codes == k].mean(0) for k in range(len(names))])
    between = (size * (means - X.mean(0)) ** 2).sum(0)
    within = ((X - means[codes]) ** 2).sum(0)
    score = np.divide(between, within, out=np.zeros_like(between), where=within > 1e-12)
    return np.sort(np.argsort(-score, kind="stable")[:most])


def run_boruta(X: np.ndarray, y: np.ndarray, options: Options) -> Boruta:
    """Compare every gene with shuffled copies of the genes, in forest after forest, until all are decided or rounds are spent."""
    n_genes = X.shape[1]
    status, found, rounds = (np.zeros(n_genes, dtype=np.int64) for _ in range(3))
    for i in progress(range(options.rounds), what="Boruta"):
        left = np.flatnonzero(status >= 0)
        if not (status == 0).any():
            break
        rng = stream(options.seed, "boruta shadows", i)
        # At least five shadows, or their best would be beaten by chance.
        source = left if len(left) >= 5 else rng.choice(left, size=5)
        shadows = rng.permuted(X[:, source], axis=0)
        model = forest(options, "boruta forest", i).fit(np.hstack([X[:, left], shadows]), y)
        importance = model.feature_importances_
        found[left] += equations.hits(importance[: len(left)], importance[len(left) :], options.quantile)
        rounds[left] += 1
        undecided = left[status[left] == 0]
        more, fewer = equations.hit_pvalues(found[undecided], i + 1, n_genes)
        status[undecided[more < options.level]] = 1
        status[undecided[fewer < options.level]] = -1
    return Boruta(status, found, rounds)


def explain(X: np.ndarray, y: np.ndarray, options: Options) -> np.ndarray:
    """Return the mean absolute local importance (gene,) to a forest of standardised genes, by LIME at samples of each label."""
    model = forest(options, "lime forest").fit(X, y)
    n_genes = X.shape[1]
    chosen: list[int] = []
    per_label = -(-options.explained // len(np.unique(y)))
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        chosen += stream(options.seed, "lime samples", len(chosen)).permutation(rows)[:per_label].tolist()
    local = np.empty((len(chosen), n_genes))
    for i, row in enumerate(progress(chosen, what="LIME")):
        Z = X[row] + stream(options.seed, "lime draws", i).normal(size=(options.draws, n_genes))
        Z[0] = X[row]
        probability = model.predict_proba(Z)[:, list(model.classes_).index(y[row])]
        distance = np.sqrt(np.square(Z - X[row]).sum(axis=1))
        omega = equations.kernel(distance, _WIDTH * np.sqrt(n_genes))
        local[i] = equations.local_model(Z, probability, omega, _RIDGE)
    return equations.global_importance(local)


def sizes_to_try(n_genes: int, most: int) -> np.ndarray:
    """Return 1, 2, 3, ... growing by about a quarter, up to ``n_genes`` or ``most``."""
    sizes, k = [], 1.0
    end = min(n_genes, most)
    while k < end:
        sizes.append(int(k))
        k = max(k + 1, k * 1.25)
    return np.unique([*sizes, end]).astype(np.int64)


def size_curve(
    X: np.ndarray, y: np.ndarray, order: np.ndarray, sizes: np.ndarray, *, fold: np.ndarray, make: Any
) -> np.ndarray:
    """Return the cross-validated balanced accuracy (size,) with the first genes of ``order``.

    Genes were ranked on all samples of the fit, so that the level of the curve is too high; only its shape is used.
    """
    accuracy = np.empty(len(sizes))
    for i, k in enumerate(progress(sizes, what="number of genes")):
        predicted = np.empty(len(y), dtype=object)
        for one in np.unique(fold):
            train, test = fold != one, fold == one
            predicted[test] = make().fit(X[train][:, order[:k]], y[train]).predict(X[test][:, order[:k]])
        accuracy[i] = balanced_accuracy(y, predicted)
    return accuracy
