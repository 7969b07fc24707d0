"""Controls of survival: Cox on components, on random genes, on age and stage; boosted trees; the curve of all patients."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import linalg, sparse
from sklearn.base import BaseEstimator

from expressor.core.errors import DataError, check_range
from expressor.core.optional import need
from expressor.core.rng import child_seed, stream
from expressor.data.keys import EVENT, TIME
from expressor.data.outcomes import Outcomes, read_outcomes
from expressor.metrics.survival import kaplan_meier
from expressor.nn.cox import breslow_baseline, cox_loss, fit_cox

PENALTIES = tuple(float(one) for one in 10.0 ** np.arange(-1.0, 3.6, 0.5))


@dataclass(kw_only=True)
class SurvivingControl(BaseEstimator):
    """Base of the controls of survival: a risk, and curves from it by Breslow's baseline on risks out of fold.

    Parameters
    ----------
    time, event, strata
        Columns of ``obs``.
    shuffled
        Shuffle the outcomes of the training patients: what the procedure yields where there is nothing to learn.
    folds
        Inner folds for the penalty and the baseline, at least 2.
    random_state
        Seed of inner folds and whatever else is random.
    """

    time: str = TIME
    event: str = EVENT
    strata: str | None = None
    shuffled: bool = False
    folds: int = 5
    random_state: int = 0

    @abstractmethod
    def _inputs(self, data: AnnData) -> np.ndarray:
        """Return what the risk is computed from, float64 (patient, input)."""

    @abstractmethod
    def _learn(self, x: np.ndarray, outcomes: Outcomes) -> Any:
        """Return a model."""

    @abstractmethod
    def _risk(self, model: Any, x: np.ndarray) -> np.ndarray:
        """Return the log risk of each patient."""

    def fit(self, train: AnnData) -> Self:
        """Learn from patients with outcomes."""
        check_range(self.folds, name="folds", low=2, integer=True)
        outcomes = read_outcomes(train, time=self.time, event=self.event, strata=self.strata)
        if self.shuffled:
            order = stream(self.random_state, "shuffled outcomes").permutation(len(outcomes))
            outcomes = Outcomes(outcomes.time[order], outcomes.event[order], outcomes.strata)
        self.genes_ = train.var_names.astype(str).to_numpy()
        x = self._inputs(train)
        held = _inner_folds(outcomes.event, self.folds, self.random_state)
        self._tune(x, outcomes, held)
        out = np.zeros(len(x))
        for part in held:
            model = self._learn(x[~part], outcomes.take(~part))
            # Centred, so that every fold's risks have one origin.
            out[part] = self._risk(model, x[part]) - self._risk(model, x[~part]).mean()
        self.model_ = self._learn(x, outcomes)
        self.centre_ = float(self._risk(self.model_, x).mean())
        self.baseline_ = breslow_baseline(
            torch.from_numpy(out), torch.from_numpy(outcomes.time), torch.from_numpy(outcomes.event)
        )
        return self

    def _tune(self, x: np.ndarray, outcomes: Outcomes, held: list[np.ndarray]) -> None:
        """Choose what is chosen, on the inner folds ``held``."""

    def risk(self, data: AnnData) -> np.ndarray:
        """Return the log risk of each patient, 0 for the mean of the training patients."""
        if not np.array_equal(data.var_names.astype(str), self.genes_):
            raise DataError("the genes differ from those of the fit", expected=len(self.genes_), got=data.n_vars)
        return np.asarray(self._risk(self.model_, self._inputs(data)) - self.centre_)

    def survival_function(self, data: AnnData, times: Any) -> pd.DataFrame:
        """Return the probability of surviving beyond each of ``times``, (patient, time)."""
        at = np.asarray(times, dtype=np.float64)
        risk = np.clip(self.risk(data), -30.0, 30.0)
        curves = self.baseline_.survival(torch.from_numpy(risk), torch.from_numpy(at))
        return pd.DataFrame(curves.numpy(), index=data.obs_names, columns=at)


def _inner_folds(event: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    rng = stream(seed, "inner folds")
    fold = np.empty(len(event), dtype=np.int64)
    start = 0
    for value in (False, True):
        rows = rng.permutation(np.flatnonzero(event == value))
        fold[rows] = (start + np.arange(len(rows))) % folds
        start += len(rows)
    return [fold == one for one in range(folds) if event[fold != one].any() and (fold == one).any()]


def _dense(data: AnnData) -> np.ndarray:
    X: Any = data.X
    return np.array(X.toarray() if sparse.issparse(X) else X, dtype=np.float64)


@dataclass(kw_only=True)
class NoRisk(SurvivingControl):
    """One risk for all patients: the Kaplan-Meier curve of the training patients, C of one half."""

    def _inputs(self, data: AnnData) -> np.ndarray:
        return np.zeros((data.n_obs, 1))

    def _learn(self, x: np.ndarray, outcomes: Outcomes) -> Any:
        self.curve_ = kaplan_meier(outcomes.time, outcomes.event)
        return None

    def _risk(self, model: Any, x: np.ndarray) -> np.ndarray:
        return np.zeros(len(x))

    def survival_function(self, data: AnnData, times: Any) -> pd.DataFrame:
        """Return the training patients' Kaplan-Meier curve, for every patient."""
        at = np.asarray(times, dtype=np.float64)
        return pd.DataFrame(np.tile(self.curve_.at(at), (data.n_obs, 1)), index=data.obs_names, columns=at)


@dataclass(kw_only=True)
class ComponentCox(SurvivingControl):
    """Ridge-penalised Cox regression on principal components of standardised expression.

    The penalty is chosen by the partial likelihood of the patients left out, on the inner folds. Components are those of the
    training patients, inside each fold.

    Parameters
    ----------
    components
        Number of components, at least 1; fewer where there are fewer.
    n_genes
        Take this many genes drawn at random instead of all; the genes themselves are used where ``components`` is not smaller.
    penalties
        Ridge penalties to choose from, more than 0.
    """

    components: int = 50
    n_genes: int | None = None
    penalties: tuple[float, ...] = PENALTIES

    def _inputs(self, data: AnnData) -> np.ndarray:
        values = _dense(data)
        if self.n_genes is not None:
            names = np.sort(data.var_names.astype(str))
            drawn = stream(self.random_state, "random genes").choice(
                names, min(self.n_genes, len(names)), replace=False
            )
            values = values[:, data.var_names.get_indexer(np.sort(drawn))]
        return values

    def _tune(self, x: np.ndarray, outcomes: Outcomes, held: list[np.ndarray]) -> None:
        losses = np.zeros(len(self.penalties))
        for part in held:
            basis = _components(x[~part], self.components)
            train, own = outcomes.take(~part), outcomes.take(part)
            if not own.event.any():
                continue
            inside, outside = _project(x[~part], basis), _project(x[part], basis)
            start = None
            # From the strongest penalty on: each solution is a start for the next.
            for i in np.argsort(self.penalties)[::-1]:
                start = _fit(inside, train, self.penalties[i], start)
                losses[i] += _loss(outside @ start.numpy(), own)
        self.penalty_ = float(self.penalties[int(np.argmin(losses))])

    def _learn(self, x: np.ndarray, outcomes: Outcomes) -> Any:
        basis = _components(x, self.components)
        return basis, _fit(_project(x, basis), outcomes, self.penalty_, None).numpy()

    def _risk(self, model: Any, x: np.ndarray) -> np.ndarray:
        basis, weights = model
        return np.asarray(_project(x, basis) @ weights)


Basis = tuple[np.ndarray, np.ndarray, np.ndarray]


def _components(x: np.ndarray, n: int) -> Basis:
    """Mean, standard deviation, and loadings of the leading components, each scaled to unit variance over all of them."""
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, np.inf)
    z = (x - mean) / spread
    if x.shape[1] <= n:
        return mean, spread, np.eye(x.shape[1])
    count, wide = min(n, len(x) - 1), len(x) <= x.shape[1]
    # The smaller of the two matrices of products has the same leading values.
    products = z @ z.T if wide else z.T @ z
    values, vectors = linalg.eigh(products, subset_by_index=(len(products) - count, len(products) - 1))
    loadings = z.T @ vectors / np.sqrt(np.maximum(values, 1e-12)) if wide else vectors
    loadings = loadings[:, ::-1]
    # One scale for all components: a leading one keeps its larger variance, which the penalty then spares.
    return mean, spread, loadings / np.sqrt(max(float(values.max()) / len(x), 1e-12))


def _project(x: np.ndarray, basis: Basis) -> np.ndarray:
    mean, spread, loadings = basis
    return np.asarray((x - mean) / spread @ loadings)


def _fit(x: np.ndarray, outcomes: Outcomes, penalty: float, start: torch.Tensor | None) -> torch.Tensor:
    strata = None if outcomes.strata is None else torch.from_numpy(np.unique(outcomes.strata, return_inverse=True)[1])
    return fit_cox(
        torch.from_numpy(x), torch.from_numpy(outcomes.time), torch.from_numpy(outcomes.event), ridge=penalty,
        strata=strata, start=start,
    ).coefficients  # fmt: skip


def _loss(risk: np.ndarray, outcomes: Outcomes) -> float:
    strata = None if outcomes.strata is None else torch.from_numpy(np.unique(outcomes.strata, return_inverse=True)[1])
    return float(
        cox_loss(
            torch.from_numpy(risk), torch.from_numpy(outcomes.time), torch.from_numpy(outcomes.event), strata=strata,
            mean=False,
        )
    )  # fmt: skip


@dataclass(kw_only=True)
class ClinicalCox(ComponentCox):
    """Cox regression on age and stage, as the clinic has them: what expression must add to.

    It needs ``obs["age"]`` and ``obs["stage"]``; a gap gets the mean of the training patients.
    """

    def _inputs(self, data: AnnData) -> np.ndarray:
        for column in ("age", "stage"):
            if column not in data.obs:
                raise DataError(f"obs has no column {column!r}", fix="These data have no clinical variables.")
        age = pd.to_numeric(data.obs["age"], errors="coerce").to_numpy(dtype=np.float64)
        grade = data.obs["stage"].astype(str).str.extract(r"^Stage (IV|III|II|I|0)")[0]
        stage = grade.map({"0": 0.0, "I": 1.0, "II": 2.0, "III": 3.0, "IV": 4.0}).to_numpy(dtype=np.float64)
        x = np.stack([age, stage], axis=1)
        if not hasattr(self, "filling_"):
            known = ~np.isnan(x)
            self.filling_ = np.where(known, x, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        return np.where(np.isnan(x), self.filling_, x)


@dataclass(kw_only=True)
class BoostedCox(SurvivingControl):
    """Gradient-boosted trees with the Cox loss (XGBoost), on the most variable genes; needs the extra ``bench``.

    Parameters
    ----------
    n_genes
        Most variable genes of the training patients that are used.
    trees, depth, rate
        Number of rounds, depth of the trees, learning rate.
    """

    n_genes: int = 500
    trees: int = 100
    depth: int = 2
    rate: float = 0.05

    def _inputs(self, data: AnnData) -> np.ndarray:
        return _dense(data)

    def _learn(self, x: np.ndarray, outcomes: Outcomes) -> Any:
        xgboost = need("xgboost", extra="bench", purpose="run the control of boosted trees")
        genes = np.sort(np.argsort(-x.var(axis=0), kind="stable")[: self.n_genes])
        # Its Cox loss takes censored times as negative ones.
        label = np.where(outcomes.event, outcomes.time, -outcomes.time)
        settings = {
            "objective": "survival:cox", "max_depth": self.depth, "eta": self.rate, "subsample": 0.8,
            "colsample_bytree": 0.3, "tree_method": "hist", "nthread": 1, "verbosity": 0,
            "seed": child_seed(self.random_state, "trees") % 2**31,
        }  # fmt: skip
        return genes, xgboost.train(settings, xgboost.DMatrix(x[:, genes], label=label), self.trees)

    def _risk(self, model: Any, x: np.ndarray) -> np.ndarray:
        xgboost = need("xgboost", extra="bench", purpose="run the control of boosted trees")
        genes, trees = model
        return np.asarray(trees.predict(xgboost.DMatrix(x[:, genes]), output_margin=True), dtype=np.float64)
