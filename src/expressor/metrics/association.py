"""Whether maps of genes go with a map of the user's more than smooth maps do by chance."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.rng import stream
from expressor.metrics.multiplicity import bh_qvalues
from expressor.metrics.spatial_nulls import NULLS, distances_of, moran_surrogates, variogram_surrogates

_SURROGATES: dict[str, Callable[..., np.ndarray]] = {"moran": moran_surrogates, "variogram": variogram_surrogates}


def associate(
    maps: Any,
    user_map: Any,
    places: Any = None,
    *,
    genes: Sequence[str] | None = None,
    distances: Any = None,
    nulls: Sequence[str] = NULLS,
    permutations: int = 999,
    rank: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Correlate maps of genes with a map over the same points, and test it against surrogates that are as smooth as that map.

    Parameters
    ----------
    maps
        (point, gene), or an AnnData of parcels or samples with their places in ``obsm["mni"]`` (or ``obsm["xyz"]``).
    user_map
        (point,): the map to explain, in the same order. Points where it is NaN, or where every gene is, are left out.
    places
        (point, axis), at most 5,000; needed unless ``maps`` brings them or ``distances`` are given. Moran's eigenvectors of 3,702
        samples take about a minute. For a map of voxels use a coarse grid, such as ``expressor.data.brain_grid(resolution=8)``.
    genes
        Names (gene,); those of the AnnData, or numbers.
    distances
        (point, point): distances to use instead, such as along the surface.
    nulls
        Some of ``"moran"`` and ``"variogram"``; see :mod:`expressor.metrics.spatial_nulls`.
    permutations
        Number of surrogates of each, at least 19.
    rank
        Spearman's correlation instead of Pearson's.
    seed
        Seed of all draws.

    Returns
    -------
    pandas.DataFrame
        A row a gene, index ``gene``: ``r``; ``p_naive``, as if the points were independent, for comparison only; for each null
        ``p_<null>`` (two-sided, at least 1 / (permutations + 1)), ``q_<null>`` (false discovery rate over the genes, Benjamini and
        Hochberg) and ``familywise_<null>`` (against the largest of all genes in the same surrogate). A gene that is constant or NaN
        somewhere has NaN. ``attrs``: number of points and of permutations.

    Raises
    ------
    DataError
        Shapes that do not fit, no places, too many or too few points, an unknown null, or a map that is constant.
    """
    check_range(permutations, name="permutations", low=19, integer=True)
    if not nulls:
        raise DataError("no null is given", expected="some of " + ", ".join(NULLS))
    for one in nulls:
        check_choice(one, NULLS, name="null")
    values, places, names = _maps(maps, places, genes)
    target = np.asarray(user_map, dtype=np.float64)
    if target.shape != values.shape[:1]:
        raise DataError("the map does not fit the genes' maps", expected=f"({len(values)},)", got=str(target.shape))
    kept = np.isfinite(target) & np.isfinite(values).any(axis=1)
    values, target = values[kept], target[kept]
    apart = _distances(places, distances, kept)
    if rank:
        values, target = _ranked(values), stats.rankdata(target)
    defined = np.isfinite(values).all(axis=0) & (np.ptp(values, axis=0) > 0)
    r = np.full(len(names), np.nan)
    surrogates = {
        one: _SURROGATES[one](target, apart, n=permutations, rng=stream(seed, f"{one} surrogates")) for one in nulls
    }
    scaled = _scaled(values[:, defined])
    r[defined] = _scaled(target[:, None])[:, 0] @ scaled
    table = pd.DataFrame({"r": r, "p_naive": _naive(r, len(target))}, index=pd.Index(names, name="gene"))
    for one, drawn in surrogates.items():
        drawn = np.apply_along_axis(stats.rankdata, 1, drawn) if rank else drawn
        by_chance = np.abs(_scaled(drawn.T).T @ scaled)
        reached = np.abs(r[defined]) * (1 - 1e-12)
        p, familywise = np.full(len(names), np.nan), np.full(len(names), np.nan)
        p[defined] = (1 + (by_chance >= reached).sum(axis=0)) / (permutations + 1)
        if defined.any():
            largest = by_chance.max(axis=1)
            familywise[defined] = (1 + (largest[:, None] >= reached).sum(axis=0)) / (permutations + 1)
        table[f"p_{one}"], table[f"q_{one}"], table[f"familywise_{one}"] = p, bh_qvalues(p), familywise
    table.attrs = {"points": len(target), "permutations": permutations}
    return table


def _maps(maps: Any, places: Any, genes: Sequence[str] | None) -> tuple[np.ndarray, Any, list[str]]:
    if hasattr(maps, "obsm"):
        if places is None:
            places = next((maps.obsm[one] for one in ("mni", "xyz") if one in maps.obsm), None)
        names = [str(one) for one in (maps.var_names if genes is None else genes)]
        X = maps.X
        values = np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64)
    else:
        values = np.asarray(maps, dtype=np.float64)
        values = values[:, None] if values.ndim == 1 else values
        names = [str(one) for one in (range(values.shape[-1]) if genes is None else genes)]
    if values.ndim != 2 or len(names) != values.shape[1]:
        raise DataError("maps and genes do not fit", expected=f"(point, {len(names)})", got=str(values.shape))
    return values, places, names


def _distances(places: Any, distances: Any, kept: np.ndarray) -> np.ndarray:
    if distances is not None:
        distances = np.asarray(distances, dtype=np.float64)
        if distances.shape != (len(kept), len(kept)):
            raise DataError(
                "distances do not fit the maps", expected=str((len(kept), len(kept))), got=str(distances.shape)
            )
        return distances[np.ix_(kept, kept)]
    if places is None:
        raise DataError("the maps have no places", fix="Give places=, or distances=.")
    places = np.asarray(places, dtype=np.float64)
    if len(places) != len(kept):
        raise DataError("places do not fit the maps", expected=f"{len(kept)} rows", got=len(places))
    return distances_of(places[kept])


def _ranked(values: np.ndarray) -> np.ndarray:
    return stats.rankdata(values, axis=0, nan_policy="propagate")


def _scaled(columns: np.ndarray) -> np.ndarray:
    """Return columns of mean 0 and length 1."""
    centred = columns - columns.mean(axis=0)
    return centred / np.linalg.norm(centred, axis=0)


def _naive(r: np.ndarray, n: int) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = r * np.sqrt((n - 2) / np.maximum(1 - r**2, 0))
    return 2 * stats.t.sf(np.abs(t), n - 2)
