"""BMFM-RNA on real cells: what a small network restores of what it was not shown, and what its vectors are worth.

python benchmarks/bmfm.py             # some minutes on one core
python benchmarks/bmfm.py --epochs 2  # to try it
python benchmarks/bmfm.py --choose    # the start of cell tokens (equation I7), on pancreas cells that no table judges
python benchmarks/bmfm.py --head      # the head of the whole cell on the cell's token, and on every token; --length 8192
python benchmarks/bmfm.py --step      # a training step

One network is pretrained on four fifths of the cells of three sets at once (blood by three technologies, blood with and without
interferon, nuclei of the amygdala), without labels, genes aligned by name; the rest is held out. Half of the measured genes of each
held-out cell are hidden and restored: R2 is the share of their variance around the training means that is explained (log1p of
counts per 10,000). Vectors are judged on all cells of a set by labels that no network saw: the mean of NMI and ARI of k-means and
of the silhouette (scIB's bio score). Intervals come from 1,000 resamples of held-out cells. The folder of shared data sets is
found through EXPRESSOR_DATA.
"""

import argparse
import time
from typing import Any

import numpy as np

SETS = ("pbmc_3tech", "kang", "amygdala")
METHODS: dict[str, dict[str, Any]] = {
    "WCED": {"objectives": "wced"},
    "WCED, expected values too": {"objectives": "wced-expected"},
    "MLM": {"objectives": "mlm"},
    "untrained": {"objectives": ""},
    "untrained, random gene vectors": {"objectives": "", "gene_vectors": "random"},
}
DRAWS = 1000


def load() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the cells that train and those held out, by set."""
    import expressor as ex
    from expressor.core.rng import stream

    train, held_out = {}, {}
    for name in SETS:
        cells = getattr(ex.datasets, name)().adata
        order = stream(0, "benchmark", len(name)).permutation(cells.n_obs)
        cut = cells.n_obs // 5
        held_out[name], train[name] = cells[np.sort(order[:cut])].copy(), cells[np.sort(order[cut:])].copy()
    return train, held_out


def fit(train: dict[str, Any], seed: int, epochs: int, options: dict[str, Any]) -> Any:
    """Pretrain on all sets as one."""
    import expressor as ex

    model = ex.BMFM(random_state=seed, **options)
    model.plan.set_params(epochs=epochs)
    return model.fit(train)


def squares(model: Any, cells: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each cell's sums of squares about what was restored, and about the means."""
    from expressor.systems.bmfm.corpus import open_corpus
    from expressor.systems.bmfm.judging import squares_of_hidden

    reading = model._fitted.reading(open_corpus(cells, layer=None, genes=model.genes_in_))
    about, around, _ = squares_of_hidden(model._fitted, reading, np.arange(cells.n_obs), plan=model.plan, seed=seed)
    return about, around


def bio(vectors: Any, cells: Any) -> float:
    """Return scIB's bio score: the mean of NMI and ARI of k-means and of the silhouette."""
    from sklearn.cluster import KMeans

    from expressor.metrics.clustering import adjusted_rand_index, normalised_mutual_information
    from expressor.metrics.integration import asw_label

    known = cells.obs["cell_type"].notna().to_numpy()
    X, label = np.asarray(vectors, dtype=np.float64)[known], cells.obs["cell_type"][known].astype(str).to_numpy()
    clusters = KMeans(len(np.unique(label)), n_init=10, random_state=0).fit_predict(X)
    parts = normalised_mutual_information(label, clusters), adjusted_rand_index(label, clusters), asw_label(X, label)
    return float(np.mean(parts))


def principal(cells: Any) -> np.ndarray:
    """Return 50 principal components of log expression."""
    from sklearn.decomposition import PCA

    from expressor.data.fields import expression

    return PCA(50, random_state=0).fit_transform(expression(cells, scale="log1p_cp10k"))


def r2(about: np.ndarray, around: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return R2 of each resample."""
    return 1 - weights @ about / (weights @ around)


def shown(value: float, draws: np.ndarray) -> str:
    """Return a value with its interval."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{value:6.3f} [{low:.3f}, {high:.3f}]"


STARTS: dict[str, dict[str, Any]] = {
    "logistic regression, all genes": {},
    "50 components + logistic regression": {"components": 50},
    "untrained, cell tokens alike": {"encoder_parameters": {"objectives": "", "placed": False}},
    "untrained, from the place": {"encoder_parameters": {"objectives": ""}},
    "untrained, random gene vectors": {"encoder_parameters": {"objectives": "", "gene_vectors": "random"}},
    "WCED, cell tokens alike": {"encoder_parameters": {"placed": False}},
    "WCED, from the place": {},
}


def few_cells(name: str) -> tuple[Any, Any]:
    """Return up to 400 cells of half of the donors, and up to 800 of the others: eight types, 1,500 of the variable genes."""
    import expressor as ex
    from expressor.bench.controls.annotating import log_normalised

    cells, rng = getattr(ex.datasets, name)().adata, np.random.default_rng(0)
    cells = cells[cells.obs["cell_type"].isin(cells.obs["cell_type"].value_counts().index[:8])]
    variable = np.argsort(-log_normalised(cells).var(axis=0))[:6000]
    cells = cells[:, np.sort(rng.choice(variable, 1500, replace=False))]
    donors = sorted(cells.obs["donor"].unique())
    first = cells.obs["donor"].isin(donors[: len(donors) // 2]).to_numpy()
    some = [np.sort(rng.permutation(np.flatnonzero(one))[:n]) for one, n in ((first, 400), (~first, 800))]
    return cells[some[0]].copy(), cells[some[1]].copy()


def choose() -> None:
    """Print how well types of cells of other donors are told from each start of the cell tokens."""
    from expressor.bench.controls.annotating import Annotator
    from expressor.metrics.classification import balanced_accuracy

    print("accuracy, balanced accuracy")
    for name in ("baron_human", "baron_mouse"):
        train, test = few_cells(name)
        truth = test.obs["cell_type"].astype(str).to_numpy()
        for title, options in STARTS.items():
            own = options if "ogistic" in title else {"encoder": "bmfm", **options}
            given = Annotator(**own).fit(train).predict(test)["cell_type"].to_numpy().astype(str)
            print(
                f"{name:<12} {title:<36} {np.mean(given == truth):.3f} {balanced_accuracy(truth, given):.3f}",
                flush=True,
            )


def time_head(length: int = 1024, dim: int = 384, genes: int = 19_321) -> None:
    """Print how long a step of the head takes, forward and back, in a published size: two cells of 1,024 tokens, one of more."""
    import torch

    from expressor.systems.bmfm.network import ProfileHead

    cells = 2 if length <= 1024 else 1
    torch.manual_seed(0)
    head = ProfileHead(dim, torch.zeros(genes), torch.zeros(genes))
    vectors, seconds = torch.randn(genes, dim), {}
    for name, rows in (("cell token", cells), ("all tokens", cells * length)):
        tokens = torch.randn(rows, dim, requires_grad=True)
        times = []
        for _ in range(3 if rows <= 2048 else 1):
            start = time.process_time()
            sum(one[:cells].square().sum() for one in head(tokens, vectors)).backward()
            times.append(time.process_time() - start)
        seconds[name] = min(times)  # CPU seconds, which other programs do not lengthen
    print(f"head of {genes:,} genes, {cells} x {length} tokens, width {dim}: {seconds['cell token']:.3f} CPU s on the cell's "
          f"token, {seconds['all tokens']:.3f} s on all; {seconds['all tokens'] / seconds['cell token']:.0f}x")  # fmt: skip


def time_step(cells: int = 4, length: int = 256, dim: int = 192, layers: int = 2, genes: int = 19_321) -> None:
    """Print how long a training step takes on one thread: tokens, forward, losses, backward, clipping, optimiser."""
    import tempfile
    from pathlib import Path

    import torch

    import expressor as ex
    from expressor.data import Stream
    from expressor.systems.bmfm.corpus import Labels, Reading, open_corpus
    from expressor.systems.bmfm.parameters import training_tokeniser
    from expressor.systems.bmfm.training import Batches, WarmAdamW

    torch.set_num_threads(1)
    data = ex.datasets.pbmc3k().adata[:256].copy()
    names = [*data.var_names, *(f"ABSENT{i}" for i in range(genes - data.n_vars))]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "genes.txt").write_text("\n".join(names) + "\n")
        model = ex.BMFM(
            objectives="wced-v1", vocabulary=str(Path(folder) / "genes.txt"), style="bert", dim=dim, layers=layers, heads=4,
            hidden=4 * dim, dropout=0.1, max_length=length - 2, zeros="none", value_encoder="rectified", product=False,
            placed=False, decoder="linear", gene_vectors="random",
        )  # fmt: skip
        model.plan.set_params(epochs=1, batch_size=16)
        fitted = model.fit(data[:20].copy())._fitted
    learner = fitted.learner.train()
    reading = Reading(open_corpus(data, layer=None, genes=fitted.genes), fitted.moments, training_tokeniser(model))
    batches = Batches(Stream(reading.corpus.blocks, batch_size=cells, seed=0).batches(0), reading, Labels(),
                      whole=True, masked=False)  # fmt: skip
    optimiser = WarmAdamW(learner.parameters(), lr=1e-4, weight_decay=0.01, betas=(0.9, 0.99), warm_up=1)
    times = []
    for step in range(6):
        begin = time.process_time()
        batch = batches[step]
        made = time.process_time()
        loss = learner(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 0.5)
        optimiser.step()
        times.append((made - begin, time.process_time() - made))
    tokens, rest = np.median(times[1:], axis=0)
    size = sum(one.numel() for one in learner.parameters())
    print(f"a step of {cells} x {length} tokens, {layers} layers of width {dim}, {size:,} weights: {tokens + rest:.3f} CPU s, "
          f"of it tokens {tokens:.4f}")  # fmt: skip


def main() -> None:
    """Print the tables."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seeds", type=int, default=1, help="fits of each method")
    words.add_argument("--epochs", type=int, default=12, help="of pretraining")
    words.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    words.add_argument("--head", action="store_true", help="time the head of the whole cell alone")
    words.add_argument("--choose", action="store_true", help="compare starts of the cell tokens alone")
    words.add_argument("--step", action="store_true", help="time a training step alone")
    words.add_argument("--length", type=int, help="tokens a cell of --head and --step")
    settings = words.parse_args()
    alone = {"head": time_head, "choose": choose, "step": time_step}
    for name, work in alone.items():
        if getattr(settings, name):
            work(**({"length": settings.length} if settings.length and name != "choose" else {}))
            return
    import anndata

    train, held_out = load()
    whole = {name: anndata.concat([train[name], held_out[name]], merge="same") for name in SETS}
    weights = {
        name: np.random.default_rng(0).multinomial(cells.n_obs, np.full(cells.n_obs, 1 / cells.n_obs), size=DRAWS)
        for name, cells in held_out.items()
    }
    print(
        f"{sum(one.n_obs for one in train.values())} cells train, {sum(one.n_obs for one in held_out.values())} are held out"
    )
    print("\nbio score of all cells, labels unseen; each seed")
    baseline = [f"{name} {bio(principal(whole[name]), whole[name]):.3f}" for name in SETS]
    print(f"{'50 principal components':<32}", *baseline, flush=True)
    parts: dict[str, dict[str, list[Any]]] = {}
    for method in settings.methods:
        seconds, scores = 0.0, {name: [] for name in SETS}
        for seed in range(settings.seeds):
            start = time.process_time()
            model = fit(train, seed, settings.epochs, METHODS[method])
            seconds += time.process_time() - start
            for name in SETS:
                scores[name].append(bio(model.transform(whole[name]), whole[name]))
                if model._fitted.restores:
                    parts.setdefault(method, {}).setdefault(name, []).append(squares(model, held_out[name], seed))
        line = (f"{name} {' '.join(f'{one:.3f}' for one in scores[name])}" for name in SETS)
        print(f"{method:<32}", *line, f"({seconds / settings.seeds:.0f} CPU s a fit)", flush=True)
    print("\nR2 above gene means on held-out cells, half of their genes hidden; mean over seeds")
    for method, by_set in parts.items():
        for name, found in by_set.items():
            draws = np.mean([r2(*one, weights[name]) for one in found], axis=0)
            value = np.mean([r2(*one, np.ones(len(one[0]))) for one in found])
            line = f"{method:<32} {name:<12} {shown(float(value), draws)}"
            if method != "MLM" and "MLM" in parts:
                other = parts["MLM"][name]
                against = np.mean([r2(*one, weights[name]) for one in other], axis=0)
                less = np.mean([r2(*one, np.ones(len(one[0]))) for one in other])
                line += f"   less MLM {shown(float(value - less), draws - against)}"
            print(line)


if __name__ == "__main__":
    main()
