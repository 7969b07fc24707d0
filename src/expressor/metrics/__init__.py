"""Metrics with their unit, direction and range; intervals over clusters; permutation tests that respect space.

Everything takes arrays (or what NumPy turns into arrays) with observations in rows. A value that is not defined, such as the
correlation of a constant gene, is NaN and is counted; it is never set to zero.
"""

import importlib
from typing import Any

_HOMES = {
    "Interval": "bootstrap",
    "METRICS": "records",
    "Metric": "records",
    "Row": "evaluation",
    "associate": "association",
    "bh_qvalues": "multiplicity",
    "block_bootstrap_pearson": "blocks",
    "block_permutation_pvalues": "blocks",
    "cluster_interval": "bootstrap",
    "default_block": "blocks",
    "evaluate": "evaluation",
    "gene_correlation_error": "structure",
    "interval_coverage": "coverage",
    "interval_score": "coverage",
    "interval_width": "coverage",
    "mean_absolute_error": "genewise",
    "metric": "records",
    "moran_concordance": "structure",
    "moran_surrogates": "spatial_nulls",
    "paired_interval": "bootstrap",
    "pearson": "genewise",
    "percentile_interval": "bootstrap",
    "root_mean_squared_error": "genewise",
    "sign_flip_pvalue": "bootstrap",
    "spearman": "genewise",
    "summarise": "genewise",
    "variance_ratio": "genewise",
    "variogram_surrogates": "spatial_nulls",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # SciPy's statistics take a second to import, so each module is loaded when one of its names is first used.
    if name in _HOMES:
        return getattr(importlib.import_module(f"expressor.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'expressor.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOMES)
