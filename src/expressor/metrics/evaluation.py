"""All metrics of one prediction as rows of a tidy table, each with the unit it averages over and its interval."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from expressor.core.rng import stream
from expressor.metrics import genewise, structure
from expressor.metrics.blocks import block_bootstrap_pearson, block_permutation_pvalues
from expressor.metrics.bootstrap import Interval, cluster_interval, percentile_interval
from expressor.metrics.checks import by_section, check_labels, check_pair
from expressor.metrics.coverage import interval_coverage, interval_score, interval_width
from expressor.metrics.multiplicity import bh_qvalues
from expressor.metrics.records import metric

GENEWISE = {
    "pearson": genewise.pearson,
    "spearman": genewise.spearman,
    "mae": genewise.mean_absolute_error,
    "rmse": genewise.root_mean_squared_error,
    "variance_ratio": genewise.variance_ratio,
}


@dataclass(frozen=True)
class Row:
    """One line of a tidy table.

    Attributes
    ----------
    metric, unit, direction
        As in the metric's record; ``unit`` is what one value is computed for and which means follow.
    section
        A section's name, or ``"all"`` for the mean over sections.
    value
        The metric; NaN where it is not defined.
    level
        What the interval is over: ``"sections"``, ``"patients"``, ``"spots"`` (blocks of spots, these sections only), or ``""``.
    low, high
        Bounds of the 95 % interval, cut to what the metric can be; NaN where there is none.
    design, n_clusters
        How the interval was made and from how many clusters (see :mod:`expressor.metrics.bootstrap`).
    n, n_undefined
        Number of values behind the mean, and how many of those are not defined and left out.
    """

    metric: str
    unit: str
    direction: str
    section: str
    value: float
    level: str
    low: float
    high: float
    design: str
    n_clusters: int
    n: int
    n_undefined: int


def evaluate(
    measured: Any,
    predicted: Any,
    *,
    sections: Any = None,
    patients: Any = None,
    coords: Any = None,
    lower: Any = None,
    upper: Any = None,
    coverage: float = 0.9,
    block: float | None = None,
    n_permutations: int = 999,
    n_draws: int = 1000,
    seed: int = 0,
) -> list[Row]:
    """Compute every metric that the given arrays allow.

    Parameters
    ----------
    measured, predicted
        (spot, gene) on one stated scale.
    sections, patients
        (spot,) labels; None for one section, and for no patient-level intervals.
    coords
        (spot, 2) positions in one unit; without them there are no spatial metrics.
    lower, upper
        (spot, gene) bounds of predictive intervals made for ``coverage``.
    coverage
        In (0, 1).
    block
        Side of a block for the permutation test, in the unit of ``coords`` (see :mod:`expressor.metrics.blocks`).
    n_permutations, n_draws
        Of the permutation test and of the bootstraps.
    seed
        Seed of the random streams.

    Returns
    -------
    list of Row
        The first is the mean Pearson correlation over all sections with its interval over sections.

    Raises
    ------
    DataError
        Shapes that differ, or values that are not finite.
    """
    measured, predicted = check_pair(measured, predicted)
    labels = check_labels(sections, len(measured))
    names = [name for name, _ in by_section(labels)]
    owners = None if patients is None else _owners(labels, check_labels(patients, len(labels), name="patients"))
    scores: dict[str, np.ndarray] = {name: of(measured, predicted, labels) for name, of in GENEWISE.items()}
    if lower is not None and upper is not None:
        scores["coverage"] = interval_coverage(measured, lower, upper, labels)
        scores["width"] = interval_width(lower, upper, labels)
        scores["interval_score"] = interval_score(measured, lower, upper, labels, coverage=coverage)
    scores["gene_correlation_error"] = structure.gene_correlation_error(measured, predicted, labels)[:, None]
    if coords is not None:
        concordance, bias = structure.moran_concordance(measured, predicted, coords, labels)
        scores["moran_concordance"], scores["moran_bias"] = concordance[:, None], bias[:, None]
    rows = [row for name, values in scores.items() for row in rows_of(name, values, names, owners, n_draws, seed)]
    if coords is not None:
        drawn = _spot_row(scores["pearson"], measured, predicted, coords, labels, n_draws, seed)
        rows.insert(1 if owners is None else 2, drawn)
        rows.append(_significance(measured, predicted, coords, labels, block, n_permutations, seed))
    return rows


def rows_of(
    name: str, values: np.ndarray, sections: list[str], patients: list[str] | None, n_draws: int = 1000, seed: int = 0
) -> list[Row]:
    """Turn (section, gene) values of a metric into rows: the mean with its intervals, then each section."""
    record, summary = metric(name), genewise.summarise(values)
    levels: dict[str, Any] = {"sections": None} | ({} if patients is None else {"patients": patients})
    rows = []
    for level, clusters in levels.items():
        if np.isnan(summary.sections).all():
            interval = Interval(math.nan, math.nan, math.nan, 0.95, 0, 0, "none")
        else:
            interval = cluster_interval(
                summary.sections, clusters, n_draws=n_draws, rng=stream(seed, f"{name} {level}")
            )
        rows.append(_row(record.name, "all", interval, level, summary.n_values, summary.n_undefined))
    for i, section in enumerate(sections):
        missing = int(np.isnan(values[i]).sum())
        alone = Interval(float(summary.sections[i]), math.nan, math.nan, 0.95, 1, 0, "none")
        rows.append(_row(record.name, section, alone, "", values.shape[1], missing))
    return rows


def _row(name: str, section: str, interval: Interval, level: str, n: int, undefined: int) -> Row:
    record = metric(name)
    # Student's t knows no bounds; with two clusters it may reach beyond what the metric can be.
    low, high = max(interval.low, record.low), min(interval.high, record.high)
    return Row(
        name, record.averaging, record.direction, section, interval.value, level, low, high, interval.design,
        interval.n_clusters, n, undefined,
    )  # fmt: skip


def _owners(sections: np.ndarray, patients: np.ndarray) -> list[str]:
    """Return the patient of each section, sections in alphabetical order."""
    from expressor.core.errors import DataError

    owners = []
    for name, rows in by_section(sections):
        found = np.unique(patients[rows])
        if len(found) > 1:
            raise DataError(f"section {name!r} has several patients", expected="one", got=", ".join(found))
        owners.append(str(found[0]))
    return owners


def _spot_row(
    pearson: np.ndarray, measured: Any, predicted: Any, coords: Any, labels: np.ndarray, n_draws: int, seed: int
) -> Row:
    draws = block_bootstrap_pearson(measured, predicted, coords, labels, n_draws=n_draws, rng=stream(seed, "spots"))
    means = np.array([genewise.summarise(one).value for one in draws])
    summary = genewise.summarise(pearson)
    interval = percentile_interval(summary.value, means, n_clusters=len(pearson))
    return _row("pearson", "all", interval, "spots", summary.n_values, summary.n_undefined)


def _significance(
    measured: Any, predicted: Any, coords: Any, labels: np.ndarray, block: float | None, n_permutations: int, seed: int
) -> Row:
    p = block_permutation_pvalues(
        measured, predicted, coords, labels,
        block=block, n_permutations=n_permutations, rng=stream(seed, "permutations"),
    )  # fmt: skip
    q = bh_qvalues(p)
    known = q[~np.isnan(q)]
    value = float((known <= 0.05).mean()) if len(known) else math.nan
    interval = Interval(value, math.nan, math.nan, 0.95, len(np.unique(labels)), 0, "none")
    return _row("significant_genes", "all", interval, "", len(q), int(np.isnan(q).sum()))
