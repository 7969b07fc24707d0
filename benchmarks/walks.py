"""Hypergraph walks measured: the published simulation, speed against naive walks with gensim, and growth with cells.

python benchmarks/walks.py table --seeds 5            closed form on the authors' simulation (ARI), beside what they published
python benchmarks/walks.py table --sampled --seeds 5  the same by drawn walks and skip-gram
python benchmarks/walks.py choice                     walks and exponents on the data that the defaults were chosen on
python benchmarks/walks.py modularity                 how strong the modules are of the sets that are judged
python benchmarks/walks.py memory --cells 2000        walks with memory among all cells and among the nearest alone
python benchmarks/walks.py speed                      closed form against naive walks + gensim, same transition matrix
python benchmarks/walks.py scale --cells 100000       end to end on simulated cells: seconds, peak memory
"""

import argparse
import itertools
import resource
import time

import anndata as ad
import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA

from expressor import bench, datasets
from expressor.core.rng import stream
from expressor.datasets import simulate_modules
from expressor.datasets.cells import UNASSIGNED
from expressor.estimator.clustering import k_means, leiden, mean_silhouette, modularity, neighbor_graph
from expressor.metrics.clustering import adjusted_rand_index, normalised_mutual_information
from expressor.systems.diphw import DIPHW
from expressor.systems.diphw.cooccurrence import embed
from expressor.systems.diphw.equations import unit_length
from expressor.systems.diphw.hypergraph import WALKS, TableWalk, factor_walk
from expressor.systems.diphw.preparation import prepare

# Genes a module, modules, cells a module -> metric and published means (EDVW, DIPHW, CoMem, CoMem-DIPHW, PCA), authors' notebook;
# NMI was read off a plot.
PUBLISHED = {
    (10, 30): ("ari", {"edvw": 0.01, "diphw": 0.23, "comem": 0.01, "comem_diphw": 0.29, "pca": 0.05}),
    (20, 30): ("ari", {"edvw": 0.01, "diphw": 0.72, "comem": 0.11, "comem_diphw": 0.82, "pca": 0.34}),
    (30, 30): ("ari", {"edvw": 0.02, "diphw": 0.87, "comem": 0.35, "comem_diphw": 0.92, "pca": 0.72}),
    (100, 30): ("ari", {"edvw": 0.07, "diphw": 0.87, "comem": 0.96, "comem_diphw": 0.97, "pca": 0.97}),
    (50, 40): ("nmi", {"edvw": 0.25, "diphw": 0.84, "comem": 0.89, "comem_diphw": 0.98, "pca": 0.97}),
    (50, 60): ("nmi", {"edvw": 0.35, "diphw": 0.41, "comem": 0.63, "comem_diphw": 0.97, "pca": 0.90}),
    (50, 80): ("nmi", {"edvw": 0.43, "diphw": 0.43, "comem": 0.47, "comem_diphw": 0.91, "pca": 0.63}),
    (50, 100): ("nmi", {"edvw": 0.49, "diphw": 0.49, "comem": 0.50, "comem_diphw": 0.76, "pca": 0.56}),
}
PAPER = ["edvw", "diphw", "comem", "comem_diphw"]
METRIC = {"ari": adjusted_rand_index, "nmi": normalised_mutual_information}


def table(seeds: int, sampled: bool, first: int, rows: int, walks: list[str]) -> None:
    for (genes, modules), (metric, published) in list(PUBLISHED.items())[first:rows]:
        ceiling(seeds, genes, modules, metric)
        for walk in walks:
            values = []
            for seed in range(seeds):
                data = simulate_modules(modules=modules, genes_per_module=genes, seed=seed)
                model = DIPHW(walk=walk, exponent=50.0, backend="sampled" if sampled else "closed_form", log="log2", n_genes=None,
                              n_clusters=modules, random_state=seed, unit_rows=not sampled)  # fmt: skip
                values.append(METRIC[metric](data.obs["cell_type"], model.fit(data).labels_))
            spread = np.std(values, ddof=1) if seeds > 1 else float("nan")
            print(f"g={genes:<4} M={modules:<4} {walk:<12} {metric} {np.mean(values):.3f} +- {spread:.3f}"
                  f"   published {published.get(walk, float('nan')):.2f}   ({seeds} seeds)", flush=True)  # fmt: skip


def ceiling(seeds: int, genes: int, modules: int, metric: str) -> None:
    """Print what the truth itself is given once its cells of no module, which no cluster is left for, are dealt out at random."""
    values, alone = [], []
    for seed in range(seeds):
        truth = (
            simulate_modules(modules=modules, genes_per_module=genes, seed=seed).obs["cell_type"].astype(str).to_numpy()
        )
        homeless = truth == UNASSIGNED
        dealt = truth.copy()
        dealt[homeless] = stream(seed, "dealt").choice(truth[~homeless], homeless.sum())
        values.append(METRIC[metric](truth, dealt))
        alone.append(homeless.sum())
    print(
        f"g={genes:<4} M={modules:<4} {'the truth':<12} {metric} {np.mean(values):.3f}   ({np.mean(alone):.0f} cells of no module)"
    )


def choice_sets() -> dict[str, ad.AnnData]:
    """Return labelled cells that the benchmark task ``clustering`` does not judge on, and small simulated ones."""
    found = {
        "pbmc68k": datasets.pbmc68k().adata,
        "pbmc3k": datasets.pbmc3k().adata,
        "baron_mouse": datasets.baron_mouse().adata,
    }
    blood = datasets.pbmc_3tech().adata
    found |= {
        f"pbmc_3tech {batch}": blood[blood.obs["batch"] == batch].copy()
        for batch in sorted(blood.obs["batch"].unique())
    }
    for number, (cells, genes, types, fold) in enumerate(((150, 50, 4, 6.0), (400, 300, 8, 3.0), (800, 1000, 12, 4.0))):
        found[f"simulated {cells} x {genes}"] = datasets.simulate_cells(
            n_cells=cells,
            n_genes=genes,
            n_types=types,
            marker_fold=fold,
            depth=2.0 * genes,
            seed=100 + number,
            mechanism=100 + number,
        )
    return found


def choice(seeds: int, exponents: list[float], walks: list[str]) -> None:
    """Print ARI of k-means on positions as learnt and at unit length: one closed form, as many starts of k-means as seeds.

    The walk ``auto`` is, for each start, that of the larger silhouette among ``comem_diphw`` and ``both``.
    """
    tried: dict[tuple[str, float, str], dict[str, float]] = {}
    for (name, data), exponent in itertools.product(choice_sets().items(), exponents):
        truth = data.obs["cell_type"].astype(str).to_numpy()
        scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for walk in walks:
            model = DIPHW(walk=walk, exponent=exponent, n_clusters=2).fit(data)
            placed = model.labels_ >= 0
            learnt, types = model.embedding_[placed], truth[placed]
            for rows, x in (("as learnt", learnt), ("unit length", unit_length(learnt))):
                labels = [k_means(x, len(set(types)), seed=seed) for seed in range(seeds)]
                scores[walk, rows] = [
                    (mean_silhouette(x, one, seed=0), adjusted_rand_index(types, one)) for one in labels
                ]
        for rows in ("as learnt", "unit length"):
            if {"comem_diphw", "both"} <= set(walks):
                scores["auto", rows] = list(map(max, scores["comem_diphw", rows], scores["both", rows]))
        for (walk, rows), found in scores.items():
            tried.setdefault((walk, exponent, rows), {})[name] = float(np.mean([ari for _, ari in found]))
            print(
                f"{name:<22} {walk:<12} {exponent:<4g} {rows:<12} {tried[walk, exponent, rows][name]:.3f}", flush=True
            )
    for (walk, exponent, rows), values in tried.items():
        real = [value for name, value in values.items() if not name.startswith("simulated")]
        made = [value for name, value in values.items() if name.startswith("simulated")]
        print(f"mean of sets           {walk:<12} {exponent:<4g} {rows:<12} {np.mean(real + made):.3f}   "
              f"real {np.mean(real):.3f}, simulated {np.mean(made):.3f}")  # fmt: skip


def show_modularity(seed: int = 0) -> None:
    """Print the modularity of the known types, and of Leiden's partition, on the graph of nearest neighbours of components."""
    task = bench.find_task("clustering")
    for name in ("cells", "confirmation", "simulation"):
        protocol = task.protocol(name)
        for one, data in task.load(protocol).items():
            kept = {word: value for word, value in protocol.parameters.items() if word in ("log", "n_genes")}
            gamma, _ = prepare(data, **({"scale": "auto", "log": "natural", "n_genes": 1000} | kept))
            x = PCA(min(30, *gamma.shape), random_state=seed).fit_transform(gamma.toarray())
            graph, types = neighbor_graph(x, 15), data.obs["cell_type"].astype(str).to_numpy()
            found = leiden(x, n_neighbors=15, resolution=1.0, seed=seed)
            print(f"{name:<13} {one:<26} modularity of types {modularity(graph, types):.3f}, of Leiden "
                  f"{modularity(graph, found):.3f}   {len(set(types))} types, {found.max() + 1} groups", flush=True)  # fmt: skip


def memory(cells: int) -> None:
    """Print what is lost where the walk with memory sees each cell's nearest ones alone."""
    data = datasets.simulate_cells(
        n_cells=cells, n_genes=200, n_types=10, marker_fold=5.0, batch_fold=1.2, depth=400.0, seed=2
    )
    for near in (None, 100, 200):
        start = time.process_time()
        model = DIPHW(walk="comem_both", n_clusters=10, memory_neighbors=near, n_genes=None).fit(data)
        spent = time.process_time() - start
        graph = leiden(model.embedding_, n_neighbors=15, resolution=1.0, seed=0)
        found = [adjusted_rand_index(data.obs["cell_type"], labels) for labels in (model.labels_, graph)]
        print(f"{cells} cells, {near or 'all'} near: ARI by k-means {found[0]:.3f}, by Leiden {found[1]:.3f} ({spent:.1f} CPU s)",
              flush=True)  # fmt: skip


def speed(cells: int) -> None:
    from gensim.models import Word2Vec

    data = simulate_modules(genes_per_module=20, n_cells=cells)
    gamma, _ = prepare(data, scale="counts", log="log2", n_genes=None)
    P = factor_walk(gamma, walk="diphw", exponent=50.0).table()
    walk = TableWalk(P)
    start = time.process_time()
    embed(walk, np.arange(cells), T=30, W=5, dim=30, seed=0)
    closed = time.process_time() - start
    rng, walks = stream(0, "naive walks"), []
    start = time.process_time()
    for first in range(cells):
        for _ in range(30):
            at, path = first, [str(first)]
            for _ in range(30):
                at = rng.choice(cells, p=P[at])
                path.append(str(at))
            walks.append(path)
    naive = time.process_time() - start
    start = time.process_time()
    Word2Vec(walks, vector_size=30, window=5, min_count=0, sg=1, workers=1, seed=0)
    learnt = time.process_time() - start
    print(f"{cells} cells, same P, CPU seconds: closed form {closed:.3f}; naive walks {naive:.1f} + gensim {learnt:.1f};"
          f" ratio {(naive + learnt) / closed:.0f}, against gensim alone {learnt / closed:.0f}")  # fmt: skip


def scale(cells: int, genes: int, walk: str) -> None:
    rng = stream(0, "scale")
    kind, mean = rng.integers(0, 12, cells), rng.lognormal(-3.2, 1.1, (12, genes))
    parts = [rng.poisson(mean[kind[at : at + 5000]]) for at in range(0, cells, 5000)]
    X = sparse.vstack([sparse.csr_matrix(one, dtype=np.float32) for one in parts], format="csr")
    data = ad.AnnData(X)
    data.var_names = [f"GENE{i:05d}" for i in range(genes)]
    start, wall = time.process_time(), time.time()
    labels = DIPHW(walk=walk, n_genes=None, n_clusters=12).fit(data).labels_
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{cells} cells x {genes} genes, {X.nnz / cells:.0f} genes a cell, {walk}: {time.process_time() - start:.1f} CPU s, "
          f"{time.time() - wall:.1f} s, peak {peak:.1f} GiB, ARI {adjusted_rand_index(kind, labels):.2f}", flush=True)  # fmt: skip


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("what", choices=("table", "choice", "modularity", "memory", "speed", "scale"))
    words.add_argument("--seeds", type=int, default=5)
    words.add_argument("--first", type=int, default=0)
    words.add_argument("--rows", type=int, default=len(PUBLISHED))
    words.add_argument("--sampled", action="store_true")
    words.add_argument("--cells", type=int, default=1000)
    words.add_argument("--genes", type=int, default=2000)
    words.add_argument("--exponent", type=float, nargs="*", default=[1.0, 2.0, 5.0, 10.0])
    words.add_argument("--walk", nargs="*", default=[])
    given = words.parse_args()
    if given.what == "table":
        table(
            given.seeds, given.sampled, given.first, given.rows, given.walk or (PAPER if given.sampled else list(WALKS))
        )
    elif given.what == "choice":
        choice(given.seeds, given.exponent, given.walk or ["diphw", "both", "comem_diphw"])
    elif given.what == "modularity":
        show_modularity()
    elif given.what == "memory":
        memory(given.cells)
    elif given.what == "speed":
        speed(given.cells)
    else:
        scale(given.cells, given.genes, (given.walk or ["diphw"])[0])


if __name__ == "__main__":
    main()
