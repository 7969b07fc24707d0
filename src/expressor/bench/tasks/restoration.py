"""Restoring the rest of a bulk profile from a panel of genes, or from what is left of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.bench.cohorts import METRICS, CohortTask, Statistic, hide, mean_statistic, summarise_patients
from expressor.bench.controls.restoring import GeneMeans, NearestSamples, PatternRidge
from expressor.bench.store import Cell
from expressor.bench.task import Fold, Method, Protocol
from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.data.units import unit_of
from expressor.metrics.restoration import (
    gene_correlation,
    restoration_coverage,
    sample_correlation,
    squared_errors,
)

COVERAGE = 0.9
MASK, MEASURED = "mask", "measured"
CLASSICAL = ("conditional_gaussian", "soft_impute")
RIDGE, GAUSSIAN = "ridge", "conditional_gaussian"
JUDGING = {"draws": 1000}
FIVE = {"folds": 5, "repeats": 1, "seed": 0}


def _panels(*sizes: int, draws: int = 2) -> list[dict[str, Any]]:
    return [{"kind": "panel", "size": size, "draws": draws} for size in sizes]


def _random(*shares: float, samples: int | None = None) -> list[dict[str, Any]]:
    return [{"kind": "mcar", "share": share, "draws": 1, "samples": samples} for share in shares]


PROTOCOLS = (
    Protocol(
        name="coadread",
        version=1,
        title="TCGA COADREAD: restore 4,000 genes of new patients from random panels of 32 to 1,024, and from gaps",
        data={"dataset": "tcga_coadread"},
        split=FIVE | {"by": ["cancer_type", "stage"], "sha256": "aa09940aa81c"},
        targets={
            "genes": 4000,
            "masks": [
                *_panels(32, 64, 256, 1024),
                *_random(0.1, 0.5, samples=40),
                {"kind": "mnar", "share": 0.5, "draws": 1, "samples": 40},
            ],
        },
        variants=("log2",),
        judging=JUDGING,
        notes=(
            "The 4,000 genes of largest variance on the training patients of each fold, log2(RSEM+1).",
            "Panels are drawn at random, two of each size; a new patient's other genes are all judged.",
            "Gaps, each sample with its own: values hidden at random (10 and 50 %), or low ones more likely than high ones (half "
            "of the values in all); 40 test patients of each fold.",
        ),
    ),
    Protocol(
        name="tcga13",
        version=2,
        title="13 TCGA cohorts: restore 1,526 genes of new patients from random panels of 64 and 256, and from gaps",
        data={"dataset": "tcga13"},
        split=FIVE | {"folds": 3, "by": ["cohort"], "sha256": "66e97ad8928b"},
        targets={"genes": 1526, "masks": [*_panels(64, 256, draws=1), *_random(0.5, 0.9, samples=30)]},
        variants=("z-score",),
        judging=JUDGING,
        notes=(
            "Panels and gaps are drawn at random; gaps differ from sample to sample, in 30 test patients of each fold.",
            "z-scores were made by the source over all patients of a cohort: a mild leak that cannot be undone.",
        ),
    ),
    Protocol(
        name="toil4",
        version=2,
        title="TCGA BLCA, COADREAD, STAD, UCEC in one pipeline: restore 1,577 genes from random panels of 16 to 256, and gaps",
        data={"dataset": "tcga_toil4"},
        split=FIVE | {"by": ["cancer_type"], "sha256": "727622512784"},
        targets={"genes": 1577, "masks": [*_panels(16, 64, 256), *_random(0.5, 0.9, samples=30)]},
        variants=("log2",),
        judging=JUDGING,
        notes=(
            "Panels and gaps are drawn at random; gaps differ from sample to sample, in 30 test patients of each fold.",
        ),
    ),
    Protocol(
        name="simulated",
        version=1,
        title="Simulated profiles of low rank: 40 genes, seconds, to try an installation",
        data={"dataset": "simulated", "n_patients": 90, "n_genes": 40, "seed": 0},
        split={"folds": 3, "repeats": 1, "seed": 0, "by": ["cancer_type"]},
        targets={"genes": 40, "masks": [*_panels(8, 20, draws=1), *_random(0.3)]},
        variants=("log2",),
        judging={"draws": 200},
        notes=("Made data: the numbers say that the machinery works, and nothing about tumours.",),
    ),
)


class Restoration(CohortTask):
    """Restore what was hidden of new patients' profiles; the same fitted model serves every mask.

    A method sees the training patients whole, and of test patients a matrix in which the hidden values are NaN.
    """

    name = "restoration"
    role = "Imputes"
    protocols: Mapping[str, Protocol] = {one.name: one for one in PROTOCOLS}
    metrics = (*METRICS, "restoration")

    def controls(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return mean, ridge on shuffled genes, nearest samples, ridge for each pattern, and the classical systems."""
        own = (
            Method("mean", "gene mean", "control", GeneMeans, seeded=False),
            Method("permuted", "ridge on shuffled genes", "control", PatternRidge, {"shuffled": True}, seeded=False),
            Method("nearest", "10 nearest samples", "control", NearestSamples, seeded=False),
            Method(RIDGE, "ridge for each pattern", "control", PatternRidge, seeded=False),
        )
        systems = super().systems(protocol)
        classical = tuple(
            Method(one.name, one.title, "control", one.maker, one.parameters, seeded=False)
            for one in systems
            if one.name in CLASSICAL
        )
        return own + classical

    def systems(self, protocol: Protocol) -> tuple[Method, ...]:
        """Return every system that restores, but for those among the controls."""
        return tuple(one for one in super().systems(protocol) if one.name not in CLASSICAL)

    def folds(self, protocol: Protocol, data: AnnData) -> list[Fold]:
        """Split by patient, choose the genes on the training patients, and draw what is hidden of the others."""
        folds = []
        for number, (split, train, test) in enumerate(self.splits(protocol, data)):
            genes = choose_genes(train, int(protocol.targets["genes"]))
            train = train[:, genes].copy()
            masked = [
                hide_values(_some(test, mask)[:, genes].copy(), train, mask, number, draw, name)
                for mask, name in named_masks(protocol)
                for draw in range(mask["draws"])
            ]
            folds.append(Fold(split.name, train, _stack(masked), tuple(train.var_names.astype(str))))
        return folds

    def blind(self, test: AnnData) -> AnnData:
        """Return the samples with NaN for what is hidden; ``obs["mask"]`` tells which mask."""
        return hide(test, columns=("patient", "cohort", "pipeline", MASK))

    def context(self, protocol: Protocol, fold: Fold, variant: str, seed: int) -> dict[str, Any]:
        """Return the seed."""
        return dict(protocol.parameters) | {"random_state": seed}

    def predict(self, model: Any, seen: AnnData) -> dict[str, pd.DataFrame]:
        """Restore the samples of each mask, with 90 % intervals where the model gives them."""
        tables: dict[str, list[np.ndarray]] = {"predicted": []}
        for part in _by_mask(seen):
            tables["predicted"].append(np.asarray(model.impute(part)))
            if hasattr(model, "impute_interval"):
                for name, bound in zip(("lower", "upper"), model.impute_interval(part, coverage=COVERAGE)):
                    tables.setdefault(name, []).append(np.asarray(bound))
        order = np.concatenate([np.flatnonzero(_masks(seen) == one) for one in _names(seen)])
        back = np.argsort(order, kind="stable")
        columns = getattr(model, "genes_in_", None)
        names = list(seen.var_names) if columns is None else list(columns)
        return {
            name: pd.DataFrame(np.concatenate(parts)[back], index=seen.obs_names, columns=names)
            for name, parts in tables.items()
        }

    def score(
        self, protocol: Protocol, fold: Fold, variant: str, tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, pd.DataFrame]:
        """Return for each sample and mask the squared error, correlation and coverage, and for each gene the correlation."""
        genes = list(fold.targets)
        for table in tables.values():
            if set(genes) - set(table.columns):
                raise DataError("restored values do not fit what was asked", expected=f"all {len(genes)} genes",
                                got=f"{len(set(genes) & set(table.columns))} of them")  # fmt: skip
        measured = np.asarray(fold.test.layers[MEASURED], dtype=np.float64)
        hidden = np.isnan(np.asarray(fold.test.X))
        train = np.asarray(fold.train.X, dtype=np.float64)
        mean, spread = train.mean(axis=0), train.std(axis=0)
        values = {name: table[genes].to_numpy(dtype=np.float64) for name, table in tables.items()}
        _check_untouched(values["predicted"], measured, hidden)
        samples, correlations = [], []
        for mask in _names(fold.test):
            rows = _masks(fold.test) == mask
            # A sample of which a mask hides nothing is not judged; a gene is, where it is hidden.
            m, r, j = measured[rows], values["predicted"][rows], hidden[rows]
            total, n = squared_errors(m, r, j, spread=spread)
            table = pd.DataFrame(
                {"mask": mask, "patient": fold.test.obs["patient"].astype(str).to_numpy()[rows], "sse": total, "n": n,
                 "r": sample_correlation(m, r, j, mean=mean, spread=spread)},
                index=fold.test.obs_names[rows],
            )  # fmt: skip
            if "lower" in values:
                table["covered"], table["width"] = restoration_coverage(
                    m, values["lower"][rows], values["upper"][rows], j, spread=spread
                )
            samples.append(table)
            correlations.append(
                pd.DataFrame({"mask": mask, "gene": genes, "r": gene_correlation(m, r, j), "hidden": j.sum(axis=0)})
            )
        return {"samples": pd.concat(samples), "genes": pd.concat(correlations, ignore_index=True)}

    def summarise(self, protocol: Protocol, cells: Iterable[Cell], methods: tuple[Method, ...]) -> pd.DataFrame:
        """Return errors, correlations and coverage for each mask, and differences of error from ridge and the Gaussian."""
        return summarise_patients(
            cells, methods, statistics=_statistics, headline=("restoration_rmse",), references=(RIDGE, GAUSSIAN),
            n_draws=int(protocol.judging["draws"]),
        )  # fmt: skip


def _statistics(cells: Sequence[Cell]) -> list[Statistic]:
    samples = pd.concat([cell.tables["samples"] for cell in cells])
    genes = pd.concat([cell.tables["genes"] for cell in cells])
    samples["setting"] = samples["mask"].str.split(" #").str[0]
    genes["setting"] = genes["mask"].str.split(" #").str[0]
    found = []
    for setting, own in samples.groupby("setting", sort=False):
        name, patients = str(setting), own["patient"].to_numpy().astype(str)
        sse, n = own["sse"].to_numpy(), own["n"].to_numpy()

        def judge(weights: np.ndarray, sse: np.ndarray = sse, n: np.ndarray = n) -> np.ndarray:
            return np.asarray(np.sqrt(weights @ sse / (weights @ n)))

        found.append(
            Statistic(name, "restoration_rmse", float(np.sqrt(sse.sum() / n.sum())), patients, judge, int(n.sum()), 0)
        )
        found.append(mean_statistic(name, "sample_r", own["r"], patients))
        judged = genes[(genes["setting"] == setting) & (genes["hidden"] > 0)]["r"]
        value = float(judged.mean()) if judged.notna().any() else np.nan
        found.append(Statistic(name, "gene_r", value, n=len(judged), n_undefined=int(judged.isna().sum())))
        if "covered" in own:
            found.append(mean_statistic(name, "restoration_coverage", own["covered"], patients))
            found.append(mean_statistic(name, "restoration_width", own["width"], patients))
    return found


def named_masks(protocol: Protocol) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield each mask of the protocol with what a table calls it."""
    for mask in protocol.targets["masks"]:
        if mask["kind"] == "panel":
            yield mask, f"{mask['size']:,} genes measured"
        else:
            yield mask, f"{100 * mask['share']:.0f} % hidden{', low ones first' if mask['kind'] == 'mnar' else ''}"


def choose_genes(train: AnnData, n: int) -> list[str]:
    """Return the ``n`` genes of largest variance on the training samples (ties by name), in alphabetical order."""
    spread = np.asarray(train.X, dtype=np.float64).std(axis=0)
    names = train.var_names.astype(str).to_numpy()
    # Rounded, so that the order of additions cannot decide between genes.
    order = np.lexsort((names, -np.round(spread, 8)))
    order = order[spread[order] > 0]
    return sorted(names[order[:n]].tolist())


def hide_values(test: AnnData, train: AnnData, mask: Mapping[str, Any], fold: int, draw: int, name: str) -> AnnData:
    """Return ``test`` with NaN in ``X`` for what the mask hides, and the whole in a layer.

    What is hidden depends on the mask, the fold and the draw, on the genes' names and on the samples' order, and with ``mnar`` on
    the values: a value's chance to be hidden falls from twice the share, for the lowest of its gene in training, to nothing.
    """
    values = np.array(test.X, dtype=np.float32)
    hidden = np.zeros(values.shape, dtype=bool)
    rng = stream(0, f"mask {name}", fold, draw)
    if mask["kind"] == "panel":
        if mask["size"] >= test.n_vars:
            raise DataError(
                "a panel holds all genes: nothing is left to restore", got=f"{mask['size']} of {test.n_vars}"
            )
        panel = rng.choice(test.n_vars, size=mask["size"], replace=False)
        hidden[:] = True
        hidden[:, panel] = False
    elif mask["kind"] == "mcar":
        hidden = rng.random(values.shape) < mask["share"]
    elif mask["kind"] == "mnar":
        reference = np.sort(np.asarray(train.X, dtype=np.float64), axis=0)
        level = np.stack([np.searchsorted(reference[:, j], values[:, j]) for j in range(values.shape[1])], axis=1)
        hidden = rng.random(values.shape) < 2 * mask["share"] * (1 - level / len(reference))
    else:
        raise DataError(f"unknown kind of mask {mask['kind']!r}", expected="panel, mcar or mnar")
    masked = test.copy()
    masked.layers[MEASURED] = values
    masked.X = np.where(hidden, np.nan, values).astype(np.float32)
    masked.obs[MASK] = f"{name} #{draw + 1}"
    masked.obs_names = [f"{one}|{name} #{draw + 1}" for one in test.obs_names]
    return masked


def _some(test: AnnData, mask: Mapping[str, Any]) -> AnnData:
    """As many test samples as the mask says, evenly spread over their names."""
    wanted = mask.get("samples")
    if not wanted or wanted >= test.n_obs:
        return test
    order = np.argsort(test.obs_names.astype(str).to_numpy(), kind="stable")
    return test[np.sort(order[np.linspace(0, test.n_obs - 1, wanted).round().astype(int)])]


def _stack(parts: Sequence[AnnData]) -> AnnData:
    first = parts[0]
    obs = pd.concat([one.obs[[c for c in ("patient", "cohort", "pipeline", MASK) if c in one.obs]] for one in parts])
    obs = obs.astype({MASK: "category"})
    stacked = AnnData(
        np.concatenate([np.asarray(one.X) for one in parts]), obs=obs, var=pd.DataFrame(index=first.var_names)
    )
    stacked.layers[MEASURED] = np.concatenate([one.layers[MEASURED] for one in parts])
    # The unit is told from the values that are there, before any is hidden.
    stacked.uns["unit"] = first.uns["unit"] if "unit" in first.uns else unit_of(first)
    return stacked


def _masks(data: AnnData) -> np.ndarray:
    return data.obs[MASK].astype(str).to_numpy()


def _names(data: AnnData) -> list[str]:
    return list(dict.fromkeys(_masks(data)))


def _by_mask(data: AnnData) -> Iterator[AnnData]:
    for name in _names(data):
        yield data[_masks(data) == name].copy()


def _check_untouched(restored: np.ndarray, measured: np.ndarray, hidden: np.ndarray) -> None:
    changed = int((restored.astype(np.float32) != measured.astype(np.float32))[~hidden].sum())
    if changed:
        raise DataError(
            "a method changed values that were measured", expected="them as they came", got=f"{changed} changed"
        )


TASK = Restoration()
"""The task."""
