"""Controls of labels: the class frequencies, nearest samples, multinomial regression, boosted trees; settings chosen in folds."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.optional import need
from expressor.core.rng import child_seed, stream
from expressor.data.keys import CANCER_TYPE
from expressor.data.outcomes import read_labels
from expressor.estimator.inner import choose_setting
from expressor.estimator.labelling import most_likely


@dataclass(kw_only=True)
class LabellingControl(BaseEstimator):
    """Base of the controls that predict labels from standardised expression.

    Parameters
    ----------
    label
        Column of ``obs`` with the label; a gap where it is not given.
    panel
        Genes to use; all by default.
    shuffled
        Shuffle the training labels: what the procedure yields where there is nothing to learn.
    together
        Scale all columns by one factor, which keeps distances, instead of each by its own.
    random_state
        Seed of whatever is random.
    """

    label: str = CANCER_TYPE
    panel: tuple[str, ...] = ()
    shuffled: bool = False
    together: bool = False
    random_state: int = 0

    @abstractmethod
    def _learn(self, x: np.ndarray, y: np.ndarray) -> None:
        """Fit on standardised (sample, gene) and class codes."""

    @abstractmethod
    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return (sample, class)."""

    def fit(self, train: AnnData) -> Self:
        """Learn from labelled samples; means and standard deviations are those of all samples, labelled or not."""
        train = train[:, list(self.panel)].copy() if self.panel else train
        labelled = train.obs[self.label].notna().to_numpy()
        labels = read_labels(train[labelled], self.label)
        values = _dense(train)
        self.genes_ = train.var_names.astype(str).to_numpy()
        self.mean_, spread = values.mean(axis=0), values.std(axis=0)
        if self.together:
            spread = np.full(len(spread), np.sqrt((spread**2).mean()))
        self.spread_ = np.where(spread > 0, spread, 1.0)
        values = values[labelled]
        self.classes_, codes = np.unique(labels.astype(str), return_inverse=True)
        if self.shuffled:
            codes = stream(self.random_state, "shuffled labels").permutation(codes)
        self._learn((values - self.mean_) / self.spread_, codes)
        return self

    def predict_proba(self, data: AnnData) -> pd.DataFrame:
        """Return the probability of each class, (sample, class)."""
        if not np.array_equal(data.var_names.astype(str), self.genes_):
            raise DataError("the genes differ from those of the fit", expected=len(self.genes_), got=data.n_vars)
        p = self._probabilities((_dense(data) - self.mean_) / self.spread_)
        return pd.DataFrame(p, index=data.obs_names, columns=list(self.classes_))

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the most probable class, one column named by ``label``."""
        return most_likely(self.predict_proba(data), self.label)


def _dense(data: AnnData) -> np.ndarray:
    X: Any = data.X
    return np.array(X.toarray() if sparse.issparse(X) else X, dtype=np.float64)


@dataclass(kw_only=True)
class ClassFrequencies(LabellingControl):
    """The share of each class among the training samples, for every sample."""

    def _learn(self, x: np.ndarray, y: np.ndarray) -> None:
        self.frequencies_ = np.bincount(y) / len(y)

    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        return np.tile(self.frequencies_, (len(x), 1))


@dataclass(kw_only=True)
class NearestLabels(LabellingControl):
    """Shares of the classes among the training samples nearest in standardised expression.

    Parameters
    ----------
    neighbours
        How many, at least 1; no more than the smallest class has samples are used.
    """

    neighbours: int = 5

    def _learn(self, x: np.ndarray, y: np.ndarray) -> None:
        check_range(self.neighbours, name="neighbours", low=1, integer=True)
        k = min(self.neighbours, int(np.bincount(y).min()))
        self.model_ = KNeighborsClassifier(k).fit(x, y)

    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.model_.predict_proba(x))


@dataclass(kw_only=True)
class Multinomial(LabellingControl):
    """Multinomial logistic regression on standardised expression: the strong simple baseline of the field.

    Parameters
    ----------
    penalty
        ``"ridge"``, or ``"elastic_net"`` with half of it on absolute values.
    strength
        Inverse penalty, as scikit-learn's ``C``; more than 0. It is divided by the number of genes and multiplied by 100, so that
        one value does for small and large panels.
    """

    penalty: Literal["ridge", "elastic_net"] = "ridge"
    strength: float = 1.0

    def _learn(self, x: np.ndarray, y: np.ndarray) -> None:
        check_range(self.strength, name="strength", low=0, open_low=True)
        c = self.strength * 100.0 / x.shape[1]
        if self.penalty == "ridge":
            self.model_ = LogisticRegression(C=min(c, 1.0), max_iter=2000)
        else:
            self.model_ = LogisticRegression(
                penalty="elasticnet", l1_ratio=0.5, C=min(c, 1.0) * 4, solver="saga", max_iter=300, tol=1e-2,
                random_state=child_seed(self.random_state, "saga") % 2**32,
            )  # fmt: skip
        import warnings

        with warnings.catch_warnings():
            # Elastic net by saga nears its optimum slowly; the remaining change is below what is judged.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model_.fit(x, y)

    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.model_.predict_proba(x))


@dataclass(kw_only=True)
class BoostedLabels(LabellingControl):
    """Gradient-boosted trees (XGBoost), which needs the extra ``bench``.

    Parameters
    ----------
    trees, depth, rate
        Number of rounds, depth of the trees, learning rate. A leaf may hold a single sample where a class has fewer than ten.
    """

    trees: int = 150
    depth: int = 3
    rate: float = 0.1

    def _learn(self, x: np.ndarray, y: np.ndarray) -> None:
        xgboost = need("xgboost", extra="bench", purpose="run the control of boosted trees")
        self.model_ = xgboost.XGBClassifier(
            n_estimators=self.trees,
            min_child_weight=1.0 if np.bincount(y).min() >= 10 else 0.01,
            max_depth=self.depth,
            learning_rate=self.rate,
            subsample=0.8,
            colsample_bytree=0.5,
            tree_method="hist",
            n_jobs=1,
            random_state=child_seed(self.random_state, "trees") % 2**31,
            verbosity=0,
        )
        self.model_.fit(x, y)

    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        p = np.asarray(self.model_.predict_proba(x), dtype=np.float64)
        return p / p.sum(axis=1, keepdims=True)


STRENGTHS = (0.003, 0.03, 0.3, 3.0, 30.0)
NEIGHBOURS = (30, 15, 10, 5)


@dataclass(kw_only=True)
class TunedLabels(LabellingControl):
    """A plain classifier whose one setting is chosen among a few by log loss in three folds of the training samples.

    Parameters
    ----------
    kind
        ``"linear"``: multinomial ridge, one of :data:`STRENGTHS` as scikit-learn's ``C``; ``"nearest"``: shares of classes among
        the nearest samples, one of :data:`NEIGHBOURS`.
    """

    kind: Literal["linear", "nearest"] = "linear"

    def _learn(self, x: np.ndarray, y: np.ndarray) -> None:
        check_choice(self.kind, ("linear", "nearest"), name="kind")
        settings = STRENGTHS if self.kind == "linear" else NEIGHBOURS
        self.setting_ = choose_setting(settings, self._fitted, x, y, seed=self.random_state)
        self.model_ = self._fitted(self.setting_, x, y)

    def _fitted(self, setting: float, x: np.ndarray, y: np.ndarray) -> Any:
        if self.kind == "linear":
            return LogisticRegression(C=setting, max_iter=2000).fit(x, y)
        return KNeighborsClassifier(min(int(setting), len(y))).fit(x, y)

    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.model_.predict_proba(x))
