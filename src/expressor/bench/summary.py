"""Joins the scores of folds and seeds into tidy results: means with intervals, and paired differences between methods.

For tasks whose observations lie in sections of patients and whose targets are genes. A cell brings three tables: ``"scores"``
(section, patient, gene, metric, value; gene is empty where a metric has one value a section), ``"draws"`` (block-bootstrap draw,
section: mean correlation over genes) and ``"pvalues"`` (gene, one column ``p``: block-permutation test over the fold's sections).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from expressor.bench.store import Cell
from expressor.bench.task import Method
from expressor.core.rng import stream
from expressor.metrics import METRICS, bh_qvalues, cluster_interval, percentile_interval
from expressor.metrics.bootstrap import Interval

HEADLINE = "pearson"
FDR = 0.05
NONE = Interval(math.nan, math.nan, math.nan, 0.95, 0, 0, "none")


def summarise_sections(
    cells: Iterable[Cell],
    methods: Sequence[Method],
    *,
    references: Sequence[Sequence[str]] = (),
    folds_share_sections: bool = False,
) -> pd.DataFrame:
    """Return the tidy results of all cells.

    Parameters
    ----------
    cells
        Of all methods, variants, folds and seeds.
    methods
        In the order of the table.
    references
        What every method is compared with, in pairs: names of methods; of several names the best is taken, by mean correlation on
        the same folds, which favours the reference.
    folds_share_sections
        The folds are parts of the same sections: the spread over folds is then reported too, as what it is.

    Returns
    -------
    One row a number; see :func:`expressor.bench.run`.
    """
    cells = list(cells)
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.key.method, cell.key.variant), []).append(cell)
    by_name = {one.name: one for one in methods}
    rows: list[dict[str, Any]] = []
    joined: dict[tuple[str, str], _Joined] = {}
    for (name, variant), group in groups.items():
        about = _about(by_name[name], variant)
        refused = [cell for cell in group if cell.status != "measured"]
        if refused:
            message = f"{len(refused)} of {len(group)} parts refused: {refused[0].message}"
            rows.append(about | _row(HEADLINE, NONE, "sections") | {"status": "refused", "message": message})
            continue
        one = joined[name, variant] = _Joined(group)
        rows += [about | row for row in one.rows(folds_share_sections)]
    for names in references:
        rows += _differences(joined, by_name, tuple(names))
    return pd.DataFrame(rows).fillna({"reference": "", "reference_of": ""})


class _Joined:
    """All cells of one method and variant."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        self.scores = pd.concat(
            [cell.tables["scores"].assign(fold=cell.key.fold, seed=cell.key.seed) for cell in cells], ignore_index=True
        )
        self.n_seeds = self.scores["seed"].nunique()
        owner = self.scores.drop_duplicates("section").set_index("section")["patient"]
        self.sections = sorted(owner.index)
        self.patients = [str(owner[section]) for section in self.sections]

    def by_section(self, metric: str) -> pd.Series:
        """Return the mean over genes, seeds and folds, by section."""
        return self._by_fold(metric).groupby("section").mean().reindex(self.sections)

    def _by_fold(self, metric: str) -> pd.Series:
        part = self.scores[self.scores["metric"] == metric]
        means = part.groupby(["seed", "fold", "section"])["value"].mean()
        return means.groupby(["fold", "section"]).mean()

    def draws(self) -> np.ndarray:
        """Return the block-bootstrap draws of the mean over sections, averaged over seeds and folds."""
        sums: dict[str, list[np.ndarray]] = {}
        for cell in self.cells:
            for section, values in cell.tables["draws"].items():
                sums.setdefault(str(section), []).append(values.to_numpy())
        return np.mean([np.mean(values, axis=0) for values in sums.values()], axis=0)

    def genes(self, metric: str) -> pd.Series:
        """Return the value of each (fold, section, gene), averaged over seeds."""
        part = self.scores[self.scores["metric"] == metric]
        return part.groupby(["fold", "section", "gene"])["value"].mean()

    def rows(self, folds_share_sections: bool) -> list[dict[str, Any]]:
        rows = []
        for metric in METRICS:
            part = self.scores[self.scores["metric"] == metric]
            if not len(part):
                continue
            values = self.by_section(metric)
            counts = {"n": len(part), "n_undefined": int(part["value"].isna().sum())}
            for level, clusters in (("sections", None), ("patients", self.patients)):
                rows.append(_row(metric, _interval(values, clusters, f"{metric} {level}"), level) | counts)
            if metric == HEADLINE:
                spots = percentile_interval(float(values.mean()), self.draws(), n_clusters=len(values))
                rows.append(_row(metric, spots, "spots") | counts)
            if folds_share_sections:
                rows.append(_row(metric, _over_folds(self._by_fold(metric)), "folds") | counts)
            for section, patient in zip(self.sections, self.patients):
                own = part[part["section"] == section]["value"]
                alone = Interval(float(values[section]), math.nan, math.nan, 0.95, 1, 0, "none")
                rows.append(
                    _row(metric, alone, "", section)
                    | {"patient": patient, "n": len(own), "n_undefined": int(own.isna().sum())}
                )
        return [*rows, self._significance(), *self._fitted()]

    def _significance(self) -> dict[str, Any]:
        shares, n, undefined = [], 0, 0
        for cell in self.cells:
            q = bh_qvalues(cell.tables["pvalues"]["p"].to_numpy())
            n, undefined = n + len(q), undefined + int(np.isnan(q).sum())
            if not np.isnan(q).all():
                shares.append(float((q[~np.isnan(q)] <= FDR).mean()))
        value = float(np.mean(shares)) if shares else math.nan
        interval = Interval(value, math.nan, math.nan, 0.95, len(self.sections), 0, "none")
        return _row("significant_genes", interval, "") | {"n": n, "n_undefined": undefined}

    def _fitted(self) -> list[dict[str, Any]]:
        """Numbers that the fitted methods show (the penalty chosen, the time taken): means over cells, no metrics."""
        names = dict.fromkeys(name for cell in self.cells for name in cell.fitted)
        rows = []
        for name in names:
            values = [cell.fitted.get(name) for cell in self.cells]
            if all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
                found = np.array(values, dtype=float)
                interval = Interval(float(found.mean()), float(found.min()), float(found.max()), 1.0, 0, 0, "range")
                rows.append(_row(f"fitted:{name}", interval, "folds") | {"n": len(found), "n_undefined": 0})
        return rows


def _interval(values: pd.Series, clusters: Sequence[str] | None, purpose: str) -> Interval:
    if values.isna().all():
        return Interval(math.nan, math.nan, math.nan, 0.95, 0, len(values), "none")
    return cluster_interval(values.to_numpy(), clusters, rng=stream(0, purpose))


def _over_folds(values: pd.Series) -> Interval:
    means = values.groupby("fold").mean().dropna()
    mean, spread = float(means.mean()), float(means.std(ddof=1))
    # Folds of the same spots share most of their training data: this is their spread, no interval for the mean.
    return Interval(mean, mean - spread, mean + spread, math.nan, len(means), 0, "sd over folds")


def _differences(
    joined: dict[tuple[str, str], _Joined], methods: dict[str, Method], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    rows = []
    for variant in dict.fromkeys(variant for _, variant in joined):
        there = [name for name in names if (name, variant) in joined]
        if not there:
            continue
        reference = max(
            there, key=lambda name: np.nan_to_num(joined[name, variant].by_section(HEADLINE).mean(), nan=-1)
        )
        for (name, other), one in joined.items():
            if other != variant or name in names or one.genes(HEADLINE).isna().all():
                continue
            about = _about(methods[name], variant) | {"reference": reference, "reference_of": ", ".join(names)}
            rows += [row | about for row in _difference(one, joined[reference, variant])]
    return rows


def _difference(one: _Joined, other: _Joined) -> list[dict[str, Any]]:
    # Only genes for which both have a correlation in a section: nothing is gained by leaving hard genes undefined.
    difference = one.genes(HEADLINE) - other.genes(HEADLINE)
    counts = {"n": len(difference), "n_undefined": int(difference.isna().sum())}
    by_section = difference.groupby(["fold", "section"]).mean().groupby("section").mean().reindex(one.sections)
    rows = [
        _row(HEADLINE, _interval(by_section, clusters, f"difference {level}"), level, paired=True) | counts
        for level, clusters in (("sections", None), ("patients", one.patients))
    ]
    draws = one.draws() - other.draws()
    value = rows[0]["value"]
    # The draws are means over the genes that each method defines; where these differ they are shifted to the paired value.
    drawn = draws - np.nanmean(draws) + value if counts["n_undefined"] else draws
    rows.append(
        _row(HEADLINE, percentile_interval(value, drawn, n_clusters=len(one.sections)), "spots", paired=True) | counts
    )
    return rows


def _about(method: Method, variant: str) -> dict[str, Any]:
    system = method.maker if isinstance(method.maker, str) else ""
    return {"method": method.name, "title": method.title, "kind": method.kind, "system": system, "scale": variant,
            "needs": method.needs, "status": "measured", "message": ""}  # fmt: skip


def _row(metric: str, interval: Interval, level: str, section: str = "all", *, paired: bool = False) -> dict[str, Any]:
    record = METRICS.get(metric)
    low, high = interval.low, interval.high
    if record is not None and not paired:
        # Student's t knows no bounds; with two clusters it may reach beyond what the metric can be.
        low, high = max(low, record.low), min(high, record.high)
    return {
        "section": section, "patient": "", "metric": metric, "unit": record.averaging if record else "fold",
        "direction": record.direction if record else "", "value": interval.value, "low": low, "high": high,
        "level": level, "design": interval.design, "n_clusters": interval.n_clusters,
        "n": 0, "n_undefined": interval.n_undefined, "reference": "", "reference_of": "",
    }  # fmt: skip
