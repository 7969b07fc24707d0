"""Rows of the table of ``evaluate`` for samples of patients: intervals are over patients, who are resampled whole."""

from typing import Any

import numpy as np

from expressor.data import keys
from expressor.metrics.catalogue import record
from expressor.metrics.patients import interval_of


def patients_of(adata: Any) -> np.ndarray:
    """Return the patient of each sample, or the samples' own names where patients are not known for all."""
    known = keys.PATIENT in adata.obs and not adata.obs[keys.PATIENT].isna().any()
    return np.asarray(adata.obs[keys.PATIENT] if known else adata.obs_names).astype(str)


def row(name: str, value: float, draws: Any, patients: np.ndarray, *, n: int, n_undefined: int = 0) -> dict[str, Any]:
    """Return one row: the metric with its 95 % interval over patients.

    Parameters
    ----------
    name
        The metric's name in ``expressor.metrics.catalogue.ALL``.
    value, draws
        The metric on all patients, and on each resample of them.
    patients
        (sample,) labels.
    n, n_undefined
        How many values are behind it, and how many were left out.
    """
    known, n_patients = record(name), len(np.unique(patients))
    interval = interval_of(float(value), draws, n_patients=n_patients)
    return {
        "metric": name, "unit": known.averaging, "direction": known.direction, "value": interval.value,
        "low": interval.low, "high": interval.high, "n": n, "n_undefined": n_undefined, "n_patients": n_patients,
    }  # fmt: skip
