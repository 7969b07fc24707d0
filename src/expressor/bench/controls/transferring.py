"""Controls of transfer between species: a network behind other graphs than that of orthologs, and models of the target alone."""

from dataclasses import dataclass
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge

from expressor.bench.controls.labelling import Multinomial
from expressor.core import registry
from expressor.core.rng import stream
from expressor.data.keys import CELL_TYPE
from expressor.estimator.expression_models import ExpressionModel, expression_model
from expressor.estimator.labelling import most_likely
from expressor.genes.orthologs import Orthologs
from expressor.genes.vocab import GeneVocab

_HIDDEN, _EPOCHS, _BATCH = 64, 12, 64
_REACH = 5.0
_TRAINED: WeakKeyDictionary[ExpressionModel, dict[tuple[tuple[str, ...], int, bool], ExpressionModel]] = (
    WeakKeyDictionary()
)


def train_source(cells: AnnData, genes: list[str], *, label: str, seed: int, epochs: int = _EPOCHS) -> ExpressionModel:
    """Train a network with one hidden layer on cells of the source species, each type counting the same.

    Parameters
    ----------
    cells
        log expression in ``X``, and types in ``obs``.
    genes
        The genes that it takes.
    label
        Column with the types.
    seed
        Of weights, order and dropout.
    epochs
        Passes over the cells; with 0 the weights are those drawn.
    """
    import torch
    from torch import nn

    from expressor.nn.plain import Standardise
    from expressor.train.loop import seeded

    x = _values(cells, genes)
    classes, codes = np.unique(cells.obs[label].astype(str), return_inverse=True)
    weight = 1.0 / np.bincount(codes)[codes]
    mean, spread = x.mean(axis=0), x.std(axis=0)
    X, y, w = torch.from_numpy(x), torch.from_numpy(codes), torch.from_numpy(np.float32(weight / weight.mean()))
    with seeded(seed, "source network"):
        network = nn.Sequential(
            Standardise(torch.from_numpy(mean), torch.from_numpy(spread + 1e-2), _REACH), nn.Dropout(0.5),
            nn.Linear(len(genes), _HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(_HIDDEN, len(classes)),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.1)
        for _ in range(epochs):
            for rows in torch.randperm(len(X)).split(_BATCH):
                optimizer.zero_grad()
                each = nn.functional.cross_entropy(network(X[rows]), y[rows], reduction="none")
                (each * w[rows]).mean().backward()
                optimizer.step()
    return expression_model(network, genes=genes, outputs=classes.tolist(), mean=mean, spread=spread)


def most_variable(cells: AnnData, n: int, among: np.ndarray | None = None) -> list[str]:
    """Return the names of the ``n`` genes of largest variance, among some (bool mask), in alphabetical order."""
    X = sparse.csr_matrix(cells.X, dtype=np.float64)
    mean = np.asarray(X.mean(axis=0)).ravel()
    variance = np.asarray(X.multiply(X).mean(axis=0)).ravel() - mean**2
    if among is not None:
        variance = np.where(among, variance, -1.0)
    names = cells.var_names.astype(str).to_numpy()
    return sorted(names[np.lexsort((names, -variance))[:n]].tolist())


def _values(cells: AnnData, genes: list[str]) -> np.ndarray:
    X: Any = cells[:, genes].X
    return np.asarray(X.toarray() if sparse.issparse(X) else X, dtype=np.float32)


@dataclass(kw_only=True)
class Transferred(BaseEstimator):
    """TRON with another graph, or another network behind it.

    Parameters
    ----------
    source, source_cells, orthologs, species
        The trained network, the cells that it was trained on, the table of orthologs and the names of the species.
    graph
        ``"orthologs"``; ``"one-to-one"``, those without another partner; ``"symbols"``, genes whose symbols are the same in
        upper case; ``"permuted"``, orthologs with the target's names permuted; ``"random"``, as many edges a gene, drawn anew.
    retrained
        Train the network anew on the genes that the graph joins.
    scratch
        Use a network that was never trained.
    joint
        Tune the network along with the layer.
    self_training
        Unlabelled cells of each type that teach along.
    shots
        Labelled cells a type; with 0 nothing is learnt.
    label, scale, match, random_state, plan
        See :class:`expressor.systems.tron.estimator.TRON`.
    """

    source: Any = None
    source_cells: Any = None
    orthologs: Any = None
    species: tuple[str, str] = ("human", "mouse")
    graph: Literal["orthologs", "one-to-one", "symbols", "permuted", "random"] = "orthologs"
    retrained: bool = False
    scratch: bool = False
    joint: bool = False
    self_training: int = 0
    shots: int = 0
    label: str = CELL_TYPE
    scale: str = "given"
    match: str = "moments"
    random_state: int = 0
    plan: Any = None

    def fit(self, train: AnnData) -> Self:
        """Make graph and network, and fit TRON with them."""
        edges = self._edges(train)
        table = Orthologs.from_pairs(
            edges["source"], edges["target"], species=self.species, confidence=edges.get("confidence")
        )
        joined = set(edges["source"])
        genes = [one for one in self.source.genes if one in joined or not self.retrained]
        source = self._train(genes) if self.retrained or self.scratch else self.source
        mode = (
            "zero-shot"
            if self.shots == 0 and not self.self_training
            else "joint"
            if self.joint or self.scratch
            else "conversion"
        )
        # A network that knows nothing is trained at the layer's own rate.
        options = {"network_rate": 1.0} if self.scratch else {}
        self.model_ = registry.load("tron")(
            source=source, orthologs=table, species=self.species, label=self.label, scale=self.scale, match=self.match, mode=mode,
            self_training=self.self_training, random_state=self.random_state, plan=self.plan, **options,
        ).fit(train)  # fmt: skip
        self.n_edges_ = len(self.model_.edges_)
        return self

    def _train(self, genes: list[str]) -> ExpressionModel:
        """Train the network on some genes, once for all numbers of labelled cells."""
        known = _TRAINED.setdefault(self.source, {})
        key = (tuple(genes), self.random_state, self.scratch)
        if key not in known:
            epochs = 0 if self.scratch else _EPOCHS
            known[key] = train_source(self.source_cells, genes, label=self.label, seed=self.random_state, epochs=epochs)
        return known[key]

    def _edges(self, train: AnnData) -> pd.DataFrame:
        rng = stream(self.random_state, f"graph {self.graph}")
        names = (self.source.genes, GeneVocab(sorted(train.var_names.astype(str)), namespace="none"))
        if self.graph == "symbols":
            upper = {one.upper(): one for one in reversed(names[1].names)}
            pairs = [(one, upper[one.upper()]) for one in names[0] if one.upper() in upper]
            return pd.DataFrame(pairs, columns=["source", "target"])
        bridge = self.orthologs.from_to(*self.species).connect(*names)
        if self.graph == "one-to-one":
            bridge = bridge.one_to_one()
        edges = bridge.edges().set_axis(["source", "target", "confidence"], axis=1)
        if self.graph == "permuted":
            known = edges["target"].unique()
            edges["target"] = edges["target"].map(dict(zip(known, rng.permutation(known))))
        elif self.graph == "random":
            # Ends of edges are dealt out anew, so that every gene keeps its number of edges but for pairs that come twice.
            edges["target"] = rng.permutation(edges["target"].to_numpy())
            edges = edges.drop_duplicates(["source", "target"])
        return edges

    def predict_proba(self, data: AnnData) -> pd.DataFrame:
        """Return the probability of each type, (cell, class)."""
        return pd.DataFrame(self.model_.predict_proba(data))

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the most probable type."""
        return pd.DataFrame(self.model_.predict(data))


@dataclass(kw_only=True)
class Dense(BaseEstimator):
    """A dense layer in front of the source's network: every gene of the source may listen to every gene of the target.

    Target genes are standardised, and the layer's output is brought to the mean and spread of the source's genes, as ``match`` does
    for orthologs. It starts at 0, all genes at the source's mean: it knows no orthologs.

    Parameters
    ----------
    genes
        Genes of the target, those of largest variance.
    rate
        Step size; smaller than that of a layer on edges, because thousands of weights move one gene.
    source, shots, label, random_state, plan
        See :class:`Transferred`.
    """

    source: Any = None
    shots: int = 0
    genes: int = 4000
    rate: float = 1e-4
    label: str = CELL_TYPE
    random_state: int = 0
    plan: Any = None

    def fit(self, train: AnnData) -> Self:
        """Learn the layer on the labelled cells, the network unchanged."""
        import torch

        self._genes = most_variable(train, self.genes)
        x = _values(train, self._genes)
        self._mean, self._spread = x.mean(axis=0), x.std(axis=0) + 1e-2
        self._layer = torch.nn.Linear(len(self._genes), len(self.source.genes), bias=False)
        torch.nn.init.zeros_(self._layer.weight)
        known = train.obs[self.label].notna().to_numpy()
        if self.shots == 0 or not known.any():
            return self
        codes = pd.Index(self.source.outputs).get_indexer(train.obs.loc[known, self.label].astype(str))
        weight = 1.0 / np.bincount(codes)[codes]
        X, y, w = self._scores(x[known]), torch.from_numpy(codes), torch.from_numpy(np.float32(weight / weight.mean()))
        optimizer = torch.optim.Adam(self._layer.parameters(), lr=self.rate)
        rng, size = stream(self.random_state, "dense batches"), min(self.plan.batch_size, len(X))
        for _ in range(self.plan.max_steps):
            rows = torch.from_numpy(rng.choice(len(X), size, replace=False))
            optimizer.zero_grad()
            each = torch.nn.functional.cross_entropy(self._network(X[rows]), y[rows], reduction="none")
            (each * w[rows]).mean().backward()
            optimizer.step()
        return self

    def _scores(self, x: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(np.clip((x - self._mean) / self._spread, -_REACH, _REACH))

    def _network(self, scores: Any) -> Any:
        import torch

        mean, spread = (torch.from_numpy(np.float32(one)) for one in (self.source.mean, self.source.spread))
        return self.source.network(mean + spread * self._layer(scores))

    def predict_proba(self, data: AnnData) -> pd.DataFrame:
        """Return the probability of each type, (cell, class)."""
        import torch

        with torch.no_grad():
            found = torch.softmax(self._network(self._scores(_values(data, self._genes))), dim=1).numpy()
        return pd.DataFrame(found, index=data.obs_names, columns=list(self.source.outputs))

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the most probable type."""
        return most_likely(self.predict_proba(data), self.label)


@dataclass(kw_only=True)
class TargetAlone(BaseEstimator):
    """A linear model of the labelled cells of the target species and all their genes; without a label any type is as likely.

    Parameters
    ----------
    head
        ``"logistic"`` (multinomial, with a ridge penalty), or ``"ridge"`` (least squares on indicators of the types).
    source
        For the names of the types.
    shots
        Labelled cells a type.
    label, random_state
        Column of the types, seed.
    strength
        Penalty of least squares, in units of the number of genes.
    """

    head: Literal["logistic", "ridge"] = "logistic"
    source: Any = None
    shots: int = 0
    label: str = CELL_TYPE
    random_state: int = 0
    strength: float = 0.1

    def fit(self, train: AnnData) -> Self:
        """Learn from the labelled cells; genes are standardised by all."""
        if self.shots == 0:
            return self
        if self.head == "logistic":
            self.model_: Any = Multinomial(label=self.label, random_state=self.random_state).fit(train)
            return self
        values = _values(train, list(train.var_names))
        self.mean_, spread = values.mean(axis=0), values.std(axis=0)
        self.spread_ = np.where(spread > 0, spread, 1.0)
        known = train.obs[self.label].notna().to_numpy()
        self.classes_, codes = np.unique(train.obs.loc[known, self.label].astype(str), return_inverse=True)
        x = (values[known] - self.mean_) / self.spread_
        self.model_ = Ridge(alpha=self.strength * x.shape[1], solver="cholesky").fit(
            x, np.eye(len(self.classes_))[codes]
        )
        return self

    def predict_proba(self, data: AnnData) -> pd.DataFrame:
        """Return the probability of each type, (cell, class); of least squares, its values cut to [0, 1] and scaled to sum to 1."""
        names = data.obs_names
        if self.shots == 0:
            n = len(self.source.outputs)
            return pd.DataFrame(np.full((len(names), n), 1.0 / n), index=names, columns=list(self.source.outputs))
        if self.head == "logistic":
            return pd.DataFrame(self.model_.predict_proba(data))
        x = (_values(data, list(data.var_names)) - self.mean_) / self.spread_
        p = np.clip(self.model_.predict(x), 1e-3, 1.0)
        return pd.DataFrame(p / p.sum(axis=1, keepdims=True), index=names, columns=list(self.classes_))

    def predict(self, data: AnnData) -> pd.DataFrame:
        """Return the most probable type."""
        return most_likely(self.predict_proba(data), self.label)
