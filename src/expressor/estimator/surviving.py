"""How well a system predicts survival: order of the events, calibration, and what its curves say beyond the cohort's own."""

from typing import Any

import numpy as np
import pandas as pd

from expressor.core.rng import stream
from expressor.estimator.judging import patients_of, row
from expressor.metrics.patients import bootstrap_weights
from expressor.metrics.survival import brier_skill, compare_pairs
from expressor.metrics.survival_calibration import calibration_slope

_FEW_DRAWS = 100  # resamples for what must be computed anew on each


def judge_survival(
    risk: Any, survival: pd.DataFrame, outcomes: Any, adata: Any, *, seed: int = 0, n_draws: int = 1000
) -> pd.DataFrame:
    """Compare risks and survival curves with outcomes.

    Parameters
    ----------
    risk
        (sample,), larger for earlier events.
    survival
        (sample, time) probabilities of no event up to each time, as the system gives them.
    outcomes
        Time, event and perhaps strata of the samples (see :func:`expressor.data.read_outcomes`).
    adata
        The samples, for their patients.
    seed, n_draws
        Of the bootstrap over patients.

    Returns
    -------
    Tidy table: ``concordance`` (the headline; within strata), ``calibration_slope``, and ``brier_skill`` where enough patients are
    followed; with 95 % intervals from resampled patients. Censoring is estimated from these samples.
    """
    time, event, strata = outcomes.time, outcomes.event, outcomes.strata
    patients, risk = patients_of(adata), np.asarray(risk, dtype=np.float64)
    weights = bootstrap_weights(patients, n_draws=n_draws, rng=stream(seed, "patients"))
    pairs, n = compare_pairs(time, event, risk, strata=strata), int(event.sum())
    drawn = [np.repeat(np.arange(len(risk)), one.astype(np.int64)) for one in weights[:_FEW_DRAWS]]

    def slope(rows: np.ndarray) -> float:
        return calibration_slope(time[rows], event[rows], risk[rows], strata=None if strata is None else strata[rows])

    everyone = np.arange(len(risk))
    rows = [
        row("concordance", pairs.value(), pairs.draws(weights), patients, n=n),
        row("calibration_slope", slope(everyone), [slope(one) for one in drawn if event[one].any()], patients, n=n),
    ]
    # Up to where a tenth of the samples is followed: beyond, weights for censoring explode.
    end = np.quantile(time, 0.9)
    at = survival.columns.to_numpy(dtype=np.float64)
    used = np.flatnonzero((at >= np.quantile(time, 0.1)) & (at < end))
    used = used[np.unique(np.linspace(0, len(used) - 1, 50).round().astype(int))] if len(used) else used
    if len(used) >= 2 and n:
        curves = survival.to_numpy(dtype=np.float64)[:, used]

        def skill(rows: np.ndarray) -> float:
            return brier_skill(time[rows], event[rows], time[rows], event[rows], curves[rows], at[used])

        rows.append(
            row("brier_skill", skill(everyone), [skill(one) for one in drawn if event[one].any()], patients, n=n)
        )
    return pd.DataFrame(rows)
