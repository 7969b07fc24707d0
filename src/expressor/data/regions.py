"""Samples of the brain averaged per parcel, as abagen averages them: regions instead of samples."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from expressor.core.errors import DataError, check_choice, check_range
from expressor.data import keys
from expressor.data.brainspace import SPACE, check_places
from expressor.data.normalisation import NORMALISATIONS, normalise
from expressor.data.parcels import Parcellation, check_parcellation, to_voxels

MISSING = ("none", "centroids", "interpolate")
AVERAGES = ("donors", "samples")
SNAPS = ("down", "nearest")
METRICS = ("mean", "median")


def to_parcels(
    adata: ad.AnnData,
    atlas: Parcellation,
    *,
    tolerance: float = 2.0,
    constrain: bool = True,
    snap: str = "down",
    missing: str = "none",
    average: str = "donors",
    metric: str = "mean",
    sample_norm: str = "none",
    gene_norm: str = "none",
    within_parts: bool = False,
) -> ad.AnnData:
    """Average samples per parcel of a parcellation; the choices and their defaults are abagen's.

    Parameters
    ----------
    adata
        Samples in MNI152, as ``expressor.data.read_ahba`` returns them: ``obsm["mni"]``, and in ``obs``
        ``donor``, ``hemisphere`` and ``part``.
    atlas
        The parcellation.
    tolerance, constrain, snap
        How samples find their parcels: see :func:`assign_parcels`.
    missing
        What parcels without a sample become. ``"none"``: NaN. ``"centroids"``: where no donor has a sample, the samples nearest to
        the parcel's centroid, one a donor, weighed by inverse distance. ``"interpolate"``: in each donor, every voxel takes the
        nearest sample, and the voxels are averaged by inverse distance. Both keep to samples of the parcel's side and part where
        ``constrain`` holds, and to samples that have a parcel.
    average
        ``"donors"``: samples within each donor, then donors, so that each donor counts the same. ``"samples"``: all at once.
    metric
        ``"mean"`` or ``"median"``.
    sample_norm, gene_norm, within_parts
        Normalisation, as in ``expressor.data.read_ahba``, over those samples of a donor that have a parcel. abagen's default is
        ``"srs"`` for both, of samples that were read with ``"none"`` for both; here nothing is normalised twice unless asked.

    Returns
    -------
    AnnData
        ``X`` float32 (region, gene), NaN where nothing is known. ``obs``: the parcels' ``label``, ``hemisphere`` and ``part``,
        ``voxels``, ``samples`` (their number) and ``filled`` (whether all comes from ``missing``). ``obsm["mni"]``: centroids.
        With ``average="donors"``, ``layers["donor_<donor>"]``: one donor each. ``uns["counts"]``: samples (region, donor).
        ``uns["dropped"]``, ``uns["methods"]``: those of the samples, continued.

    Raises
    ------
    DataError
        Wrong or missing places, another space, NaN in the expression, columns of ``obs`` that are needed and absent, an unknown
        choice, or no sample that has a parcel.

    Notes
    -----
    Parcels of both sides (``B``) are held to the part alone, also when they are filled; abagen leaves these empty.
    """
    _check_choices(missing=(missing, MISSING), average=(average, AVERAGES), metric=(metric, METRICS),
                   sample_norm=(sample_norm, NORMALISATIONS), gene_norm=(gene_norm, NORMALISATIONS))  # fmt: skip
    _check_samples(adata, need_part=constrain or within_parts)
    check_parcellation(atlas)
    side, part = (adata.obs[one].to_numpy(dtype=str) if constrain else None for one in (keys.HEMISPHERE, keys.PART))
    place = np.asarray(adata.obsm[keys.MNI], dtype=np.float64)
    parcel = assign_parcels(place, atlas, hemisphere=side, part=part, tolerance=tolerance, snap=snap)
    if not parcel.any():
        raise DataError(f"no sample is in a parcel or within {tolerance:g} mm of one",
                        fix="Are the parcellation and the samples in the same space?")  # fmt: skip
    donors = adata.obs[keys.DONOR].to_numpy(dtype=str)
    samples = {}
    for name in sorted(set(donors[parcel > 0])):
        rows = np.flatnonzero((donors == name) & (parcel > 0))
        values = _normalised(adata, rows, sample_norm, gene_norm, within_parts)
        kind = None if side is None or part is None else (side[rows], part[rows])
        samples[name] = _Donor(parcel[rows], place[rows], values, kind)
    tables = _tables(atlas, samples, missing)
    ids = atlas.table.index
    each = {name: one.groupby(level=0).agg(metric).reindex(ids) for name, one in tables.items()}
    joined = pd.concat(each.values() if average == "donors" else tables.values()).groupby(level=0).agg(metric)
    counts = pd.DataFrame({one: pd.Series(parcel[donors == one]).value_counts() for one in sorted(set(donors))})
    counts = counts.reindex(ids).fillna(0).astype(np.int64)
    made = _assemble(adata, atlas, joined.reindex(ids), each if average == "donors" else {}, counts)
    made.uns["dropped"] = _dropped(adata, made, parcel, tolerance)
    made.uns[keys.UNIT] = str(adata.uns.get(keys.UNIT, "as given")) if gene_norm == "none" else gene_norm
    made.uns["methods"] = _methods(adata, made, int((parcel > 0).sum()), tolerance, constrain, missing, average, metric,
                                   sample_norm, gene_norm)  # fmt: skip
    return made


def assign_parcels(
    points: np.ndarray,
    atlas: Parcellation,
    *,
    hemisphere: np.ndarray | None = None,
    part: np.ndarray | None = None,
    tolerance: float = 2.0,
    snap: str = "down",
) -> np.ndarray:
    """Return the parcel of each sample: the one it lies in, else the nearest that fits.

    Voxels within 0, 1, 2, ... mm are looked at until a parcel is found that fits the sample's side and part. If there are several,
    that with the nearest centroid is taken; where sides and parts are not given, the one with most voxels comes before that.

    Parameters
    ----------
    points
        (sample, 3) in mm of the parcellation's space.
    atlas
        The parcellation.
    hemisphere, part
        (sample,) each, or neither: what the parcel must agree with. Parcels of both sides need agree with the part alone.
    tolerance
        Farthest voxel in mm, at least 0.
    snap
        How a place becomes a voxel: ``"down"``, the next centre of a voxel below it on each axis, as abagen does, half a voxel
        off on average; ``"nearest"``.

    Returns
    -------
    numpy.ndarray
        int64 (sample,): the parcel's number; 0 where there is none.
    """
    check_range(tolerance, name="tolerance", low=0)
    check_choice(snap, SNAPS, name="snap")
    if (hemisphere is None) != (part is None):
        raise DataError("one of hemisphere and part is missing", fix="Give both or neither.")
    points = np.asarray(points, dtype=np.float64)
    voxel = to_voxels(points, atlas.affine) if snap == "nearest" else _below(points, atlas.affine)
    place = voxel @ atlas.affine[:3, :3].T + atlas.affine[:3, 3]
    places, parcel = atlas.voxels()
    centroids = atlas.centroids()
    ids = atlas.table.index.to_numpy()
    fits = None if hemisphere is None or part is None else _fits(atlas, hemisphere, part)
    tree = cKDTree(places)
    found = np.zeros(len(points), dtype=np.int64)
    left = np.arange(len(points))
    for radius in range(int(tolerance) + 1):
        for row, near in zip(left, tree.query_ball_point(place[left], radius)):
            possible, counts = np.unique(parcel[near], return_counts=True)
            if fits is not None:
                possible = possible[fits[row, np.searchsorted(ids, possible, sorter=np.argsort(ids))]]
            elif len(possible):
                possible = possible[counts == counts.max()]
            if len(possible) > 1:
                away = np.linalg.norm(centroids.loc[possible].to_numpy() - place[row], axis=1)
                possible = possible[[int(np.argmin(away))]]
            if len(possible):
                found[row] = possible[0]
        left = left[found[left] == 0]
    return found


@dataclass(frozen=True, eq=False)
class _Donor:
    """Samples of a donor that have a parcel: it, places, values, and the sides and parts that parcels must agree with."""

    parcel: np.ndarray
    place: np.ndarray
    values: np.ndarray
    kind: tuple[np.ndarray, np.ndarray] | None

    def eligible(self, atlas: Parcellation, parcel: int) -> np.ndarray:
        """Rows of the samples that may stand for a parcel."""
        if self.kind is None:
            return np.arange(len(self.place))
        wanted = atlas.table.loc[parcel]
        side = (self.kind[0] == wanted[keys.HEMISPHERE]) | (wanted[keys.HEMISPHERE] == "B")
        return np.flatnonzero(side & (self.kind[1] == wanted[keys.PART]))


def _tables(atlas: Parcellation, samples: dict[str, _Donor], missing: str) -> dict[str, pd.DataFrame]:
    """Return for each donor the values of its samples, and of what stands for parcels without one; the index is the parcel."""
    tables = {name: pd.DataFrame(one.values, index=one.parcel) for name, one in samples.items()}
    empty = {name: np.setdiff1d(atlas.table.index, one.parcel) for name, one in samples.items()}
    if missing == "none":
        return tables
    if missing == "interpolate":
        more = {name: _interpolated(atlas, empty[name], one) for name, one in samples.items()}
    else:
        more = dict.fromkeys(
            tables, _weighed([_at_centroids(atlas, empty[name], one) for name, one in samples.items()])
        )
    return {name: pd.concat([one, more[name]]) if len(more[name]) else one for name, one in tables.items()}


def _interpolated(atlas: Parcellation, empty: np.ndarray, donor: _Donor) -> pd.DataFrame:
    """Return a row for each empty parcel that some sample may stand for."""
    places, parcel = atlas.voxels()
    # Distances are those between voxels: a sample is where its nearest voxel of any parcel is.
    nearest = cKDTree(places).query(donor.place)[1]
    fine = np.ones(len(nearest), dtype=bool)
    if donor.kind is not None:
        ids = atlas.table.index.to_numpy()
        fits = _fits(atlas, *donor.kind)
        fine = fits[np.arange(len(nearest)), np.searchsorted(ids, parcel[nearest], sorter=np.argsort(ids))]
    rows: dict[int, np.ndarray] = {}
    for one in empty:
        able = donor.eligible(atlas, one)
        able = able[fine[able]]
        mine = places[parcel == one]
        if not len(able) or not len(mine):
            continue
        distance = cdist(mine, places[nearest[able]])
        closest = distance.argmin(axis=1)
        distance = distance[np.arange(len(mine)), closest]
        weight = np.bincount(closest, weights=_inverse(distance[:, None])[:, 0], minlength=len(able))
        rows[int(one)] = weight @ donor.values[able] / weight.sum()
    return pd.DataFrame.from_dict(rows, orient="index", columns=range(donor.values.shape[1]))


def _at_centroids(atlas: Parcellation, empty: np.ndarray, donor: _Donor) -> dict[int, tuple[np.ndarray, float]]:
    """Return for each parcel that a donor lacks the values of the sample nearest to its centroid, and how far that is."""
    centroids = atlas.centroids()
    found = {}
    for one in empty:
        able = donor.eligible(atlas, one)
        away = np.linalg.norm(donor.place[able] - centroids.loc[one].to_numpy(), axis=1)
        row = int(np.argmin(away)) if len(able) and np.isfinite(away).all() else None
        found[int(one)] = (
            (np.full(donor.values.shape[1], np.nan), np.inf) if row is None else (donor.values[able[row]], away[row])
        )
    return found


def _weighed(donors: list[dict[int, tuple[np.ndarray, float]]]) -> pd.DataFrame:
    """Return a row for each parcel that every donor lacks: the donors' nearest samples by inverse distance."""
    rows = {}
    for one in sorted(set.intersection(*map(set, donors))) if donors else ():
        values, away = np.stack([each[one][0] for each in donors]), np.array([each[one][1] for each in donors])
        near = np.isfinite(away)
        if near.any():
            rows[one] = np.average(values[near], axis=0, weights=_inverse(away[near][:, None])[:, 0])
    return pd.DataFrame.from_dict(rows, orient="index")


def _inverse(distance: np.ndarray) -> np.ndarray:
    """Return 1 / distance, and 1 where it is 0."""
    return np.where(distance > 0, 1 / np.where(distance > 0, distance, 1.0), 1.0)


def _fits(atlas: Parcellation, hemisphere: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return bool (sample, parcel), parcels by ascending number: whether side and part agree."""
    table = atlas.table.sort_index()
    side, kind = table[keys.HEMISPHERE].to_numpy(dtype=str), table[keys.PART].to_numpy(dtype=str)
    same = (np.asarray(hemisphere)[:, None] == side) | (side == "B")
    return same & (np.asarray(part)[:, None] == kind)


def _below(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the voxels, int64 (point, 3), whose centres are the next below the places on each axis."""
    step = np.diag(affine)[:3]
    if not np.array_equal(np.diag(step), affine[:3, :3]):
        raise DataError("the parcellation's axes are turned", expected='axes along x, y and z for snap="down"',
                        fix='Use snap="nearest".')  # fmt: skip
    exact = (points - affine[:3, 3]) / step
    return np.where(step > 0, np.ceil(exact) - 1, np.floor(exact) + 1).astype(np.int64)


def _check_choices(**choices: tuple[str, Iterable[str]]) -> None:
    for name, (value, known) in choices.items():
        check_choice(value, tuple(known), name=name)


def _check_samples(adata: ad.AnnData, *, need_part: bool) -> None:
    if keys.MNI not in adata.obsm:
        raise DataError(f"obsm has no {keys.MNI!r}", got=", ".join(map(repr, adata.obsm)) or "nothing",
                        fix="Put x, y, z of each sample there, in mm of MNI152.")  # fmt: skip
    X: Any = adata.X
    if not np.isfinite(X.data if hasattr(X, "tocsr") else X).all():
        raise DataError("expression is NaN or infinite somewhere", fix="Drop these samples or genes first.")
    space = str(adata.uns.get(keys.SPACE, SPACE))
    if space != SPACE:
        raise DataError("the samples are in another space", expected=SPACE, got=repr(space))
    check_places(adata.obsm[keys.MNI], where=f"rows of obsm[{keys.MNI!r}]")
    for name in (keys.DONOR, *((keys.HEMISPHERE, keys.PART) if need_part else ())):
        if name not in adata.obs:
            raise DataError(
                f"obs has no {name!r}", got=", ".join(map(repr, adata.obs)) or "nothing",
                fix="Add it." if name == keys.DONOR else "Add it, or use constrain=False and within_parts=False.",
            )  # fmt: skip


def _normalised(
    adata: ad.AnnData, rows: np.ndarray, sample_norm: str, gene_norm: str, within_parts: bool
) -> np.ndarray:
    """Return float64 (sample, gene) of some samples of one donor: each over its genes, then each gene over the samples."""
    X: Any = adata.X
    values = normalise((X[rows].toarray() if hasattr(X, "toarray") else X[rows]).astype(np.float64).T, sample_norm).T
    parts = adata.obs[keys.PART].to_numpy(dtype=str)[rows] if within_parts else np.zeros(len(rows))
    normed = np.empty_like(values)
    for one in np.unique(parts):
        normed[parts == one] = normalise(values[parts == one], gene_norm)
    return normed


def _dropped(adata: ad.AnnData, made: ad.AnnData, parcel: np.ndarray, tolerance: float) -> pd.DataFrame:
    """Return what was dropped before, and samples without a parcel and genes without values."""
    far, flat = (
        f"no parcel that fits is within {tolerance:g} mm",
        "the same value in all samples of a donor that have a parcel",
    )
    rows = [("sample", name, "parcel", far) for name in adata.obs_names[parcel == 0]]
    rows += [("gene", name, "parcel", flat) for name in adata.var_names.difference(made.var_names, sort=False)]
    table = pd.DataFrame(rows, columns=["kind", "name", "step", "reason"])
    return pd.concat([adata.uns["dropped"], table], ignore_index=True) if "dropped" in adata.uns else table


def _assemble(
    adata: ad.AnnData, atlas: Parcellation, values: pd.DataFrame, each: dict[str, pd.DataFrame], counts: pd.DataFrame
) -> ad.AnnData:
    # A gene that could not be normalised in some donor has gaps where other genes have none.
    some = values.notna().any(axis=1)
    fine = values[some].notna().all(axis=0).to_numpy()
    if not fine.any():
        raise DataError("no gene is left after normalisation", fix='Use sample_norm="none" and gene_norm="none".')
    obs = atlas.table.copy()
    obs["voxels"] = np.bincount(np.searchsorted(np.sort(obs.index), atlas.voxels()[1]), minlength=len(obs))[
        np.argsort(np.argsort(obs.index))
    ]
    obs["samples"] = counts.sum(axis=1)
    obs["filled"] = (obs["samples"] == 0) & some
    obs.index = obs.index.astype(str)
    for name in (keys.HEMISPHERE, keys.PART):
        obs[name] = pd.Categorical(obs[name])
    made = ad.AnnData(values.to_numpy(dtype=np.float32)[:, fine], obs=obs, var=adata.var[fine].copy())
    for donor, table in each.items():
        made.layers[f"{keys.DONOR}_{donor}"] = table.to_numpy(dtype=np.float32)[:, fine]
    made.obsm[keys.MNI] = atlas.centroids().to_numpy()
    made.uns = {keys.SPACE: SPACE, "counts": counts.set_axis(made.obs_names, axis=0)}
    return made


def _methods(adata: ad.AnnData, made: ad.AnnData, matched: int, tolerance: float, constrain: bool, missing: str, average: str,
             metric: str, sample_norm: str, gene_norm: str) -> str:  # fmt: skip
    filled = {
        "none": "Parcels without a sample were left empty.",
        "centroids": "Parcels without a sample in any donor took the samples nearest to their centroids by inverse distance.",
        "interpolate": "In parcels without a sample of a donor, each voxel took that donor's nearest sample; voxels were averaged "
        "by inverse distance.",
    }  # fmt: skip
    lines: list[Any] = [
        str(adata.uns.get("methods", "")),
        f"{matched} of {adata.n_obs} samples were assigned to {int((made.obs['samples'] > 0).sum())} of {made.n_obs} parcels, "
        f"with a tolerance of {tolerance:g} mm{' and within the same hemisphere and part of the brain' if constrain else ''}.",
        "" if sample_norm == gene_norm == "none"
        else f"Samples with a parcel were normalised over their genes ({sample_norm}), then genes over the samples of a donor "
        f"({gene_norm}).",
        filled[missing],
        f"Values are the {metric} over samples"
        f"{' within each donor, then over donors' if average == 'donors' else ' of all donors'}.",
    ]  # fmt: skip
    return " ".join(one for one in lines if one)
