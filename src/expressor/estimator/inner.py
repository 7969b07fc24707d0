"""Folds inside the training data, for what a system chooses or calibrates itself."""

from typing import Any

import numpy as np
import pandas as pd

from expressor.core.rng import stream


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
