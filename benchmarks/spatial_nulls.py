"""How often tests of two maps that have nothing to do with each other say they have, and how often a related gene is found.

python benchmarks/spatial_nulls.py

Places are the centroids of the 83 parcels of the Desikan-Killiany atlas.
Maps are independent Gaussian fields of exponential covariance; 60 times a user's map and 50 of genes, 199 surrogates. A test at 5 %
should reject 5 %. For power, one gene is half the user's map and half a map of its own, in variance. Errors are standard errors
over the 60.
"""

import numpy as np

TRIALS, GENES = 60, 50


def main() -> None:
    """Print a row a correlation length."""
    import expressor as ex
    from expressor.metrics.spatial_nulls import distances_of

    distance = distances_of(ex.datasets.dk_atlas().centroids())
    rng = np.random.default_rng(0)
    columns = ("naive", "moran", "variogram")
    print("length in mm | rejected of unrelated: " + ", ".join(columns) + " | related found: " + ", ".join(columns))
    for reach in (5, 10, 20, 40, 80):
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


if __name__ == "__main__":
    main()
