"""Folds inside the training data, for what a system chooses or calibrates itself."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from expressor.core.rng import stream

_DOUBT = 0.01  # of the probability goes to all classes alike, so that one sure mistake does not decide


def inner_folds(patients: Any, *spread: Any, folds: int, seed: int) -> np.ndarray:
    """Deal patients into folds, whole, so that each fold gets its share of every value.

    Parameters
    ----------
    patients
        (sample,) labels; samples of one patient share a fold.
    spread
        (sample,) arrays whose values are spread evenly: events, labels, strata. The first matters most; a patient counts with the
        largest value of its samples.
    folds
        Number of folds, >= 2.
    seed
        Of the order within equal values. The result depends on the patients' names, not on the order of samples.

    Returns
    -------
    int64 (sample,): the fold of each sample.
    """
    columns = [f"v{i}" for i in range(len(spread))]
    table = pd.DataFrame({"patient": np.asarray(patients).astype(str), **dict(zip(columns, map(np.asarray, spread)))})
    ones = table.groupby("patient", sort=True)[columns].max()
    ones["chance"] = stream(seed, "inner folds").random(len(ones))
    order = ones.sort_values([*columns, "chance"]).index[::-1]
    fold = pd.Series(np.arange(len(order)) % folds, index=order)
    return fold.loc[table["patient"]].to_numpy(dtype=np.int64)


def choose_setting(
    settings: Sequence[float],
    fit: Callable[[float, np.ndarray, np.ndarray], Any],
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int,
) -> float:
    """Choose a classifier's one setting by log loss in three folds of the training samples.

    Parameters
    ----------
    settings
        What to choose from; of equal ones the first is taken.
    fit
        Setting, (sample, feature) and codes of classes to a fitted classifier as scikit-learn has them.
    x, y
        (sample, feature), and int (sample,) codes of classes from 0.
    seed
        Of the folds.
    """
    fold = inner_folds(np.arange(len(y)), y, folds=3, seed=seed)

    def loss(setting: float, out: np.ndarray) -> float:
        if not out.any() or len(np.unique(y[~out])) < 2:
            return 0.0
        model = fit(setting, x[~out], y[~out])
        p = np.zeros((int(out.sum()), int(y.max()) + 1))
        p[:, model.classes_] = model.predict_proba(x[out])
        return float(-np.log((1 - _DOUBT) * p[np.arange(len(p)), y[out]] + _DOUBT / p.shape[1]).mean())

    losses = [np.mean([loss(one, fold == part) for part in range(3)]) for one in settings]
    return settings[int(np.argmin(losses))]
