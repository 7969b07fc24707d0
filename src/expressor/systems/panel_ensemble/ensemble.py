"""The candidates, the choice of genes and members, and what speaks for a class."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from expressor.core.log import progress
from expressor.core.rng import child_seed
from expressor.metrics.classification import balanced_accuracy
from expressor.systems.panel_ensemble import equations

CANDIDATES = ("logistic", "discriminant", "forest", "extra_trees", "neighbours", "bayes")
"""Names of the classifiers that can be members, in the order in which ties are broken."""


def make(name: str, *, trees: int, seed: int) -> Any:
    """Return the unfitted classifier ``name``."""
    chance = child_seed(seed, f"ensemble {name}") % 2**32
    made: dict[str, Callable[[], Any]] = {
        "logistic": lambda: LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000),
        "discriminant": lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        "forest": lambda: RandomForestClassifier(trees, class_weight="balanced_subsample", random_state=chance),
        "extra_trees": lambda: ExtraTreesClassifier(trees, class_weight="balanced", random_state=chance),
        "neighbours": lambda: KNeighborsClassifier(5, weights="distance", algorithm="brute"),
        "bayes": lambda: GaussianNB(var_smoothing=1e-2),
    }
    return made[name]()


def choose_genes(z: np.ndarray, c: np.ndarray, n: int, selection: str) -> np.ndarray:
    """Return positions of ``n`` genes, best first, by the F statistic or in turn for each class; ties by position."""
    n = min(n, z.shape[1])
    if selection == "anova":
        return np.argsort(-equations.f_statistic(z, c), kind="stable")[:n]
    ranked = np.argsort(-np.abs(equations.one_against_rest(z, c)), axis=1, kind="stable")
    # Row by row of ranks: the best of each class, then the second best, ...
    turns = ranked.T.ravel()
    _, first = np.unique(turns, return_index=True)
    return turns[np.sort(first)][:n]


def standard_scores(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (gene,) of the training samples; a gene that does not vary gets 1."""
    mean, scale = values.mean(axis=0), values.std(axis=0)
    return mean, np.where(scale > 1e-8 * np.maximum(np.abs(mean), 1e-8), scale, 1.0)


def cross_validate(
    values: np.ndarray, c: np.ndarray, fold: np.ndarray, *, candidates: tuple[str, ...], n_genes: int, selection: str,
    trees: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """Return the balanced accuracy (candidate,), genes and scores being chosen anew without each fold."""
    predicted = np.zeros((len(candidates), len(c)), dtype=np.int64)
    for k in progress(np.unique(fold), what="classifiers"):
        train, test = fold != k, fold == k
        mean, scale = standard_scores(values[train])
        z = equations.standardise(values, mean, scale)
        # Labels that a fold lost are left out of its fits.
        present, codes = np.unique(c[train], return_inverse=True)
        genes = choose_genes(z[train], codes, n_genes, selection)
        for i, name in enumerate(candidates):
            model = clone(make(name, trees=trees, seed=seed)).fit(z[train][:, genes], codes)
            predicted[i, test] = present[model.predict(z[test][:, genes])]
    return np.array([balanced_accuracy(c, one) for one in predicted])


def speak(z: np.ndarray, c: np.ndarray, n_classes: int, predict: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return (class, gene): what the probability of a class loses, on its own samples, without a gene.

    Parameters
    ----------
    z, c
        Standardised genes of the panel, and class codes, of samples to look at.
    n_classes
        Number of classes.
    predict
        (sample, gene) -> probabilities (sample, class).
    """
    whole = predict(z)
    found = np.zeros((n_classes, z.shape[1]))
    for g in progress(range(z.shape[1]), what="genes of each class"):
        holed = z.copy()
        holed[:, g] = 0.0
        without = predict(holed)
        for k in range(n_classes):
            rows = c == k
            if rows.any():
                found[k, g] = equations.occlusion(whole[rows, k], without[rows, k])
    return found
