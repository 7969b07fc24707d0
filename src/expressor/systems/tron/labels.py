"""What the layer is learnt on: labels, numbers or outcomes of some observations, and the surest guesses for others."""

from typing import Any

import numpy as np
import pandas as pd
import torch

from expressor.core.errors import DataError, nearest_names
from expressor.data.outcomes import has_outcome, read_outcomes
from expressor.estimator.expression_models import ExpressionModel

Targets = dict[str, torch.Tensor]
"""By name: ``y`` and ``weight`` of classes, ``y`` of numbers, ``time`` and ``event`` of a risk; (obs,) or (obs, output)."""
Labelled = tuple[np.ndarray, Targets]
"""Expression of labelled observations, float32 (obs, target gene), and their labels."""


def read_targets(
    adata: Any, model: ExpressionModel, *, label: str, time: str, event: str, balanced: bool, needed: bool
) -> tuple[np.ndarray, Targets]:
    """Return which observations are labelled, bool (obs,), and their labels.

    Parameters
    ----------
    adata
        Observations of the target species.
    model
        The source, which says what a label is.
    label, time, event
        Columns of ``obs``; where the source gives numbers they are named as its outputs.
    balanced
        Whether every class counts the same.
    needed
        Whether it is an error that nothing is labelled.

    Raises
    ------
    DataError
        A column is absent, nothing is labelled, or a class is not one of the source's.
    """
    if model.kind == "risk":
        known = has_outcome(adata, time=time, event=event)
        outcomes = read_outcomes(adata[known], time=time, event=event)
        return known, {"time": torch.from_numpy(outcomes.time), "event": torch.from_numpy(outcomes.event)}
    columns = [label] if model.kind == "classes" else list(model.outputs)
    absent = [one for one in columns if one not in adata.obs]
    if absent and needed:
        raise DataError(f"obs has no column {absent[0]!r} to learn from", nearest=nearest_names(absent[0], adata.obs.columns),
                        fix="Name it with label=, or use mode='zero-shot'.")  # fmt: skip
    known = np.zeros(adata.n_obs, dtype=bool) if absent else adata.obs[columns].notna().all(axis=1).to_numpy()
    if not known.any():
        if not needed:
            return known, {}
        raise DataError(f"none of {adata.n_obs} observations has a label in {', '.join(map(repr, columns))}",
                        fix="Label some, or use mode='zero-shot'.")  # fmt: skip
    if model.kind == "values":
        return known, {"y": torch.from_numpy(adata.obs.loc[known, columns].to_numpy(dtype=np.float32))}
    return known, class_targets(_codes(adata.obs.loc[known, label].astype(str), model.outputs), balanced=balanced)


def _codes(labels: pd.Series, classes: tuple[str, ...]) -> np.ndarray:
    strange = labels[~labels.isin(classes)]
    if len(strange):
        raise DataError(
            f"{len(strange)} of {len(labels)} labelled observations are of {strange.nunique()} classes that the source does "
            f"not know, such as {strange.iloc[0]!r}",
            expected=", ".join(classes[:8]), nearest=nearest_names(strange.iloc[0], classes),
            fix="Name classes as the source does, and leave the labels of others empty.",
        )  # fmt: skip
    return np.array([classes.index(one) for one in labels], dtype=np.int64)


def class_targets(codes: np.ndarray, *, balanced: bool) -> dict[str, torch.Tensor]:
    """Return labels ``y`` (obs,) and their ``weight`` in the loss, 1 on the mean: every class the same, or every observation."""
    weight = 1.0 / np.bincount(codes)[codes] if balanced else np.ones(len(codes))
    return {"y": torch.from_numpy(codes), "weight": torch.from_numpy((weight / weight.mean()).astype(np.float32))}


def surest(probability: np.ndarray, free: np.ndarray, most: int) -> np.ndarray:
    """Return the class of those observations whose probability is the largest of their class, int64 (obs,), -1 for the others.

    Parameters
    ----------
    probability
        (obs, class).
    free
        bool (obs,): which may be named.
    most
        How many of each class; an observation counts for its most probable class alone.
    """
    likely, sure = probability.argmax(axis=1), probability.max(axis=1)
    named = np.full(len(probability), -1, dtype=np.int64)
    for one in range(probability.shape[1]):
        rows = np.flatnonzero(free & (likely == one))
        named[rows[np.argsort(-sure[rows], kind="stable")][:most]] = one
    return named
