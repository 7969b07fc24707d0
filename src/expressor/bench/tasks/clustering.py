"""Finding the types of cells without labels: simulated modules, and real cells whose types are known otherwise."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor import datasets
from expressor.bench.cohorts import METRICS, Statistic, summarise_patients
from expressor.bench.controls.clustering import UsualClusters
from expressor.bench.store import Cell
from expressor.bench.task import Fold, Method, Protocol, Task, digest
from expressor.core.errors import DataError
from expressor.data.fields import fingerprint
from expressor.data.keys import CELL_TYPE, DONOR
from expressor.metrics.clustering import (
    adjusted_mutual_information,
    adjusted_rand_draws,
    adjusted_rand_index,
    normalised_mutual_information,
)

REFERENCES = ("pca-leiden", "pca-kmeans")
SETS = ("innate_lymphoid", "amygdala", "kang", "mixology", "pancreas_3tech")
GIVEN = "The true number of clusters is given to methods that take one; Leiden and Louvain run at resolution 1 and find their own."

PROTOCOLS = (
    Protocol(
        name="cells",
        version=1,
        title="Real cells of five sets; 1,000 variable genes at most, the number of types given",
        data={"sets": list(SETS)},
        split={},
        targets={"number": "given"},
        variants=("number given",),
        judging={"draws": 300},
        notes=(
            GIVEN + " Labels are used for nothing else.",
            "The defaults of DIPHW were chosen on pbmc68k, pbmc3k, pbmc_3tech, baron_mouse and simulated cells, after earlier "
            "defaults were seen here.",
            "innate_lymphoid has 326 genes that authors chose; pancreas_3tech and mixology hold batches that nothing corrects.",
        ),
    ),
    Protocol(
        name="confirmation",
        version=1,
        title="Real cells of five sets that no choice had seen: a pancreas of each of four people, and four cell lines",
        data={"sets": ["doublets"], "parts": {"baron_human": DONOR}, "least": 10},
        split={},
        targets={"number": "given"},
        variants=("number given",),
        judging={"draws": 300},
        notes=(
            GIVEN + " Labels are used for nothing else.",
            "Nothing was chosen on these sets, but an earlier default of DIPHW (walk both, unit length) was seen to fail on two "
            "of them before the default of now was chosen on others.",
            "Types of fewer than ten cells in a set are left out, and droplets that hold two cells.",
        ),
    ),
    Protocol(
        name="simulation",
        version=1,
        title="Modules of genes and cells as the authors of DIPHW simulate them, five data sets a setting",
        data={"modules": [[10, 30], [20, 30], [50, 80]], "seeds": [0, 1, 2, 3, 4]},
        split={},
        targets={"number": "given"},
        variants=("number given",),
        parameters={"exponent": 50.0, "log": "log2", "n_genes": None},
        judging={"draws": 300},
        notes=(
            GIVEN,
            "Intervals resample the cells of these five data sets; they do not hold the spread from one data set to the next.",
            "The simulation is that of the authors of DIPHW and favours walks that are weighed by expression.",
        ),
    ),
    Protocol(
        name="simulated",
        version=1,
        title="Simulated cells of four types: 50 genes, seconds, to try an installation",
        data={"types": 4, "seeds": [0]},
        split={},
        targets={"number": "given"},
        variants=("number given",),
        judging={"draws": 50},
        notes=("Made data: the numbers say that the machinery works, and nothing about cells.",),
    ),
)


class Clustering(Task):
    """Group cells by expression alone; judged by their known types.

    A method sees counts and names of genes, and, where the protocol says so, how many clusters there are.
    """

    name = "clustering"
    role = "Clusters"
    inputs = "cells"
    protocols: Mapping[str, Protocol] = {one.name: one for one in PROTOCOLS}
    metrics = (*METRICS, "clustering")

    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return chance, and k-means, graph and spectral clusters of components, UMAP and walks on the neighbour graph."""
        made: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("random", "random clusters", {"grouping": "random"}),
            ("pca-kmeans", "PCA + k-means", {}),
            ("pca-leiden", "PCA + neighbour graph + Leiden", {"grouping": "leiden"}),
            ("pca-louvain", "PCA + neighbour graph + Louvain", {"grouping": "louvain"}),
            ("spectral", "PCA + neighbour graph + spectral", {"grouping": "spectral"}),
            ("umap-kmeans", "PCA + UMAP + k-means", {"positions": "umap"}),
            ("deepwalk", "PCA + neighbour graph + DeepWalk + k-means", {"positions": "deepwalk"}),
            ("dense-leiden", "Leiden on all correlations (the paper's weak rival)", {"grouping": "dense_leiden"}),
        )
        return tuple(Method(name, title, "control", UsualClusters, words) for name, title, words in made)

    def systems(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return every system that clusters cells; DIPHW also by Leiden, and by single walks."""
        more = (
            Method("diphw-leiden", "DIPHW + Leiden", "rival", "diphw", {"clustering": "leiden"}),
            Method("diphw-paper", "DIPHW, walk comem_diphw", "rival", "diphw", {"walk": "comem_diphw"}),
            Method("diphw-plain", "DIPHW, walk diphw", "rival", "diphw", {"walk": "diphw"}),
            Method("diphw-both", "DIPHW, walk both", "rival", "diphw", {"walk": "both"}),
            Method("diphw-memory", "DIPHW, walk comem_both", "rival", "diphw", {"walk": "comem_both"}),
        )
        return super().systems(protocol) + more

    def load(self, protocol: Protocol) -> dict[str, AnnData]:
        """Return the data sets that the protocol names, by name."""
        settings = protocol.data
        if "sets" in settings:
            found = {name: getattr(datasets, name)().adata for name in settings["sets"]}
            for name, column in settings.get("parts", {}).items():
                whole = getattr(datasets, name)().adata
                found |= {
                    f"{name} {part}": whole[whole.obs[column] == part] for part in sorted(whole.obs[column].unique())
                }
            return {name: _of_common_types(one, int(settings.get("least", 1))) for name, one in found.items()}
        if "modules" in settings:
            return {
                f"{genes} genes, {modules} modules #{seed}": datasets.simulate_modules(
                    modules=modules, genes_per_module=genes, seed=seed
                )
                for genes, modules in settings["modules"]
                for seed in settings["seeds"]
            }
        if "types" in settings:
            return {
                f"{settings['types']} types #{seed}": datasets.simulate_cells(n_types=settings["types"], seed=seed)
                for seed in settings["seeds"]
            }
        raise DataError(f"protocol {protocol.name!r} names unknown data", expected="sets, modules or types")

    def fingerprint(self, data: Any) -> str:
        """Return a hash of all sets' counts and names."""
        return digest({name: fingerprint(one) for name, one in data.items()})

    def folds(self, protocol: Protocol, data: Any) -> list[Fold]:
        """Return one fold a data set; the same cells are clustered and judged, without and with their types."""
        return [Fold(name, self.blind(one), one, ()) for name, one in data.items()]

    def blind(self, test: AnnData) -> AnnData:
        """Return counts and names: nothing that is known of cells."""
        return AnnData(test.X.copy(), obs=pd.DataFrame(index=test.obs_names), var=pd.DataFrame(index=test.var_names))

    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return seed and number of clusters, and the protocol's parameters."""
        return dict(protocol.parameters) | {"n_clusters": fold.test.obs[CELL_TYPE].nunique(), "random_state": seed}

    def predict(self, model: Any, seen: AnnData) -> dict[str, pd.DataFrame]:
        """Return the clusters of the fit."""
        return {"clusters": pd.DataFrame({"cluster": np.asarray(model.labels_)}, index=seen.obs_names)}

    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Return for each cell its type and its cluster."""
        return {"cells": tables["clusters"].assign(truth=fold.test.obs[CELL_TYPE].astype(str).to_numpy())}

    def summarise(self, protocol: Protocol, cells: Iterable[Cell], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return agreement with the types in each setting, and differences of ARI from Leiden and k-means of components."""
        results = summarise_patients(
            cells, methods, statistics=_statistics, headline=("ari",), references=REFERENCES,
            n_draws=int(protocol.judging["draws"]),
        )  # fmt: skip
        return results.assign(level=results["level"].replace("patients", "cells"))


def _of_common_types(cells: AnnData, least: int) -> AnnData:
    """Return a copy of the cells whose type is known and has at least so many cells."""
    types = cells.obs[CELL_TYPE]
    return cells[(types.map(types.value_counts()).astype(float) >= least).to_numpy()].copy()


def _statistics(cells: Sequence[Cell]) -> list[Statistic]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.key.fold.split(" #")[0], []).append(cell)
    found = []
    for setting, own in groups.items():
        runs = [
            pd.DataFrame({
                "cell": cell.key.fold + " " + cell.tables["cells"].index.astype(str),
                "truth": cell.tables["cells"]["truth"].astype(str).to_numpy(),
                "cluster": cell.tables["cells"]["cluster"].astype(str).to_numpy(),
            })
            for cell in own
        ]  # fmt: skip
        names = np.unique(np.concatenate([one["cell"] for one in runs]))
        for metric, of in (("ari", adjusted_rand_index), ("nmi", normalised_mutual_information),
                           ("ami", adjusted_mutual_information)):  # fmt: skip
            value = float(np.mean([of(one["truth"], one["cluster"]) for one in runs]))
            judge = partial(_mean_ari, runs, names) if metric == "ari" else None
            found.append(Statistic(setting, metric, value, names if judge else None, judge, len(names), 0))
    return found


def _mean_ari(runs: Sequence[pd.DataFrame], names: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over data sets and seeds on each resample of the cells, (draw,)."""
    drawn = [
        adjusted_rand_draws(one["truth"], one["cluster"], weights[:, np.searchsorted(names, one["cell"])])
        for one in runs
    ]
    return np.asarray(np.mean(drawn, axis=0))


TASK = Clustering()
"""The task."""
