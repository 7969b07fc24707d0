"""The estimator: parameters, fit, and what the fitted ensemble gives for new samples."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.rng import stream
from expressor.data import fields, keys
from expressor.data.outcomes import read_labels
from expressor.data.profiles import check_scale_of_use, profiles
from expressor.data.units import LOG1P, LOG2, LOG_RATIO, ZSCORE, check_unit
from expressor.estimator.base import Estimator, State
from expressor.estimator.classifiers import PlainClassifier, as_plain, pack_classifier, unpack_classifier
from expressor.estimator.inner import inner_folds
from expressor.estimator.judging import patients_of
from expressor.estimator.labelling import judge_labels, most_likely
from expressor.estimator.roles import Predicts
from expressor.genes.vocab import GeneVocab
from expressor.systems.panel_ensemble import ensemble, equations


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class PanelEnsemble(Estimator, Predicts):
    """Labels from a panel of chosen genes, by the best of several classifiers, which vote.

    Genes and members are chosen in :meth:`fit`, so that cross-validation around it is honest.

    Parameters
    ----------
    label
        Column of ``obs`` to predict.
    n_genes
        Size of the panel, >= 1.
    selection
        How it is chosen: ``"anova"`` (F statistic), or ``"one_vs_rest"``: the best genes of each class in turn.
    candidates
        Classifiers to choose from: ``"logistic"``, ``"discriminant"`` (linear, shrunk), ``"forest"``, ``"extra_trees"``,
        ``"neighbours"`` (5, by distance), ``"bayes"`` (Gaussian).
    members
        How many of them vote, >= 1.
    trees
        Of each forest, >= 10.
    folds
        For the accuracy of the candidates, >= 2; fewer where a label has fewer samples, of which
        each needs two.
    explained
        Samples of each label on which ``class_genes_`` is computed, >= 0; 0 leaves it out, which takes the most time.
    random_state
        Seed, >= 0.

    Attributes
    ----------
    unit_
        The scale of the fit.
    classes_
        Labels, in alphabetical order.
    genes_
        The panel, best first.
    members_
        Names of the classifiers that vote, best first.
    class_genes_
        Table (gene, class): what the probability of a class loses on its own training samples when the gene is set to its mean.
    history_
        One row a candidate: balanced accuracy in cross-validation inside the training samples, and whether it is a member.
    """

    label: str = keys.CANCER_TYPE
    n_genes: int = 500
    selection: Literal["anova", "one_vs_rest"] = "anova"
    candidates: tuple[str, ...] = ensemble.CANDIDATES
    members: int = 3
    trees: int = 300
    folds: int = 5
    explained: int = 10
    random_state: int = 0

    def _check(self) -> None:
        check_choice(self.selection, ("anova", "one_vs_rest"), name="selection")
        if isinstance(self.candidates, str) or not len(self.candidates):
            raise DataError("candidates is no list of classifiers", expected="some of " + ", ".join(ensemble.CANDIDATES),
                            got=repr(self.candidates))  # fmt: skip
        for one in self.candidates:
            check_choice(one, ensemble.CANDIDATES, name="candidate")
        for name, low in (("n_genes", 1), ("members", 1), ("trees", 10), ("folds", 2), ("explained", 0),
                          ("random_state", 0)):  # fmt: skip
            check_range(getattr(self, name), name=name, low=low, integer=True)
        if self.members > len(set(self.candidates)):
            raise DataError("there are fewer candidates than members", expected=f"at least {self.members} candidates",
                            got=len(set(self.candidates)))  # fmt: skip

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        self.unit_ = check_unit(adata, (LOG2, LOG1P, LOG_RATIO, ZSCORE), who="PanelEnsemble")
        labels = read_labels(adata, self.label, at_least=2).astype(str)
        genes = sorted(map(str, adata.var_names))
        values = profiles(adata, genes).astype(np.float64)
        if not (values.std(axis=0) > 0).any():
            raise DataError("no gene varies over the samples", expected="at least one gene that does")
        # A canonical order of samples, so that draws of the same seed fall on the same ones.
        canon = np.argsort(adata.obs_names.astype(str).to_numpy(), kind="stable")
        values, labels, patients = values[canon], labels[canon], patients_of(adata)[canon]
        self.classes_, c = np.unique(labels, return_inverse=True)
        candidates = tuple(dict.fromkeys(self.candidates))
        folds = min(self.folds, int(np.bincount(c).min()))
        fold = inner_folds(patients, c, folds=folds, seed=self.random_state)
        accuracy = ensemble.cross_validate(
            values, c, fold, candidates=candidates, n_genes=self.n_genes, selection=self.selection, trees=self.trees,
            seed=self.random_state,
        )  # fmt: skip
        best = equations.best_members(accuracy, self.members)
        self.members_ = tuple(candidates[i] for i in best)
        mean, scale = ensemble.standard_scores(values)
        z = equations.standardise(values, mean, scale)
        chosen = ensemble.choose_genes(z, c, self.n_genes, self.selection)
        z = z[:, chosen]
        self._models: list[PlainClassifier] = [
            as_plain(ensemble.make(name, trees=self.trees, seed=self.random_state).fit(z, c)) for name in self.members_
        ]
        self._table = pd.DataFrame(
            {"mean": mean[chosen], "scale": scale[chosen]}, index=pd.Index([genes[i] for i in chosen], dtype=object)
        )
        self.genes_ = self._table.index
        self.class_genes_ = self._explain(z, c)
        self.history_ = pd.DataFrame(
            {"iteration": range(1, len(candidates) + 1), "candidate": list(candidates), "balanced_accuracy": accuracy,
             "member": np.isin(np.arange(len(candidates)), best)}
        )  # fmt: skip
        self._n_samples = len(labels)
        self.genes_in_ = GeneVocab(genes)

    def _explain(self, z: np.ndarray, c: np.ndarray) -> pd.DataFrame:
        if not self.explained:
            return pd.DataFrame(index=self.genes_)
        rows = np.concatenate(
            [stream(self.random_state, "explained", k).permutation(np.flatnonzero(c == k))[: self.explained]
             for k in range(len(self.classes_))]
        )  # fmt: skip
        found = ensemble.speak(z[rows], c[rows], len(self.classes_), self._vote)
        return pd.DataFrame(found.T, index=self.genes_, columns=[str(one) for one in self.classes_])

    # Using -----------------------------------------------------------------------------------------------------------

    def predict(self, data: Any) -> pd.DataFrame:
        """Return the label of each sample, (sample, [label]).

        Raises
        ------
        GeneError
            A gene of the panel was not measured.
        DataError
            A value of such a gene is NaN, or the scale is another than that of the fit.
        """
        return most_likely(self.predict_proba(data), self.label)

    def predict_proba(self, data: Any) -> pd.DataFrame:
        """Return the probability of each label, float32 (sample, class): the mean over the members."""
        self._check_fitted()
        adata = fields.read(data)
        check_scale_of_use(adata, self.unit_)
        values = profiles(adata, self._table.index).astype(np.float64)
        z = equations.standardise(values, self._table["mean"].to_numpy(), self._table["scale"].to_numpy())
        names = [str(one) for one in self.classes_]
        return pd.DataFrame(self._vote(z).astype(np.float32), index=adata.obs_names.copy(), columns=names)

    def _vote(self, z: np.ndarray) -> np.ndarray:
        return equations.vote(np.stack([model.predict_proba(z) for model in self._models]))

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        probability = self.predict_proba(adata)
        predicted = self.predict(adata)[self.label]
        return judge_labels(read_labels(adata, self.label), predicted, probability, adata, seed=self.random_state)

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        return {"obsm": {key: self.predict(adata), f"{key}_proba": self.predict_proba(adata)}}

    def _state(self) -> State:
        arrays: dict[str, Any] = {"table": self._table, "class_genes_": self.class_genes_}
        kinds = []
        for i, model in enumerate(self._models):
            kind, mine = pack_classifier(model, name=f"member{i}")
            kinds.append(kind)
            arrays |= mine
        values = {"unit_": self.unit_, "classes_": [str(one) for one in self.classes_], "members_": list(self.members_),
                  "kinds": kinds, "n_samples": self._n_samples}  # fmt: skip
        return State(values, arrays)

    def _restore(self, state: State) -> None:
        self.unit_, self._n_samples = str(state.values["unit_"]), int(state.values["n_samples"])
        self.classes_, self.members_ = np.asarray(state.values["classes_"]), tuple(state.values["members_"])
        self._table, self.class_genes_ = state.arrays["table"], state.arrays["class_genes_"]
        self.genes_ = self._table.index
        self._models = [
            unpack_classifier(kind, state.arrays, name=f"member{i}") for i, kind in enumerate(state.values["kinds"])
        ]

    def _methods(self) -> str:
        how = (
            "the largest F statistic"
            if self.selection == "anova"
            else "the largest t statistic of a class against the rest"
        )
        return (
            f"Labels ({self.label}) of {self._n_samples} samples were learnt from expression ({self.unit_}) of {len(self.genes_)} "
            f"genes, those of {how} among {len(self.genes_in_)}, as standard scores. Of {len(self.history_)} classifiers "
            f"({', '.join(self.history_['candidate'])}) the {len(self.members_)} with the best balanced accuracy in "
            f"{self.folds} folds inside the training samples ({', '.join(self.members_)}) were fitted to all of them, and their "
            "probabilities averaged. Genes and members were chosen on the training samples alone."
        )
