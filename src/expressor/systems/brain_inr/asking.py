"""Fitted fields asked together: for some places after the other, averaged over the fields, on the scale of a donor."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, nearest_names
from expressor.systems.brain_inr.fitting import FittedField

_POINTS, _LEAST, _NUMBERS = 65536, 2048, 2**24  # places at once, at most and at least; numbers in memory at once


def values(
    fields: Sequence[FittedField], places: np.ndarray, given: pd.DataFrame | None, genes: np.ndarray, donor: str | None
) -> np.ndarray:
    """Return expression at places, float32 (point, gene).

    Parameters
    ----------
    fields
        One of all donors, or one a donor.
    places
        float64 (point, 3), checked.
    given
        What is known of each place (see :func:`expressor.systems.brain_inr.inputs.check_given`).
    genes
        Positions among the genes of the fit, (gene,).
    donor
        On whose scale; None for the mean of the scales.
    """
    found = np.empty((len(places), len(genes)), dtype=np.float32)
    for rows, some in values_in_parts(fields, places, given, genes, donor):
        found[rows] = some
    return found


def values_in_parts(
    fields: Sequence[FittedField], places: np.ndarray, given: pd.DataFrame | None, genes: np.ndarray, donor: str | None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield what :func:`values` returns part by part: which of the places, and float32 (point, gene)."""
    chosen = _of_donor(fields, donor)
    for rows, some, known in _parts(places, given, len(genes)):
        total = np.zeros((len(some), len(genes)), dtype=np.float32)
        for one in chosen:
            mean, spread = one.scales.of_donor(donor)
            z = one.predict(one.frame.query(some, known), genes)
            total += z * spread[genes].astype(np.float32) + mean[genes].astype(np.float32)
        yield rows, total / np.float32(len(chosen))


def scores(
    fields: Sequence[FittedField], places: np.ndarray, given: pd.DataFrame | None, vectors: object
) -> np.ndarray:
    """Return standard scores, float32 (point, gene), of genes that were not in the fit, by their vectors (gene, dim)."""
    asked = [one.genes.of_others(vectors) for one in fields]
    found = np.empty((len(places), len(asked[0])), dtype=np.float32)
    for rows, some, known in _parts(places, given, found.shape[1]):
        found[rows] = np.mean(
            [one.predict(one.frame.query(some, known), None, own) for one, own in zip(fields, asked)], axis=0
        )
    return found


def radii(
    fields: Sequence[FittedField], places: np.ndarray, given: pd.DataFrame | None, genes: np.ndarray, donor: str | None, *,
    coverage: float,
) -> np.ndarray:  # fmt: skip
    """Return half the width of intervals at places, float64 (point, gene)."""
    chosen, found = _of_donor(fields, donor), np.empty((len(places), len(genes)))
    for rows, some, known in _parts(places, given, len(genes)):
        found[rows] = np.mean([
            one.radius(one.frame.query(some, known), coverage, genes) * one.scales.of_donor(donor)[1][genes]
            for one in chosen
        ], axis=0)  # fmt: skip
    return found


def _of_donor(fields: Sequence[FittedField], donor: str | None) -> list[FittedField]:
    if donor is None:
        return list(fields)
    known = [name for one in fields for name in one.scales.donors]
    if donor not in known:
        raise DataError(f"donor {donor!r} was not in the fit", expected=", ".join(map(repr, known)),
                        nearest=nearest_names(str(donor), known))  # fmt: skip
    return [one for one in fields if donor in one.scales.donors]


def _parts(
    places: np.ndarray, given: pd.DataFrame | None, n_genes: int
) -> Iterator[tuple[slice, np.ndarray, pd.DataFrame | None]]:
    size = max(_LEAST, min(_POINTS, _NUMBERS // max(n_genes, 1)))
    for start in range(0, len(places), size):
        rows = slice(start, start + size)
        yield rows, places[rows], None if given is None else given.iloc[rows]
