"""How well a transferred model does on labelled observations of the target species."""

from typing import Any

import numpy as np
import pandas as pd

from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.data.outcomes import has_outcome, read_labels, read_outcomes
from expressor.estimator.judging import patients_of, row
from expressor.estimator.labelling import judge_labels
from expressor.metrics.genewise import pearson
from expressor.metrics.patients import bootstrap_weights, draw_statistic
from expressor.metrics.survival import compare_pairs


def judge(model: Any, adata: Any, kind: str) -> pd.DataFrame:
    """Return the table of ``evaluate``: by labels, by correlation of numbers, or by concordance; unlabelled rows are left out."""
    if kind == "classes":
        known = _known(adata, [model.label])
        part = adata[known]
        probability = model.predict_proba(part)
        predicted = probability.columns.to_numpy()[probability.to_numpy().argmax(axis=1)]
        return judge_labels(read_labels(part, model.label), predicted, probability, part, seed=model.random_state)
    if kind == "risk":
        part = adata[has_outcome(adata, time=model.time, event=model.event)]
        outcomes, patients = read_outcomes(part, time=model.time, event=model.event), patients_of(part)
        pairs = compare_pairs(outcomes.time, outcomes.event, model.risk(part).astype(np.float64))
        weights = bootstrap_weights(patients, n_draws=1000, rng=stream(model.random_state, "patients"))
        return pd.DataFrame(
            [row("concordance", pairs.value(), pairs.draws(weights), patients, n=int(outcomes.event.sum()))]
        )
    outputs = list(model.source_.outputs)
    part = adata[_known(adata, outputs)]
    measured, predicted = part.obs[outputs].to_numpy(dtype=np.float64), model.predict(part).to_numpy(dtype=np.float64)
    patients = patients_of(part)
    weights = bootstrap_weights(patients, n_draws=200, rng=stream(model.random_state, "patients"))

    def correlation(weight: np.ndarray) -> float:
        rows = np.repeat(np.arange(len(weight)), weight.astype(np.int64))
        return float(np.nanmean(pearson(measured[rows], predicted[rows])))

    draws = draw_statistic(correlation, weights)
    return pd.DataFrame([row("pearson", correlation(np.ones(len(measured))), draws, patients, n=measured.size)])


def _known(adata: Any, columns: list[str]) -> np.ndarray:
    absent = [one for one in columns if one not in adata.obs]
    if absent:
        raise DataError(f"obs has no column {absent[0]!r} to compare with", fix="Give observations with labels.")
    known = adata.obs[columns].notna().all(axis=1).to_numpy()
    if not known.any():
        raise DataError(f"none of {adata.n_obs} observations has a label", fix="Give observations with labels.")
    return np.asarray(known)
