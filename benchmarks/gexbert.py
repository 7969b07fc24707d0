"""What each part of GexBERT is worth: restoration of held-out patients from random panels, part by part.

python benchmarks/gexbert.py coadread                 # some minutes on one core
python benchmarks/gexbert.py tcga13 --panels 64 256
python benchmarks/gexbert.py coadread --variants      # fits with other options too; longer

One fold of five is held out by patient; errors are root mean squares in standard deviations of the training samples, over the
genes that a panel lacks. Panels are drawn at random and are the same for all rows. The interval of a difference to the Gaussian
comes from 1,000 resamples of held-out patients.
"""

import argparse
import dataclasses
import time
from typing import Any

import numpy as np

REPEATS = 3


def load(name: str, n_genes: int) -> Any:
    """Return the data: the most variable genes where there are more than ``n_genes``."""
    import expressor as ex

    adata = (ex.datasets.tcga13() if name == "tcga13" else getattr(ex.datasets, f"tcga_{name}")()).adata
    if name == "counts7":
        from expressor.data.units import to_log2

        adata = to_log2(adata)
    X = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    keep = np.sort(np.argsort(-X.var(0), kind="stable")[:n_genes])
    return adata[:, keep].copy()


def split(adata: Any, seed: int) -> tuple[Any, Any]:
    """Hold out a fifth of the patients."""
    from expressor.core.rng import stream

    names = np.unique(adata.obs["patient"].astype(str))
    held_out = stream(seed, "benchmark").permutation(names)[: len(names) // 5]
    inside = adata.obs["patient"].astype(str).isin(held_out).to_numpy()
    return adata[~inside].copy(), adata[inside].copy()


def parts(model: Any) -> dict[str, Any]:
    """Return the fitted restorer with fewer and fewer of its parts."""
    from expressor.systems.gexbert.mixture import unmixed

    whole = model._fitted.restorer
    n = len(whole.mixture.sizes)
    no_memory = dataclasses.replace(whole.mixture, memory=(0.0,) * n)
    no_network = dataclasses.replace(whole.mixture, network=(0.0,) * n)
    found = {
        "skip": dataclasses.replace(whole, mixture=unmixed(whole.mixture.sizes, 0.0)),
        "skip + network": dataclasses.replace(whole, mixture=no_memory),
        "skip + memory": dataclasses.replace(whole, mixture=no_network),
        "all": whole,
    }
    if model._fitted.network is not None and model.linear_skip:
        always = dataclasses.replace(whole, network=model._fitted.network, mixture=unmixed(whole.mixture.sizes, 1.0))
        found["skip + network, never switched off"] = always
    return found if model.linear_skip else {"network alone": whole}


class Judge:
    """Panels of held-out patients."""

    def __init__(self, train: Any, test: Any, sizes: list[int], seed: int) -> None:
        import torch

        from expressor.core.rng import stream
        from expressor.data.profiles import profiles

        self.genes = sorted(train.var_names)
        self.values = torch.from_numpy(profiles(test, self.genes)).double()
        self.scale = torch.from_numpy(profiles(train, self.genes).astype(np.float64).std(0))
        self.panels = []
        for size in sizes:
            for i in range(REPEATS):
                order = torch.from_numpy(stream(seed, "benchmark panels", size, i).permutation(len(self.genes)))
                hidden = order[size:]
                self.panels.append((size, order[:size], hidden[self.scale[hidden] > 0]))

    def errors(self, restore: Any) -> dict[int, np.ndarray]:
        """Return the mean squared error of each patient, (panel, patient), by panel size."""
        found: dict[int, list[np.ndarray]] = {}
        for size, observed, hidden in self.panels:
            error = (restore(self.values[:, observed], observed, hidden) - self.values[:, hidden]) / self.scale[hidden]
            found.setdefault(size, []).append(error.square().mean(1).numpy())
        return {size: np.array(rows) for size, rows in found.items()}


def interval(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Return the difference of root mean squared errors and its 95 % interval over patients."""
    from expressor.core.rng import stream

    weights = stream(0, "benchmark bootstrap").multinomial(
        one.shape[1], np.full(one.shape[1], 1 / one.shape[1]), size=1000
    )
    weights = np.vstack([np.ones(one.shape[1]), weights]) / one.shape[1]
    draws = np.sqrt(one @ weights.T).mean(0) - np.sqrt(other @ weights.T).mean(0)
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return float(draws[0]), float(low), float(high)


VARIANTS: dict[str, dict[str, Any]] = {
    "random gene vectors": {"gene_vectors": "random"},
    "values in bins": {"value_encoder": "bins"},
    "no linear skip": {"linear_skip": False, "memory": 0},
    "no linear skip, random gene vectors, bins (as the paper)": {
        "linear_skip": False, "memory": 0, "gene_vectors": "random", "value_encoder": "bins",
    },
}  # fmt: skip


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=["coadread", "counts7", "toil4", "tcga13"])
    parser.add_argument("--genes", type=int, default=4000)
    parser.add_argument("--panels", type=int, nargs="+", default=[32, 64, 256, 1024])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--memory", type=int, default=2000)
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()

    import torch

    import expressor as ex
    from expressor.nn.gaussian import condition, fit_gaussian

    torch.set_num_threads(1)
    adata = load(options.data, options.genes)
    train, test = split(adata, options.seed)
    judge = Judge(train, test, options.panels, options.seed)
    print(f"{options.data}: {train.n_obs} training and {test.n_obs} held-out samples, {adata.n_vars} genes", flush=True)
    from expressor.data.profiles import profiles

    values = torch.from_numpy(profiles(train, judge.genes)).double()
    likely = fit_gaussian(values)
    fixed = fit_gaussian(values, shrinkage=0.1 / 1.1)
    rows = {
        "Gaussian conditional, ridge .1": judge.errors(lambda v, o, h: condition(fixed, v, o, h, variance=False)[0]),
        "Gaussian conditional, shrinkage by likelihood": judge.errors(
            lambda v, o, h: condition(likely, v, o, h, variance=False)[0]
        ),
    }
    reference = rows["Gaussian conditional, shrinkage by likelihood"]
    print(f"{'':60}" + "".join(f"{size:>30}" for size in options.panels))

    def show(name: str, errors: dict[int, np.ndarray]) -> None:
        cells = []
        for size in options.panels:
            difference, low, high = interval(errors[size], reference[size])
            cells.append(f"{np.sqrt(errors[size].mean(1)).mean():.4f} ({difference:+.4f} {low:+.4f} {high:+.4f})")
        print(f"{name:60}" + "".join(f"{one:>30}" for one in cells), flush=True)

    for name, errors in rows.items():
        show(name, errors)
    fits: dict[str, dict[str, Any]] = {"": {"memory": options.memory}} | (VARIANTS if options.variants else {})
    for variant, changes in fits.items():
        started = time.process_time()
        model = ex.GexBERT(**changes)
        if options.epochs:
            model.plan.set_params(epochs=options.epochs)
        model.fit(train)
        seconds = time.process_time() - started
        for name, restorer in parts(model).items():
            show(
                ", ".join(filter(None, (variant, name))), judge.errors(lambda v, o, h, r=restorer: r.panel(v, o, h)[0])
            )
        epochs = int((model.history_["stage"] == "pretrain").sum())
        print(f"  fitted in {seconds:.0f} s; {epochs} epochs", flush=True)
        print(model.parts_.to_string(index=False, float_format="%.3f"), flush=True)


if __name__ == "__main__":
    main()
