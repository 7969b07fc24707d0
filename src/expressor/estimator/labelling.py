"""From probabilities to labels, and how well a system tells them."""

from typing import Any

import numpy as np
import pandas as pd

from expressor.core.rng import stream
from expressor.estimator.judging import patients_of, row
from expressor.metrics.classification import accuracy, balanced_accuracy, log_loss, macro_f1
from expressor.metrics.patients import bootstrap_weights, draw_statistic


def most_likely(probability: pd.DataFrame, label: str) -> pd.DataFrame:
    """Return the most probable class of each sample, object (sample, [label]); among equals the first.

    Parameters
    ----------
    probability
        (sample, class); the columns are the classes.
    label
        Name of the column.
    """
    best = probability.columns.to_numpy(dtype=object)[probability.to_numpy().argmax(axis=1)]
    return pd.DataFrame({label: best}, index=probability.index)


def judge_labels(
    truth: Any, predicted: Any, probability: pd.DataFrame, adata: Any, *, seed: int = 0, n_draws: int = 1000
) -> pd.DataFrame:
    """Compare predicted labels and their probabilities with true labels.

    Parameters
    ----------
    truth, predicted
        (sample,) labels.
    probability
        (sample, class), rows adding up to 1.
    adata
        The samples, for their patients.
    seed, n_draws
        Of the bootstrap over patients.

    Returns
    -------
    Tidy table: ``balanced_accuracy`` (the headline), ``accuracy``, ``macro_f1``, and ``log_loss`` over samples whose label was
    among those of the fit; with 95 % intervals from resampled patients.
    """
    truth, predicted, patients = np.asarray(truth).astype(str), np.asarray(predicted).astype(str), patients_of(adata)
    weights = bootstrap_weights(patients, n_draws=n_draws, rng=stream(seed, "patients"))
    rows = []
    for name, of in (("balanced_accuracy", balanced_accuracy), ("accuracy", accuracy), ("macro_f1", macro_f1)):
        draws = draw_statistic(lambda one, of=of: of(truth, predicted, weights=one), weights)  # type: ignore[misc]
        rows.append(row(name, of(truth, predicted), draws, patients, n=len(truth)))
    classes = [str(one) for one in probability.columns]
    known = np.isin(truth, classes)
    if known.any():
        table = probability.to_numpy()[known]

        def loss(one: np.ndarray) -> float:
            return log_loss(truth[known], table, classes, weights=one) if one.sum() else np.nan

        draws = draw_statistic(lambda one: loss(one[known]), weights)
        rows.append(row("log_loss", loss(np.ones(int(known.sum()))), draws, patients, n=int(known.sum()),
                        n_undefined=int((~known).sum())))  # fmt: skip
    return pd.DataFrame(rows)
