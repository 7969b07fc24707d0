"""Turns ``evaluation.csv`` into the few tables a reader needs, and never one kind of number into another.

The file is tidy, one row a number, as :func:`expressor.bench.run` gives it. ``method``, ``metric`` and ``value`` must be there.
Understood besides: ``title`` (the method's name for readers), ``scale`` (of the targets), ``section`` (``all``, or a section's
name), ``low`` and ``high`` (95 % interval), ``level`` and ``design`` (over what, and how, the interval is made), ``n_undefined``,
``kind`` (``model``, ``rival``, ``control``), ``status`` and ``message`` (``refused``, and why), ``needs`` (what a method was given
beyond the image), ``source`` (``measured`` or ``claimed``), and ``reference``: where it names a method, the row is the paired
difference to that method.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from expressor.core.errors import FormatError
from expressor.metrics.records import METRICS

OVERALL = ("all", "mean", "overall", "", "nan", "none")
HEADLINES = ("pcc", "pearson", "mean_pcc", "pcc_mean")
SCALES = {"log1p_cp10k": "normalised counts", "log1p_counts": "raw counts"}
_CONTROL = re.compile(r"ridge|mean|library|permut|colou?r|descriptor|null", re.IGNORECASE)
_MODEL = re.compile(r"dkgsb|^agl$", re.IGNORECASE)
LEVELS = {
    "sections": "over sections",
    "patients": "over patients",
    "spots": "over blocks of spots, which hold for these sections only",
    "folds": "over folds",
}
WORDS = (
    "method", "title", "kind", "scale", "section", "metric", "level", "design", "status", "message", "needs", "source",
    "reference", "reference_of", "protocol", "version", "hash",
)  # fmt: skip
NUMBERS = ("value", "low", "high", "n_undefined")
KINDS = ("model", "rival", "control")


@dataclass(frozen=True)
class Score:
    """One number, its 95 % interval (NaN where not known), how many genes it leaves out, and over what the interval is."""

    value: float
    low: float
    high: float
    n_undefined: int
    level: str = ""

    @property
    def is_bounded(self) -> bool:
        """Whether it has an interval."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


def tidy(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Complete the columns of an evaluation table and give them their kinds.

    Raises
    ------
    FormatError
        ``method``, ``metric`` or ``value`` is missing.
    """
    columns = [*WORDS, *NUMBERS]
    if evaluation.empty:
        return pd.DataFrame(columns=columns)
    missing = {"method", "metric", "value"} - set(evaluation.columns)
    if missing:
        raise FormatError(
            f"evaluation.csv lacks the columns {sorted(missing)}", got=", ".join(map(str, evaluation.columns))
        )
    table = evaluation.reindex(columns=columns).copy()
    for name in NUMBERS:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    for name in WORDS:
        table[name] = table[name].astype(object).where(table[name].notna(), "").astype(str)
    table["n_undefined"] = table["n_undefined"].fillna(0).astype(int)
    table["section"] = [("all" if one.lower() in OVERALL else one) for one in table["section"]]
    table["source"] = table["source"].replace("", "measured")
    titles = {method: title for method, title in zip(table["method"], table["title"]) if title}
    for name in ("method", "reference"):
        table[name] = [titles.get(one, one) for one in table[name]]
    table["reference_of"] = [
        ", ".join(titles.get(one, one) for one in names.split(", ")) for names in table["reference_of"]
    ]
    table["kind"] = [one if one in KINDS else guess_kind(method) for one, method in zip(table["kind"], table["method"])]
    return table[~table["metric"].str.startswith("fitted:")].reset_index(drop=True)


def guess_kind(method: str) -> str:
    """Return ``"model"``, ``"control"`` or ``"rival"`` from a method's name, for tables that do not say."""
    return "model" if _MODEL.search(method) else "control" if _CONTROL.search(method) else "rival"


def headline_metric(table: pd.DataFrame) -> str | None:
    """Return the metric of the headline: the correlation where there is one, else the first metric of the table."""
    found = list(dict.fromkeys(table["metric"]))
    return next((one for one in HEADLINES if one in found), found[0] if found else None)


def metric_words(metric: str) -> str:
    """Return a metric's name for a reader."""
    if metric in HEADLINES:
        return "correlation"
    return METRICS[metric].title if metric in METRICS else metric.replace("_", " ")


def is_better_low(metric: str) -> bool:
    """Return whether lower values of a metric are better."""
    return metric in METRICS and METRICS[metric].direction == "lower"


def scales(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the target scales of a tidy table, normalised counts first."""
    found = list(dict.fromkeys(table["scale"]))
    return tuple([one for one in SCALES if one in found] + [one for one in found if one not in SCALES])


def scale_words(scale: str) -> str:
    """Return a target scale in words: what was compared, as in "on normalised counts"."""
    return SCALES.get(scale, scale or "targets as measured")


def scores(table: pd.DataFrame, metric: str, *, source: str = "measured") -> dict[str, dict[str, Score]]:
    """Return method -> scale -> overall score of one metric; models first, then rivals, then controls.

    Where a method has rows of single sections only, the score is their mean, without an interval.
    """
    mine = _measured(table, metric, source)
    mine = mine[mine["reference"] == ""]
    rank = {kind: position for position, kind in enumerate(KINDS)}
    methods = sorted(dict.fromkeys(zip(mine["method"], mine["kind"])), key=lambda one: rank[one[1]])
    return {
        method: {
            scale: _overall(rows)
            for scale, rows in mine[mine["method"] == method].groupby("scale", sort=False)
            if len(rows)
        }
        for method in dict.fromkeys(name for name, _ in methods)
    }


def given_more(table: pd.DataFrame) -> set[str]:
    """Return the methods that were given more than a user has."""
    return set(table.loc[table["needs"] != "", "method"])


def kinds(table: pd.DataFrame) -> dict[str, str]:
    """Return method -> kind."""
    return dict(zip(table["method"], table["kind"]))


def differences(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return paired differences over all sections: method, reference, reference_of, scale, value, low, high, level."""
    mine = _measured(table, metric)
    mine = mine[(mine["reference"] != "") & (mine["section"] == "all")]
    mine = pd.concat([mine[_is_bounded(mine)], mine[~_is_bounded(mine)]])
    mine = mine.drop_duplicates(["method", "reference", "reference_of", "scale"]).sort_index()
    return mine[["method", "reference", "reference_of", "scale", "value", "low", "high", "level"]].reset_index(
        drop=True
    )


def per_section(table: pd.DataFrame, metric: str, scale: str) -> pd.DataFrame:
    """Return one metric of single sections, (method, section); methods in the table's order, NaN where there is no row."""
    mine = _measured(table, metric)
    mine = mine[(mine["scale"] == scale) & (mine["reference"] == "") & (mine["section"] != "all")]
    wide = mine.pivot_table(index="method", columns="section", values="value", aggfunc="mean", dropna=False, sort=False)
    return wide.reindex([one for one in scores(table, metric) if one in wide.index])


def remarks(table: pd.DataFrame) -> list[str]:
    """Return what must be said beside the numbers: the protocol, unfair advantages, refusals."""
    said = []
    for row in table[table["protocol"] != ""].drop_duplicates(["protocol", "hash"]).itertuples():
        said.append(f"Protocol {row.protocol}, version {str(row.version).removesuffix('.0')}, hash {row.hash}.")
    for row in table[table["needs"] != ""].drop_duplicates("method").itertuples():
        said.append(f"{row.method} uses {row.needs}, which nobody has for an image alone.")
    for row in table[table["status"] == "refused"].drop_duplicates(["method", "scale"]).itertuples():
        said.append(f"{row.method} ({scale_words(str(row.scale))}) has no number: {row.message}")
    return said


def _measured(table: pd.DataFrame, metric: str, source: str = "measured") -> pd.DataFrame:
    return table[(table["metric"] == metric) & (table["source"] == source) & (table["status"] != "refused")]


def _is_bounded(rows: pd.DataFrame) -> pd.Series:
    # The spread over folds of the same spots is written as bounds too, and is no interval.
    return np.isfinite(rows["low"]) & np.isfinite(rows["high"]) & (rows["design"] != "sd over folds")


def _overall(rows: pd.DataFrame) -> Score:
    whole = rows[rows["section"] == "all"]
    if len(whole):
        # One mean may stand there with several intervals (over sections, patients, spots): the first that has bounds.
        bounded = whole[_is_bounded(whole)]
        row = (bounded if len(bounded) else whole).iloc[0]
        low, high = (float(row["low"]), float(row["high"])) if len(bounded) else (float("nan"), float("nan"))
        return Score(float(row["value"]), low, high, int(row["n_undefined"]), str(row["level"]))
    return Score(float(rows["value"].mean()), float("nan"), float("nan"), int(rows["n_undefined"].max()))
