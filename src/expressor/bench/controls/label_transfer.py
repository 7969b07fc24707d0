"""scANVI between species: one network of both species' cells on one-to-one orthologs, the species as batch."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator

from expressor.bench.controls.scvi import TRAINING, scvi_tools
from expressor.bench.controls.transferring import most_variable
from expressor.core.rng import stream
from expressor.data.keys import CELL_TYPE
from expressor.estimator.labelling import most_likely
from expressor.genes.vocab import GeneVocab

COUNTS = "counts"
"""Layer with raw counts."""

_SPECIES, _TYPE, _NONE = "species", "type", "none"
_LATENT = {"n_layers": 2, "n_latent": 30, "gene_likelihood": "nb"}
_A_LABEL = 100  # cells of a type that an epoch of scANVI shows with their label
_TRAINED: dict[tuple[Any, ...], Any] = {}


@dataclass(kw_only=True)
class LabelTransfer(BaseEstimator):
    """scANVI of scvi-tools on counts of one-to-one orthologs, from the source's cells and the training cells of the target.

    scVI is trained on all these cells without labels, then scANVI with the source's labels and those that the target has. Cells
    that are judged are in no training: the species is the batch, so that the encoder knows theirs.

    Parameters
    ----------
    source_cells, orthologs, species, label, random_state
        See :class:`expressor.bench.controls.transferring.Transferred`; the cells hold counts in the layer ``"counts"``.
    genes
        How many genes: those of largest variance in the source.
    most
        Cells of the source a type, drawn; more take longer.
    epochs
        Passes of scVI and of scANVI over the cells.
    """

    source_cells: Any = None
    orthologs: Any = None
    species: tuple[str, str] = ("human", "mouse")
    label: str = CELL_TYPE
    random_state: int = 0
    genes: int = 2000
    most: int = 300
    epochs: tuple[int, int] = (20, 5)

    def fit(self, train: AnnData) -> Self:
        """Train scVI, once for all numbers of labelled cells of these cells, then scANVI."""
        self._pairs = self._one_to_one(train)
        own = self._some_of_each_type()
        both = anndata.concat(
            [self._cells(own, self._pairs.index, self.species[0]), self._cells(train, self._pairs, self.species[1])]
        )
        first = self._unlabelled(both)
        with scvi_tools(self.random_state, purpose="run scANVI") as scvi:
            first.adata.obs[_TYPE] = both.obs[_TYPE].to_numpy()
            self.model_ = scvi.model.SCANVI.from_scvi_model(first, _NONE, labels_key=_TYPE)
            known = both.obs.loc[both.obs[_TYPE] != _NONE, _TYPE].value_counts().clip(upper=_A_LABEL)
            self.model_.train(
                max_epochs=self.epochs[1], n_samples_per_label=_A_LABEL, train_size=1.0,
                batch_size=batch_size(both.n_obs, int(known.sum())), **TRAINING,
            )  # fmt: skip
        return self

    def _unlabelled(self, both: AnnData) -> Any:
        """Return scVI of these cells, which knows no labels: the last one trained is kept for other numbers of them."""
        key = (*both.obs_names, *both.var_names, self.random_state, *self.epochs)
        if key not in _TRAINED:
            _TRAINED.clear()
            with scvi_tools(self.random_state, purpose="run scANVI") as scvi:
                cells = AnnData(both.X, obs=both.obs[[_SPECIES]].copy(), var=both.var)
                scvi.model.SCVI.setup_anndata(cells, batch_key=_SPECIES)
                model = scvi.model.SCVI(cells, **_LATENT)
                model.train(max_epochs=self.epochs[0], train_size=1.0, batch_size=batch_size(cells.n_obs), **TRAINING)
                _TRAINED[key] = model
        return _TRAINED[key]

    def _one_to_one(self, train: AnnData) -> pd.Series:
        """Return the target's genes by those of the source."""
        names = [GeneVocab(sorted(one.var_names.astype(str)), namespace="none") for one in (self.source_cells, train)]
        table = self.orthologs.from_to(*self.species).connect(*names).one_to_one().edges()
        pairs = table.set_index(self.species[0])[self.species[1]]
        kept = most_variable(self.source_cells, self.genes, np.asarray(self.source_cells.var_names.isin(pairs.index)))
        return pairs[[one for one in kept if one in pairs.index]]

    def _some_of_each_type(self) -> AnnData:
        types, rng = self.source_cells.obs[self.label].astype(str).to_numpy(), stream(self.random_state, "source cells")
        rows = [rng.permutation(np.flatnonzero(types == one))[: self.most] for one in np.unique(types)]
        return self.source_cells[np.sort(np.concatenate(rows))]

    def _cells(self, data: AnnData, genes: Iterable[str], species: str) -> AnnData:
        """Return counts of some genes under the source's names, with species and type where it is known."""
        part = data[:, list(genes)]
        types = part.obs.get(self.label, pd.Series(None, index=part.obs_names, dtype=object)).astype(object)
        obs = pd.DataFrame(
            {_SPECIES: species, _TYPE: types.where(types.notna(), _NONE).astype(str)}, index=part.obs_names
        )
        return AnnData(sparse.csr_matrix(part.layers[COUNTS]), obs=obs, var=pd.DataFrame(index=list(self._pairs.index)))

    def predict_proba(self, data: AnnData) -> pd.DataFrame:
        """Return the probability of each type, (cell, class)."""
        with scvi_tools(self.random_state, purpose="run scANVI"):
            found = self.model_.predict(self._cells(data, self._pairs, self.species[1]), soft=True)
        return pd.DataFrame(found).set_axis(data.obs_names, axis=0)

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the most probable type."""
        return most_likely(self.predict_proba(data), self.label)


def batch_size(*numbers: int, most: int = 128) -> int:
    """Return the largest size of batches, up to ``most``, that leaves no last batch of one cell, whose norm is not defined."""
    return next(size for size in range(most, 1, -1) if all(number % size != 1 for number in numbers))
