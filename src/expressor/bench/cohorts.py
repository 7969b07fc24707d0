"""What the tasks on bulk profiles share: data by name, folds of patients, and tidy results with intervals over patients."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from expressor.bench.store import Cell
from expressor.bench.task import Method, Protocol, Task
from expressor.core.errors import DataError
from expressor.core.rng import stream
from expressor.data import keys
from expressor.data.cohorts import PatientFolds, check_apart, draw_folds
from expressor.data.fields import fingerprint
from expressor.data.splits import Split
from expressor.data.units import to_log2
from expressor.datasets import (
    breast_cohorts,
    simulate_bulk,
    survival_cohort,
    tcga13,
    tcga_coadread,
    tcga_counts7,
    tcga_toil4,
)
from expressor.datasets.dataset import take
from expressor.metrics.bootstrap import Interval, cluster_interval, paired_interval
from expressor.metrics.catalogue import record
from expressor.metrics.patients import bootstrap_weights, interval_of, paired_difference

METRICS = ("__init__", "bootstrap", "catalogue", "patients", "records")
"""Modules of ``expressor.metrics`` that every task on bulk profiles is judged by."""

SEEDS = "seeds"
"""Level of the rows that say what another seed changes."""

SEEN = (keys.PATIENT, keys.COHORT, keys.PIPELINE)
"""Columns of ``obs`` that a method may see of test samples."""


class CohortTask(Task):
    """Base of the tasks on bulk profiles: the patient is the unit, of folds and of intervals."""

    inputs = "bulk"
    metrics: tuple[str, ...] = METRICS

    def load(self, protocol: Protocol) -> AnnData:
        """Return the data that the protocol names, in log2 where they are counts."""
        settings = dict(protocol.data)
        name = settings.pop("dataset")
        if name == "simulated":
            return simulate_bulk(**settings)
        if name == "survival_cohort":
            return survival_cohort(settings["name"]).adata
        loaders = {
            "tcga_coadread": tcga_coadread, "tcga_counts7": tcga_counts7, "tcga_toil4": tcga_toil4, "tcga13": tcga13,
            "breast_cohorts": breast_cohorts,
        }  # fmt: skip
        if name not in loaders:
            raise DataError(f"protocol {protocol.name!r} names unknown data {name!r}", expected=", ".join(loaders))
        adata = loaders[name]().adata
        return to_log2(adata) if name == "tcga_counts7" else adata

    def fingerprint(self, data: AnnData) -> str:
        """Return the hash of expression and names; NaN is a value like any other."""
        return fingerprint(data)

    def patient_folds(self, protocol: Protocol, data: AnnData) -> PatientFolds:
        """Return the protocol's folds of patients.

        Raises
        ------
        DataError
            They are not those that the protocol was written with: the data hold other patients.
        """
        split = protocol.split
        drawn = draw_folds(
            data, folds=split["folds"], repeats=split["repeats"], by=split["by"], seed=split["seed"], name=protocol.name
        )
        if "sha256" in split and not drawn.hash.startswith(split["sha256"]):
            raise DataError(
                f"the folds of protocol {protocol.name!r} are not those it was written with",
                expected=f"sha256 {split['sha256']}", got=drawn.hash[: len(split["sha256"])],
                fix="The data hold other patients or outcomes than those of the protocol; get them again.",
            )  # fmt: skip
        return drawn

    def splits(self, protocol: Protocol, data: AnnData) -> list[tuple[Split, AnnData, AnnData]]:
        """Return each split with its training and test data, which share no patient."""
        found = []
        for split in self.patient_folds(protocol, data).splits(data):
            train, test = take(data, split.train), take(data, split.test)
            check_apart(train, test)
            found.append((split, train, test))
        return found

    def keep(self, protocol: Protocol, folder: Path) -> None:
        """Write the folds of patients, so that any method can be judged on the same: ``folds.json``."""
        if protocol.split.get("folds"):
            self.patient_folds(protocol, self.load(protocol)).write(folder / "folds.json")


def hide(test: AnnData, *, columns: Sequence[str] = SEEN) -> AnnData:
    """Return expression, patients, cohorts and pipelines of ``test``: no label, no outcome, nothing of how it was made."""
    kept = [one for one in columns if one in test.obs]
    uns = {keys.UNIT: test.uns[keys.UNIT]} if keys.UNIT in test.uns else {}
    return AnnData(test.X.copy(), obs=test.obs[kept].copy(), var=pd.DataFrame(index=test.var_names), uns=uns)


@dataclasses.dataclass(frozen=True, eq=False)
class Statistic:
    """One number of one method in one setting, and how it is computed on a resample.

    Attributes
    ----------
    setting
        What was asked, such as a panel size.
    metric
        Name of the metric's record.
    value
        On all patients.
    patients
        (sample,) labels, or None where no resample can be judged.
    judge
        From weights (draw, sample) to draws (draw,); None where no resample can be judged.
    n, n_undefined
        Values behind it.
    draws
        (draw,) the value on resamples that were judged before, the same for all methods; instead of ``judge``.
    """

    setting: str
    metric: str
    value: float
    patients: np.ndarray | None = None
    judge: Callable[[np.ndarray], np.ndarray] | None = None
    n: int = 0
    n_undefined: int = 0
    draws: np.ndarray | None = None


def mean_statistic(setting: str, metric: str, values: Any, patients: Any) -> Statistic:
    """Return the mean over samples of ``values`` (sample,); NaN are left out and counted."""
    known = ~np.isnan(np.asarray(values, dtype=np.float64))
    v, p = np.asarray(values, dtype=np.float64)[known], np.asarray(patients).astype(str)[known]
    value = float(v.mean()) if len(v) else math.nan

    def judge(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray(weights @ v / weights.sum(axis=1))

    return Statistic(setting, metric, value, p, judge if len(v) else None, len(known), int((~known).sum()))


def summarise_patients(
    cells: Iterable[Cell],
    methods: Sequence[Method],
    *,
    statistics: Callable[[Sequence[Cell]], list[Statistic]],
    headline: Sequence[str],
    references: Sequence[str],
    n_draws: int,
) -> pd.DataFrame:
    """Return tidy results: every statistic with its interval over patients, and paired differences of the headline metrics.

    Where a method was run with several seeds, rows of the level ``"seeds"`` hold mean, least and largest of its headline metrics.

    Parameters
    ----------
    cells
        Of all methods, folds and seeds.
    methods
        In the order of the table.
    statistics
        From the cells of one method to its numbers.
    headline
        Metrics of which paired differences are made.
    references
        Methods that every other is compared with, where they are there.
    n_draws
        Resamples of the patients.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.key.method, cell.key.variant), []).append(cell)
    by_name = {one.name: one for one in methods}
    rows: list[dict[str, Any]] = []
    drawn: dict[tuple[str, str, str, str], tuple[Statistic, np.ndarray]] = {}
    for (name, variant), group in groups.items():
        about = _about(by_name[name], variant)
        refused = [cell for cell in group if cell.status != "measured"]
        if refused:
            message = f"{len(refused)} of {len(group)} parts refused: {refused[0].message}"
            rows.append(about | _row("all", headline[0], _none()) | {"status": "refused", "message": message})
            continue
        for one in statistics(group):
            interval = _none(one.value, one.n_undefined)
            draws = one.draws
            if draws is None and one.judge is not None and one.patients is not None:
                draws = one.judge(_weights(one.patients, n_draws))
            if draws is not None and one.patients is not None:
                drawn[name, variant, one.setting, one.metric] = one, draws
                interval = interval_of(one.value, draws, n_patients=len(set(one.patients)))
            rows.append(about | _row(one.setting, one.metric, interval) | {"n": one.n, "n_undefined": one.n_undefined})
        rows += [about | row for row in (*_over_seeds(group, statistics, headline), *_fitted(group))]
    for reference in references:
        rows += _differences(drawn, by_name, reference, headline)
    return pd.DataFrame(rows).fillna({"reference": "", "reference_of": ""})


def summarise_clusters(
    cells: Iterable[Cell],
    methods: Sequence[Method],
    *,
    values: Callable[[Sequence[Cell]], Mapping[str, pd.Series]],
    metric: str,
    level: str,
    references: Sequence[str],
) -> pd.DataFrame:
    """Return tidy results of one metric as a mean over few clusters, such as donors, with an interval over these.

    What :func:`summarise_patients` says of the observations inside, this says of another cluster. A bootstrap of few covers too
    little: the interval is Student's t (see :mod:`expressor.metrics.bootstrap`).

    Parameters
    ----------
    cells
        Of all methods, folds and seeds; those of methods that were refused somewhere are left out.
    methods
        In the order of the table.
    values
        From the cells of one method to the metric in each cluster, by setting.
    metric
        Name of its record.
    level
        What the clusters are.
    references
        Methods that every other is compared with, cluster by cluster.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.key.method, cell.key.variant), []).append(cell)
    by_name = {one.name: one for one in methods}
    found = {key: values(own) for key, own in groups.items() if all(cell.status == "measured" for cell in own)}
    rows = []
    for (name, variant), settings in found.items():
        about = _about(by_name[name], variant)
        for setting, own in settings.items():
            interval = cluster_interval(own, design="t", rng=stream(0, "clusters"))
            rows.append(about | _row(setting, metric, interval) | {"level": level, "unit": level, "n": len(own)})
            for reference in references:
                other = found.get((reference, variant), {}).get(setting)
                if name == reference or other is None:
                    continue
                both = paired_interval(own, other.reindex(own.index), design="t", rng=stream(0, "clusters"))
                rows.append(about | _row(setting, metric, both, paired=True) | {
                    "level": level, "unit": level, "n": len(own), "reference": reference, "reference_of": reference})  # fmt: skip
    return pd.DataFrame(rows)


def _weights(patients: np.ndarray, n_draws: int) -> np.ndarray:
    # One stream for one set of patients, whatever the method: differences are of the same resamples.
    return bootstrap_weights(patients, n_draws=n_draws, rng=stream(0, "patients"))


def _differences(
    drawn: Mapping[tuple[str, str, str, str], tuple[Statistic, np.ndarray]],
    methods: Mapping[str, Method],
    reference: str,
    headline: Sequence[str],
) -> list[dict[str, Any]]:
    rows = []
    for (name, variant, setting, metric), (one, draws) in drawn.items():
        other = drawn.get((reference, variant, setting, metric))
        if name == reference or metric not in headline or other is None:
            continue
        patients = _names(one)
        if patients != _names(other[0]):
            continue  # one of them left patients out, so that the resamples are not the same
        interval = paired_difference(one.value, other[0].value, draws, other[1], n_patients=len(patients))
        row = _row(setting, metric, interval, paired=True) | {
            "n": one.n,
            "reference": reference,
            "reference_of": reference,
        }
        rows.append(_about(methods[name], variant) | row)
    return rows


def _names(one: Statistic) -> set[str]:
    return set() if one.patients is None else set(one.patients.tolist())


def _over_seeds(
    cells: Sequence[Cell], statistics: Callable[[Sequence[Cell]], list[Statistic]], headline: Sequence[str]
) -> list[dict[str, Any]]:
    """Mean, least and largest over seeds, each judged on all its folds; nothing where there is one seed."""
    by_seed: dict[int, list[Cell]] = {}
    for cell in cells:
        by_seed.setdefault(cell.key.seed, []).append(cell)
    if len(by_seed) < 2:
        return []
    found: dict[tuple[str, str], list[float]] = {}
    for own in by_seed.values():
        for one in statistics(own):
            if one.metric in headline:
                found.setdefault((one.setting, one.metric), []).append(one.value)
    return [
        _row(setting, metric, Interval(float(np.mean(values)), min(values), max(values), 1.0, len(values), 0, "range"))
        | {"level": SEEDS, "unit": SEEDS, "n": len(values)}
        for (setting, metric), values in found.items()
    ]


def _fitted(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Numbers that the fitted methods show: means over cells, no metrics."""
    rows = []
    for name in dict.fromkeys(name for cell in cells for name in cell.fitted):
        values = [cell.fitted.get(name) for cell in cells]
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
            found = np.array(values, dtype=float)
            interval = Interval(float(found.mean()), float(found.min()), float(found.max()), 1.0, 0, 0, "range")
            rows.append(_row("all", f"fitted:{name}", interval) | {"level": "folds", "n": len(found)})
    return rows


def _none(value: float = math.nan, undefined: int = 0) -> Interval:
    return Interval(value, math.nan, math.nan, 0.95, 0, undefined, "none")


def _about(method: Method, variant: str) -> dict[str, Any]:
    system = method.maker if isinstance(method.maker, str) else ""
    return {"method": method.name, "title": method.title, "kind": method.kind, "system": system, "scale": variant,
            "needs": method.needs, "status": "measured", "message": ""}  # fmt: skip


def _row(setting: str, metric: str, interval: Interval, *, paired: bool = False) -> dict[str, Any]:
    known = None if metric.startswith("fitted:") else record(metric)
    low, high = interval.low, interval.high
    if known is not None and not paired:
        low, high = max(low, known.low), min(high, known.high)
    return {
        "section": setting, "patient": "", "metric": metric, "unit": known.averaging if known else "fold",
        "direction": known.direction if known else "", "value": interval.value, "low": low, "high": high,
        "level": "patients", "design": interval.design, "n_clusters": interval.n_clusters,
        "n": 0, "n_undefined": interval.n_undefined, "reference": "", "reference_of": "",
    }  # fmt: skip
