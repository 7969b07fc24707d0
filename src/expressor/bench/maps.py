"""What the task of brain maps is made of: samples on one scale, groups, regions with vectors of genes, what is held out."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor import datasets
from expressor.bench.controls.mapping import VECTORS
from expressor.bench.task import Fold
from expressor.core.rng import stream
from expressor.data import keys
from expressor.systems.brain_inr.equations import block_of

_COMPONENTS = 20  # of a gene's expression in tumours, as its vector
_BLOCKS = 9  # along the longest axis of what is no brain


def standardised(adata: AnnData) -> AnnData:
    """Return the data with each gene as standard scores of its donor, all samples of the donor counted."""
    X = np.array(adata.X, dtype=np.float64)
    donors = (
        adata.obs[keys.DONOR].astype(str).to_numpy() if keys.DONOR in adata.obs else np.zeros(adata.n_obs, dtype=str)
    )
    for one in np.unique(donors):
        rows = donors == one
        spread = X[rows].std(axis=0)
        X[rows] = (X[rows] - X[rows].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    copy = adata.copy()
    copy.X = X.astype(np.float32)
    copy.uns[keys.UNIT] = "z-score"
    return copy


def grouped(adata: AnnData, *, by_donor: bool) -> AnnData:
    """Return the data with ``obs["group"]``: the donor, or the block of space, which both sides of a brain share."""
    places = places_of(adata)
    side = max(float(np.ptp(places, axis=0).max()) / _BLOCKS, 1e-9)
    if keys.MNI in adata.obsm:
        places, side = np.concatenate([np.abs(places[:, :1]), places[:, 1:]], axis=1), 20.0
    blocks = [f"block{one:03d}" for one in block_of(places, side)]
    adata.obs["group"] = pd.Categorical(adata.obs[keys.DONOR].astype(str) if by_donor else blocks)
    return adata


def regions_with_places() -> AnnData:
    """Return the 82 regions of 100 genes that have a parcel, with its centre in ``obsm`` and its voxels in ``obs``."""
    adata, atlas = datasets.ahba_regions().adata, datasets.dk_atlas()
    names = [f"{side}_{label}" for label, side in zip(atlas.table["label"], atlas.table[keys.HEMISPHERE])]
    parcels = pd.DataFrame(atlas.centroids().to_numpy(), index=names, columns=list("xyz"))
    parcels["voxels"] = np.bincount(atlas.volume.ravel())[atlas.table.index.to_numpy()]
    adata = adata[adata.obs_names.isin(names)].copy()
    found = parcels.loc[adata.obs_names]
    adata.obsm[keys.MNI] = found[list("xyz")].to_numpy()
    adata.obs["voxels"] = found["voxels"].to_numpy()
    adata.uns["volume"] = int(atlas.volume.size)
    return adata


def regions_with_vectors() -> AnnData:
    """Return the regions and, of each gene, its expression in tumours; genes that tumours lack are left out."""
    adata, tumours = regions_with_places(), datasets.tcga_counts7().adata
    columns = pd.Series(np.arange(tumours.n_vars), index=tumours.var["symbol"].astype(str))
    columns = columns[~columns.index.duplicated()]
    adata = adata[:, adata.var_names.isin(columns.index)].copy()
    counts = tumours.X[:, columns.loc[adata.var_names].to_numpy()]
    depth = np.asarray(tumours.X.sum(axis=1)).reshape(-1, 1)
    values = np.log2(1 + 1e6 * np.asarray(counts.todense() if hasattr(counts, "todense") else counts) / depth).T
    values = (values - values.mean(axis=1, keepdims=True)) / np.maximum(values.std(axis=1, keepdims=True), 1e-9)
    u, s, _ = np.linalg.svd(values, full_matrices=False)
    sign = np.sign(u[np.abs(u).argmax(axis=0), np.arange(u.shape[1])])
    adata.varm[VECTORS] = (u * s * sign)[:, :_COMPONENTS]
    return adata


def gene_parts(split: Mapping[str, Any], data: AnnData) -> np.ndarray:
    """Return the number of each gene's fold, (gene,)."""
    return stream(split["seed"], "genes").permutation(data.n_vars) % int(split["folds"])


def region_folds(split: Mapping[str, Any], data: AnnData) -> list[Fold]:
    """Hide a part of the genes in a part of the regions, each part with each; both sides of a region are hidden together.

    Expression is in standard scores of the regions where every gene is known, ``obs["known"]``. A gene's vector is what is known of
    it: its scores there.
    """
    gene = gene_parts(split, data)
    names, place = np.unique(data.obs["label"].astype(str), return_inverse=True)
    region = (stream(split["seed"], "regions").permutation(len(names)) % split["folds"])[place]
    folds = []
    for k in range(split["folds"]):
        X, known = np.asarray(data.X, dtype=np.float64), region != k
        scores = data.copy()
        scores.X = ((X - X[known].mean(axis=0)) / X[known].std(axis=0)).astype(np.float32)
        scores.obs["known"] = known
        scores.varm[VECTORS] = np.asarray(scores.X[known].T, dtype=np.float64)
        for j in range(split["folds"]):
            train, test = scores[:, gene != j].copy(), scores[~known, gene == j].copy()
            folds.append(Fold(f"regions {k + 1}, genes {j + 1}", train, test, tuple(test.var_names)))
    return folds


def judge_regions(table: pd.DataFrame) -> pd.DataFrame:
    """Return R2, r and squared error of each gene over all regions, from one row a hidden value: gene, truth, predicted."""
    rows = []
    for name, one in table.groupby("gene", sort=True):
        t, f = one["truth"].to_numpy(), one["predicted"].to_numpy()
        mse = float(((t - f) ** 2).mean())
        r = np.nan if f.std() < 1e-9 else float(np.corrcoef(t, f)[0, 1])
        rows.append({"gene": name, "map_r2": 1 - mse / float(t.var()), "map_r": r, "map_mse": mse})
    return pd.DataFrame(rows)


def judge_genes(fold: Fold, z: np.ndarray) -> pd.DataFrame:
    """Return for each held-out gene R2, r and squared error over regions, and what its whole volume says with background.

    For the volume the map is put on the mean scale of the training genes, because a gene that was not measured has none.
    """
    truth, train = (np.asarray(one.X, dtype=np.float64) for one in (fold.test, fold.train))
    real = (truth - truth.mean(axis=0)) / truth.std(axis=0)
    scaled = z * train.std(axis=0).mean() + train.mean()
    voxels = fold.test.obs["voxels"].to_numpy(dtype=np.float64)
    background = fold.test.uns["volume"] - voxels.sum()
    weights = np.r_[voxels, background] / fold.test.uns["volume"]
    rows = []
    for j, name in enumerate(fold.test.var_names.astype(str)):
        r = np.nan if z[:, j].std() < 1e-9 else float(np.corrcoef(z[:, j], real[:, j])[0, 1])
        volume, other = np.r_[truth[:, j], 0.0], np.r_[scaled[:, j], 0.0]
        a, b = volume - weights @ volume, other - weights @ other
        mse = float(((z[:, j] - real[:, j]) ** 2).mean())
        rows.append({"gene": name, "map_r2": 1 - mse, "map_r": r, "map_mse": mse,
                     "volume_r": float(weights @ (a * b) / np.sqrt((weights @ a**2) * (weights @ b**2))),
                     "volume_mse": float(weights @ (volume - other) ** 2)})  # fmt: skip
    return pd.DataFrame(rows)


def places_of(adata: AnnData) -> np.ndarray:
    """Return the places of the samples, float64 (sample, 3)."""
    return np.asarray(adata.obsm[keys.MNI if keys.MNI in adata.obsm else keys.XYZ], dtype=np.float64)


def held_out(split: Mapping[str, Any], data: AnnData) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each fold and which samples it holds out, bool (sample,): donors, groups, or samples at random."""
    if split["kind"] == "donors":
        donors = data.obs[keys.DONOR].astype(str).to_numpy()
        for one in np.unique(donors):
            yield one, donors == one
    elif split["kind"] == "blocks":
        names, place = np.unique(data.obs["group"].astype(str), return_inverse=True)
        part = stream(split["seed"], "blocks").permutation(len(names)) % split["folds"]
        for k in range(split["folds"]):
            yield f"blocks {k + 1}", part[place] == k
    else:
        for k in range(split["repeats"]):
            order = stream(split["seed"], "samples", k).permutation(data.n_obs)
            test = np.zeros(data.n_obs, dtype=bool)
            test[order[: round(split["share"] * data.n_obs)]] = True
            yield f"draw {k + 1}", test
