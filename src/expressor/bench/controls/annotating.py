"""Controls of cell types: a classifier on log expression, on principal components, or on what a system makes of the cells."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA

from expressor.bench.controls.labelling import (
    BoostedLabels,
    ClassFrequencies,
    LabellingControl,
    Multinomial,
    TunedLabels,
)
from expressor.core import registry
from expressor.core.errors import DataError, check_choice
from expressor.core.rng import child_seed
from expressor.data.keys import CELL_TYPE

HEADS = ("frequencies", "linear", "nearest", "boosted")


@dataclass(kw_only=True)
class Annotator(BaseEstimator):
    """A classifier on a representation of cells; both are fitted on the training cells.

    Parameters
    ----------
    label
        Column of ``obs`` with the type.
    genes
        Keep so many genes, those of the largest variance among the training cells; None for all.
    components
        Replace genes by so many principal components; 0 for none. Genes are centred and not scaled: most of a rare gene is noise.
    encoder, encoder_parameters
        A registered system that represents the raw counts, instead of genes and components, and its parameters. It sees no type.
    head
        ``"linear"`` (multinomial ridge), ``"nearest"`` (nearest cells), ``"boosted"`` (XGBoost) or ``"frequencies"``. On components
        or a system's representation, penalty and number of neighbours are chosen in folds of the training cells, and distances are
        those of the representation; genes are standardised.
    shuffled
        Shuffle the training labels.
    random_state
        Seed of whatever is random.
    """

    label: str = CELL_TYPE
    genes: int | None = None
    components: int = 0
    encoder: str = ""
    encoder_parameters: Mapping[str, Any] = field(default_factory=dict)
    head: Literal["frequencies", "linear", "nearest", "boosted"] = "linear"
    shuffled: bool = False
    random_state: int = 0

    def fit(self, train: AnnData) -> Self:
        """Learn the representation from counts, and the classifier from it and the types."""
        check_choice(self.head, HEADS, name="head")
        own: dict[str, Any] = {"label": self.label, "shuffled": self.shuffled, "random_state": self.random_state}
        classifiers: dict[str, LabellingControl] = {
            "frequencies": ClassFrequencies(**own),
            "linear": TunedLabels(**own, together=True) if self.encoder or self.components else Multinomial(**own),
            "nearest": TunedLabels(**own, together=True, kind="nearest"),
            "boosted": BoostedLabels(**own),
        }
        self.classifier_ = classifiers[self.head]
        self.genes_ = train.var_names.astype(str).to_numpy()
        if self.encoder:
            seen = AnnData(train.X, obs=pd.DataFrame(index=train.obs_names), var=train.var[[]], uns=dict(train.uns))
            self.encoder_ = registry.load(self.encoder)(**self._parameters()).fit(seen)
        else:
            self._choose(log_normalised(train))
        self.classifier_.fit(self._represented(train))
        return self

    def _parameters(self) -> dict[str, Any]:
        return {"random_state": self.random_state} | dict(self.encoder_parameters)

    def _choose(self, values: np.ndarray) -> None:
        spread = values.std(axis=0)
        order = np.lexsort((self.genes_, -spread))  # of equal variances the first in the alphabet
        self.kept_ = np.sort(order[: self.genes or len(order)])
        if self.components:
            dim = min(self.components, len(values) - 1, len(self.kept_))
            seed = child_seed(self.random_state, "components") % 2**31
            self.components_ = PCA(dim, random_state=seed).fit(values[:, self.kept_])

    def _represented(self, data: AnnData) -> AnnData:
        if self.encoder:
            values = np.asarray(self.encoder_.transform(data), dtype=np.float64)
        else:
            values = log_normalised(data)[:, self.kept_]
            if self.components:
                values = self.components_.transform(values)
        return AnnData(values, obs=data.obs)

    def predict_proba(self, data: AnnData) -> pd.DataFrame:
        """Return the probability of each type, (cell, class)."""
        if not np.array_equal(data.var_names.astype(str), self.genes_):
            raise DataError("the genes differ from those of the fit", expected=len(self.genes_), got=data.n_vars)
        return self.classifier_.predict_proba(self._represented(data))

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the most probable type, one column named by ``label``."""
        return self.classifier_.predict(self._represented(data))


def log_normalised(data: AnnData) -> np.ndarray:
    """Return log(1 + counts per 10,000), float64 (cell, gene); zeros for a cell without counts."""
    X = sparse.csr_matrix(data.X, dtype=np.float64)
    total = np.asarray(X.sum(axis=1)).ravel()
    return np.log1p((X.multiply(1e4 / np.where(total > 0, total, 1.0)[:, None])).toarray())
