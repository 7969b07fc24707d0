"""What tasks that predict labels share: few labels, asking a model, judging each observation, scores of resamples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.bench.cohorts import Statistic, mean_statistic
from expressor.bench.store import Cell
from expressor.metrics.classification import balanced_accuracy, calibration_error, log_losses, macro_f1


def label_some(train: AnnData, label: str, draw: Callable[[np.ndarray], np.ndarray]) -> AnnData:
    """Return the data with the labels of the observations that are drawn, and gaps for the others; matrices are shared.

    Parameters
    ----------
    train
        Observations with known labels.
    label
        Column of ``obs``.
    draw
        Picks among the rows of one label, which are in the order of the observations' names.
    """
    labels = train.obs[label].astype(str).to_numpy()
    order = np.argsort(train.obs_names.astype(str).to_numpy(), kind="stable")
    kept = np.zeros(train.n_obs, dtype=bool)
    for one in np.unique(labels):
        kept[draw(order[labels[order] == one])] = True
    gaps = pd.Series(labels, index=train.obs_names, dtype=object).where(kept).astype("category")
    obs = train.obs.assign(**{label: gaps})
    return AnnData(train.X, obs=obs, var=train.var.copy(), uns=dict(train.uns), layers=dict(train.layers))


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


@dataclass(frozen=True)
class Judged:
    """Observations of one setting, over its folds, draws and seeds together, and what is said of them.

    Attributes
    ----------
    setting
        What the table calls it.
    names
        Who is resampled, (obs,).
    truth, given
        Labels, (obs,).
    samples, probability
        As of :func:`score_labels`, one below the other; ``probability`` is None where a model gives none.
    n
        Number that the table states.
    """

    setting: str
    names: np.ndarray
    truth: np.ndarray
    given: np.ndarray
    samples: pd.DataFrame
    probability: pd.DataFrame | None
    n: int

    @classmethod
    def of(cls, setting: str, cells: Sequence[Cell], *, unit: str, n: int | None = None) -> Self:
        """Collect the results of a setting; ``unit`` is the column of who is resampled, ``n`` by default the number of rows."""
        samples = pd.concat([cell.tables["samples"] for cell in cells])
        probability = None
        if "loss" in samples:
            probability = pd.concat([cell.tables["probability"] for cell in cells]).fillna(0.0)
        names, truth, given = (samples[one].to_numpy().astype(str) for one in (unit, "truth", "predicted"))
        return cls(setting, names, truth, given, samples, probability, len(truth) if n is None else n)

    def accuracy(self) -> Statistic:
        """Return the share of right labels."""
        return mean_statistic(self.setting, "accuracy", (self.truth == self.given).astype(np.float64), self.names)

    def balanced_accuracy(self) -> Statistic:
        """Return the mean over labels of the share that is found."""
        value = balanced_accuracy(self.truth, self.given)
        return Statistic(self.setting, "balanced_accuracy", value, self.names,
                         lambda weights: balanced_draws(self.truth, self.given, weights), self.n)  # fmt: skip

    def macro_f1(self) -> Statistic:
        """Return the mean over labels of F1."""
        value = macro_f1(self.truth, self.given)
        return Statistic(self.setting, "macro_f1", value, self.names,
                         lambda weights: f1_draws(self.truth, self.given, weights), self.n)  # fmt: skip

    def of_probabilities(self) -> list[Statistic]:
        """Return log loss and calibration error; nothing where there are no probabilities."""
        if self.probability is None:
            return []
        error = calibration_error(self.truth, self.probability.to_numpy(), list(self.probability.columns))
        return [
            mean_statistic(self.setting, "log_loss", self.samples["loss"], self.names),
            Statistic(self.setting, "calibration_error", error, n=self.n),
        ]


def by_setting(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Return the cells of each setting: a fold is called "split setting #draw"."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.key.fold.split(" ", 1)[1].split(" #")[0], []).append(cell)
    return groups
