"""What tasks that predict labels share: asking a model, judging each observation, scores of resamples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from expressor.metrics.classification import log_losses


def predict_labels(model: Any, seen: Any, label: str) -> dict[str, pd.DataFrame]:
    """Return labels, and probabilities (obs, class) where the model gives them.

    Parameters
    ----------
    model
        A fitted model with the role ``Predicts``.
    seen
        Blinded test data.
    label
        Column of the predictions.
    """
    tables = {"predicted": model.predict(seen)[[label]].astype(str)}
    if hasattr(model, "predict_proba"):
        tables["probability"] = pd.DataFrame(model.predict_proba(seen)).astype(np.float64)
    return tables


def score_labels(
    truth: np.ndarray, tables: Mapping[str, pd.DataFrame], *, label: str, **columns: Any
) -> dict[str, pd.DataFrame]:
    """Return what each observation is, what was predicted, and its log loss.

    Parameters
    ----------
    truth
        Labels (obs,).
    tables
        What :func:`predict_labels` returned.
    label
        Column of the predictions.
    **columns
        Further columns (obs,) that tell who is judged; they come first.

    Returns
    -------
    dict
        ``"samples"`` with the columns and ``truth``, ``predicted``, ``loss``; ``"probability"`` (obs, class) over all classes that
        are known to the model or stand in ``truth``. Loss and probability only where the model gives probabilities.
    """
    predicted = tables["predicted"]
    samples = pd.DataFrame(
        columns | {"truth": truth, "predicted": predicted[label].to_numpy().astype(str)}, index=predicted.index
    )
    if "probability" not in tables:
        return {"samples": samples}
    p = tables["probability"]
    p = p.reindex(columns=sorted({*map(str, p.columns), *truth}), fill_value=0.0)
    samples["loss"] = log_losses(truth, p.to_numpy(), list(p.columns))
    return {"samples": samples, "probability": p}


def balanced_draws(truth: np.ndarray, given: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return balanced accuracy (draw,) of resamples with weights (draw, obs); classes absent from a resample do not count."""
    right = (truth == given).astype(np.float64)
    members = [truth == one for one in np.unique(truth)]
    with np.errstate(invalid="ignore"):
        shares = [weights[:, one] @ right[one] / weights[:, one].sum(axis=1) for one in members]
    return np.asarray(np.nanmean(shares, axis=0))


def f1_draws(
    truth: np.ndarray, given: np.ndarray, weights: np.ndarray, *, kinds: np.ndarray | None = None
) -> np.ndarray:
    """Return macro F1 (draw,) of resamples with weights (draw, obs).

    As :func:`expressor.metrics.classification.macro_f1` with each draw's weights.

    Parameters
    ----------
    truth, given
        Labels (obs,).
    weights
        (draw, obs).
    kinds
        The labels that are averaged; all that occur in either when not given.
    """
    scores = []
    for one in np.unique(np.concatenate([truth, given])) if kinds is None else kinds:
        is_one, said = (truth == one).astype(np.float64), (given == one).astype(np.float64)
        with np.errstate(invalid="ignore"):
            scores.append(2 * (weights @ (is_one * said)) / (weights @ (is_one + said)))
    return np.asarray(np.nanmean(scores, axis=0))
