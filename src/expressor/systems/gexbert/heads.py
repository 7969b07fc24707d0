"""Heads on a fitted restorer: cancer type by multinomial logistic regression, risk by a ridge Cox model."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from expressor.core.errors import DataError
from expressor.core.rng import child_seed
from expressor.nn.cox import Baseline, breslow_baseline, cox_loss, fit_cox
from expressor.systems.gexbert import equations

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""Inverse penalties of the logistic regression among which inner folds choose."""
RIDGES = tuple(float(one) for one in np.logspace(-1, 3, 9))
"""Penalties of the Cox model among which inner folds choose, for features whose first component has variance 1."""

_FOLDS = 5
_FEW = 3  # patients a class below which inner folds cannot choose
_STRENGTH_OF_FEW = 10.0
_COMPONENTS = 100  # of the features of a Cox model, at most


@dataclass(frozen=True, eq=False)
class ClassHead:
    """Multinomial logistic regression.

    Attributes
    ----------
    classes
        Labels, in alphabetical order.
    weight, bias
        float64 (class, dim) and (class,).
    strength
        The inverse penalty used.
    """

    classes: tuple[str, ...]
    weight: Float[Tensor, "class dim"]
    bias: Float[Tensor, " class"]
    strength: float

    def logits(self, features: Float[Tensor, "sample dim"]) -> Float[Tensor, "sample class"]:
        """Return log odds of the classes, up to a constant of each sample."""
        return features.double() @ self.weight.T + self.bias

    def probabilities(self, features: Float[Tensor, "sample dim"]) -> Float[Tensor, "sample class"]:
        """Return probabilities of the classes."""
        return equations.class_probabilities(features.double(), self.weight, self.bias)


def fit_classes(features: list[Tensor], labels: np.ndarray, groups: np.ndarray, *, seed: int) -> ClassHead:
    """Fit the head.

    Parameters
    ----------
    features
        One or more views of the same samples (complete, panels), (sample, dim) each.
    labels, groups
        Label and patient of each sample.
    seed
        Of the inner folds, which choose the penalty by log loss where every label has at least 3 patients.
    """
    classes = tuple(sorted(set(labels)))
    x, n = np.concatenate([one.double().numpy() for one in features]), len(labels)
    y = np.tile(np.searchsorted(classes, labels), len(features))
    per_class = min(len(set(groups[labels == one])) for one in classes)
    strength = _STRENGTH_OF_FEW
    if per_class >= _FEW:
        folds = StratifiedGroupKFold(
            min(_FOLDS, per_class), shuffle=True, random_state=child_seed(seed, "classes") % 2**32
        )
        loss = np.zeros(len(STRENGTHS))
        for train, test in folds.split(x[:n], y[:n], groups):
            if len(set(y[train])) < len(classes):
                continue
            rows = np.concatenate([train + i * n for i in range(len(features))])
            for i, one in enumerate(STRENGTHS):
                model = _logistic(x[rows], y[rows], one)
                held_out = np.concatenate([test + j * n for j in range(len(features))])
                chance = model.predict_proba(x[held_out])[np.arange(len(held_out)), y[held_out]]
                loss[i] -= np.log(np.maximum(chance, 1e-12)).sum()
        if loss.any():
            strength = STRENGTHS[int(loss.argmin())]
    model = _logistic(x, y, strength)
    weight, bias = model.coef_, model.intercept_
    if len(classes) == 2:
        weight, bias = np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    return ClassHead(classes, torch.from_numpy(weight), torch.from_numpy(bias), strength)


def _logistic(x: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # Classes that can be separated have no finite optimum without penalty; weak penalties then stop early, and lose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=500).fit(x, y)


@dataclass(frozen=True, eq=False)
class RiskHead:
    """A linear Cox model with its baseline hazard.

    Attributes
    ----------
    centre, coefficients
        float64 (dim,).
    baseline
        From risks out of fold, so that the curves do not spread too far.
    ridge
        The penalty used.
    concordance
        Harrell's C of the risks out of fold, of the training patients.
    """

    centre: Float[Tensor, " dim"]
    coefficients: Float[Tensor, " dim"]
    baseline: Baseline
    ridge: float
    concordance: float

    def log_risk(self, features: Float[Tensor, "sample dim"]) -> Float[Tensor, " sample"]:
        """Return the log hazard ratio to a patient of mean features."""
        return equations.log_risk(features.double() - self.centre, self.coefficients)


def fit_risk(
    features: Tensor,
    time: Tensor,
    event: Tensor,
    *,
    strata: Tensor | None,
    groups: np.ndarray,
    seed: int,
) -> RiskHead:
    """Fit the head: at most 100 components of the features, a ridge penalty chosen by the cross-validated partial likelihood.

    Parameters
    ----------
    features
        (sample, dim).
    time, event, strata
        Outcomes; patients are compared within a stratum.
    groups
        Patient of each sample.
    seed
        Of the inner folds.

    Raises
    ------
    DataError
        There are too few events to hold some out.
    """
    from expressor.metrics.survival import concordance

    if int(event.sum()) < 2:
        raise DataError("too few events to learn risks from", expected="at least 2", got=int(event.sum()),
                        fix="Give patients with longer follow-up, or leave time= and event= out.")  # fmt: skip
    x = features.double()
    centre = x.mean(0)
    u, s, vt = torch.linalg.svd(x - centre, full_matrices=False)
    keep = min(int((s > s[0] * 1e-6).sum()), _COMPONENTS)
    if keep == 0:
        raise DataError("all patients look alike: nothing to tell risks by", expected="features that vary")
    unit = s[0] / len(x) ** 0.5
    scores = u[:, :keep] * s[:keep] / unit
    folds = min(_FOLDS, int(event.sum()))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=child_seed(seed, "risk") % 2**32)
    parts = [
        (torch.from_numpy(train), torch.from_numpy(test))
        for train, test in splitter.split(np.zeros(len(x)), event.numpy().astype(int), groups)
        if bool(event[torch.from_numpy(train)].any())
    ]
    loss, held_out = (
        torch.zeros(len(RIDGES), dtype=torch.float64),
        torch.zeros(len(RIDGES), len(x), dtype=torch.float64),
    )
    for train, test in parts:
        start = None
        for i in reversed(range(len(RIDGES))):
            part = None if strata is None else strata[train]
            start = fit_cox(
                scores[train], time[train], event[train], ridge=RIDGES[i], strata=part, start=start
            ).coefficients
            eta = scores @ start
            held_out[i, test] = eta[test]
            whole = cox_loss(eta, time, event, strata=strata, mean=False)
            loss[i] += whole - cox_loss(eta[train], time[train], event[train], strata=part, mean=False)
    best = int(loss.argmin())
    beta = fit_cox(scores, time, event, ridge=RIDGES[best], strata=strata).coefficients
    c_index = concordance(time.numpy(), event.numpy(), held_out[best].numpy(),
                          strata=None if strata is None else strata.numpy())  # fmt: skip
    return RiskHead(
        centre, vt[:keep].T @ beta / unit, breslow_baseline(held_out[best], time, event), RIDGES[best], float(c_index)
    )
