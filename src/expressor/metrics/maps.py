"""Records of the metrics that judge maps at samples that were measured."""

import math

from expressor.metrics.records import Metric

_GENES = "gene over samples, mean over genes"

RECORDS: dict[str, Metric] = {
    one.name: one
    for one in (
        Metric("map_r2", "R2", "Share of a gene's variance over samples that the map explains.", _GENES, "higher", -math.inf, 1.0,
               undefined="the gene is constant as measured"),
        Metric("map_r", "r", "Pearson correlation over samples.", _GENES, "higher", -1.0, 1.0,
               undefined="the gene is constant, as measured or in the map"),
        Metric("map_coverage", "coverage", "Share of measured values inside their 90 % interval.", _GENES, "nominal", 0.0, 1.0,
               undefined="no intervals are given"),
    )
}  # fmt: skip
