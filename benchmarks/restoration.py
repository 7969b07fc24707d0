"""Restoring genes that a panel lacks: error, time and memory of GexBERT and its rivals, in one run.

python benchmarks/restoration.py                    # everything; about half an hour on one core, most of it MissForest
python benchmarks/restoration.py --only quality     # 500 patients x 15,000 genes, and 500 genes for MissForest
python benchmarks/restoration.py --only memory      # 1, 5 and 20 thousand genes
python benchmarks/restoration.py --only training    # a training step of the network; pretraining of the preset tiny
python benchmarks/restoration.py --patients 60 --genes 300 --forest-genes 40 --network    # a look, in a minute

Profiles are simulated (20 factors, three types, log2(TPM+1)); half of the patients train, the others are restored from a random
panel of 256 genes. Errors are root mean squares in standard deviations of the training samples. Times are processor seconds of one
thread, fit and restoration apart; peak memory is that of a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402 (after the number of threads is set)

METHODS = ("mean", "10-NN", "soft-impute", "Gaussian conditional", "GexBERT")


def simulate(patients: int, genes: int) -> tuple[Any, Any]:
    """Return training patients and as many new ones of the same population."""
    from expressor.datasets.profiles import simulate_bulk

    options = {"n_patients": patients, "n_genes": genes, "n_factors": min(20, genes // 4), "noise": 0.7}
    return simulate_bulk(seed=0, **options), simulate_bulk(seed=1, **options)


class Sklearn:
    """An imputer of scikit-learn behind the same two calls."""

    def __init__(self, imputer: Any) -> None:
        self.imputer = imputer

    def fit(self, train: Any) -> "Sklearn":
        """Learn from complete profiles."""
        self.genes = list(train.var_names)
        self.imputer.fit(np.asarray(train.X))
        return self

    def impute(self, data: Any) -> np.ndarray:
        """Restore the genes that the data lack."""
        values = np.full((data.n_obs, len(self.genes)), np.nan, dtype=np.float32)
        values[:, [self.genes.index(name) for name in data.var_names]] = data.X
        return self.imputer.transform(values)


def missforest() -> Any:
    """Return MissForest's algorithm: rounds of random forests, a gene at a time."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    forest = RandomForestRegressor(n_estimators=20, max_features="sqrt", random_state=0)
    return IterativeImputer(forest, max_iter=2, random_state=0, skip_complete=False)


def build(name: str, network: bool) -> Any:
    """Return an unfitted method."""
    import expressor as ex

    if name in ("mean", "10-NN"):
        from sklearn.impute import KNNImputer, SimpleImputer

        return Sklearn(SimpleImputer() if name == "mean" else KNNImputer(n_neighbors=10))
    if name == "soft-impute":
        return ex.SoftImpute()
    if name == "Gaussian conditional":
        return ex.ConditionalGaussian()
    return ex.GexBERT(network=network)


def measure(make: Callable[[], Any], patients: int, genes: int, panel: int) -> dict[str, float]:
    """Fit, restore, compare."""
    from expressor.core.rng import stream

    train, new = simulate(patients, genes)
    names = sorted(train.var_names)
    order = stream(0, "benchmark panel").permutation(genes)
    shown, hidden = order[: min(panel, genes // 2)], order[min(panel, genes // 2) :]
    few = new[:, [names[i] for i in shown]].copy()
    started = time.process_time()
    model = make().fit(train)
    fitted = time.process_time()
    restored = np.asarray(model.impute(few))
    done = time.process_time()
    own = list(getattr(model, "genes_in_", None) or model.genes)
    restored = restored[:, [own.index(names[i]) for i in hidden]]
    scale = np.asarray(train[:, names].X).std(0)[hidden]
    truth = np.asarray(new[:, names].X)[:, hidden]
    error = ((restored - truth) / np.where(scale > 0, scale, 1.0))[:, scale > 0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rmse": float(np.sqrt((error**2).mean())), "fit": fitted - started, "restore": done - fitted, "peak": peak}


def apart(name: str, patients: int, genes: int, panel: int, network: bool) -> dict[str, float]:
    """Measure in a process of its own, so that its peak memory is its own."""
    words = [sys.executable, __file__, "--child", json.dumps([name, patients, genes, panel, network])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(text: str) -> None:
    """Measure one method and print its numbers."""
    import torch

    torch.set_num_threads(1)
    name, patients, genes, panel, network = json.loads(text)
    make = (lambda: Sklearn(missforest())) if name == "MissForest" else (lambda: build(name, network))
    print(json.dumps(measure(make, patients, genes, panel)))


def table(rows: list[tuple[str, int, dict[str, float]]]) -> None:
    """Print rows as they are known."""
    for name, genes, found in rows:
        print(
            f"{name:24}{genes:>8}{found['rmse']:>9.3f}{found['fit']:>10.1f}{found['restore']:>12.1f}{found['peak']:>12.0f}",
            flush=True,
        )


def training_step(genes: int, patients: int) -> None:
    """Print the time of a step of the network, and of pretraining with the preset tiny."""
    import torch

    import expressor as ex

    torch.set_num_threads(1)
    train, _ = simulate(patients, genes)
    model = ex.GexBERT(memory=0)
    model.plan.set_params(epochs=2, patience=None)
    model.fit(train)
    seconds = model.history_.loc[model.history_["stage"] == "pretrain", "seconds"].to_numpy()
    step = 1000 * (seconds[-1] - seconds[0]) / model.steps
    what = f"{genes} genes, batch {model.plan.batch_size}, {model.tokens} tokens"
    print(f"a training step, with its share of validation: {what}: {step:.0f} ms")
    started = time.process_time()
    ex.GexBERT.preset("tiny", label=None, time=None, event=None).fit(train)
    print(f"preset tiny, {patients} patients x {genes} genes: {time.process_time() - started:.1f} s in all")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["quality", "memory", "training"])
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--genes", type=int, default=15_000)
    parser.add_argument("--forest-genes", type=int, default=500)
    parser.add_argument("--panel", type=int, default=256)
    parser.add_argument("--network", action="store_true", help="train GexBERT's network too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child)
    head = f"{'method':24}{'genes':>8}{'RMSE':>9}{'fit, s':>10}{'restore, s':>12}{'peak, MiB':>12}"
    if options.only in (None, "quality"):
        print(head)
        for name in METHODS:
            table([(name, options.genes, apart(name, options.patients, options.genes, options.panel, options.network))])
        for name in (*METHODS, "MissForest"):
            table([(name, options.forest_genes,
                    apart(name, options.patients, options.forest_genes, options.panel, options.network))])  # fmt: skip
    if options.only in (None, "memory"):
        print(head)
        for genes in (1000, 5000, 20_000) if options.genes > 1000 else (options.genes,):
            for name in ("Gaussian conditional", "GexBERT"):
                table([(name, genes, apart(name, options.patients, genes, options.panel, options.network))])
    if options.only in (None, "training"):
        training_step(min(options.genes, 5000), options.patients)
    return None


if __name__ == "__main__":
    main()
