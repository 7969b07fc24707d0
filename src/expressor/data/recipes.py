"""Preparation that is fitted on training data and replayed on any other: which genes, on which scale, standardised how."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from anndata import AnnData

from expressor.core.errors import DataError, check_choice, check_range
from expressor.data.fields import SCALES, counts_of, expression, expression_sparse, fingerprint
from expressor.data.keys import PATIENT, SECTION
from expressor.genes.ids import detect_namespace
from expressor.genes.panels import detection_rate, dispersion, hvg_scores, mean_expression, rank_genes
from expressor.genes.vocab import GeneVocab

RANKINGS: dict[str, Callable[[AnnData, str], np.ndarray]] = {
    "dispersion": lambda train, scale: dispersion(counts_of(train)),
    "hvg": lambda train, scale: hvg_scores(expression_sparse(train, scale=scale)),
    "mean": lambda train, scale: mean_expression(expression_sparse(train, scale=scale)),
    "detection": lambda train, scale: detection_rate(expression_sparse(train, scale=scale)),
}
"""Scores by which a recipe may choose genes, each from training data and a scale."""


@dataclass(frozen=True)
class Recipe:
    """What to prepare; :meth:`fit` learns the numbers from training data.

    Attributes
    ----------
    n_genes
        How many genes to keep, best first; None keeps all, in their order.
    scale
        One of :data:`expressor.data.fields.SCALES`.
    ranking
        One of :data:`RANKINGS`: ``"hvg"`` (dispersion standardised in bins of the mean), ``"dispersion"`` (variance over mean of
        counts), ``"mean"``, ``"detection"``.
    standardise
        Whether to subtract each gene's mean and divide by its standard deviation, both of the training data.
    """

    n_genes: int | None = None
    scale: str = "log1p_cp10k"
    ranking: str = "hvg"
    standardise: bool = True

    def fit(self, train: AnnData, *, genes: Iterable[str] | None = None) -> "FittedRecipe":
        """Choose genes and measure their means and spreads on training data.

        Parameters
        ----------
        train
            Holds raw counts.
        genes
            Names to choose from; all genes of ``train`` when not given.

        Raises
        ------
        DataError
            A parameter is out of range, there are no raw counts, or fewer genes vary than are wanted.
        """
        check_choice(self.scale, SCALES, name="scale")
        check_choice(self.ranking, RANKINGS, name="ranking")
        pool = list(train.var_names if genes is None else genes)
        chosen = pool
        if self.n_genes is not None:
            check_range(self.n_genes, name="n_genes", low=1, integer=True)
            scores = RANKINGS[self.ranking](train, self.scale)
            scores = scores[train.var_names.get_indexer(pool)] if genes is not None else scores
            usable = int(np.isfinite(scores).sum())
            if usable < self.n_genes:
                raise DataError("too few genes vary in the training data", expected=f"at least n_genes={self.n_genes}", got=usable,
                                fix="Ask for fewer genes.")  # fmt: skip
            chosen = [pool[i] for i in rank_genes(scores, pool)[: self.n_genes]]
        mean = np.zeros(len(chosen), dtype=np.float32)
        spread = np.ones(len(chosen), dtype=np.float32)
        if self.standardise:
            values = expression(train, chosen, scale=self.scale).astype(np.float64)
            mean, deviation = values.mean(axis=0).astype(np.float32), values.std(axis=0)
            # A gene that never varied is centred only: it has no unit to divide by.
            spread = np.where(deviation > 1e-7 * np.abs(mean), deviation, 1.0).astype(np.float32)
        groups = {key: frozenset(train.obs[key].astype(str)) for key in (SECTION, PATIENT) if key in train.obs}
        return FittedRecipe(
            recipe=self,
            genes=GeneVocab(chosen, namespace=detect_namespace(chosen)),
            mean=mean,
            spread=spread,
            fitted_on=fingerprint(train),
            groups={**groups, "obs_names": frozenset(map(str, train.obs_names))},
        )


@dataclass(frozen=True, eq=False)
class FittedRecipe:
    """A recipe with its numbers; made by :meth:`Recipe.fit`.

    Attributes
    ----------
    recipe
        What was asked for.
    genes
        The chosen genes, best first.
    mean, spread
        float32 (gene,), of the training data on the recipe's scale; 0 and 1 where nothing is standardised.
    fitted_on
        Fingerprint of the training data.
    groups
        What the training data held: observation names, sections, patients.
    """

    recipe: Recipe
    genes: GeneVocab
    mean: np.ndarray
    spread: np.ndarray
    fitted_on: str
    groups: dict[str, frozenset[str]]

    def apply(self, adata: AnnData) -> np.ndarray:
        """Prepare data in the same way: float32 (observation, gene).

        Raises
        ------
        GeneError
            A chosen gene is not in ``adata``.
        """
        self.genes.align(adata.var_names).require_all(where="the data")
        return (expression(adata, self.genes, scale=self.recipe.scale) - self.mean) / self.spread

    def restore(self, values: np.ndarray) -> np.ndarray:
        """Bring prepared values (observation, gene) back to the recipe's scale."""
        return np.asarray(values, dtype=np.float32) * self.spread + self.mean

    def groups_of(self, key: str) -> set[str]:
        """Return the values of ``key`` that the training data held.

        Raises
        ------
        DataError
            The recipe did not record ``key``.
        """
        if key not in self.groups:
            raise DataError(
                f"the recipe's training data had no {key!r}", expected=f"one of {', '.join(map(repr, self.groups))}"
            )
        return set(self.groups[key])
