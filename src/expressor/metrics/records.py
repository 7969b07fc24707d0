"""One record per metric: what it measures, over what it is averaged, which way is better, between which bounds."""

import math
from dataclasses import dataclass
from typing import Literal

from expressor.core.errors import DataError, nearest_names

GENES = "gene in section, mean over genes, mean over sections"
SECTIONS = "section, mean over sections"


@dataclass(frozen=True)
class Metric:
    """What is to be known about a metric before its numbers are read.

    Attributes
    ----------
    name
        Key in tables.
    title
        Short name for headings.
    meaning
        One sentence.
    averaging
        The unit for which one value is computed, and the means that follow.
    direction
        ``"higher"`` or ``"lower"`` is better; ``"one"`` or ``"nominal"`` where the best value is 1 or the stated coverage.
    low, high
        Bounds of the value.
    unit
        ``""`` for a pure number, ``"target"`` for the target's scale.
    undefined
        Where there is no value.
    """

    name: str
    title: str
    meaning: str
    averaging: str
    direction: Literal["higher", "lower", "one", "nominal"]
    low: float
    high: float
    unit: Literal["", "target"] = ""
    undefined: str = "never"


_CONSTANT = "the gene is constant in the section, as measured or as predicted"

METRICS: dict[str, Metric] = {
    one.name: one
    for one in (
        Metric("pearson", "Pearson r", "Linear correlation over the spots of a section.",
               GENES, "higher", -1.0, 1.0, undefined=_CONSTANT),
        Metric("spearman", "Spearman r", "Rank correlation over the spots of a section (ties get their mean rank).",
               GENES, "higher", -1.0, 1.0, undefined=_CONSTANT),
        Metric("mae", "MAE", "Mean absolute error over the spots of a section.", GENES, "lower", 0.0, math.inf, "target"),
        Metric("rmse", "RMSE", "Root of the mean squared error over the spots of a section.",
               GENES, "lower", 0.0, math.inf, "target"),
        Metric("variance_ratio", "variance ratio", "Predicted over measured variance; below 1 the prediction is shrunk.",
               GENES, "one", 0.0, math.inf, undefined="the gene is constant in the section as measured"),
        Metric("gene_correlation_error", "gene-gene error",
               "Root mean squared difference of measured and predicted gene-gene correlations.",
               SECTIONS, "lower", 0.0, 2.0, undefined="fewer than two genes vary in the section"),
        Metric("moran_concordance", "Moran concordance",
               "Lin's concordance over genes of Moran's I as measured and as predicted.",
               SECTIONS, "higher", -1.0, 1.0, undefined="fewer than two genes vary in the section"),
        Metric("moran_bias", "Moran bias", "Mean over genes of predicted minus measured Moran's I; above 0 is too smooth.",
               SECTIONS, "nominal", -2.0, 2.0, undefined="fewer than two genes vary in the section"),
        Metric("coverage", "coverage", "Share of spots inside the predictive interval.", GENES, "nominal", 0.0, 1.0),
        Metric("width", "interval width", "Mean width of the predictive interval.", GENES, "lower", 0.0, math.inf, "target"),
        Metric("interval_score", "interval score",
               "Width plus 2 / (1 - coverage) times the distance by which spots lie outside; rewards narrow and covering.",
               GENES, "lower", 0.0, math.inf, "target"),
        Metric("significant_genes", "genes above chance",
               "Share of genes whose correlation is above 0 under block permutation, at a false discovery rate of 5 %.",
               "gene over all sections, share of genes", "higher", 0.0, 1.0, undefined=_CONSTANT),
    )
}  # fmt: skip


def metric(name: str) -> Metric:
    """Return the record of ``name``; DataError with the nearest names if there is none."""
    if name not in METRICS:
        raise DataError(f"no metric is called {name!r}", nearest=nearest_names(name, METRICS))
    return METRICS[name]
