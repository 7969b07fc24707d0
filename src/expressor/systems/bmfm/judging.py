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
    draw = stream(seed, "hidden genes")
    rows = np.sort(draw.permutation(len(reading.corpus))[:_JUDGED])
    counts = reading.corpus.blocks.read(rows)
    measured = reading.corpus.measured(rows)
    hidden = measured & (draw.random(measured.shape) < _HIDDEN)
    dense = counts.toarray()
    hidden[np.where(hidden, 0.0, dense).sum(axis=1) <= 0] = False
    if not hidden.any():
        raise DataError("there is no measured value to hide and restore", fix="Give cells with more counts.")
    holed = anndata.AnnData(
        np.where(hidden | ~measured, np.float32(np.nan), dense),
        obs=pd.DataFrame(index=adata.obs_names[rows]), var=pd.DataFrame(index=list(fitted.genes)),
    )  # fmt: skip
    said = expected(fitted, fitted.reading(open_corpus(holed, layer=None, genes=fitted.genes)), device=device_of(plan))
    true = log_values(counts, reading.moments.library(counts, measured)).toarray()
    about = np.where(hidden, np.square(true - said), 0.0).sum(axis=1, dtype=np.float64)
    around = np.where(hidden, np.square(true - fitted.moments.mean), 0.0).sum(axis=1, dtype=np.float64)
    patients = patients_of(adata)[rows]
    weights = bootstrap_weights(patients, n_draws=n_draws, rng=stream(seed, "patients"))
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = 1 - weights @ about / (weights @ around)
    return pd.DataFrame([row("r2_above_mean", 1 - about.sum() / around.sum(), draws, patients, n=int(hidden.sum()))])
