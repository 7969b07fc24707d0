"""Metrics of the relations that a prediction should keep: between genes, and between neighbouring spots."""

from typing import Any

import numpy as np
from jaxtyping import Float

from expressor.core.errors import DataError
from expressor.genes.panels import moran_i
from expressor.metrics.checks import by_section, check_coords, check_labels, check_pair
from expressor.metrics.genewise import varies


def gene_correlation_error(measured: Any, predicted: Any, sections: Any = None) -> Float[np.ndarray, " section"]:
    """Return the root mean squared difference of gene-gene correlations, as predicted against as measured.

    Parameters
    ----------
    measured, predicted
        (spot, gene) on one scale.
    sections
        (spot,) labels; None for one section.

    Returns
    -------
    numpy.ndarray
        float64 (section,), in [0, 2]: over the pairs of genes that vary on both sides; NaN if there is no such pair.
    """
    measured, predicted = check_pair(measured, predicted)
    values = []
    for _, rows in by_section(check_labels(sections, len(measured))):
        m, p = measured[rows], predicted[rows]
        kept = varies(m) & varies(p)
        if kept.sum() < 2:
            values.append(np.nan)
            continue
        pairs = np.triu_indices(int(kept.sum()), k=1)
        difference = np.corrcoef(m[:, kept].T)[pairs] - np.corrcoef(p[:, kept].T)[pairs]
        values.append(np.sqrt(np.mean(difference**2)))
    return np.array(values)


def moran_by_section(
    values: Any, coords: Any, sections: Any = None, *, n_neighbors: int = 6
) -> Float[np.ndarray, "section gene"]:
    """Return Moran's I of each gene in each section; NaN for a constant gene or a section of too few spots."""
    values = np.asarray(values, dtype=np.float64)
    labels, coords = check_labels(sections, len(values)), check_coords(coords, len(values))
    found = []
    for name, rows in by_section(labels):
        if len(rows) < n_neighbors + 2:
            found.append(np.full(values.shape[1], np.nan))
            continue
        moran = moran_i(values[rows], coords[rows], np.full(len(rows), name), n_neighbors=n_neighbors)
        found.append(np.where(varies(values[rows]), moran, np.nan))
    return np.stack(found)


def moran_concordance(
    measured: Any, predicted: Any, coords: Any, sections: Any = None, *, n_neighbors: int = 6
) -> tuple[Float[np.ndarray, " section"], Float[np.ndarray, " section"]]:
    """Compare the spatial structure of genes as predicted with that as measured.

    Parameters
    ----------
    measured, predicted
        (spot, gene) on one scale.
    coords
        (spot, 2) positions.
    sections
        (spot,) labels; None for one section.
    n_neighbors
        Neighbours over which Moran's I is taken.

    Returns
    -------
    concordance, bias
        float64 (section,) each. Lin's concordance correlation over genes of the two Moran's I, in [-1, 1]; mean of predicted
        minus measured Moran's I, above 0 where the prediction is smoother than what was measured. NaN with fewer than two genes
        that vary on both sides.

    Notes
    -----
    Lin, Biometrics 45 (1989) 255.
    """
    measured, predicted = check_pair(measured, predicted)
    if n_neighbors < 1:
        raise DataError("n_neighbors is out of range", expected="at least 1", got=n_neighbors)
    real = moran_by_section(measured, coords, sections, n_neighbors=n_neighbors)
    made = moran_by_section(predicted, coords, sections, n_neighbors=n_neighbors)
    concordance, bias = np.full(len(real), np.nan), np.full(len(real), np.nan)
    for i, (m, p) in enumerate(zip(real, made)):
        known = ~np.isnan(m) & ~np.isnan(p)
        if known.sum() >= 2:
            m, p = m[known], p[known]
            bias[i] = (p - m).mean()
            spread = m.var() + p.var() + bias[i] ** 2
            concordance[i] = 2 * ((m - m.mean()) * (p - p.mean())).mean() / spread if spread > 0 else np.nan
    return concordance, bias
