"""How often tests of two maps that have nothing to do with each other say they have, and how often a related gene is found.

python benchmarks/spatial_nulls.py
python benchmarks/spatial_nulls.py --at samples    # 500 places drawn all over the brain, as samples are
python benchmarks/spatial_nulls.py --real    # 1,645 genes against a real map instead

Places are the centroids of the 83 parcels of the Desikan-Killiany atlas where nothing else is said.
Maps are independent Gaussian fields of exponential covariance; 60 times a user's map and 50 of genes, 199 surrogates. A test at 5 %
should reject 5 %. For power, one gene is half the user's map and half a map of its own, in variance. Errors are standard errors
over the 60. The real map is the motor activation that comes with nilearn (hand movement, one study), averaged per parcel; the genes
are those of ``ahba_regions("dk82")``.
"""

import argparse

import numpy as np
import pandas as pd

TRIALS, GENES = 60, 50
LENGTHS = {"parcels": (5, 10, 20, 40, 80), "samples": (10, 20, 40)}
"""Correlation lengths in mm that are tried at each kind of place."""


def places(kind: str) -> np.ndarray:
    """Return the places, (point, 3) in mm."""
    import expressor as ex

    if kind == "parcels":
        return ex.datasets.dk_atlas().centroids().to_numpy()
    return ex.datasets.simulate_brain(n_samples=500, n_genes=1).obsm["mni"]


def main(kind: str) -> None:
    """Print a row a correlation length."""
    import expressor as ex
    from expressor.metrics.spatial_nulls import distances_of

    distance = distances_of(places(kind))
    print(f"{len(distance)} {kind}")
    rng = np.random.default_rng(0)
    columns = ("naive", "moran", "variogram")
    print("length in mm | rejected of unrelated: " + ", ".join(columns) + " | related found: " + ", ".join(columns))
    for reach in LENGTHS[kind]:
        factor = np.linalg.cholesky(np.exp(-distance / reach) + 1e-9 * np.eye(len(distance)))
        false, true = np.empty((TRIALS, 3)), np.empty((TRIALS, 3))
        for trial in range(TRIALS):
            maps = factor @ rng.normal(size=(len(factor), GENES + 1))
            user, genes = maps[:, 0], maps[:, 1:].copy()
            genes[:, 0] = (user + genes[:, 0]) / np.sqrt(2)
            table = ex.metrics.associate(genes, user, distances=distance, permutations=199, seed=trial)
            rejected = table[[f"p_{one}" for one in columns]].to_numpy() <= 0.05
            false[trial], true[trial] = rejected[1:].mean(axis=0), rejected[0]
        level = ", ".join(f"{m:.3f} ({s:.3f})" for m, s in zip(false.mean(0), false.std(0) / np.sqrt(TRIALS)))
        print(f"{reach} | {level} | {', '.join(f'{one:.2f}' for one in true.mean(0))}")


def real() -> None:
    """Print how many genes go with a real map at 5 %."""
    from nilearn.datasets import load_sample_motor_activation_image

    import expressor as ex

    atlas, regions = ex.datasets.dk_atlas(), ex.datasets.ahba_regions("dk82").adata
    names = pd.MultiIndex.from_frame(atlas.table[["hemisphere", "label"]].astype(str))
    wanted = names.get_indexer(pd.MultiIndex.from_frame(regions.obs[["hemisphere", "label"]].astype(str)))
    activation = ex.data.volume_per_parcel(load_sample_motor_activation_image(), atlas)[wanted]
    places = atlas.centroids().to_numpy()[wanted]
    table = ex.metrics.associate(regions, activation, places)
    print(f"{len(table)} genes, {table.attrs['points']} regions, {table.attrs['permutations']} surrogates")
    for null in ("naive", "moran", "variogram"):
        p = table[f"p_{null}"]
        q = ex.metrics.bh_qvalues(p)
        print(f"{null}: {(p <= 0.05).sum()} genes with p <= .05, {(q <= 0.05).sum()} with q <= .05")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at", choices=tuple(LENGTHS), default="parcels", help="places")
    parser.add_argument("--real", action="store_true", help="genes against a real map instead")
    given = parser.parse_args()
    real() if given.real else main(given.at)
