"""How well a model restores expression of cells: hide measured genes, have them restored, compare with the gene means."""

from typing import Any

import anndata
import numpy as np
import pandas as pd

from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.estimator.judging import patients_of, row
from expressor.metrics.patients import bootstrap_weights
from expressor.systems.bmfm.corpus import Reading, log_values, open_corpus
from expressor.systems.bmfm.fitted import Fitted, device_of, expected

_HIDDEN = 0.5  # share of a cell's measured genes
_JUDGED = 2000  # cells at most


def judge_expression(
    fitted: Fitted, reading: Reading, adata: Any, *, plan: Any, seed: int, n_draws: int = 1000
) -> pd.DataFrame:
    """Hide half of the genes of each cell, and say how much of their variance around the training means is restored.

    Parameters
    ----------
    fitted
        The model.
    reading, adata
        The cells; at most 2,000 of them, drawn at random, are judged.
    plan
        Says where to compute.
    seed, n_draws
        Of the hiding, and of the bootstrap over patients (cells, where no patient is known).

    Returns
    -------
    Tidy table with one row, ``r2_above_mean``, on the scale of log1p of counts per ten thousand.
    """
    rows = np.sort(stream(seed, "judged cells").permutation(len(reading.corpus))[:_JUDGED])
    about, around, n = squares_of_hidden(fitted, reading, rows, plan=plan, seed=seed)
    patients = patients_of(adata)[rows]
    weights = bootstrap_weights(patients, n_draws=n_draws, rng=stream(seed, "patients"))
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = 1 - weights @ about / (weights @ around)
    return pd.DataFrame([row("r2_above_mean", 1 - about.sum() / around.sum(), draws, patients, n=n)])


def squares_of_hidden(
    fitted: Fitted, reading: Reading, rows: np.ndarray, *, plan: Any, seed: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Hide half of the measured genes of each cell and restore them.

    Parameters
    ----------
    fitted, reading, plan, seed
        As for :func:`judge_expression`.
    rows
        The cells.

    Returns
    -------
    Sums of squares of each cell about what was restored, and about the training means, float64 (cell,); and the number of values.
    """
    counts = reading.corpus.blocks.read(rows)
    measured = reading.corpus.measured(rows)
    hidden = measured & (stream(seed, "hidden genes").random(measured.shape) < _HIDDEN)
    dense = counts.toarray()
    hidden[np.where(hidden, 0.0, dense).sum(axis=1) <= 0] = False
    if not hidden.any():
        raise DataError("there is no measured value to hide and restore", fix="Give cells with more counts.")
    holed = anndata.AnnData(
        np.where(hidden | ~measured, np.float32(np.nan), dense),
        obs=pd.DataFrame(index=[str(one) for one in rows]), var=pd.DataFrame(index=list(fitted.genes)),
    )  # fmt: skip
    said = expected(fitted, fitted.reading(open_corpus(holed, layer=None, genes=fitted.genes)), device=device_of(plan))
    true = log_values(counts, reading.moments.library(counts, measured)).toarray()
    about, around = (
        np.where(hidden, np.square(true - one), 0.0).sum(axis=1, dtype=np.float64)
        for one in (said, fitted.moments.mean)
    )
    return about, around, int(hidden.sum())
