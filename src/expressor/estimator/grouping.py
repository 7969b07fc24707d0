"""How well clusters agree with known labels of cells."""

from typing import Any

import numpy as np
import pandas as pd

from expressor.core.rng import stream
from expressor.estimator.judging import patients_of, row
from expressor.metrics.clustering import (
    adjusted_mutual_information,
    adjusted_rand_index,
    normalised_mutual_information,
)

METRICS = {
    "ari": adjusted_rand_index, "nmi": normalised_mutual_information, "ami": adjusted_mutual_information,
}  # fmt: skip


def judge_clusters(truth: Any, labels: Any, adata: Any, *, seed: int = 0, n_draws: int = 200) -> pd.DataFrame:
    """Compare clusters with labels.

    Parameters
    ----------
    truth, labels
        (obs,).
    adata
        The observations, for their patients, who are resampled whole; where they are not known, observations are.
    seed, n_draws
        Of the bootstrap.

    Returns
    -------
    Tidy table: ``ari`` (the headline), ``nmi``, ``ami``, with 95 % intervals.
    """
    truth, labels, patients = np.asarray(truth).astype(str), np.asarray(labels).astype(str), patients_of(adata)
    names, owner = np.unique(patients, return_inverse=True)
    rng, equal = stream(seed, "patients"), np.full(len(names), 1 / len(names))
    draws: dict[str, list[float]] = {name: [] for name in METRICS}
    for _ in range(n_draws):
        weights = rng.multinomial(len(names), equal)[owner]
        for name, of in METRICS.items():
            draws[name].append(of(truth, labels, weights=weights))
    rows = [row(name, of(truth, labels), draws[name], patients, n=len(truth)) for name, of in METRICS.items()]
    return pd.DataFrame(rows)
