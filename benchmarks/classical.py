"""The classical systems on real data: the tables of their pages, one command a table.

python benchmarks/classical.py restore              # ConditionalGaussian and SoftImpute, by what is missing
python benchmarks/classical.py cox DBCD KIRC LIHC   # PenalisedCox: both penalties, and two ways to scale components
python benchmarks/classical.py nmf                  # CoxNMF: in-sample and out-of-fold concordance, by the weight of the outcomes
python benchmarks/classical.py bolimes              # genes that BOLIMES keeps of two leukaemias, and as many drawn at random
python benchmarks/classical.py panels counts7       # PanelEnsemble by the size of its panel, beside logistic regression

Data are looked for in EXPRESSOR_DATA. Whatever is learnt or chosen is so in the training part of a fold; folds keep a patient's
samples together. Seconds are processor time of one thread.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402 (after the number of threads is set)

PANELS = (32, 64, 256, 1024)
GAPS = (0.1, 0.5, 0.9)


def row(*cells: Any) -> None:
    """Print a line of a Markdown table."""
    print("| " + " | ".join(f"{one:.3f}" if isinstance(one, float) else str(one) for one in cells) + " |", flush=True)


def head(*names: str) -> None:
    """Print the head of a Markdown table."""
    row(*names)
    print("|" + "---|" * len(names), flush=True)


def fold_of(adata: Any, kinds: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold of each sample, int64 (sample,)."""
    from expressor.estimator.inner import inner_folds
    from expressor.estimator.judging import patients_of

    return inner_folds(patients_of(adata), kinds, folds=folds, seed=0)


# Restoration -------------------------------------------------------------------------------------------------------------


def restore(options: argparse.Namespace) -> None:
    """Hold out a fifth of the colorectal tumours; hide panels' complements and single values; print errors."""
    import expressor as ex
    from expressor.core.rng import stream

    adata = ex.datasets.tcga_coadread().adata
    drawn = stream(0, "classical genes").permutation(adata.n_vars)[: options.genes]
    adata = adata[:, np.sort(adata.var_names[drawn])].copy()  # by name, as estimators give them back
    names = np.unique(adata.obs["patient"].astype(str))
    held = stream(0, "classical patients").permutation(names)[: len(names) // 5]
    inside = adata.obs["patient"].astype(str).isin(held).to_numpy()
    train, test = adata[~inside].copy(), adata[inside].copy()
    print(f"{train.n_obs} training and {test.n_obs} held-out samples, {adata.n_vars} genes\n")
    methods: dict[str, Callable[[], Any]] = {
        "Gaussian, shrinkage .1": lambda: ex.ConditionalGaussian(shrinkage=0.1, folds=0),
        "Gaussian, Ledoit-Wolf": lambda: ex.ConditionalGaussian(shrinkage="ledoit_wolf", folds=0),
        "Gaussian, likelihood": lambda: ex.ConditionalGaussian(folds=0),
        "SoftImpute": ex.SoftImpute,
    }
    fitted = {}
    for name, make in methods.items():
        started = time.process_time()
        fitted[name] = make().fit(train)
        print(f"- {name}: fitted in {time.process_time() - started:.1f} s")
    print(f"- shrinkage chosen: {fitted['Gaussian, likelihood'].shrinkage_:.3f} by likelihood, "
          f"{fitted['Gaussian, Ledoit-Wolf'].shrinkage_:.3f} by Ledoit and Wolf\n")  # fmt: skip
    scale = np.asarray(train.X, dtype=np.float64).std(axis=0)
    masks = [(f"all but {size:,} genes", size) for size in PANELS] + [
        (f"{share:.0%} of the values", share) for share in GAPS
    ]
    head("missing", "gene means", *methods)
    for words, size in masks:
        errors: dict[str, list[float]] = {}
        for draw in range(3 if size >= 1 else 1):
            part, hidden = hide(test, size, draw)
            truth, mean = np.asarray(test.X), np.asarray(train.X).mean(axis=0)
            if size < 1:
                truth = truth[: len(hidden)]
            for name in ("means", *methods):
                full = np.broadcast_to(mean, truth.shape) if name == "means" else fitted[name].impute(part)
                error = ((full - truth) / np.where(scale > 0, scale, 1.0))[hidden & (scale > 0)]
                errors.setdefault(name, []).append(float(np.sqrt((error**2).mean())))
        row(words, *[float(np.mean(one)) for one in errors.values()])


def hide(test: Any, size: float, draw: int) -> tuple[Any, np.ndarray]:
    """Return samples of which a panel of ``size`` genes is left, or a share ``size`` of the values hidden, and what is hidden."""
    from expressor.core.rng import stream

    rng = stream(0, "classical masks", int(1000 * size), draw)
    part = test.copy() if size >= 1 else test[:40].copy()  # each sample has gaps of its own: slower, and enough values
    hidden = np.ones(part.shape, dtype=bool) if size >= 1 else rng.random(part.shape) < size
    if size >= 1:
        hidden[:, rng.permutation(test.n_vars)[: int(size)]] = False
    part.X = np.where(hidden, np.nan, np.asarray(part.X)).astype(np.float32)
    return part, hidden


# Survival ----------------------------------------------------------------------------------------------------------------


def cox(options: argparse.Namespace) -> None:
    """Print the mean concordance of five folds, by cohort and kind of penalty."""
    import expressor as ex
    from expressor.metrics.survival import concordance

    kinds: dict[str, dict[str, Any]] = {
        "ridge": {}, "ridge, components alike": {"scaling": "unit"}, "elastic net": {"penalty": "elastic_net"},
    }  # fmt: skip
    head("cohort", "patients, events", *kinds, "seconds a fit")
    for name in options.cohorts:
        adata = ex.datasets.survival_cohort(name).adata
        adata = adata[ex.data.has_outcome(adata)].copy()
        event, days = adata.obs["event"].to_numpy(dtype=bool), adata.obs["time"].to_numpy(dtype=float)
        fold = fold_of(adata, event, 5)
        found, seconds = [], []
        for settings in kinds.values():
            values, started = [], time.process_time()
            for k in range(5):
                test = fold == k
                risk = ex.PenalisedCox(**settings).fit(adata[~test].copy()).risk(adata[test].copy())
                values.append(concordance(days[test], event[test], risk))
            seconds.append(f"{(time.process_time() - started) / 5:.1f}")
            found.append(float(np.mean(values)))
        row(name, f"{adata.n_obs}, {int(event.sum())}", *found, ", ".join(seconds))


def nmf(options: argparse.Namespace) -> None:
    """Print in-sample and out-of-fold concordance of colorectal tumours, by the weight of the outcomes."""
    import expressor as ex

    adata = ex.datasets.survival_cohort("COADREAD-full").adata
    adata = adata[ex.data.has_outcome(adata)].copy()
    keep = np.sort(np.argsort(-np.asarray(adata.X).var(axis=0), kind="stable")[: options.genes])
    adata = adata[:, keep].copy()
    print(f"{adata.n_obs} patients, {int(adata.obs['event'].sum())} events, {adata.n_vars} genes\n")
    runs: list[dict[str, Any]] = [
        {"alpha": 0.0}, {"alpha": 5.0}, {"alpha": 50.0}, {"alpha": 5.0, "gene_scale": "none"}, {"alpha": 5.0, "origin": "minimum"},
    ]  # fmt: skip
    head("settings", "in-sample concordance", "out-of-fold concordance", "seconds")
    for settings in runs:
        started = time.process_time()
        model = ex.CoxNMF(n_factors=20, max_iterations=60, **settings).fit(adata)
        words = ", ".join(f"{name} = {value}" for name, value in settings.items())
        row(
            words,
            *(model.concordance_[one] for one in ("in_sample", "out_of_fold")),
            f"{time.process_time() - started:.0f}",
        )


# Labels ------------------------------------------------------------------------------------------------------------------


def logistic(X: np.ndarray, y: np.ndarray, test: np.ndarray, genes: Sequence[int]) -> np.ndarray:
    """Return the labels that logistic regression gives the test samples, from standardised values of some genes."""
    from sklearn.linear_model import LogisticRegression

    part = X[:, list(genes)]
    mean, spread = part[~test].mean(axis=0), part[~test].std(axis=0) + 1e-6
    model = LogisticRegression(max_iter=2000).fit((part[~test] - mean) / spread, y[~test])
    return model.predict((part[test] - mean) / spread)


def labelled(name: str) -> tuple[Any, str, np.ndarray, np.ndarray]:
    """Return data, the column of their labels, labels and dense values; counts as log2(CPM+1)."""
    import expressor as ex

    adata = ex.datasets.golub().adata if name == "golub" else getattr(ex.datasets, f"tcga_{name}")().adata
    if name == "counts7":
        adata = ex.data.to_log2(adata)
    label = "cancer_type" if "cancer_type" in adata.obs else "label"
    X = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    return adata, label, adata.obs[label].astype(str).to_numpy(), X


def bolimes(options: argparse.Namespace) -> None:
    """Print how many genes are kept in each fold, and the balanced accuracy with them and with as many at random."""
    import expressor as ex
    from expressor.core.rng import stream
    from expressor.metrics.classification import balanced_accuracy

    adata, label, y, X = labelled("golub")
    fold = fold_of(adata, np.unique(y, return_inverse=True)[1], 5)
    kept, given, drawn = [], np.empty(len(y), dtype=object), np.empty(len(y), dtype=object)
    started = time.process_time()
    for k in range(5):
        test = fold == k
        model = ex.BOLIMES.preset("bench", label=label).fit(adata[~test].copy())
        kept.append(len(model.genes_))
        given[test] = model.predict(adata[test].copy())[label]
        drawn[test] = logistic(X, y, test, stream(0, "random panel", k).permutation(X.shape[1])[: kept[-1]])
    seconds = (time.process_time() - started) / 5
    head("data", "genes kept, fold by fold", "BOLIMES, balanced accuracy", "as many random genes", "seconds a fold")
    row(f"two leukaemias ({adata.n_obs} samples, {adata.n_vars:,} genes)", ", ".join(map(str, kept)),
        balanced_accuracy(y, given), balanced_accuracy(y, drawn), f"{seconds:.0f}")  # fmt: skip


def panels(options: argparse.Namespace) -> None:
    """Print the balanced accuracy of the ensemble, and of logistic regression on its genes and on random ones."""
    import expressor as ex
    from expressor.core.rng import stream
    from expressor.metrics.classification import balanced_accuracy

    head(
        "data",
        "genes",
        "ensemble",
        "logistic regression, same genes",
        "logistic regression, random genes",
        "seconds a fold",
    )
    for name in options.data:
        adata, label, y, X = labelled(name)
        fold = fold_of(adata, np.unique(y, return_inverse=True)[1], 3)
        place = {gene: i for i, gene in enumerate(map(str, adata.var_names))}
        for size in options.sizes:
            given = {one: np.empty(len(y), dtype=object) for one in ("ensemble", "same", "random")}
            started = time.process_time()
            for k in range(3):
                test = fold == k
                model = ex.PanelEnsemble(label=label, n_genes=size, explained=0, trees=options.trees).fit(
                    adata[~test].copy()
                )
                given["ensemble"][test] = model.predict(adata[test].copy())[label]
                given["same"][test] = logistic(X, y, test, [place[gene] for gene in model.genes_])
                given["random"][test] = logistic(
                    X, y, test, stream(0, "random panel", k).permutation(X.shape[1])[:size]
                )
            seconds = (time.process_time() - started) / 3
            row(name, size, *[balanced_accuracy(y, one) for one in given.values()], f"{seconds:.0f}")


def main() -> None:
    """Run the table that was asked for."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = words.add_subparsers(dest="table", required=True)
    parts.add_parser("restore").add_argument("--genes", type=int, default=4000)
    parts.add_parser("cox").add_argument("cohorts", nargs="+")
    parts.add_parser("nmf").add_argument("--genes", type=int, default=3000)
    parts.add_parser("bolimes")
    own = parts.add_parser("panels")
    own.add_argument("data", nargs="+", choices=["counts7", "toil4"])
    own.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 64, 500])
    own.add_argument("--trees", type=int, default=100)
    chosen = words.parse_args()
    {"restore": restore, "cox": cox, "nmf": nmf, "bolimes": bolimes, "panels": panels}[chosen.table](chosen)


if __name__ == "__main__":
    main()
