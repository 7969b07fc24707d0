"""The estimator: parameters, selection and classifier in one fit, and what it gives for new samples."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, check_choice, check_range
from expressor.data import fields, keys
from expressor.data.outcomes import read_labels
from expressor.data.profiles import REACH, bounded_scores, check_scale_of_use, profiles
from expressor.data.units import BULK_SCALES, check_unit
from expressor.estimator.base import Estimator, State
from expressor.estimator.classifiers import as_plain, pack_classifier, unpack_classifier
from expressor.estimator.expression_models import ExpressionModel, linear_network
from expressor.estimator.inner import inner_folds
from expressor.estimator.judging import patients_of
from expressor.estimator.labelling import judge_labels, most_likely
from expressor.estimator.roles import Predicts
from expressor.genes.vocab import GeneVocab
from expressor.systems.bolimes import equations, selection


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class BOLIMES(Estimator, Predicts):
    """Labels from the few genes that Boruta keeps and LIME ranks first.

    All that is chosen is chosen in :meth:`fit`, so that cross-validation around it is honest.

    Parameters
    ----------
    label
        Column of ``obs`` to predict.
    classifier
        What predicts from the kept genes, and decides how many those are: ``"forest"`` or ``"logistic"`` (multinomial, ridge).
    trees
        Of each forest, >= 10.
    rounds
        Most forests of Boruta, >= 1. A gene needs about log2 of the number of genes plus 5 to be decided at all.
    level
        Error rate of Boruta's decisions over all genes, in (0, 1).
    quantile
        Of the shadows' importances that a gene must beat, in (0, 1]; 1 is Boruta's own, the best shadow.
    prefilter
        Genes that Boruta sees at most, those of the largest F statistic, >= 2.
    explained
        Samples that LIME explains, spread over the labels, >= 1.
    draws
        Perturbed samples for each of them, >= 10.
    max_genes
        Most genes that are kept, >= 1.
    folds
        For the curve of accuracy over the number of genes, >= 2; fewer where a label has fewer samples, of which
        each needs two.
    random_state
        Seed, >= 0.

    Attributes
    ----------
    unit_
        The scale of the fit.
    classes_
        Labels, in alphabetical order.
    genes_
        The kept genes, best first.
    gene_table_
        One row a gene that Boruta saw: ``status`` (confirmed, undecided, rejected), ``hits``, ``rounds``, ``importance`` by LIME
        (NaN for rejected genes), ``kept``.
    history_
        One row a number of genes that was tried: genes, balanced accuracy. Genes were ranked on the same samples: it is too high.
    """

    label: str = keys.CANCER_TYPE
    classifier: Literal["forest", "logistic"] = "forest"
    trees: int = 300
    rounds: int = 50
    level: float = 0.05
    quantile: float = 1.0
    prefilter: int = 1000
    explained: int = 60
    draws: int = 500
    max_genes: int = 200
    folds: int = 5
    random_state: int = 0

    def _check(self) -> None:
        check_choice(self.classifier, ("forest", "logistic"), name="classifier")
        for name, low in (("trees", 10), ("rounds", 1), ("prefilter", 2), ("explained", 1), ("draws", 10), ("max_genes", 1),
                          ("folds", 2), ("random_state", 0)):  # fmt: skip
            check_range(getattr(self, name), name=name, low=low, integer=True)
        check_range(self.level, name="level", low=0, high=1, open_low=True, open_high=True)
        check_range(self.quantile, name="quantile", low=0, high=1, open_low=True)

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        self.unit_ = check_unit(adata, BULK_SCALES, who="BOLIMES")
        y = read_labels(adata, self.label, at_least=2).astype(str)
        genes = sorted(map(str, adata.var_names))
        values = profiles(adata, genes).astype(np.float64)
        mean, scale = values.mean(0), values.std(0)
        varies = np.flatnonzero(scale > 1e-8 * np.maximum(np.abs(mean), 1e-8))
        if not len(varies):
            raise DataError("no gene varies over the samples", expected="at least one gene that does")
        # A canonical order of samples, so that draws of the same seed fall on the same ones.
        canon = np.argsort(adata.obs_names.astype(str).to_numpy(), kind="stable")
        Z = bounded_scores(values[canon][:, varies], mean[varies], scale[varies])
        y, patients = y[canon], patients_of(adata)[canon]
        options = selection.Options(
            self.trees, self.rounds, float(self.level), float(self.quantile), self.prefilter, self.explained, self.draws,
            self.random_state,
        )  # fmt: skip
        seen = selection.prefilter(Z, y, self.prefilter)
        boruta = selection.run_boruta(Z[:, seen], y, options)
        kept = self._surviving(boruta)
        importance = selection.explain(Z[:, seen[kept]], y, options)
        order = seen[kept][np.argsort(-importance, kind="stable")]
        sizes = selection.sizes_to_try(len(order), self.max_genes)
        self.classes_ = np.unique(y)
        codes = np.searchsorted(self.classes_, y)
        folds = min(self.folds, int(np.bincount(codes).min()))
        fold = inner_folds(patients, codes, folds=folds, seed=self.random_state)
        accuracy = selection.size_curve(Z, y, order, sizes, fold=fold, make=lambda: self._make(options))
        chosen = order[: equations.best_size(sizes, accuracy)]
        self._model = as_plain(self._make(options).fit(Z[:, chosen], y))
        self._table = pd.DataFrame(
            {"mean": mean[varies[chosen]], "scale": scale[varies[chosen]]},
            index=pd.Index([genes[i] for i in varies[chosen]], dtype=object),
        )
        self.genes_ = self._table.index
        status = np.array(["rejected", "undecided", "confirmed"], dtype=object)[boruta.status + 1]
        ranked = np.full(len(seen), np.nan)
        ranked[kept] = importance
        names = pd.Index([genes[i] for i in varies[seen]], dtype=object)
        self.gene_table_ = pd.DataFrame(
            {"status": status, "hits": boruta.hits, "rounds": boruta.rounds, "importance": ranked,
             "kept": names.isin(self.genes_)},
            index=names,
        )  # fmt: skip
        self.history_ = pd.DataFrame(
            {"iteration": range(1, len(sizes) + 1), "genes": sizes, "balanced_accuracy": accuracy}
        )
        self._n_samples = len(y)
        self.genes_in_ = GeneVocab(genes)

    def _surviving(self, boruta: selection.Boruta) -> np.ndarray:
        for status, what in ((1, "confirmed"), (0, "undecided")):
            kept = np.flatnonzero(boruta.status == status)
            if len(kept):
                if what == "undecided":
                    kept = kept[np.argsort(-boruta.hits[kept], kind="stable")[: self.max_genes]]
                return np.sort(kept)
        raise DataError(
            "Boruta rejected every gene: none tells the labels better than shuffled copies do",
            fix="Check the labels; or lower quantile=, or raise rounds= and trees=.",
        )

    def _make(self, options: selection.Options) -> Any:
        if self.classifier == "forest":
            return selection.forest(options, "classifier")
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000)

    # Using -----------------------------------------------------------------------------------------------------------

    def predict(self, data: Any) -> pd.DataFrame:
        """Return the label of each sample, (sample, [label]).

        Raises
        ------
        GeneError
            A kept gene was not measured.
        DataError
            A value of a kept gene is NaN, or the scale is another than that of the fit.
        """
        return most_likely(self.predict_proba(data), self.label)

    def predict_proba(self, data: Any) -> pd.DataFrame:
        """Return the probability of each label, float32 (sample, class)."""
        self._check_fitted()
        adata = fields.read(data)
        check_scale_of_use(adata, self.unit_)
        values = profiles(adata, self._table.index).astype(np.float64)
        Z = bounded_scores(values, self._table["mean"].to_numpy(), self._table["scale"].to_numpy())
        found = self._model.predict_proba(Z)
        return pd.DataFrame(
            found.astype(np.float32), index=adata.obs_names.copy(), columns=[str(one) for one in self.classes_]
        )

    def to_torch(self) -> ExpressionModel | None:
        """Return the fitted model as a network from expression of all genes of the fit to logits; None with a forest."""
        if self._model.kind != "linear":
            return None
        return linear_network(
            "BOLIMES", self.genes_in_, self._table, "classes", [str(one) for one in self.classes_], unit=self.unit_,
            weight=self._model.arrays["coefficients"], offset=self._model.arrays["intercept"], reach=REACH,
        )  # fmt: skip

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        probability = self.predict_proba(adata)
        predicted = self.predict(adata)[self.label]
        return judge_labels(read_labels(adata, self.label), predicted, probability, adata, seed=self.random_state)

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        return {"obsm": {key: self.predict(adata), f"{key}_proba": self.predict_proba(adata)}}

    def _state(self) -> State:
        values = {"unit_": self.unit_, "classes_": [str(one) for one in self.classes_], "n_samples": self._n_samples}
        model, arrays = pack_classifier(self._model)
        return State(values | {"model": model}, {"table": self._table, "gene_table_": self.gene_table_, **arrays})

    def _restore(self, state: State) -> None:
        self.unit_, self._n_samples = str(state.values["unit_"]), int(state.values["n_samples"])
        self.classes_ = np.asarray(state.values["classes_"])
        self._table, self.gene_table_ = state.arrays["table"], state.arrays["gene_table_"]
        self.genes_ = self._table.index
        self._model = unpack_classifier(state.values["model"], state.arrays)

    def _methods(self) -> str:
        confirmed = int((self.gene_table_["status"] == "confirmed").sum())
        what = "a random forest" if self.classifier == "forest" else "multinomial logistic regression"
        return (
            f"Labels ({self.label}) of {self._n_samples} samples were learnt from expression ({self.unit_}). Of "
            f"{len(self.gene_table_)} genes of the largest F statistic, Boruta confirmed {confirmed} (random forests of "
            f"{self.trees} trees, at most {self.rounds} rounds, error rate {self.level:g} over all genes). They were ranked by "
            f"the mean absolute coefficient of local linear models (LIME) at {self.explained} samples, and the first "
            f"{len(self.genes_)} kept, the number of the best balanced accuracy in {self.folds} folds. The classifier was "
            f"{what}. All of this was chosen on the training samples alone."
        )
