"""What each part of GexBERT is worth: restoration of held-out patients from random panels, part by part.

python benchmarks/gexbert.py coadread                 # some minutes on one core
python benchmarks/gexbert.py tcga13 --panels 64 256
python benchmarks/gexbert.py coadread --variants --genes 1000 --epochs 6    # fits with other options too
python benchmarks/gexbert.py pipelines --panels 64 256 --epochs 6           # from one pipeline to another

One fold of five is held out by patient; errors are root mean squares in standard deviations of the training samples, over the
genes that a panel lacks. Panels are drawn at random and are the same for all rows. The interval of a difference to the Gaussian
comes from 1,000 resamples of held-out patients. With ``pipelines`` the Gaussian and GexBERT learn from colorectal tumours in one
pipeline (RSEM, 592 profiles) and restore held-out patients in another (Toil, log2(TPM+1)), of which they know nothing, or the
profiles of the training patients too.
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


def through_impute(model: Any, genes: list[str], obs: Any = None) -> Any:
    """Return what restores by the public method: values may be changed on the way in and back on the way out."""
    import torch
    from anndata import AnnData

    def restore(values: Any, observed: Any, hidden: Any) -> Any:
        part = AnnData(values.float().numpy(), obs=obs)
        part.var_names = [genes[i] for i in observed.tolist()]
        return torch.from_numpy(model.impute(part)[:, hidden.numpy()]).double()

    return restore


def add_vectors(adata: Any) -> None:
    """Give each gene a vector from seven other types of tumours: its principal loadings there; NaN where it was not measured."""
    import expressor as ex

    other = ex.data.to_log2(ex.datasets.tcga_counts7().adata)
    symbols = other.var["symbol"].astype(str).to_numpy()
    keep = np.isin(symbols, adata.var["symbol"].astype(str)) & ~np.isin(
        symbols, symbols[other.var["symbol"].duplicated()]
    )
    X = other[:, keep].X
    X = np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64)
    spread = X.std(0)
    z = (X - X.mean(0)) / np.where(spread > 0, spread, np.inf)
    _, s, vt = np.linalg.svd(z, full_matrices=False)
    place = {symbol: i for i, symbol in enumerate(symbols[keep])}
    found = np.full((adata.n_vars, 64), np.nan)
    for i, symbol in enumerate(adata.var["symbol"].astype(str)):
        if symbol in place:
            found[i] = vt[:64, place[symbol]] * s[:64]
    adata.varm["others"] = found


VARIANTS: dict[str, dict[str, Any]] = {
    "random gene vectors": {"gene_vectors": "random"},
    "gene vectors of other tumours": {"gene_vectors": "varm:others"},
    "rank values": {"value_scale": "rank"},
    "values in bins": {"value_encoder": "bins"},
    "no linear skip": {"linear_skip": False, "memory": 0},
    "no linear skip, random gene vectors, bins (as the paper)": {
        "linear_skip": False, "memory": 0, "gene_vectors": "random", "value_encoder": "bins",
    },
}  # fmt: skip


class Table:
    """Prints a row for each way to restore, with its difference from the first one."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.reference = sizes, None
        print(f"{'':60}" + "".join(f"{size:>30}" for size in sizes))

    def show(self, name: str, errors: dict[int, np.ndarray]) -> None:
        """Print one row."""
        self.reference = self.reference or errors
        cells = []
        for size in self.sizes:
            difference, low, high = interval(errors[size], self.reference[size])
            cells.append(f"{np.sqrt(errors[size].mean(1)).mean():.4f} ({difference:+.4f} {low:+.4f} {high:+.4f})")
        print(f"{name:60}" + "".join(f"{one:>30}" for one in cells), flush=True)


def fit(train: Any, epochs: int | None, **options: Any) -> Any:
    """Return a fitted model; print how long it took, and what of it is used."""
    import expressor as ex

    started = time.process_time()
    model = ex.GexBERT(**options)
    if epochs:
        model.plan.set_params(epochs=epochs)
    model.fit(train)
    done = int((model.history_["stage"] == "pretrain").sum())
    print(f"  fitted in {time.process_time() - started:.0f} s; {done} epochs", flush=True)
    return model


def gaussian(train: Any, genes: list[str], shrinkage: float | None = None) -> Any:
    """Return the conditional mean of a Gaussian with one shrinkage, by likelihood where none is given."""
    import torch

    from expressor.data.profiles import profiles
    from expressor.nn.gaussian import condition, fit_gaussian

    values = torch.from_numpy(profiles(train, genes)).double()
    fitted = fit_gaussian(values) if shrinkage is None else fit_gaussian(values, shrinkage=shrinkage)
    return lambda v, o, h: condition(fitted, v, o, h, variance=False)[0]


def by_parts(options: argparse.Namespace) -> None:
    """Print a row for each part of the fitted model, and of models with other options."""
    adata = load(options.data, options.genes)
    options.panels = [size for size in options.panels if size < adata.n_vars]
    if options.variants:
        add_vectors(adata)
    train, test = split(adata, options.seed)
    judge = Judge(train, test, options.panels, options.seed)
    print(f"{options.data}: {train.n_obs} training and {test.n_obs} held-out samples, {adata.n_vars} genes", flush=True)
    table = Table(options.panels)
    table.show("Gaussian conditional, shrinkage by likelihood", judge.errors(gaussian(train, judge.genes)))
    table.show("Gaussian conditional, ridge .1", judge.errors(gaussian(train, judge.genes, 0.1 / 1.1)))
    fits: dict[str, dict[str, Any]] = {"": {"memory": options.memory}} | (VARIANTS if options.variants else {})
    for variant, changes in fits.items():
        model = fit(train, options.epochs, **changes)
        if model.value_scale == "rank":
            # Its values are changed before they reach the parts.
            table.show(f"{variant}, all", judge.errors(through_impute(model, judge.genes)))
        else:
            for name, restorer in parts(model).items():
                words = ", ".join(filter(None, (variant, name)))
                table.show(words, judge.errors(lambda v, o, h, r=restorer: r.panel(v, o, h)[0]))
        print(model.parts_.to_string(index=False, float_format="%.3f"), flush=True)


def pipelines(options: argparse.Namespace) -> None:
    """Print how well held-out patients are restored in a pipeline that the fit did not know, or knew from other patients."""
    import anndata

    import expressor as ex

    one, other = ex.datasets.tcga_coadread().adata, ex.datasets.tcga_toil4().adata
    other = other[other.obs["cancer_type"] == "COADREAD"].copy()
    one = one[:, ~one.var["symbol"].astype(str).duplicated(keep=False)].copy()
    one.var_names = one.var["symbol"].astype(str)
    genes = sorted(set(one.var_names) & set(other.var_names))
    one, other = one[:, genes].copy(), other[:, genes].copy()
    held_out = split(other, options.seed)[1].obs["patient"].astype(str).unique()
    train, known = (part[~part.obs["patient"].astype(str).isin(held_out)].copy() for part in (one, other))
    test = other[other.obs["patient"].astype(str).isin(held_out)].copy()
    judge = Judge(known, test, options.panels, options.seed)
    print(f"{train.n_obs} training samples of one pipeline, {known.n_obs} of the other (of the same patients); "
          f"{test.n_obs} held-out samples of the other, {len(genes)} genes", flush=True)  # fmt: skip
    both = anndata.concat([train, known], index_unique="-")
    both.uns["unit"] = train.uns["unit"]
    column = test.obs[["pipeline"]]
    table = Table(options.panels)
    table.show("the other pipeline alone, Gaussian", judge.errors(gaussian(known, judge.genes)))
    table.show("one pipeline, Gaussian", judge.errors(gaussian(train, judge.genes)))
    rows: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "the other pipeline alone": (known, judge, {}),
        "one pipeline": (train, judge, {}),
        "one pipeline, rank values": (train, judge, {"value_scale": "rank"}),
        "both pipelines": (both, judge, {}),
        "both pipelines, pipeline token": (both, judge, {"pipeline": "pipeline"}),
    }
    # By hand: z-scores within each pipeline, by its training samples.
    train, known, test = own_scores(train, train), own_scores(known, known), own_scores(test, known)
    judge = Judge(known, test, options.panels, options.seed)
    both = anndata.concat([train, known], index_unique="-")
    both.uns["unit"] = train.uns["unit"]
    rows |= {"one pipeline, z-scores": (train, judge, {}), "both pipelines, z-scores": (both, judge, {})}
    for name, (part, own, changes) in rows.items():
        model = fit(part, options.epochs, **changes)
        table.show(name, own.errors(through_impute(model, own.genes, column)))


def own_scores(adata: Any, by: Any) -> Any:
    """Return a copy in standard deviations from the mean of the samples of ``by``."""
    scored = adata.copy()
    spread = by.X.std(0)
    scored.X = (adata.X - by.X.mean(0)) / np.where(spread > 0, spread, 1.0)
    scored.uns["unit"] = "z-score"
    return scored


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=["coadread", "counts7", "toil4", "tcga13", "pipelines"])
    parser.add_argument("--genes", type=int, default=4000)
    parser.add_argument("--panels", type=int, nargs="+", default=[32, 64, 256, 1024])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--memory", type=int, default=2000)
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    (pipelines if options.data == "pipelines" else by_parts)(options)


if __name__ == "__main__":
    main()
